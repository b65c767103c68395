"""One call of attention in a pass: its queries, keys and values, or its weights where the model has them itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fastsal.ops import accumulation_dtype, attention

ROWS = 64
"""Queries of a stored matrix that are read at a time."""


@dataclass(eq=False)
class Attended:
    """What a pass left of one call of attention; every tensor as [B, heads, N, ...], outside of autograd's graph.

    Rows B may be more than there are examples: of attention within windows.

    Attributes:
        spelled: as what the model called it: ``scaled_dot_product_attention``, ``softmax(matmul)``.
        heads, queries, keys: how many.
        query, key, value: None where they were not seen.
        weights: A [B, heads, queries, keys], where the model itself made it.
        mask, causal, scale: of fused attention.
        module: dotted name of the module that ran, where names are kept.
        notes: what else is to be known of it.
    """

    spelled: str
    heads: int
    queries: int
    keys: int
    query: Tensor | None = None
    key: Tensor | None = None
    value: Tensor | None = None
    weights: Tensor | None = None
    mask: Tensor | None = None
    causal: bool = False
    scale: float | None = None
    module: str = ""
    notes: list[str] = field(default_factory=list)
    edge: Any = None
    """Where autograd's graph leads to it: None where no gradient does."""
    visit: Callable[[Attended, Tensor], None] | None = None
    """Told of the gradient: by the output A v [B, heads, queries, D] of fused attention, by A of a written one."""
    output_edge: Any = None
    output_form: Callable[[Tensor], Tensor] | None = None
    """Of the output A v, where its product was seen; and the form [B, heads, queries, D] of its gradient."""
    tokens: tuple[Tensor, Tensor] | None = None
    """Queries' and keys' tokens [N, B, C] before their projections, as multi-head attention was given them."""

    @property
    def fused(self) -> bool:
        """Whether the model keeps no matrix of weights."""
        return self.weights is None

    @property
    def rows(self) -> int:
        """Examples, or windows of all examples."""
        tensor = self.query if self.weights is None else self.weights
        assert tensor is not None
        return tensor.shape[0]

    def _fused(self) -> tuple[Tensor, Tensor, dict[str, Any]]:
        assert self.query is not None
        assert self.key is not None
        return self.query, self.key, {"mask": self.mask, "causal": self.causal, "scale": self.scale}

    def received(self, by: Tensor | None = None) -> Tensor:
        """[B, heads, keys]: the sum over queries i of by[i] A_ij; their mean where there is no ``by`` [B, queries]."""
        if self.weights is None:
            query, key, options = self._fused()
            return attention.received(query, key, by, **options)
        return _summed(self.weights.shape, by, lambda rows: self._matrix(rows))

    def extreme(self, by: Tensor | None, largest: bool) -> Tensor:
        """Of F = max (or min) over heads of A, the sum over queries of by[i] F_ij, [B, keys]; sums of rows without."""
        if self.weights is None:
            query, key, options = self._fused()
            return attention.extreme(query, key, by, largest=largest, **options)
        parts = []
        for start in range(0, self.queries, ROWS):
            rows = slice(start, start + ROWS)
            fused = self._matrix(rows).amax(1) if largest else self._matrix(rows).amin(1)
            parts.append(fused.sum(2) if by is None else (fused * by[:, rows, None].to(fused.dtype)).sum(1))
        return torch.cat(parts, 1) if by is None else torch.stack(parts).sum(0)

    def gradient_received(self, gradient: Tensor, by: Tensor | None = None) -> Tensor:
        """[B, heads, keys]: the same sum of relu(∂s/∂A_ij), from what :attr:`visit` is told; masked pairs count too."""
        if self.weights is None:
            assert self.value is not None
            return attention.gradient_received(gradient.to(self.value.dtype), self.value, by)
        wide = accumulation_dtype(gradient.dtype)
        return _summed(gradient.shape, by, lambda rows: gradient[:, :, rows].to(wide).relu())

    def relevance(self, gradient: Tensor, by: Tensor | None = None) -> Tensor:
        """[B, heads, keys]: the same sum of relu(A_ij ∂s/∂A_ij)."""
        if self.weights is None:
            query, key, options = self._fused()
            assert self.value is not None
            return attention.relevance(query, key, self.value, gradient.to(query.dtype), by, **options)
        return _summed(gradient.shape, by, lambda rows: (self._matrix(rows) * gradient[:, :, rows]).relu())

    def chosen(self, index: Tensor) -> Tensor:
        """Rows of A [B, heads, R, keys] of chosen queries, int64 [R]."""
        if self.weights is None:
            query, key, options = self._fused()
            return attention.rows(query, key, index, **options)
        return self.weights[:, :, index].to(accumulation_dtype(self.weights.dtype))

    def _matrix(self, rows: slice) -> Tensor:
        assert self.weights is not None
        return self.weights[:, :, rows].to(accumulation_dtype(self.weights.dtype))


def _summed(shape: torch.Size, by: Tensor | None, of_rows: Callable[[slice], Tensor]) -> Tensor:
    """Over queries, ``ROWS`` at a time, of [B, heads, queries, keys]."""
    total: Tensor | None = None
    for start in range(0, shape[2], ROWS):
        rows = slice(start, start + ROWS)
        part = of_rows(rows)
        part = part.sum(2) if by is None else (part * by[:, None, rows, None].to(part.dtype)).sum(2)
        total = part if total is None else total + part
    assert total is not None
    return total / shape[2] if by is None else total


def in_heads(tensor: Tensor, batch: int, heads: int | None) -> Tensor:
    """[B, heads, N, ...] of a tensor [..., N, D]; of three dimensions the first is B x heads, heads the faster.

    Of more than four, all between the first and the last two are heads: windows in them are known by the layout.

    Args:
        tensor: of two dimensions or more.
        batch: examples: what the first of three dimensions is divided by where ``heads`` is not known.
        heads: how many, where the caller knows.
    """
    if tensor.dim() == 2:
        return tensor[None, None]
    if tensor.dim() == 3:
        rows = tensor.shape[0]
        if heads is None or rows % heads:
            heads = rows // batch if batch and rows % batch == 0 else 1
        found: Tensor = tensor.unflatten(0, (rows // heads, heads))
        return found
    return tensor if tensor.dim() == 4 else tensor.flatten(1, -3)
