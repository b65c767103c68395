"""Occlusion from coarse to fine: a coarse grid of windows, then those where it matters, and what that leaves out."""

from __future__ import annotations

import itertools
import numbers
from collections.abc import Callable, Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

AUDIT = 0.1
"""Share of the windows left out that is scored all the same, at random, to know what leaving out costs."""
LEAST_AUDIT = 8


class Refined(NamedTuple):
    """What was found.

    Attributes:
        changes: [positions, outputs], interpolated where a window was left out.
        error: [positions, outputs]: 0 where the window was scored, else the root mean square of what interpolation
            misses, measured at the windows that were drawn.
        scored: how many windows were.
    """

    changes: Tensor
    error: Tensor
    scored: int


def checked_refine(refine: Any) -> float:
    """
    Raises:
        TypeError, ValueError: for what is not a number between 0 and 1.
    """
    if isinstance(refine, bool) or not isinstance(refine, numbers.Real):
        raise TypeError(f"refine: {refine!r} is not a number")
    if not 0 < float(refine) < 1:
        raise ValueError(f"refine: {refine} is not between 0 and 1, a share of the largest change")
    return float(refine)


def refined(
    score: Callable[[Tensor], Tensor],
    counts: Sequence[int],
    window: Sequence[int],
    stride: Sequence[int],
    refine: float,
    seed: int = 0,
) -> Refined:
    """Changes of the score at all positions of a window, of which some are scored.

    First windows side by side are scored. Between such neighbours, of which one changes an output by more than a share
    of the most that any does, all windows are scored; elsewhere the change is interpolated linearly.

    Args:
        score: (positions [n], in ascending order) to changes [n, outputs].
        counts: positions per dimension.
        window, stride: sizes and steps.
        refine: the share.
        seed: draws the windows that tell the error.
    """
    lines = [_coarse(count, size // step) for count, size, step in zip(counts, window, stride, strict=True)]
    weights = [_between(count, line) for count, line in zip(counts, lines, strict=True)]
    grid = torch.arange(prod(counts), device="cpu").view(*counts)
    coarse = grid[torch.meshgrid(*(torch.tensor(line, device="cpu") for line in lines), indexing="ij")].flatten()
    known = score(coarse)
    shape = (*(len(line) for line in lines), known.shape[1])
    size, finite = known.abs(), known.isfinite()
    active = ((size > refine * size.where(finite, 0.0).amax(0)) | ~finite).any(1)
    near = _spread(active.to("cpu", torch.float64).view(*shape[:-1], 1), [(each > 0).double() for each in weights])
    chosen = near.flatten() > 0
    chosen[coarse] = False
    left = ~chosen
    left[coarse] = False
    left = left.nonzero()[:, 0]
    drawn = _drawn(left, seed)
    chosen[drawn] = True
    # Windows next to one that is not finite are all scored.
    found = _spread(known.double().where(finite, 0.0).view(shape), weights).flatten(0, -2)
    guessed = found[drawn.to(found.device)]
    exact = torch.cat([coarse, chosen.nonzero()[:, 0]])
    changes = known
    if chosen.any():
        changes = torch.cat([known, score(chosen.nonzero()[:, 0])])
    found[exact.to(found.device)] = changes.double()
    error = torch.zeros_like(found)
    if len(drawn):
        missed = (found[drawn.to(found.device)] - guessed).square().mean(0).sqrt()
        inexact = torch.ones(len(found), dtype=torch.bool, device="cpu")
        inexact[exact] = False
        error[inexact.to(error.device)] = missed
    return Refined(found.to(known), error.to(known), len(exact))


def _coarse(count: int, step: int) -> list[int]:
    """Every so manieth position, and the last."""
    line = list(range(0, count, max(step, 1)))
    return line if line[-1] == count - 1 else [*line, count - 1]


def _between(count: int, line: list[int]) -> Tensor:
    """[count, len(line)]: the weights of linear interpolation."""
    weights = torch.zeros(count, len(line), dtype=torch.float64, device="cpu")
    weights[line[-1], -1] = 1
    for index, (low, high) in enumerate(itertools.pairwise(line)):
        share = torch.arange(high - low, dtype=torch.float64, device="cpu") / (high - low)
        weights[low:high, index], weights[low:high, index + 1] = 1 - share, share
    return weights


def _spread(values: Tensor, weights: list[Tensor]) -> Tensor:
    """Values on the coarse lines [*coarse, outputs] at all positions, [*counts, outputs]."""
    for axis, each in enumerate(weights):
        values = torch.tensordot(values, each.to(values), dims=([axis], [1])).movedim(-1, axis)
    return values


def _drawn(left: Tensor, seed: int) -> Tensor:
    count = min(len(left), max(LEAST_AUDIT, round(AUDIT * len(left))))
    order = np.random.default_rng(seed).permutation(len(left))[:count]
    with torch.device("cpu"):
        return left[torch.from_numpy(np.sort(order))]
