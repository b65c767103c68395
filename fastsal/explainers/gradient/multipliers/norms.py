"""Normalisation by the activations' own statistics, by the rules of products and quotients.

Of z = c / s with c the centred values and s the root of their mean square plus eps: s^2 is a sum of squares, so
delta(s) = mean(bar(c) delta(c)) / bar(s), and delta(z) = (delta(c) - bar(z) delta(s)) / bar(s). All exact, and nothing
is divided by less than half of the larger s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from fastsal.explainers.gradient.multipliers.rule import Back, Ends, Gradients, wide


def _standardised(ends: tuple[Tensor, Tensor], dims: list[int], eps: float, given: Tensor, centred: bool) -> Tensor:
    """What z's multipliers are as the input's."""
    c1, c0 = ((x - x.mean(dims, keepdim=True) if centred else x) for x in ends)
    s1, s0 = ((c.square().mean(dims, keepdim=True) + eps).sqrt() for c in (c1, c0))
    spread, middle = (s1 + s0) / 2, (c1 + c0) / 2
    of_spread = (given * (c1 / s1 + c0 / s0)).mean(dims, keepdim=True) / 2
    found = (given - middle * of_spread / spread) / spread
    return found - found.mean(dims, keepdim=True) if centred else found


def layer_norm(ends: Ends) -> Back:
    """Over the last dimensions."""
    pair, weight, eps = ends.both("input"), ends.arguments["weight"], ends.arguments["eps"]
    dims = [-1 - place for place in range(len(ends.arguments["normalized_shape"]))]

    def back(gradients: Gradients, plain: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if gradients[0] is None:
            return {}
        given = wide(gradients[0]) if weight is None else wide(gradients[0]) * weight
        return {"input": _standardised(pair, dims, eps, given, True)}

    return back


def rms_norm(ends: Ends) -> Back:
    """Over the last dimensions, without a mean."""
    pair, weight, eps = ends.both("input"), ends.arguments["weight"], ends.arguments["eps"]
    dims = [-1 - place for place in range(len(ends.arguments["normalized_shape"]))]
    eps = torch.finfo(ends.arguments["input"].dtype).eps if eps is None else eps

    def back(gradients: Gradients, plain: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if gradients[0] is None:
            return {}
        given = wide(gradients[0]) if weight is None else wide(gradients[0]) * weight
        return {"input": _standardised(pair, dims, eps, given, False)}

    return back


def group_norm(ends: Ends) -> Back:
    """Over the channels of a group and all positions."""
    arguments = ends.arguments
    pair, weight, groups, eps = ends.both("input"), arguments["weight"], arguments["group"], arguments["eps"]
    shape = pair[0].shape
    folded = (shape[0], groups, -1)

    def back(gradients: Gradients, plain: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if gradients[0] is None:
            return {}
        given = wide(gradients[0])
        if weight is not None:
            given = given * weight.reshape(1, -1, *[1] * (len(shape) - 2))
        ends_of = pair[0].reshape(folded), pair[1].reshape(folded)
        return {"input": _standardised(ends_of, [2], eps, given.reshape(folded), True).reshape(shape)}

    return back


def trains(arguments: Mapping[str, object], varying: frozenset[str]) -> bool:
    """Whether batch normalisation takes the statistics of what it is given; else it is affine."""
    return bool(arguments.get("training", arguments.get("train", True))) and "input" in varying


def batch_norm(ends: Ends) -> Back:
    """By the batch's own statistics, as instance normalisation calls it with the examples as channels."""
    arguments = ends.arguments
    pair, weight = ends.both("input"), arguments["weight"]
    eps = float(arguments["eps"] if "eps" in arguments else arguments["epsilon"])
    dims = [place for place in range(pair[0].dim()) if place != 1]

    def back(gradients: Gradients, plain: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if gradients[0] is None:
            return {}
        given = wide(gradients[0])
        if weight is not None:
            given = given * weight.reshape(1, -1, *[1] * (given.dim() - 2))
        return {"input": _standardised(pair, dims, eps, given, True)}

    return back


def _reduced(ends: Ends) -> tuple[list[int], bool]:
    """(dimensions, kept)."""
    rank, given = ends.arguments["self"].dim(), ends.arguments.get("dim")
    dims = list(range(rank)) if not given and given != 0 else [given] if isinstance(given, int) else list(given)
    return sorted(dim % rank for dim in dims), bool(ends.arguments.get("keepdim", False))


def _unreduced(value: Tensor, dims: list[int], kept: bool) -> Tensor:
    for dim in dims if not kept else ():
        value = value.unsqueeze(dim)
    return value


def variance(root: bool, mean: bool) -> Callable[[Ends], Back]:
    """``var`` and, with ``root``, ``std``; with ``mean`` the mean is a second result."""

    def prepare(ends: Ends) -> Back:
        dims, kept = _reduced(ends)
        end, start = ends.both("self")
        count = 1
        for dim in dims:
            count *= end.shape[dim]
        correction = ends.arguments.get("correction")
        free = count - (1 if correction is None else correction)
        c1, c0 = (x - x.mean(dims, keepdim=True) for x in (end, start))
        by = (c1 + c0) / free
        if root:
            s1, s0 = ((c.square().sum(dims, keepdim=True) / free).sqrt() for c in (c1, c0))
            by = torch.where(s1 + s0 > 0, by / (s1 + s0), 0)

        def back(gradients: Gradients, plain: Mapping[str, Tensor]) -> dict[str, Tensor]:
            if gradients[0] is None:
                return {}
            found = _unreduced(gradients[0], dims, kept) * by
            if mean and gradients[1] is not None:
                found = found + _unreduced(gradients[1], dims, kept) / count
            return {"self": found}

        return back

    return prepare


def vector_norm(ends: Ends) -> Back | None:
    """Of order 2, whose square is a sum of squares, and of order 1, a sum of functions of one element."""
    order, (dims, kept) = ends.arguments["ord"], _reduced(ends)
    end, start = ends.both("self")
    if order == 2:
        n1, n0 = (torch.linalg.vector_norm(x, 2, dims, keepdim=True) for x in (end, start))
        by = torch.where(n1 + n0 > 0, (end + start) / (n1 + n0), 0)
    elif order == 1:
        delta = end - start
        by = torch.where(delta.abs() < ends.eps, end.sign(), (end.abs() - start.abs()) / delta)
    else:
        return None

    def back(gradients: Gradients, plain: Mapping[str, Tensor]) -> dict[str, Tensor]:
        (given,) = gradients
        assert given is not None
        return {"self": _unreduced(given, dims, kept) * by}

    return back
