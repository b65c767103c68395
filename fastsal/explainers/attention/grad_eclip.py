"""Grad-ECLIP: values weighed by their gradient, and by how alike queries and keys are."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastsal.explainers.arguments import Inputs, at_least_one
from fastsal.explainers.attending import Attended
from fastsal.explainers.attention._tokens import NO_GRADIENT, Queries, Stream, TokenMap, are_read, one_hot
from fastsal.explainers.base import attribution
from fastsal.explainers.call import Call
from fastsal.explainers.scores import Target
from fastsal.explainers.task import Task
from fastsal.ops import accumulation_dtype

ROWS = 64
"""Queries whose likeness to all keys is held at a time."""


class GradECLIP(TokenMap):
    """Zhao et al., "Gradient-based Visual Explanation for Transformer-based CLIP" (ICML 2024).

    Of a layer's query c, with all heads side by side: the gradient w by the attention's output o_c weighs the channels
    of each value v_i, and λ_i, cos(q_c, k_i) from its least to its greatest over the tokens with a place, stands for
    the softmax, which is too sparse: (Σ_channels w ⊙ v_i λ_i)⁺. Several queries are summed before the ReLU, several
    layers after it. Costs one forward pass and the way back to the first of these layers; fused attention stays fused.

    >>> patches, head = torch.nn.Conv2d(3, 8, 4, 4), torch.nn.Linear(8, 4)
    >>> attention = torch.nn.MultiheadAttention(8, 2, batch_first=True)
    >>> def transformer(x):
    ...     tokens = patches(x).flatten(2).mT
    ...     return head(attention(tokens, tokens, tokens)[0].mean(1))
    >>> maps = fastsal.GradECLIP(transformer).attribute(torch.rand(2, 3, 16, 16), target=classes)

    Args:
        forward_func: module or callable with self-attention over its tokens, however it is written.
    """

    name = "grad-eclip"
    summary = "the last layer's values, weighed by their gradient and by how alike queries and keys are"
    cost = "1 forward, 1 backward"

    @attribution
    def attribute(
        self,
        inputs: Inputs,
        target: Target = None,
        additional_forward_args: Any = None,
        *,
        last_layers: int = 1,
        queries: Queries = None,
        upsample: bool = True,
        normalize: bool = True,
    ) -> Call[Tensor]:
        """Maps [B, 1, *spatial] of images, in the size of the (first) input or of the patches; [B, N] of token numbers.

        Args:
            inputs: images [B, C, *spatial], token numbers [B, N] or embeddings [B, N, C], or a tuple or mapping.
            target: which output to explain, one for all or one per example.
            additional_forward_args: further arguments of the model.
            last_layers: how many layers are summed, from the last.
            queries: number of a token, or several; None finds those that the score reads.
            upsample: resize to the input; the patches' grid otherwise.
            normalize: to [0, 1] per map.

        Raises:
            TypeError, ValueError: for arguments outside of the above, or a model without such attention.
        """
        last_layers = at_least_one("last_layers", last_layers)
        return self.described(
            inputs, target, additional_forward_args, queries, upsample, normalize, last_layers=last_layers
        )

    def row(self, stream: Stream, task: Task, queries: Queries, **options: Any) -> Tensor:
        """The map on the tokens' grid."""
        chosen = stream.layers[-options["last_layers"] :]
        for each in chosen:
            if each.queries != chosen[-1].queries:
                raise ValueError(
                    f"last_layers: of {len(chosen)} layers some have {each.queries} tokens, the last has "
                    f"{chosen[-1].queries}; fewer would have as many"
                )
            if each.output_form is None or each.query is None or each.key is None or each.value is None:
                raise ValueError(
                    f"forward_func: of {each.spelled} queries, keys and values were not all seen, which GradECLIP "
                    "reads; LeGrad and AttentionRelevance read the weights alone"
                )
        scores = task.select()(stream.taken.output).sum()
        found: tuple[Tensor | None, ...] = (None,)
        if scores.requires_grad:
            found = torch.autograd.grad(scores, [each.output_edge for each in chosen], allow_unused=True)
        if found[-1] is None:
            raise ValueError(NO_GRADIENT)
        last = chosen[-1]
        assert last.output_form is not None
        by = are_read(last.output_form(found[-1])) if queries is None else one_hot(queries, last)
        total: Tensor | None = None
        for each, gradient in zip(chosen, found, strict=True):
            if gradient is not None and each.output_form is not None:
                part = _of_layer(each, each.output_form(gradient), by > 0, stream)
                total = part if total is None else total + part
        assert total is not None
        return total


def _of_layer(each: Attended, gradient: Tensor, chosen: Tensor, stream: Stream) -> Tensor:
    """(Σ_c Σ_channels w_c ⊙ v_i λ_ci)⁺ on the grid, [B, *size]."""
    assert each.query is not None
    assert each.key is not None
    assert each.value is not None
    dtype = accumulation_dtype(gradient.dtype)

    def side_by_side(tensor: Tensor) -> Tensor:
        wide = tensor.to(dtype)
        wide = wide.repeat_interleave(each.heads // wide.shape[1], 1) if wide.shape[1] != each.heads else wide
        return wide.transpose(1, 2).flatten(2)

    query, key = (F.normalize(side_by_side(tensor), dim=-1) for tensor in (each.query, each.key))
    value, gradient = side_by_side(each.value), side_by_side(gradient)
    rows = chosen.any(0).nonzero()[:, 0]
    total = torch.zeros((), dtype=dtype, device=gradient.device)
    for part in rows.split(ROWS):
        alike = stream.located((query[:, part] @ key.mT).flatten(0, 1))
        flat = alike.flatten(1)
        least, greatest = flat.amin(1, keepdim=True), flat.amax(1, keepdim=True)
        spread = greatest - least
        alike = ((flat - least) / torch.where(spread == 0, 1.0, spread)).view_as(alike)
        weighed = (gradient[:, part] * chosen[:, part, None].to(dtype)) @ value.mT
        both = stream.located(weighed.flatten(0, 1)) * alike
        total = total + both.unflatten(0, (len(gradient), len(part))).sum(1)
    return total.relu()
