"""How far outputs are apart, and what in them is of which row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastsal._torch import tree_leaves


def difference(found: Any, expected: Any) -> float:
    """The largest difference of outputs as a share of the expected ones' spread; infinite for other forms.

    The spread is the largest magnitude or, where that is larger, the largest less the smallest.
    """
    got, want = tree_leaves(found), tree_leaves(expected)
    if len(got) != len(want):
        return float("inf")
    worst = 0.0
    for a, b in zip(got, want, strict=True):
        if not isinstance(b, Tensor):
            continue
        if not isinstance(a, Tensor) or a.shape != b.shape:
            return float("inf")
        if not b.is_floating_point() or b.numel() == 0:
            continue
        a, b = a.to(b.device, torch.float64), b.to(torch.float64)
        finite = b.isfinite()
        # Infinities are equal or not, and would make any spread infinite.
        if not torch.equal(a.isfinite(), finite) or not torch.equal(a[~finite].nan_to_num(), b[~finite].nan_to_num()):
            return float("inf")
        a, b = a[finite], b[finite]
        if not b.numel():
            continue
        spread = max(float(b.abs().max()), float(b.max() - b.min()))
        worst = max(worst, float((a - b).abs().max()) / spread if spread else float((a - b).abs().max()))
    return worst


class ByRow(NamedTuple):
    """An output by rows.

    Attributes:
        parts: of each row, its entries of all tensors, or its item of the list.
        listed: whether the output is a list with an item for each row, as a detector's objects.
    """

    parts: list[Any]
    listed: bool


def by_row(output: Any, count: int) -> ByRow | None:
    """An output of so many rows; None where it has no part for each."""
    items = list(output) if isinstance(output, (list, tuple)) and len(output) == count else None
    if items and all(isinstance(item, Mapping) for item in items):
        return ByRow(items, True)
    leaves = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
    if all(leaf.dim() > 0 and leaf.shape[0] == count for leaf in leaves):
        return ByRow([[leaf[row] for leaf in leaves] for row in range(count)], False)
    return None if items is None else ByRow(items, True)
