"""Functions of one element, of one tensor or several: the change of the result, shared out and divided.

Shrikumar, Greenside, Kundaje, "Learning Important Features Through Propagating Activation Differences" (ICML 2017): the
Rescale rule (section 3.5.2). Of several arguments each gets its Shapley value of the change.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from fastsal.explainers.gradient.multipliers.rule import Back, Ends, Gradients, names, summed, wide

COPYING = names(
    """relu leaky_relu threshold abs clamp clamp_min clamp_max hardtanh softshrink hardshrink _prelu_kernel
    rrelu_with_noise"""
)
"""Their results are multiples of their arguments, so that a difference loses no digits."""


def _exact(value: Tensor) -> Tensor:
    """In float64 where the device has it: a quotient of values that are close needs the digits."""
    return wide(value) if value.device.type == "mps" else value.double()


def _first(output: Tensor | tuple[Tensor, ...]) -> Tensor:
    return output if isinstance(output, Tensor) else output[0]


def _changes(ends: Ends, moving: list[str]) -> list[Tensor]:
    """Of the result's change the part of each argument: its Shapley value; for a single one all of it."""
    name = ends.func._schema.name.split("::")[1]
    if name in COPYING and len(moving) == 1:
        return [wide(_first(ends.output)) - wide(_first(ends.run(ends.starts)))]
    fixed = {
        key: _exact(value)
        for key, value in ends.arguments.items()
        if isinstance(value, Tensor) and value.is_floating_point()
    }
    starts = {key: _exact(ends.starts[key]) for key in moving}
    count = len(moving)
    corners = []
    for chosen in range(2**count):
        other = {key: starts[key] for place, key in enumerate(moving) if not chosen >> place & 1}
        corners.append(_first(ends.run({**fixed, **other})))
    if count == 1:
        return [corners[1].sub_(corners[0])]
    found, defined = [], corners[0].isfinite() & corners[-1].isfinite()
    for place in range(count):
        total = torch.zeros_like(corners[0])
        for chosen in range(2**count):
            if not chosen >> place & 1:
                before = chosen.bit_count()
                share = math.factorial(before) * math.factorial(count - before - 1) / math.factorial(count)
                total += share * (corners[chosen | 1 << place] - corners[chosen])
        # An end of one argument with another's other end may be out of the domain.
        found.append(torch.where(defined & total.isnan(), torch.inf, total))
    return found


def rescaled(ends: Ends) -> Back:
    """delta_out / delta_in; the gradient where delta_in is too small to divide by, or an end is not in the domain."""
    moving = [name for name in ends.starts if ends.arguments[name].is_floating_point()]
    kept: dict[str, Tensor] = {}
    for name, change in zip(moving, _changes(ends, moving), strict=True):
        end, start = ends.both(name)
        delta = end - start
        # An infinite ratio stands for the gradient.
        ratio = (change.div_(delta) if change.shape == delta.shape else change / delta).to(delta.dtype)
        if ratio.shape == delta.shape:
            ratio.masked_fill_(delta.abs() < ends.eps, torch.inf)
            kept[name] = ratio
        else:
            kept[name] = torch.where(delta.abs() < ends.eps, torch.inf, ratio)

    def back(gradients: Gradients, plain: Mapping[str, Tensor]) -> dict[str, Tensor]:
        found = {}
        for name, ratio in kept.items():
            if name in plain and gradients[0] is not None:
                given, product, instead = plain[name], gradients[0] * ratio, ratio.isinf()
                if ratio.shape != given.shape:
                    product = summed(torch.where(instead, 0, product), given)
                    instead = summed(instead.to(product.dtype), given) == ratio.numel() // given.numel()
                if steep:  # the slope may be infinite, as the root's at 0
                    given = given.nan_to_num(0.0, 0.0, 0.0)
                found[name] = torch.where(instead, given, product.to(given.dtype))
        return found

    steep = ends.func._schema.name.split("::")[1] not in COPYING
    return back


def gated(ends: Ends) -> Back:
    """``glu``: the first half times the sigmoid of the second, both by the mean of the other."""
    dim = ends.arguments["dim"]
    end, start = ends.both("self")
    (a1, b1), (a0, b0) = end.chunk(2, dim), start.chunk(2, dim)
    gate = (b1.sigmoid() + b0.sigmoid()) / 2
    change = (_exact(b1).sigmoid() - _exact(b0).sigmoid()) / (_exact(b1) - _exact(b0))
    middle = (b1 + b0) / 2
    slope = torch.where((b1 - b0).abs() < ends.eps, middle.sigmoid() * (-middle).sigmoid(), change.to(b1.dtype))
    through = slope * (a1 + a0) / 2

    def back(gradients: Gradients, plain: Mapping[str, Tensor]) -> dict[str, Tensor]:
        (given,) = gradients
        assert given is not None
        return {"self": torch.cat([given * gate, given * through], dim)}

    return back
