"""How far outputs are apart."""

from __future__ import annotations

from typing import Any

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
        if not isinstance(b, Tensor) or not b.is_floating_point() or b.numel() == 0:
            continue
        if not isinstance(a, Tensor) or a.shape != b.shape:
            return float("inf")
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
