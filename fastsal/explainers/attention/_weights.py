"""Attention weights as a model computes them, in autograd's graph, whichever way it is written."""

from __future__ import annotations

import inspect
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

_UNUSUAL = (
    "bias_k",
    "bias_v",
    "add_zero_attn",
    "key_padding_mask",
    "use_separate_proj_weight",
    "static_k",
    "static_v",
)
"""Arguments of multi-head attention with which it runs as it is, its weights unread."""
_SOFTMAXES = (torch.softmax, torch.Tensor.softmax, F.softmax, torch.nn.functional.softmax)


class AttentionWeights(TorchFunctionMode):
    """Keeps every self-attention's weights [B, heads, N, N] while the model runs.

    Fused attention is written out, so that its weights exist. A softmax over the last of two equal dimensions counts as
    attention.

    Attributes:
        weights: in the order of the layers.
    """

    def __init__(self) -> None:
        super().__init__()
        self.weights: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return self._attention(*args, **kwargs)[0]
        if func is F.multi_head_attention_forward:
            given = inspect.signature(func).bind(*args, **kwargs)
            given.apply_defaults()
            plain = given.arguments["query"].dim() != 3
            if not plain and not any(
                given.arguments[name] is not None and given.arguments[name] is not False for name in _UNUSUAL
            ):
                return self._multi_head(given.arguments)
        result = func(*args, **kwargs)
        if func in _SOFTMAXES and isinstance(result, Tensor) and result.dim() == 4:
            self._keep(result)
        return result

    def _keep(self, weights: Tensor) -> None:
        if weights.shape[-1] == weights.shape[-2] and weights.requires_grad:
            self.weights.append(weights)

    def _multi_head(self, given: dict[str, Any]) -> tuple[Tensor, Tensor | None]:
        """``torch.nn.functional.multi_head_attention_forward`` of [N, B, E], where only the usual is asked for."""
        query, key, value, heads = (given[name] for name in ("query", "key", "value", "num_heads"))
        weights, biases = given["in_proj_weight"].chunk(3), [None] * 3
        if given["in_proj_bias"] is not None:
            biases = given["in_proj_bias"].chunk(3)
        projected = [
            F.linear(x, weight, bias).unflatten(-1, (heads, -1)).permute(1, 2, 0, 3)
            for x, weight, bias in zip((query, key, value), weights, biases, strict=True)
        ]
        mask = given["attn_mask"]
        if mask is not None and mask.dim() == 3:
            mask = mask.unflatten(0, (-1, heads))
        mixed, weights = self._attention(projected[0], projected[1], projected[2], mask)
        mixed = mixed.permute(2, 0, 1, 3).flatten(2)
        result = F.linear(mixed, given["out_proj_weight"], given["out_proj_bias"])
        if not given["need_weights"]:
            return result, None
        return result, weights.mean(1) if given["average_attn_weights"] else weights

    def _attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """``torch.nn.functional.scaled_dot_product_attention`` written out, without dropout; and its weights."""
        if enable_gqa:
            key = key.repeat_interleave(query.shape[-3] // key.shape[-3], -3)
            value = value.repeat_interleave(query.shape[-3] // value.shape[-3], -3)
        scores = query @ key.mT * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
        if is_causal:
            causal = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
            scores = scores.masked_fill(~causal, -torch.inf)
        if attn_mask is not None:
            scores = scores.masked_fill(~attn_mask, -torch.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
        weights = scores.softmax(-1)
        self._keep(weights)
        return weights @ value, weights
