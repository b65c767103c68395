"""Features of the inputs, and batches in which some of them are replaced by the baseline."""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor

Baseline = float | Tensor


class Features(NamedTuple):
    """The feature of every element: ids from 0, in tensors that broadcast to the inputs; ``total`` is the largest + 1.

    An id may be in several inputs, which makes them one feature, and ids may be missing.
    """

    ids: tuple[Tensor, ...]
    total: int


def features_of(feature_mask: Any, inputs: tuple[Tensor, ...]) -> Features:
    """The features that a mask names; without a mask each element of an example is one, numbered through all inputs.

    Args:
        feature_mask: None, or ids per input: an int tensor, or a tuple of them, [1 or B, ...] that broadcast to it.
        inputs: tensors [B, ...].

    Raises:
        TypeError: for a mask that is not of integers.
        ValueError: for a wrong number of masks, a shape that does not broadcast, or a negative id.
    """
    if feature_mask is None:
        ids, count = [], 0
        for tensor in inputs:
            size, rows = tensor[:1].numel(), len(tensor[:1])  # no rows: as without examples
            ids.append(torch.arange(count, count + size, device=tensor.device).reshape(rows, *tensor.shape[1:]))
            count += size
        return Features(tuple(ids), count)
    given = feature_mask if isinstance(feature_mask, tuple) else (feature_mask,)
    if len(given) != len(inputs):
        raise ValueError(f"feature_mask: {len(given)} given for {len(inputs)} inputs; one each is needed")
    ids, count = [], 0
    for mask, tensor in zip(given, inputs, strict=True):
        if isinstance(mask, Tensor) and mask.is_floating_point() and torch.equal(mask, mask.round()):
            mask = mask.to(torch.int64)  # as zeros_like of an input is
        if not isinstance(mask, Tensor) or mask.is_floating_point() or mask.is_complex() or mask.dtype == torch.bool:
            kind = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
            raise TypeError(f"feature_mask: {kind} is not a tensor of integers")
        try:
            mask.expand(tensor.shape)
        except RuntimeError:
            shapes = f"{tuple(mask.shape)} does not broadcast to the input's {tuple(tensor.shape)}"
            raise ValueError(f"feature_mask: shape {shapes}") from None
        padded = mask.reshape(*[1] * (tensor.dim() - mask.dim()), *mask.shape)
        ids.append(padded.to(device=tensor.device, dtype=torch.int64))
        if mask.numel():
            if int(mask.min()) < 0:
                raise ValueError(f"feature_mask: {int(mask.min())} is below 0, the first feature")
            count = max(count, int(mask.max()) + 1)
    return Features(tuple(ids), count)


def absent_value(baseline: Baseline, tensor: Tensor) -> Tensor:
    """What stands where a feature is absent: exact for integers too."""
    if isinstance(baseline, Tensor):
        return baseline.to(tensor)
    return torch.full((), baseline, dtype=tensor.dtype, device=tensor.device)


def numbered(features: Features) -> Features:
    """The same features, numbered in their order without gaps, so that an id that no element has costs nothing."""
    device = features.ids[0].device
    every = torch.cat([ids.reshape(-1).to(device) for ids in features.ids])
    found, places = every.unique(return_inverse=True)
    parts = places.split([ids.numel() for ids in features.ids])
    return Features(
        tuple(part.reshape(ids.shape).to(ids.device) for part, ids in zip(parts, features.ids, strict=True)),
        len(found),
    )


def named_ids(features: Features) -> Tensor:
    """The ids that some element has, in their order, on the CPU."""
    found: Tensor = torch.cat([ids.reshape(-1).cpu() for ids in features.ids]).unique()
    return found


def spread(found: Tensor, ids: Tensor, tensor: Tensor, shared: bool) -> Tensor:
    """Values [features, outputs] at each element of the input [B, ...]: [outputs, ...].

    Args:
        found: outputs are those of B examples, example by example, or ``shared`` by all of them.
        ids: features of the elements, [1 or B, ...], broadcast to the input.
        tensor: the input.
        shared: whether the outputs belong to no example.

    Raises:
        ValueError: for features of each example's own where the outputs are shared.
    """
    if tensor[:1].numel() == 0:
        return found.new_zeros((found.shape[1], *tensor.shape[1:]))
    where = ids.to(found.device).expand(ids.shape[0], *tensor.shape[1:])
    if shared and where.shape[0] > 1 and bool((where == where[:1]).all()):
        where = where[:1]
    if where.shape[0] == 1:
        return found.T.contiguous()[:, where[0]]
    if shared:
        raise ValueError("feature_mask: the output is one for the whole batch, so all examples must share one mask")
    examples = torch.arange(where.shape[0], device=found.device).reshape(-1, *[1] * (where.dim() - 1))
    by_example = found.reshape(found.shape[0], where.shape[0], -1)
    return by_example[where, examples].movedim(-1, 1).flatten(0, 1)


def coalitions(
    inputs: tuple[Tensor, ...], baselines: tuple[Baseline, ...], features: Features, present: Tensor
) -> tuple[Tensor, ...]:
    """Batches [P * B, ...], row p * B + b: the elements of features in coalition p, the baseline elsewhere.

    Args:
        inputs: tensors [B, ...].
        baselines: a number, or a tensor that broadcasts, for each.
        features: of the inputs.
        present: [P, features.total], bool, or [P, B, features.total] for coalitions of each example's own.
    """
    result = []
    for tensor, baseline, ids in zip(inputs, baselines, features.ids, strict=True):
        chosen = present.to(tensor.device)
        if present.dim() == 3:
            examples = torch.arange(tensor.shape[0], device=tensor.device).reshape(-1, *[1] * (tensor.dim() - 1))
            chosen = chosen[:, examples, ids]
        else:
            chosen = chosen[:, ids]
        rows = torch.where(chosen, tensor, absent_value(baseline, tensor))
        result.append(rows.reshape(present.shape[0] * tensor.shape[0], *tensor.shape[1:]))
    return tuple(result)


SEGMENTS = 64
"""Of an input, where nobody says what its features are: so many parts of equal size, all channels together."""


def segments(inputs: tuple[Tensor, ...], most: int = SEGMENTS) -> tuple[Tensor, ...]:
    """A feature mask for each input [B, C, *spatial]: a grid of at most so many parts of the spatial dimensions.

    The elements of a table [B, features] are features themselves, or runs of them where there are too many. Features
    of several inputs share the number, and are numbered through all of them.
    """
    masks, first = [], 0
    for tensor in inputs:
        extents = tuple(tensor.shape[2:]) if tensor.dim() > 2 else tuple(tensor.shape[1:])
        parts = _parts(extents, max(1, most // len(inputs)))
        mask = torch.zeros(extents, dtype=torch.int64, device=tensor.device)
        for axis, (extent, count) in enumerate(zip(extents, parts, strict=True)):
            place = torch.arange(extent, device=tensor.device) * count // max(extent, 1)
            mask = mask * count + place.view(-1, *[1] * (len(extents) - axis - 1))
        shape = (1, 1, *extents) if tensor.dim() > 2 else (1, *extents)
        masks.append((mask + first).view(shape))
        first += prod(parts)
    return tuple(masks)


def most_segments(inputs: tuple[Tensor, ...]) -> int:
    """How many features :func:`segments` makes."""
    return 1 + max(int(mask.max()) if mask.numel() else 0 for mask in segments(inputs))


def _parts(extents: tuple[int, ...], most: int) -> list[int]:
    """Parts of each dimension, as many for each as fit."""
    parts = [1] * len(extents)
    while True:
        grown = [axis for axis in range(len(parts)) if parts[axis] < extents[axis]]
        grown = [axis for axis in grown if prod(parts) // parts[axis] * (parts[axis] + 1) <= most]
        if not grown:
            return parts
        parts[min(grown, key=lambda axis: parts[axis])] += 1
