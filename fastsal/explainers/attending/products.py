"""Products of two tensors as models write them, brought to one form: [..., M, K] times [..., K, N]."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

_PRODUCTS = {"matmul", "__matmul__", "__rmatmul__", "bmm", "baddbmm", "einsum"}


class Product(NamedTuple):
    """A product of two tensors.

    Attributes:
        left, right: as they were given.
        rows, columns: dimensions of the result, from its end, that only the left or the right one has.
        summed: of left and right, from their ends, what the sum is taken over.
        equation: of an einsum, (left's, right's and the result's letters).
    """

    left: Tensor
    right: Tensor
    rows: int
    columns: int
    summed: tuple[int, int]
    equation: tuple[str, str, str] | None = None

    def as_rows(self, which: int) -> Tensor:
        """An operand as [..., its own dimension, the summed one]; the others in the order that they have in the result.

        Only of products with one such dimension each.
        """
        operand = (self.left, self.right)[which]
        own = (self.rows, self.columns)[which]
        if self.equation is None:
            return operand if which == 0 else operand.mT
        letters, result = self.equation[which], self.equation[2]
        mine = result[own]
        inner = next(each for each in letters if each not in result)
        others = [each for each in result if each in letters and each != mine]
        return operand.permute([letters.index(each) for each in (*others, mine, inner)])


def product_of(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Product | None:
    """What a function computes, by its name; None for no product of two tensors of three dimensions or more."""
    if name not in _PRODUCTS:
        return None
    if name == "einsum":
        return _einsum(args)
    tensors = [arg for arg in args if isinstance(arg, Tensor)]
    tensors += [kwargs[each] for each in ("other", "mat2", "batch1", "batch2") if isinstance(kwargs.get(each), Tensor)]
    tensors = tensors[1:] if name == "baddbmm" else tensors
    if len(tensors) != 2 or min(each.dim() for each in tensors) < 2 or max(each.dim() for each in tensors) < 3:
        return None
    left, right = tensors[::-1] if name == "__rmatmul__" else tensors
    return Product(left, right, -2, -1, (-1, -2))


def _einsum(args: Sequence[Any]) -> Product | None:
    if not args or not isinstance(args[0], str):
        return None
    operands = args[1] if len(args) == 2 and isinstance(args[1], (tuple, list)) else args[1:]
    if len(operands) != 2 or not all(isinstance(each, Tensor) for each in operands):
        return None
    written = args[0].replace(" ", "")
    before, arrow, result = written.partition("->")
    sides = before.split(",")
    if not arrow or len(sides) != 2:
        return None
    spelled = _without_dots([*sides, result], [each.dim() for each in operands])
    if spelled is None:
        return None
    left, right, result = spelled
    rows = [each for each in left if each not in right and each in result]
    columns = [each for each in right if each not in left and each in result]
    summed = [each for each in left if each in right and each not in result]
    if len(rows) != 1 or len(columns) != 1 or len(summed) != 1 or len(set(left)) < len(left):
        return None
    places = tuple(each.index(summed[0]) - len(each) for each in (left, right))
    rows_at, columns_at = (result.index(each[0]) - len(result) for each in (rows, columns))
    return Product(operands[0], operands[1], rows_at, columns_at, (places[0], places[1]), (left, right, result))


def _without_dots(parts: list[str], dims: list[int]) -> list[str] | None:
    """Letters in the place of an ellipsis, which must be as many in both operands."""
    counts = {dim - len(part.replace("...", "")) for part, dim in zip(parts, dims, strict=False) if "..." in part}
    if len(counts) > 1:
        return None
    free = [each for each in string.ascii_letters if not any(each in part for part in parts)]
    dots = "".join(free[: counts.pop()]) if counts else ""
    return [part.replace("...", dots) for part in parts]
