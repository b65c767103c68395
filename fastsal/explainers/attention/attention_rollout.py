"""Attention rollout: attention of all layers, multiplied."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fastsal.explainers.arguments import Inputs
from fastsal.explainers.attention._tokens import Queries, Stream, TokenMap
from fastsal.explainers.base import attribution
from fastsal.explainers.call import Call
from fastsal.explainers.scores import Target
from fastsal.explainers.task import Task

FUSES = ("mean", "max", "min")


class AttentionRollout(TokenMap):
    """Abnar, Zuidema, "Quantifying Attention Flow in Transformers" (ACL 2020), equation 1.

    The row of Â_L ... Â_1 with Â = ½ mean over heads of A + ½ I (or the maximum or minimum over heads, rows summing to
    1): where what a token is came from, if layers did nothing but mix tokens and keep half of each. The row alone is
    carried from the last layer to the first, r ← ½ r A + ½ r, so that no product of matrices is made. The tokens are
    those that the score reads, or ``queries``. Nothing of the score's value is in the map. Costs one forward pass, and
    the way back to the last attention where ``queries`` are not given.

    >>> patches, head = torch.nn.Conv2d(3, 8, 4, 4), torch.nn.Linear(8, 4)
    >>> attention = torch.nn.MultiheadAttention(8, 2, batch_first=True)
    >>> def transformer(x):
    ...     tokens = patches(x).flatten(2).mT
    ...     return head(attention(tokens, tokens, tokens)[0].mean(1))
    >>> maps = fastsal.AttentionRollout(transformer).attribute(torch.rand(2, 3, 16, 16), target=classes)

    Args:
        forward_func: module or callable with self-attention over its tokens, however it is written.
    """

    carries = True
    summary = "attention of all layers multiplied, from the tokens behind the score to the input's"
    cost = "1 forward"

    @attribution
    def attribute(
        self,
        inputs: Inputs,
        target: Target = None,
        additional_forward_args: Any = None,
        *,
        fuse: str = "mean",
        queries: Queries = None,
        upsample: bool = True,
        normalize: bool = True,
    ) -> Call[Tensor]:
        """Maps [B, 1, *spatial] of images, in the size of the (first) input or of the patches; [B, N] of token numbers.

        Args:
            inputs: images [B, C, *spatial], token numbers [B, N] or embeddings [B, N, C], or a tuple or mapping.
            target: whose tokens are asked; its value is not in the map.
            additional_forward_args: further arguments of the model.
            fuse: of heads: their "mean", "max" or "min", of which rows are made to sum to 1.
            queries: number of a token, or several, whose mean is taken; None finds those that the score reads.
            upsample: resize to the input; the patches' grid otherwise.
            normalize: to [0, 1] per map.

        Raises:
            TypeError, ValueError: for arguments outside of the above, or a model without such attention.
        """
        if fuse not in FUSES:
            raise ValueError(f"fuse: {fuse!r} is not one of {', '.join(FUSES)}")
        return self.described(
            inputs,
            target,
            additional_forward_args,
            queries,
            upsample,
            normalize,
            lambda given: given is None,
            fuse=fuse,
        )

    def row(self, stream: Stream, task: Task, queries: Queries, **options: Any) -> Tensor:
        """The row of the product."""
        row, fuse = stream.start(queries, task), options["fuse"]
        for layer in reversed(stream.layers):
            if fuse == "mean":
                row = 0.5 * layer.received(row).mean(1) + 0.5 * row
            else:  # F + I with rows that sum to 1
                row = row / (layer.extreme(None, fuse == "max") + 1)
                row = layer.extreme(row, fuse == "max") + row
        return row
