"""Relevance through an encoder and a decoder whose tokens attend to the encoder's, in vectors alone."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fastsal.explainers.attending import Attended


class Given(NamedTuple):
    """A call of attention with the score's gradient at it, and so Ā = E_h[(A ⊙ ∂s/∂A)⁺]."""

    attended: Attended
    gradient: Tensor

    def left(self, row: Tensor) -> Tensor:
        """row Ā, [B, keys] of [B, queries]."""
        return self.attended.relevance(self.gradient, row).mean(1)

    def right(self, column: Tensor) -> Tensor:
        """Ā column, [B, queries] of [B, keys]: the transposed map, which is the derivative of :meth:`left`."""
        with torch.enable_grad():
            zero = column.new_zeros(len(column), self.attended.queries).requires_grad_()
            (found,) = torch.autograd.grad(self.left(zero), zero, column)
        return found.detach()


def grown(layers: list[Given], column: Tensor) -> Tensor:
    """R column, with R = (I + Ā_L) ... (I + Ā_1) of self-attention."""
    for layer in layers:
        column = column + layer.right(column)
    return column


def shares(layers: list[Given], ones: Tensor) -> Tensor:
    """One over the sums of the rows of R - I; 0 for a row of nothing."""
    sums = grown(layers, ones) - ones
    return torch.where(sums > 0, 1 / torch.where(sums > 0, sums, 1.0), 0.0)


def crossed_row(encoder: list[Given], decoder: list[tuple[bool, Given]], start: Tensor) -> Tensor:
    """The row start R_sq of Chefer, Gur, Wolf (ICCV 2021), equations 8 to 11: decoder tokens s, encoder tokens q.

    R_sq takes R_sq + R̄_ssᵀ Ā R̄_qq in cross-attention and R_sq + Ā R_sq in the decoder's self-attention, with
    R̄ = I + (R - I), the rows of R - I to sum 1.

    Args:
        encoder: self-attention of q, in order.
        decoder: (whether it is cross-attention, the call), in order.
        start: [B, S].
    """
    row, total = start, None
    for place in reversed(range(len(decoder))):
        crosses, layer = decoder[place]
        if not crosses:
            row = row + layer.left(row)
            continue
        before = [each for crossing, each in decoder[:place] if not crossing]
        spread = row + (grown(before, row) - row) * shares(before, torch.ones_like(row))
        part = layer.left(spread)
        total = part if total is None else total + part
    assert total is not None
    carried = first = total * shares(encoder, torch.ones_like(total))
    for layer in reversed(encoder):
        carried = carried + layer.left(carried)
    return total + carried - first
