"""How RISE's map is estimated from the scores of its masks: E[f M] / p, where M is a mask and f its score."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastsal.explainers.perturbation.rise._designs import Masks
from fastsal.explainers.perturbation.rise._regression import regression
from fastsal.ops import wide_dtype

ESTIMATORS = ("plain", "centred", "regression")


def checked_estimator(estimator: str) -> str:
    """An estimator's name.

    Raises:
        ValueError: for another.
    """
    if estimator not in ESTIMATORS:
        raise ValueError(f"estimator: {estimator!r} is not one of {', '.join(ESTIMATORS)}")
    return estimator


def estimated(scores: Tensor, estimator: str, run: Masks, groups: Sequence[slice]) -> tuple[Tensor, Tensor | None]:
    """(maps [K, *size], standard errors or None).

    The plain estimator is the mean of f M / p. The centred one takes the mean score off f, which a mask's mean times
    it adds again: what all masks share makes no noise. The regression takes off what a linear function of the mask's
    means over squares tells of f, whose part of the map is known in closed form (a control variate); it is fitted on
    other masks than those that it is used on, so that the estimate stays without bias.

    Args:
        scores: [N, K].
        estimator: one of :data:`ESTIMATORS`.
        run: the masks.
        groups: of the masks, all up to some; with more than one there are standard errors, by their spread.
    """
    p, device = run.each.probability, scores.device
    wide = scores.to(wide_dtype(device))
    mean = torch.zeros_like(wide[0]) if estimator == "plain" else wide.mean(0)
    rest, known = wide - mean, None
    if estimator == "regression":
        predicted, known = regression(run, groups, wide.dtype, device)(rest)
        rest = rest - predicted
    maps = []
    for group in groups:
        part = rest[group].to(scores.dtype)
        found = run.each.finish(run.accumulated(part, group, None)) / (len(part) * p)
        found += mean.to(found.dtype).view(-1, *[1] * len(run.each.size))
        maps.append(found if known is None else found + known.to(found.dtype))
    if len(groups) == 1:
        return maps[0], None
    stacked = torch.stack(maps)
    sizes = [len(range(*group.indices(len(scores)))) for group in groups]
    weights = torch.tensor(sizes, dtype=stacked.dtype, device=device) / sum(sizes)
    average = torch.einsum("r,r...->...", weights, stacked)
    spread = (stacked - average).square().sum(0) / (len(groups) - 1)
    return average, (spread / len(groups)).sqrt()
