"""Products and quotients of two activations, by the mean of the other factor.

With delta for a change and a bar for the mean of both ends, delta(a b) = delta(a) bar(b) + bar(a) delta(b) exactly: the
Shapley values of the two factors. For a product of sums (matrices, convolutions) this is the gradient half-way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from fastsal.explainers.gradient.multipliers.rule import Back, Ends, Gradients, summed


def _scaled(coefficients: Mapping[str, Tensor]) -> Back:
    def back(gradients: Gradients, plain: Mapping[str, Tensor]) -> dict[str, Tensor]:
        (given,) = gradients
        assert given is not None
        return {name: summed(given * by, plain[name]) for name, by in coefficients.items() if name in plain}

    return back


def product(ends: Ends) -> Back:
    """Of two elements.

    Changing a first and then b, or b first: each order is exact, and so is every mean of the two. They count alike
    unless one of them passes through a value larger than both ends, as x * rsqrt(v) does from a baseline with a small
    v: that one counts for less, so that what is sent to a and to b does not cancel.
    """
    a1, a0 = ends.both("self")
    b1, b0 = ends.both("other")
    largest = torch.maximum((a1 * b1).abs(), (a0 * b0).abs())
    a_first, b_first = torch.maximum((a1 * b0).abs(), largest), torch.maximum((a0 * b1).abs(), largest)
    weight = a_first / (a_first + b_first)  # of b first
    weight = torch.where(weight.isfinite(), weight, 0.5)
    return _scaled({"self": b0 + weight * (b1 - b0), "other": a1 + weight * (a0 - a1)})


def quotient(ends: Ends) -> Back:
    """y = a / b, of which a = y b is the product: delta(y) = (delta(a) - bar(y) delta(b)) / bar(b).

    No term is large where b is small at one end alone, as the norm of a zero baseline. Where b changes sign its mean
    may be zero, and the mean of both orders is taken.
    """
    a1, a0 = ends.both("self")
    b1, b0 = ends.both("other")
    y1, y0 = a1 / b1, a0 / b0
    same = b1 * b0 > 0
    middle = torch.where(same, (b1 + b0) / 2, 1)
    numerator = torch.where(same, 1 / middle, (1 / b1 + 1 / b0) / 2)
    denominator = torch.where(same, (y1 + y0) / 2 / middle, (a1 + a0) / 2 / b1 / b0)
    found = {"self": numerator, "other": -denominator}
    return _scaled({name: found[name] for name in ends.starts if name in found})


def matrices(first: str, second: str) -> Callable[[Ends], Back]:
    """Of two matrices, or batches of them."""

    def prepare(ends: Ends) -> Back:
        left, right = ends.middle(first), ends.middle(second)
        factor = ends.arguments.get("alpha", 1)

        def back(gradients: Gradients, plain: Mapping[str, Tensor]) -> dict[str, Tensor]:
            (given,) = gradients
            assert given is not None
            given = given if factor == 1 else given * factor
            return {first: given @ right.mT, second: left.mT @ given}

        return back

    return prepare


def bilinear(*names: str) -> Callable[[Ends], Back]:
    """Of any function that is linear in each of two arguments: its gradient half-way."""

    def prepare(ends: Ends) -> Back:
        middles = {name: ends.middle(name) for name in names}

        def back(gradients: Gradients, plain: Mapping[str, Tensor]) -> dict[str, Tensor]:
            with torch.enable_grad():
                leaves = {name: value.detach().requires_grad_() for name, value in middles.items()}
                result = ends.run(leaves)
            found = torch.autograd.grad(result, list(leaves.values()), gradients[0])
            return dict(zip(leaves, found, strict=True))

        return back

    return prepare
