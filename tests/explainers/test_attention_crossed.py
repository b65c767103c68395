"""AttentionRelevance through cross-attention, against the paper's matrices R_ss, R_sq and R_qq in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import fastsal
from tests.explainers.attending import SPELLINGS, Attention, images

PLAIN = {"upsample": False, "normalize": False}


class Crossing(Attention):
    """Attention of some tokens to others, of two heads."""

    def to(self, x: Tensor, others: Tensor) -> Tensor:  # type: ignore[override]
        width = x.shape[-1]
        weight, bias = self.whole.in_proj_weight, self.whole.in_proj_bias
        parts = [
            nn.functional.linear(each, weight[i * width : (i + 1) * width], bias[i * width : (i + 1) * width])
            for i, each in enumerate((x, others, others))
        ]
        q, k, v = (part.unflatten(2, (2, -1)).transpose(1, 2) for part in parts)
        if self.spelling == "stored":
            self.stored[:] = [(q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)]
            mixed = self.stored[0] @ v
        else:
            mixed = SPELLINGS[self.spelling](q, k, v)
        return self.whole.out_proj(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class Detector(nn.Module):
    """Encoder over 24 patches, decoder of five learnt queries; scores of each query [B, classes, 5]."""

    def __init__(self, spelling: str, encoder: int = 2, decoder: int = 2) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patch, self.queries = nn.Conv2d(3, 8, 4, 4), nn.Parameter(torch.randn(1, 5, 8))
        self.encoder = nn.ModuleList(Attention(8, spelling) for _ in range(encoder))
        self.own = nn.ModuleList(Attention(8, spelling) for _ in range(decoder))
        self.cross = nn.ModuleList(Crossing(8, spelling) for _ in range(max(decoder, 1)))
        self.head = nn.Linear(8, 4)
        for parameter in self.parameters():
            parameter.data.mul_(2)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).mT
        for layer in self.encoder:
            x = x + layer(x)
        asked = self.queries.expand(len(x), -1, -1)
        for i, layer in enumerate(self.cross):
            asked = asked + self.own[i](asked) if len(self.own) else asked
            asked = asked + layer.to(asked, x)  # type: ignore[operator]
        return self.head(asked).mT  # type: ignore[no-any-return]


def rest(relevance: Tensor) -> Tensor:
    """R̄: the rows of R - I made to sum to 1, and I."""
    eye = torch.eye(relevance.shape[-1], dtype=relevance.dtype)
    sums = (relevance - eye).sum(-1, keepdim=True)
    return (relevance - eye) / torch.where(sums == 0, 1.0, sums) + eye


def by_matrices(model: Detector, x: Tensor, query: int) -> Tensor:
    score = model(x)[:, 1, query].sum()
    layers = [*model.encoder, *model.own, *model.cross]
    weights = [each.stored[0] for each in layers]
    gradients = torch.autograd.grad(score, weights, allow_unused=True)
    fused = [
        torch.zeros_like(a[:, 0]) if by is None else (a * by).relu().mean(1)
        for a, by in zip(weights, gradients, strict=True)
    ]
    first, second = len(model.encoder), len(model.encoder) + len(model.own)
    qq = torch.eye(24, dtype=x.dtype).expand(len(x), -1, -1)
    for each in fused[:first]:
        qq = qq + each @ qq
    ss, sq = torch.eye(5, dtype=x.dtype).expand(len(x), -1, -1), torch.zeros(len(x), 5, 24, dtype=x.dtype)
    for i, cross in enumerate(fused[second:]):
        if len(model.own):
            ss, sq = ss + fused[first + i] @ ss, sq + fused[first + i] @ sq
        sq = sq + rest(ss).mT @ cross @ rest(qq)
    return sq[:, query].view(len(x), 1, 4, 6)


@pytest.mark.parametrize("spelling", ["fused", "matmul", "dots"])
@pytest.mark.parametrize(("encoder", "decoder"), [(2, 2), (1, 3), (0, 1), (2, 0)])
def test_decoders_give_the_formula(spelling: str, encoder: int, decoder: int) -> None:
    """Without a decoder of its own, the queries only pool."""
    x = images()
    model, stored = (Detector(each, encoder, decoder) for each in (spelling, "stored"))
    for query in (0, 3):
        found = fastsal.AttentionRelevance(model).attribute(x, (1, query), **PLAIN)
        expected = by_matrices(stored, x, query)
        assert expected.abs().max() > 0
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
        asked = fastsal.AttentionRelevance(model).attribute(x, (1, query), queries=query, **PLAIN)
        torch.testing.assert_close(asked, found)


def test_a_third_stream_is_refused() -> None:
    class Both(Detector):
        def forward(self, x: Tensor) -> Tensor:
            tokens = self.patch(x).flatten(2).mT
            tokens = tokens + self.cross[0].to(tokens, self.queries.expand(len(x), -1, -1))  # type: ignore[operator]
            return self.head(self.queries + self.cross[1].to(self.queries.expand(len(x), -1, -1), tokens)).mT  # type: ignore[operator,no-any-return]

    with pytest.raises(ValueError, match="in some of its attention 24 tokens of the first input attend to 5 others"):
        fastsal.AttentionRelevance(Both("fused")).attribute(images(), (1, 0))
