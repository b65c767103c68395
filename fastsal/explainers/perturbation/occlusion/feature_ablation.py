"""Feature Ablation: the drop of the score when a feature is replaced by its baseline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fastsal.explainers.arguments import Baselines, Inputs, at_least_one, examples_of
from fastsal.explainers.base import PerturbationAttribution, attribution
from fastsal.explainers.call import Call
from fastsal.explainers.futures import Awaiting
from fastsal.explainers.perturbation.altered import AlteredScores
from fastsal.explainers.perturbation.features import Features, absent_value, features_of, numbered, segments, spread
from fastsal.explainers.perturbation.occlusion._changes import Changes, of_features
from fastsal.explainers.perturbation.occlusion._incremental import checked_setting, incremental_scores
from fastsal.explainers.scores import Target
from fastsal.explainers.task import Task

Alter = Callable[[Tensor, int, range, Tensor], Tensor]
"""(input [B, ...], its place, P features, where [P, 1 or B, ...] each is) into copies [P, B, ...] without them."""


class FeatureAblation(Awaiting, PerturbationAttribution):
    """F(x) - F(x without the feature), for every feature.

    Costs a forward pass per feature and one for the score itself; memory does not grow with the features.

    >>> quarters = (torch.arange(8) // 4 * 2)[:, None] + torch.arange(9) // 5
    >>> maps = fastsal.FeatureAblation(model).attribute(images, target=classes, feature_mask=quarters)

    Args:
        forward_func: module or callable.
    """

    summary = "drop of the score without a feature"
    cost = "1 forward, 1 for each feature"

    @classmethod
    def defaults(cls, inputs: tuple[Tensor, ...]) -> dict[str, Any]:
        return {"feature_mask": segments(inputs)}

    @attribution
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
    ) -> Call[Any]:
        """Attribution in the form of the inputs and the dtype of the output, [outputs, ...].

        Args:
            inputs: tensor [B, ...] or tuple of them, any dtype; integers are taken as floating point where their
                baseline is a fraction.
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
        task = self.task(
            inputs,
            target,
            additional_forward_args,
            baselines=baselines,
            per_call=perturbations_per_eval,
            show_progress=show_progress,
            fractions=True,
        )

        def changes(images: Tensor, features: Features) -> Changes:
            return of_features(images, features.ids[0], features.total, task.baselines[0])

        def replace(tensor: Tensor, place: int, _features: range, where: Tensor) -> Tensor:
            return torch.where(where, absent_value(task.baselines[place], tensor), tensor)

        return self.ablated(task, replace, feature_mask, changes, setting)

    def ablated(
        self,
        task: Task,
        alter: Alter,
        feature_mask: Any,
        changes: Callable[[Tensor, Features], Changes] | None = None,
        incremental: bool | str = False,
        stay: Sequence[int] = (),
    ) -> Call[Any]:
        """The sweep over the features; ``changes`` are the same, where they may be computed incrementally.

        Features that are in one of the inputs ``stay``, by their places, have zeros.
        """
        if len({len(tensor) for tensor in task.inputs}) > 1 or not all(map(len, task.inputs)):
            # Indices of categories, say, as many as there happen to be: what is altered is one whole call at a time.
            task.per_call = at_least_one("perturbations_per_eval", task.per_call or 1)
            if task.per_call > 1:
                raise ValueError("perturbations_per_eval: inputs of unequal length are altered one call at a time")
        else:
            examples_of(task.inputs)
        features = numbered(features_of(task.given.each(feature_mask), task.inputs))
        # Known beforehand, so that no chunk waits for the device to learn which inputs it alters.
        has = torch.zeros((len(task.inputs), features.total), dtype=torch.bool, device="cpu")
        for place, ids in enumerate(features.ids):
            has[place, ids.reshape(-1).cpu()] = True
        staying = has[list(stay)].any(0) if stay else None

        def altered(start: int, stop: int) -> dict[int, Tensor]:
            found = {}
            for place, (tensor, ids) in enumerate(zip(task.inputs, features.ids, strict=True)):
                if has[place, start:stop].any():
                    chosen = torch.arange(start, stop, device=ids.device)
                    if staying is not None:
                        chosen = chosen.masked_fill(staying[start:stop].to(ids.device), -1)
                    chosen = chosen.view(-1, *[1] * ids.dim())
                    found[place] = alter(tensor, place, range(start, stop), ids == chosen).flatten(0, 1)
            return found

        def found_of(scores: AlteredScores) -> Tensor:
            if changes is not None:
                quick = incremental_scores(
                    self,
                    scores,
                    task.inputs,
                    lambda: changes(task.inputs[0], features),
                    incremental,
                    task.per_call,
                    task.show_progress,
                )
                if quick is not None:
                    return scores.clean - quick
            found = scores.clean.new_zeros((features.total, scores.clean.numel()))

            def work(start: int, stop: int) -> Tensor:
                return scores.clean - scores(stop - start, altered(start, stop))

            def keep(start: int, stop: int, change: Tensor) -> None:
                found[start:stop] = change

            scores.sweep(features.total, work, keep).run()
            return found if staying is None else found.masked_fill(staying.to(found.device)[:, None], 0)

        def run() -> Any:
            with task.context():
                scores = AlteredScores(task)
                if scores.clean.numel() == 1:  # of one example, or of inputs of other lengths together
                    scores.shared = scores.shared or len(set(map(len, task.inputs))) > 1
                if not scores.shared:
                    examples_of(task.inputs)
                found = found_of(scores)
                return task.result(
                    [
                        spread(found, ids, tensor, scores.shared).to(device=tensor.device, dtype=scores.dtype)
                        for ids, tensor in zip(features.ids, task.inputs, strict=True)
                    ]
                )

        return task.once(run)
