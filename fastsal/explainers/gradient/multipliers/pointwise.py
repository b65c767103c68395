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
    found = []
    for place in range(count):
        total = torch.zeros_like(corners[0])
        for chosen in range(2**count):
            if not chosen >> place & 1:
                before = chosen.bit_count()
                share = math.factorial(before) * math.factorial(count - before - 1) / math.factorial(count)
                total += share * (corners[chosen | 1 << place] - corners[chosen])
        found.append(total)
    return found


def chosen(small: Tensor, plain: Tensor, product: Tensor) -> Tensor:
    """The gradient where a difference is too small, and 0 where that is infinite, as the root's at 0."""
    return torch.where(small, plain.nan_to_num(0.0, 0.0, 0.0), product)


def rescaled(ends: Ends) -> Back:
    """delta_out / delta_in; the gradient where delta_in is too small to divide by, or an end is not in the domain."""
    moving = [name for name in ends.starts if ends.arguments[name].is_floating_point()]
    kept: dict[str, tuple[Tensor, Tensor]] = {}
    for name, change in zip(moving, _changes(ends, moving), strict=True):
        end, start = ends.both(name)
        delta = end - start
        kept[name] = ((change / delta).to(delta.dtype), delta.abs() < ends.eps)

    def back(gradients: Gradients, plain: Mapping[str, Tensor]) -> dict[str, Tensor]:
        found = {}
        for name, (ratio, small) in kept.items():
            if name in plain and gradients[0] is not None:
                given = plain[name]
                if ratio.shape == given.shape:
                    product = torch.where(ratio.isfinite(), gradients[0] * ratio, given)
                else:
                    product = summed((gradients[0] * ratio).nan_to_num(0.0, 0.0, 0.0), given)
                found[name] = chosen(small, given, product.to(given.dtype))
        return found

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
