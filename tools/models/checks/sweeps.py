"""Occlusion and RISE: the plain sweep, one alteration at a time."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

import fastsal
from tools.models import by_hand
from tools.models.cell import Meaningless, Wrong, near
from tools.models.subject import Subject

MASKS = 8
TOKENS = "RISE and Occlusion of token ids"


def window_of(subject: Subject) -> tuple[int, ...]:
    """A third of each side of images, all channels; of text three tokens."""
    shape = tuple(subject.inputs.shape[1:])
    if subject.kind == "text":
        return (3, shape[1])
    if len(shape) == 1:
        return (math.ceil(shape[0] / 8),)
    if len(shape) == 4 and shape[1] == 3:  # frames first
        return (math.ceil(shape[0] / 2), 3, *(math.ceil(side / 2) for side in shape[2:]))
    if len(shape) == 4:
        return (shape[0], *(math.ceil(side / 2) for side in shape[1:]))
    if len(shape) == 2:
        return tuple(math.ceil(side / 4) for side in shape)
    return (shape[0], *(math.ceil(side / 3) for side in shape[1:]))


def one_by_one(subject: Subject, window: tuple[int, ...]) -> Tensor:
    """The score's drop at each window, as many passes as there are windows; once for a subject."""
    found: Tensor = subject.once(("drops", window), lambda: _loop(subject, window))
    return found


def _loop(subject: Subject, window: tuple[int, ...]) -> Tensor:
    x, clean = subject.inputs, by_hand.scores(subject)
    total = torch.zeros(x.shape, dtype=torch.promote_types(x.dtype, clean.dtype))
    starts = [range(0, size, side) for size, side in zip(x.shape[1:], window, strict=True)]
    for corner in torch.cartesian_prod(*[torch.tensor(list(each)) for each in starts]).reshape(-1, len(starts)):
        where = (slice(None), *(slice(int(c), int(c) + side) for c, side in zip(corner, window, strict=True)))
        altered = x.clone()
        altered[where] = 0
        drop = clean - by_hand.scores(subject, altered)
        total[where] += drop.reshape(-1, *[1] * (x.dim() - 1))
    return total


def _occlusion(subject: Subject, incremental: bool | str) -> str:
    window = window_of(subject)
    found = fastsal.Occlusion(subject.model).attribute(
        subject.inputs, window, window, target=subject.target, incremental=incremental
    )
    expected = one_by_one(subject, window)
    # Of outputs that random weights leave all but the same, the drop is a difference of nearly equal numbers.
    size = max(float(expected.abs().max()), 1e-2 * float(by_hand.scores(subject).abs().max()))
    return near("drops", found, expected, 1e-3, size)


def occlusion(subject: Subject) -> str:
    return _occlusion(subject, False)


def incremental(subject: Subject) -> str:
    return _occlusion(subject, True)


def rise(subject: Subject) -> str:
    if subject.kind == "text":
        raise Meaningless(TOKENS)
    one, rows = subject.first(), list[Tensor]()
    model = one.model

    def recorded(x: Tensor, *extra: Any) -> Any:
        rows.extend(x.detach().clone().split(1))
        return model(x, *extra)

    options: dict[str, Any] = {"design": "independent", "estimator": "plain", "seed": 1}
    # Few cells along one axis would hide nothing, or everything, in several masks.
    options["grid_size"] = 4 if one.inputs.dim() > 3 else 9
    found = fastsal.RISE(recorded).attribute(one.inputs, one.target, n_masks=MASKS, **options)
    altered: list[Tensor] = []
    for row in rows:
        if not torch.equal(row, one.inputs) and not any(torch.equal(row, other) for other in altered):
            altered.append(row)
    altered = altered[-MASKS:]
    if len(altered) != MASKS:
        raise Wrong(f"{len(altered)} masked inputs were seen, not {MASKS}")
    total = torch.zeros_like(found)
    for row in altered:
        share = row / one.inputs  # the mask, where the input is not all but zero
        if share.dim() > 2:
            best = one.inputs.abs().argmax(1, keepdim=True)
            share = share.gather(1, best)
        total += by_hand.scores(one, row).reshape(-1, *[1] * (found.dim() - 1)) * share.reshape(total.shape)
    return near("masks", found, total / (MASKS * 0.5), 1e-3)
