"""LeGrad counts patches alone: not detection tokens behind them, object queries, or the tokens of a text."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import fastsal


class Attention(nn.Module):
    """Self-attention written out, whose weights are kept."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(8, 24)
        self.weights: list[Tensor] = []

    def forward(self, tokens: Tensor) -> Tensor:
        query, key, value = self.qkv(tokens).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        weights = (query @ key.mT).softmax(-1)
        self.weights.append(weights)
        found: Tensor = tokens + (weights @ value).transpose(1, 2).flatten(2)
        return found


class Detector(nn.Module):
    """Patches with a token before and detection tokens behind them; object queries that attend to each other too."""

    def __init__(self, queries: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patches = nn.Conv2d(3, 8, 4, 4)
        self.first, self.behind = nn.Parameter(torch.randn(1, 1, 8)), nn.Parameter(torch.randn(1, 10, 8))
        self.queries = nn.Parameter(torch.randn(1, queries, 8))
        self.encoder, self.decoder, self.head = Attention(), Attention(), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).mT
        rows = [each.expand(len(x), -1, -1) for each in (self.first, self.behind, self.queries)]
        encoded = self.encoder(torch.cat([rows[0], tokens, rows[1]], 1))
        asked = self.decoder(rows[2] + encoded.mean(1, keepdim=True))
        found: Tensor = self.head(asked[:, 0])
        return found


@pytest.mark.parametrize("queries", [16, 100, 24])
def test_detection_tokens_and_object_queries_are_no_patches(queries: int) -> None:
    """24 queries are as many as there are patches."""
    model, x = Detector(queries), torch.randn(2, 3, 16, 24)
    model.encoder.weights.clear()
    score = model(x)[:, 1].sum()
    (gradient,) = torch.autograd.grad(score, model.encoder.weights[0])
    expected = gradient.relu().mean((1, 2))[:, 1:25].unflatten(1, (4, 6))[:, None]
    found = fastsal.LeGrad(model).attribute(x, 1, upsample=False, normalize=False)
    torch.testing.assert_close(found, expected)


def test_grids_of_several_stages() -> None:
    """Where a stem without padding leaves no grid of equal patches, and the next stage has one position in four."""

    class Stages(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.stem, self.merge = nn.Conv2d(3, 8, 4, 3), nn.Conv2d(8, 8, 2, 2)
            self.one, self.two, self.head = Attention(), Attention(), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            wide = self.stem(x)
            grid = self.one(wide.flatten(2).mT).mT.unflatten(2, wide.shape[2:])
            found: Tensor = self.head(self.two(self.merge(grid).flatten(2).mT).mean(1))
            return found

    model, x = Stages(), torch.randn(2, 3, 22, 28)
    score = model(x)[:, 1].sum()
    received = [
        each.relu().mean((1, 2)) for each in torch.autograd.grad(score, [*model.one.weights, *model.two.weights])
    ]
    fine, coarse = received[0].unflatten(1, (7, 9)), received[1].unflatten(1, (3, 4))
    grown = nn.functional.interpolate(coarse[:, None], (7, 9), mode="bilinear")
    found = fastsal.LeGrad(model).attribute(x, 1, upsample=False, normalize=False)
    torch.testing.assert_close(found, (fine[:, None] + grown) / 2)


def test_a_text_is_refused() -> None:
    """[B, tokens, width]: there is no image whose patches the tokens are."""
    torch.manual_seed(0)
    model = nn.Sequential(Attention(), nn.Flatten(), nn.Linear(96, 3))
    with pytest.raises(ValueError, match="is no image"):
        fastsal.LeGrad(model).attribute(torch.randn(2, 12, 8), 1)


class Separable(nn.Module):
    """MobileViTV2's: a softmax over the patches for each pixel within one; both are four here."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.qkv, self.head = nn.Conv2d(3, 8, 4, 4), nn.Conv2d(8, 17, 1), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        found = self.stem(x)
        within = found.unflatten(2, (-1, 2)).unflatten(4, (-1, 2)).permute(0, 1, 3, 5, 2, 4)  # [B, C, 2, 2, h, w]
        query, key, value = self.qkv(within.flatten(4).flatten(2, 3)).split([1, 8, 8], 1)
        context = (key * query.softmax(-1)).sum(-1, keepdim=True)
        logits: Tensor = self.head((value.relu() * context).mean((2, 3)))
        return logits


class Columns(nn.Module):
    """Sixteen columns of an image ask its sixteen patches."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.columns, self.patches = nn.Conv2d(3, 8, (16, 1)), nn.Conv2d(3, 8, 4, 4)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        asked, tokens = self.columns(x).flatten(2).mT, self.patches(x).flatten(2).mT
        logits: Tensor = self.head(((asked @ tokens.mT).softmax(-1) @ tokens).mean(1))
        return logits


@pytest.mark.parametrize("model", [Separable(), Columns()], ids=lambda model: type(model).__name__)
def test_queries_that_are_as_many_as_the_patches_are_no_patches(model: nn.Module) -> None:
    with pytest.raises(ValueError, match="no attention over patches of the first input ran"):
        fastsal.LeGrad(model).attribute(torch.rand(2, 3, 16, 16), target=1)
