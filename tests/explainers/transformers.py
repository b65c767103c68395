"""A small vision transformer, with its attention written in the ways in which models do."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STYLES = ("fused", "plain", "module")


class Attention(nn.Module):
    def __init__(self, width: int, heads: int, style: str) -> None:
        super().__init__()
        self.heads, self.style = heads, style
        self.whole = nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        if self.style == "module":
            return self.whole(x, x, x, need_weights=False)[0]
        joint = F.linear(x, self.whole.in_proj_weight, self.whole.in_proj_bias)
        query, key, value = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in joint.chunk(3, 2))
        if self.style == "fused":
            mixed = F.scaled_dot_product_attention(query, key, value)
        else:
            mixed = (query @ key.mT / query.shape[-1] ** 0.5).softmax(-1) @ value
        return self.whole.out_proj(mixed.transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, width: int, style: str) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width), Attention(width, 2, style)
        self.norm2, self.mlp = nn.LayerNorm(width), nn.Sequential(nn.Linear(width, 12), nn.GELU(), nn.Linear(12, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class VisionTransformer(nn.Module):
    """Images [B, 3, 4 h, 4 w] in patches of 4; classified by the first token, or by the mean of the patches."""

    def __init__(self, extra: int, style: str, classes: int) -> None:
        super().__init__()
        self.extra = extra
        self.patch = nn.Conv2d(3, 8, 4, 4)
        self.tokens = nn.Parameter(torch.randn(1, max(extra, 1), 8))
        self.blocks = nn.Sequential(Block(8, style), Block(8, style))
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).mT
        if self.extra:
            x = torch.cat([self.tokens.expand(x.shape[0], -1, -1), x], 1)
        x = self.norm(self.blocks(x))
        return self.head(x[:, 0] if self.extra else x.mean(1))


class ChannelsLast(nn.Module):
    """Stages whose values are [B, h, w, C], as Swin's."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.mix, self.norm, self.head = (
            nn.Conv2d(3, 6, 4, 4),
            nn.Linear(6, 6),
            nn.LayerNorm(6),
            nn.Linear(6, 4),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).movedim(1, -1)
        x = self.norm(x + self.mix(x).tanh())
        return self.head(x.mean((1, 2)))


def transformer(extra: int = 1, style: str = "fused", classes: int = 4, seed: int = 0) -> VisionTransformer:
    """The same weights for every style."""
    torch.manual_seed(seed)
    return VisionTransformer(extra, style, classes).eval()
