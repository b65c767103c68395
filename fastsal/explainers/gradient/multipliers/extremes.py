"""Maxima and minima: the change of the result goes to the elements that were the extreme at either end.

The one that is it at the inputs gets what the result rises by, the one that was it at the baselines what it falls by,
and for a minimum the other way round. Each has itself changed by at least as much: a multiplier is between 0 and 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from fastsal.explainers.gradient.multipliers.rule import Back, Ends, Gradients, summed, wide


def _shares(end: Tensor, start: Tensor, lowest: bool) -> tuple[Tensor, Tensor]:
    """Of the results' change: (of the extreme at the inputs, of that at the baselines)."""
    beyond = torch.minimum(end, start) if lowest else torch.maximum(end, start)
    return beyond - start, end - beyond


def _scattered(moved: Tensor, delta: Tensor, eps: float, plain: Tensor) -> Tensor:
    return torch.where(delta.abs() < eps, plain, (moved / delta).to(plain.dtype))


def pooled(dimensions: int) -> Callable[[Ends], Back]:
    """Max pooling with indices over the last dimensions, as Captum 0.9.0 has it; windows that overlap add up."""

    def prepare(ends: Ends) -> Back:
        ((name, start),) = ends.starts.items()
        end, begin = ends.both(name)
        delta, (high, places), eps = end - begin, ends.output, ends.eps
        low, before = ends.run({name: start})
        shares = _shares(wide(high), wide(low), False)

        def back(gradients: Gradients, plain: Mapping[str, Tensor]) -> dict[str, Tensor]:
            given = gradients[0]
            assert given is not None
            moved = torch.zeros_like(delta).flatten(-dimensions)
            for share, where in zip(shares, (places, before), strict=True):
                moved.scatter_add_(-1, where.flatten(-dimensions), (given * share).flatten(-dimensions))
            return {name: _scattered(moved.reshape(delta.shape), delta, eps, plain[name])}

        return back

    return prepare


def reduced(lowest: bool) -> Callable[[Ends], Back]:
    """``max``, ``amax``, ``min`` and ``amin`` over one dimension, several or all."""

    def prepare(ends: Ends) -> Back:
        given_dims, eps = ends.arguments.get("dim"), ends.eps
        end, start = ends.both("self")
        rank = end.dim()
        dims = [given_dims] if isinstance(given_dims, int) else list(given_dims or range(rank))
        dims = sorted(dim % rank for dim in dims)
        kept = [dim for dim in range(rank) if dim not in dims]
        order = kept + dims
        delta = end - start
        shape = [delta.shape[dim] for dim in order]

        def rows(value: Tensor) -> Tensor:
            return value.permute(order).reshape([*shape[: len(kept)], -1])

        find = torch.min if lowest else torch.max
        (high, places), (low, before) = find(rows(end), -1), find(rows(start), -1)
        if ends.func._overloadname == "dim":
            places = ends.output[1].reshape(places.shape)
        shares = _shares(high, low, lowest)
        back_order = [order.index(dim) for dim in range(rank)]

        def back(gradients: Gradients, plain: Mapping[str, Tensor]) -> dict[str, Tensor]:
            given = gradients[0]
            assert given is not None
            given = given.reshape(high.shape)
            moved = torch.zeros_like(rows(delta))
            for share, where in zip(shares, (places, before), strict=True):
                moved.scatter_add_(-1, where[..., None], (given * share)[..., None])
            moved = moved.reshape(shape).permute(back_order)
            return {"self": _scattered(moved, delta, eps, plain["self"])}

        return back

    return prepare


def of_two(lowest: bool) -> Callable[[Ends], Back]:
    """``maximum`` and ``minimum`` of two tensors."""

    def prepare(ends: Ends) -> Back:
        a1, a0 = ends.both("self")
        b1, b0 = ends.both("other")
        better = torch.le if lowest else torch.ge
        choose = torch.minimum if lowest else torch.maximum
        at_end, at_start = _shares(choose(a1, b1), choose(a0, b0), lowest)
        first_now, first_before = better(a1, b1), better(a0, b0)
        moved = {
            "self": at_end * first_now + at_start * first_before,
            "other": at_end * ~first_now + at_start * ~first_before,
        }
        kept = {}
        for name in ends.starts:
            end, start = ends.both(name)
            delta = end - start
            small = delta.abs() < ends.eps
            kept[name] = (torch.where(small, 0, moved[name] / delta), small)

        def back(gradients: Gradients, plain: Mapping[str, Tensor]) -> dict[str, Tensor]:
            (given,) = gradients
            assert given is not None
            found = {}
            for name, (ratio, small) in kept.items():
                if name in plain:
                    product = summed(given * ratio, plain[name])
                    found[name] = torch.where(small, plain[name], product.to(plain[name].dtype))
            return found

        return back

    return prepare
