"""Attribution of a score of a whole data set, such as its accuracy, by features of its examples."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor

from fastsal.engine.run import calling, scratch
from fastsal.engine.run import run as run_model
from fastsal.explainers.arguments import Baselines, as_baselines, as_result, with_room
from fastsal.explainers.base import Attribution, attribution, describe
from fastsal.explainers.call import Call
from fastsal.explainers.perturbation.features import Features, absent_value, features_of
from fastsal.explainers.perturbation.occlusion.feature_ablation import FeatureAblation

EXPLAINED, PASSED, LEFT_OUT = 0, 1, 2
"""Roles of what a loader returns: explained, given to the model as it is, not given to it (labels)."""


class DataLoaderAttribution(Attribution):
    """A :class:`FeatureAblation` of what the model gives for all batches of a loader together: features are replaced
    in every example of the data set, and the score is what ``reduce`` and ``to_metric`` make of all outputs.

    Costs n + 1 passes of the data set for n features; it is read once for each ``perturbations_per_pass`` of them.

    >>> loader = torch.utils.data.DataLoader(images, batch_size=1)
    >>> columns = (torch.arange(9) // 3).expand(1, 3, 8, 9)
    >>> ablation = fastsal.DataLoaderAttribution(fastsal.FeatureAblation(lambda x: model(x)[:, 0]))
    >>> maps = ablation.attribute(loader, feature_mask=columns, to_metric=lambda scores: scores.mean())
    >>> apart = fastsal.FeatureAblation(lambda x: model(x)[:, 0]).attribute(images, feature_mask=columns)
    >>> torch.allclose(maps, apart.mean(0), atol=1e-6)  # of a mean, the mean of each example's drops
    True

    Args:
        attr_method: a FeatureAblation, whose model is run.

    Raises:
        TypeError: for another explainer.
    """

    nameable: ClassVar[bool] = False
    summary = "drop of a data set's score when a feature is replaced in all of it"
    cost = "features + 1 passes of the data set"

    def __init__(self, attr_method: FeatureAblation) -> None:
        if not isinstance(attr_method, FeatureAblation) or type(attr_method).get_name() != "Feature Ablation":
            raise TypeError(f"attr_method: {type(attr_method).__name__} is no FeatureAblation")
        super().__init__(attr_method.forward_func)
        self.attr_method = attr_method

    @attribution
    def attribute(
        self,
        dataloader: Iterable[Any],
        input_roles: tuple[int, ...] | None = None,
        baselines: Baselines = None,
        feature_mask: Any = None,
        reduce: Callable[..., Any] | None = None,
        to_metric: Callable[..., Any] | None = None,
        perturbations_per_pass: int = 1,
        show_progress: bool = False,
        return_input_shape: bool = True,
    ) -> Call[Any]:
        """Attribution [*metric, ...] in the shapes of one example; a tuple where the loader returns several.

        Args:
            dataloader: an iterable that can be read again, of tensors or tuples of the same length.
            input_roles: for each thing that the loader returns: 0 it is explained (a tensor), 1 the model gets it as it
                is, 2 it is kept from the model, as labels are. None explains all. (So Captum does; its documentation
                has 1 and 2 the other way round.)
            baselines: what a feature is replaced by: None (0), a number, a tensor [1, ...], or a tuple of one for each
                that is explained.
            feature_mask: the feature of each element, an int tensor [1, ...], or a tuple of these.
            reduce: (what was reduced so far or None, the model's output, what the loader returned, with features
                replaced) into what is reduced so far. None concatenates the outputs.
            to_metric: of what is reduced in the end into a tensor, the score. None takes that itself.
            perturbations_per_pass: features per reading of the data set.
            show_progress: show a bar.
            return_input_shape: False returns the values [*metric, features].

        Raises:
            TypeError, ValueError: for arguments outside of the above.
        """
        first = next(iter(dataloader))
        several = isinstance(first, (tuple, list))
        given = tuple(first) if several else (first,)
        roles = (EXPLAINED,) * len(given) if input_roles is None else tuple(input_roles)
        if len(roles) != len(given) or EXPLAINED not in roles or not set(roles) <= {EXPLAINED, LEFT_OUT, PASSED}:
            raise ValueError(
                f"input_roles: {roles} for {len(given)} things that the loader returns; one of 0, 1, 2 each, and a 0"
            )
        inputs = tuple(value[:1] for value, role in zip(given, roles, strict=True) if role == EXPLAINED)
        starts = as_baselines(baselines, with_room(baselines, inputs))
        features = features_of(feature_mask, inputs)
        if any(len(ids) > 1 for ids in features.ids):
            raise ValueError("feature_mask: it is one for all examples, with dimension 0 of 1")

        @calling(self.forward_func)
        def metric(present: Tensor) -> Tensor:
            states: list[Any] = [None] * len(present)
            for batch in dataloader:
                values = tuple(batch) if isinstance(batch, (tuple, list)) else (batch,)
                for index, row in enumerate(present):
                    altered = _altered(values, roles, starts, features, row != 0)
                    arguments = tuple(v for v, role in zip(altered, roles, strict=True) if role != LEFT_OUT)
                    output = run_model(self.forward_func, tuple(map(scratch, arguments)))
                    if reduce is not None:
                        states[index] = reduce(states[index], output, altered)
                    else:
                        states[index] = output if states[index] is None else torch.cat([states[index], output])
            scores = [state if to_metric is None else to_metric(state) for state in states]
            if not all(isinstance(score, Tensor) for score in scores):
                raise TypeError(f"to_metric: it returned a {type(scores[0]).__name__}, not a tensor")
            return torch.stack(scores)

        metric.rows_apart = True  # type: ignore[attr-defined]
        method = copy.copy(self.attr_method)
        method.forward_func = metric
        call = describe(
            method,
            torch.ones((1, features.total), device=inputs[0].device),
            perturbations_per_eval=perturbations_per_pass,
            show_progress=show_progress,
        )

        def shaped(values: Tensor) -> Any:
            if not return_input_shape:
                return values
            return as_result([values[..., ids[0]] for ids in features.ids], several)

        return call.then(shaped)


def _altered(
    values: tuple[Any, ...],
    roles: tuple[int, ...],
    starts: tuple[float | Tensor, ...],
    features: Features,
    present: Tensor,
) -> tuple[Any, ...]:
    """What the loader returned, with absent features at their baselines."""
    each = iter(zip(starts, features.ids, strict=True))
    found = []
    for value, role in zip(values, roles, strict=True):
        if role == EXPLAINED:
            start, ids = next(each)
            (value,) = with_room(start, (value,))  # in every copy, so that they can be joined
            value = torch.where(present.to(value.device)[ids.to(value.device)], value, absent_value(start, value))
        found.append(value)
    return tuple(found)
