"""Feature Ablation: the drop of the score when a feature is replaced by its baseline."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastsal.engine.run import evaluation, scratch
from fastsal.explainers._old import attribute_method, sweep
from fastsal.explainers.arguments import (
    Baselines,
    Inputs,
    as_arguments,
    as_baselines,
    as_inputs,
    as_result,
    examples_of,
)
from fastsal.explainers.base import PerturbationAttribution
from fastsal.explainers.perturbation.altered import AlteredScores
from fastsal.explainers.perturbation.features import Features, absent_value, features_of, numbered, spread
from fastsal.explainers.perturbation.occlusion._changes import Changes, of_features
from fastsal.explainers.perturbation.occlusion._incremental import checked_setting, incremental_scores
from fastsal.explainers.scores import Target

Alter = Callable[[Tensor, int, range, Tensor], Tensor]
"""(input [B, ...], its place, P features, where [P, 1 or B, ...] each is) into copies [P, B, ...] without them."""


class FeatureAblation(PerturbationAttribution):
    """F(x) - F(x without the feature), for every feature.

    Costs a forward pass per feature and one for the score itself; memory does not grow with the features.
    """

    @attribute_method
    def attribute(
        self,
        inputs: Inputs,
        baselines: Baselines = None,
        target: Target = None,
        additional_forward_args: Any = None,
        feature_mask: Any = None,
        perturbations_per_eval: int | None = None,
        show_progress: bool = False,
        *,
        incremental: bool | str = "auto",
    ) -> Any:
        """Attribution in the form of the inputs and the dtype of the output, [outputs, ...].

        Args:
            inputs: tensor [B, ...] or tuple of them, any dtype.
            baselines: what a feature is replaced by: None (0), a number, a tensor that broadcasts, a tuple of these.
            target: which output to explain. With None, an output [B, K] gives attributions [B * K, ...], and an output
                of n scores for the whole batch gives [n, ...].
            additional_forward_args: further arguments of the model; per-example tensors are repeated.
            feature_mask: the feature of each element, from 0: an int tensor [1 or B, ...] that broadcasts to the input,
                or a tuple of these; an id in several inputs is one feature. None takes each element as one.
            perturbations_per_eval: features per model call. When None, chosen from memory, but 1 where an additional
                tensor has as many entries as there are examples: only the caller knows whether to repeat it.
            show_progress: show a bar.
            incremental: for features that are parts of an image, as of :meth:`fastsal.Occlusion.attribute`.

        Raises:
            TypeError, ValueError: for arguments outside of the above.
        """
        setting = checked_setting(incremental)
        tensors, given_tuple = as_inputs(inputs)
        starts = as_baselines(baselines, tensors)

        def changes(images: Tensor, features: Features) -> Changes:
            return of_features(images, features.ids[0], features.total, starts[0])

        def replace(tensor: Tensor, place: int, _features: range, where: Tensor) -> Tensor:
            return torch.where(where, absent_value(starts[place], tensor), tensor)

        return self._ablate(
            tensors,
            given_tuple,
            replace,
            target,
            additional_forward_args,
            feature_mask,
            perturbations_per_eval,
            show_progress,
            changes,
            setting,
        )

    def _ablate(
        self,
        tensors: tuple[Tensor, ...],
        given_tuple: bool,
        alter: Alter,
        target: Target,
        additional_forward_args: Any,
        feature_mask: Any,
        perturbations_per_eval: int | None,
        show_progress: bool,
        changes: Callable[[Tensor, Features], Changes] | None = None,
        incremental: bool | str = False,
    ) -> Any:
        """The sweep over the features; ``changes`` are the same, where they may be computed incrementally."""
        examples_of(tensors)
        plain = tuple(scratch(t) if t.is_inference() else t.detach() for t in tensors)
        features = numbered(features_of(feature_mask, plain))
        # Known beforehand, so that no chunk waits for the device to learn which inputs it alters.
        has = torch.zeros((len(plain), features.total), dtype=torch.bool, device="cpu")
        for place, ids in enumerate(features.ids):
            has[place, ids.reshape(-1).cpu()] = True
        with evaluation(self.forward_func), torch.no_grad():
            scores = AlteredScores(
                self.forward_func, plain, as_arguments(additional_forward_args), target, perturbations_per_eval
            )
            found = scores.clean.new_zeros((features.total, scores.clean.numel()))

            def step(start: int, stop: int) -> Callable[[], None]:
                altered = {}
                for place, (tensor, ids) in enumerate(zip(plain, features.ids, strict=True)):
                    if has[place, start:stop].any():
                        chosen = torch.arange(start, stop, device=ids.device).view(-1, *[1] * ids.dim())
                        altered[place] = alter(tensor, place, range(start, stop), ids == chosen).flatten(0, 1)
                change = scores.clean - scores(stop - start, altered)

                def commit() -> None:
                    found[start:stop] = change

                return commit

            quick = None
            if changes is not None:
                quick = incremental_scores(
                    self,
                    scores,
                    plain,
                    lambda: changes(plain[0], features),
                    incremental,
                    perturbations_per_eval,
                    show_progress,
                )
            total = features.total
            if quick is None:
                sweep(total, step, scores.plan(total), show_progress=show_progress, description=self.get_name())
            else:
                torch.sub(scores.clean, quick, out=found)
            results = [
                spread(found, ids, tensor, scores.shared).to(device=tensor.device, dtype=scores.dtype)
                for ids, tensor in zip(features.ids, plain, strict=True)
            ]
        return as_result(results, given_tuple)
