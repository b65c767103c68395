"""Small transformers of the ways in which models write attention, and the formulas on their stored matrices."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Heads = tuple[Tensor, Tensor, Tensor]


def fused(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v)


def matmul(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.matmul(F.dropout((torch.matmul(q, k.transpose(-2, -1)) / math.sqrt(q.shape[-1])).softmax(-1), 0.0), v)


def operator(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.softmax(q * q.shape[-1] ** -0.5 @ k.mT, dim=-1, dtype=torch.float64).to(q.dtype) @ v


def bmm(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    flat = [each.flatten(0, 1) for each in (q, k, v)]
    scores = torch.bmm(flat[0], flat[1].mT) * q.shape[-1] ** -0.5
    return torch.bmm(torch.softmax(scores, dim=2), flat[2]).view(q.shape)


def baddbmm(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    flat = [each.flatten(0, 1) for each in (q, k, v)]
    bias = torch.zeros(1, 1, 1, dtype=q.dtype)
    scores = torch.baddbmm(bias, flat[0], flat[1].mT, alpha=q.shape[-1] ** -0.5)
    return (scores.view(*q.shape[:2], q.shape[2], -1).softmax(-1).flatten(0, 1) @ flat[2]).view(q.shape)


def einsum(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """With queries before heads."""
    q, k, v = (each.transpose(1, 2) for each in (q, k, v))
    weights = (torch.einsum("bihd,bjhd->bihj", q, k) / q.shape[-1] ** 0.5).softmax(-1)
    return torch.einsum("b i h j, b j h d -> b i h d", weights, v).transpose(1, 2)


def dots(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    weights = torch.einsum("...id,...jd->...ij", q, k).mul(q.shape[-1] ** -0.5).softmax(-1)
    return torch.einsum("...ij,...jd->...id", weights, v)


def turned(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Keys are rows, and channels too."""
    return (v.mT @ (k @ q.mT / q.shape[-1] ** 0.5).softmax(-2)).mT


SPELLINGS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    each.__name__: each for each in (fused, matmul, operator, bmm, baddbmm, einsum, dots, turned)
}
MODULES = ("module", "module with weights")


class Attention(nn.Module):
    """Self-attention of two heads, in one of the spellings; ``stored`` keeps its matrix."""

    def __init__(self, width: int, spelling: str) -> None:
        super().__init__()
        self.spelling, self.stored = spelling, list[Tensor]()
        self.output, self.heads = list[Tensor](), list[Heads]()
        self.whole = nn.MultiheadAttention(width, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        if self.spelling in MODULES:
            return self.whole(x, x, x, need_weights=self.spelling != "module")[0]  # type: ignore[no-any-return]
        joint = F.linear(x, self.whole.in_proj_weight, self.whole.in_proj_bias)
        q, k, v = (part.unflatten(2, (2, -1)).transpose(1, 2) for part in joint.chunk(3, 2))
        if self.spelling == "stored":
            self.stored[:] = [(q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)]
            mixed = self.stored[0] @ v
            self.output[:], self.heads[:] = [mixed], [(q, k, v)]
        else:
            mixed = SPELLINGS[self.spelling](q, k, v)
        return self.whole.out_proj(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class Block(nn.Module):
    def __init__(self, width: int, spelling: str) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width), Attention(width, spelling)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 12), nn.GELU(), nn.Linear(12, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]


class Transformer(nn.Module):
    """Images [B, 3, 16, 24] in 4 x 6 patches; a class token and a register before them where they are asked for.

    Read: ``class``, the first token; ``mean``, all; ``dense``, each patch's own scores [B, classes, 4, 6].
    """

    def __init__(self, spelling: str = "fused", read: str = "class", depth: int = 3, width: int = 8) -> None:
        super().__init__()
        self.read, self.extra = read, 2 if read == "class" else 0
        self.patch, self.tokens = nn.Conv2d(3, width, 4, 4), nn.Parameter(torch.randn(1, 2, width))
        self.blocks = nn.Sequential(*(Block(width, spelling) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).mT
        if self.extra:
            x = torch.cat([self.tokens.expand(len(x), -1, -1), x], 1)
        x = self.norm(self.blocks(x))
        if self.read == "dense":
            return self.head(x).mT.unflatten(2, (4, 6))  # type: ignore[no-any-return]
        return self.head(x[:, 0] if self.read == "class" else x.mean(1))  # type: ignore[no-any-return]


def transformer(spelling: str = "fused", read: str = "class", depth: int = 3) -> Transformer:
    """The same weights for every spelling, with logits that are not all alike."""
    torch.manual_seed(0)
    model = Transformer(spelling, read, depth).double().eval()
    with torch.no_grad():
        for block in model.blocks:
            block.attn.whole.in_proj_weight.mul_(3)  # type: ignore[union-attr]
    return model


def images(count: int = 2) -> Tensor:
    return torch.randn(count, 3, 16, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
