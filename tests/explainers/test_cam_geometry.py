"""Class activation maps of layers that shapes alone misread, against Grad-CAM by hand at the right positions."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastsal


def by_hand(model: nn.Module, layer: nn.Module, x: Tensor, arrange: Callable[[Tensor], Tensor], size: object) -> Tensor:
    """Grad-CAM of output 1, [B, *size] in [0, 1]."""
    kept: list[Tensor] = []
    handle = layer.register_forward_hook(lambda _m, _i, output: kept.append(output))
    score = model(x)[:, 1].sum()
    handle.remove()
    value, gradient = (arrange(t.detach()) for t in (kept[0], torch.autograd.grad(score, kept[0])[0]))
    found = (gradient.mean(tuple(range(2, gradient.dim())), keepdim=True) * value).sum(1, keepdim=True).clamp_min(0)
    mode = {3: "linear", 4: "bilinear", 5: "trilinear"}[value.dim()]
    found = F.interpolate(found, size=size, mode=mode)[:, 0]  # type: ignore[arg-type]
    low, high = found.flatten(1).amin(1), found.flatten(1).amax(1)
    shape = (-1, *[1] * (found.dim() - 1))
    return (found - low.view(shape)) / (high - low).view(shape)


class Tokens(nn.Module):
    """Patches of any number of dimensions, extra tokens before or behind, a transformer layer, the mean."""

    def __init__(self, first: nn.Module, before: int = 0, behind: int = 0, columns: bool = False) -> None:
        super().__init__()
        self.first, self.columns = first, columns
        self.before, self.behind = (nn.Parameter(torch.randn(1, count, 16)) for count in (before, behind))
        self.block, self.head = nn.TransformerEncoderLayer(16, 2, 16, batch_first=True), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = (x.mT if self.columns else x).flatten(2).mT
        extras = [extra.expand(len(x), -1, -1) for extra in (self.before, self.behind)]
        return self.head(torch.tanh(self.block(torch.cat([extras[0], x, extras[1]], 1))).mean(1))


# First layer, the input's shape, tokens before and behind, whether by columns, the grid.
TOKENS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int, int, bool, tuple[int, ...]]] = {
    "tubelets": (lambda: nn.Conv3d(3, 16, (2, 8, 8), (2, 8, 8)), (3, 8, 32, 32), 0, 0, False, (4, 4, 4)),
    "flat boxes": (lambda: nn.Conv3d(1, 16, (8, 8, 4), (8, 8, 4)), (1, 32, 32, 16), 1, 0, False, (4, 4, 4)),
    "unequal patches": (lambda: nn.Conv2d(3, 16, (4, 16), (4, 16)), (3, 48, 64), 1, 0, False, (12, 4)),
    "registers behind": (lambda: nn.Conv2d(3, 16, 8, 8), (3, 40, 48), 1, 4, False, (5, 6)),
    "by columns": (lambda: nn.Conv2d(1, 16, 8, 8), (1, 40, 64), 2, 0, True, (5, 8)),
    "series": (lambda: nn.Conv1d(12, 16, 10, 10), (12, 500), 1, 0, False, (50,)),
}


@pytest.mark.parametrize("name", TOKENS)
def test_tokens_are_where_their_patches_are(name: str) -> None:
    first, shape, before, behind, columns, grid = TOKENS[name]
    torch.manual_seed(0)
    model, x = Tokens(first(), before, behind, columns).eval(), torch.randn(2, *shape)

    def arrange(value: Tensor) -> Tensor:
        value = value[:, before : value.shape[1] - behind].mT
        return value.unflatten(2, grid[::-1]).mT if columns else value.unflatten(2, grid)

    expected = by_hand(model, model.block, x, arrange, shape[1:])
    explainer = fastsal.GradCAM(model)
    torch.testing.assert_close(explainer.attribute(x, target=1)[:, 0], expected, rtol=1e-4, atol=1e-4)
    assert explainer.layer_names == ["block"]
    (listed,) = [layer for layer in fastsal.layers(model, x) if layer.name == "block"]
    assert listed.shape == (1, 16, *grid)
    for method in ("AblationCAM", "LayerCAM", "EigenCAM"):
        assert getattr(fastsal, method)(model, "block").attribute(x, target=1).shape == (2, 1, *shape[1:])


def test_rows_of_a_batch_that_are_no_examples() -> None:
    class Folded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.pool, self.head = nn.Conv2d(3, 16, 4, 4), nn.Conv2d(4, 4, 3, padding=1), nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x).relu()
            b, _, h, w = x.shape
            return self.head(self.pool(x.reshape(b * 4, 4, h, w)).reshape(b, 16, h, w).mean((2, 3)))

    explainer = fastsal.GradCAM(Folded().eval())
    assert explainer.attribute(torch.rand(1, 3, 32, 32), target=1).shape == (1, 1, 32, 32)
    assert explainer.layer_names == ["stem"]


@pytest.mark.parametrize("explained", [True, False])
def test_the_map_of_two_towers_is_of_the_image(explained: bool) -> None:
    class Tower(nn.Module):
        def __init__(self, first: nn.Module) -> None:
            super().__init__()
            self.first, self.layer = first, nn.TransformerEncoderLayer(16, 2, 16, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            return F.normalize(self.layer(x.flatten(2).mT if x.dim() == 4 else x).mean(1), dim=-1)

    class Clip(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.image, self.text = Tower(nn.Conv2d(3, 16, 8, 8)), Tower(nn.Linear(5, 16))

        def forward(self, pixels: Tensor, words: Tensor) -> Tensor:
            return 10 * self.image(pixels) @ self.text(words).T

    torch.manual_seed(0)
    model, words, image = Clip().eval(), torch.randn(2, 7, 5), torch.randn(2, 3, 64, 64)
    explainer = fastsal.GradCAM(model if explained else lambda pixels: model(pixels, words))
    found = explainer.attribute((image, words) if explained else image, target=0)
    assert explainer.layer_names == ["image.layer"]
    assert found.shape == (2, 1, 64, 64)


def test_the_default_layer_is_no_decoder_of_queries() -> None:
    class Detector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone, self.encoder = (
                nn.Conv2d(3, 32, 8, 8),
                nn.TransformerEncoderLayer(32, 4, 32, batch_first=True),
            )
            self.queries = nn.Parameter(torch.randn(100, 32))
            self.decoder, self.scores = nn.TransformerDecoderLayer(32, 4, 32, batch_first=True), nn.Linear(32, 3)

        def forward(self, x: Tensor) -> Tensor:
            memory = self.encoder(self.backbone(x).flatten(2).mT)
            return self.scores(self.decoder(self.queries.expand(len(x), -1, -1), memory))

    explainer = fastsal.GradCAM(Detector().eval())
    assert explainer.attribute(torch.randn(1, 3, 64, 96), target=(50, 1)).shape == (1, 1, 64, 96)
    assert explainer.layer_names == ["encoder"]


class Spot(nn.Module):
    """Bright pixels are counted in a part of the image alone, which a layer sees as if it were the whole."""

    def __init__(self, part: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.part, self.layer = part, nn.AvgPool2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.part(x)).square().sum((2, 3))


@pytest.mark.parametrize(
    "part",
    [
        lambda x: x[:, :, 32:64, 16:96],
        lambda x: x.flip(2),
        lambda x: x.mT,
        lambda x: F.pad(x, (48, 0, 0, 24)),
        lambda x: x[:, :, 40:].roll(0, 2)[:, :, :, :56],
    ],
    ids=["cut out", "mirrored", "transposed", "padded", "corner"],
)
def test_maps_land_where_the_layer_looks(part: Callable[[Tensor], Tensor]) -> None:
    x = torch.zeros(1, 1, 96, 96)
    x[:, :, 48:52, 40:44] = 1
    found = fastsal.LayerCAM(Spot(part), "layer").attribute(x, target=0)[0, 0]
    assert found.shape == (96, 96)
    row, column = divmod(int(found.argmax()), 96)
    assert abs(row - 49.5) <= 2
    assert abs(column - 41.5) <= 2


def test_where_equal_parts_are_meant_the_map_is_resized_as_ever() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 7, 2, 3), nn.ReLU(), nn.MaxPool2d(3, 2, 1), nn.AdaptiveAvgPool2d(1)).eval()
    model.append(nn.Flatten()).append(nn.Linear(8, 3)).eval()
    x = torch.randn(2, 3, 64, 96)
    expected = by_hand(model, model[2], x, lambda t: t, (64, 96))
    torch.testing.assert_close(fastsal.GradCAM(model, "2").attribute(x, target=1)[:, 0], expected, rtol=1e-4, atol=1e-4)


def test_later_calls_note_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pass is watched once: by layer and shape, and for one example or any other number, for every explainer."""
    from fastsal.engine.reading.geometry import Lineage

    entered: list[int] = []
    original = Lineage.__enter__
    monkeypatch.setattr(Lineage, "__enter__", lambda self: (entered.append(1), original(self))[1])
    model, x = (
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval(),
        torch.randn(2, 3, 9, 9),
    )
    explainer = fastsal.GradCAM(model, "1")
    for rows in (2, 1, 2, 3, 1):
        explainer.attribute(torch.randn(rows, 3, 9, 9), target=1)
    fastsal.LayerCAM(model, "1").attribute(x, target=1)
    assert len(entered) == 2
    explainer.attribute(torch.randn(2, 3, 12, 9), target=1)
    assert len(entered) == 3


def test_time_first_models_have_gradients() -> None:
    class Rnn(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = nn.GRU(3, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.rnn(x)[1][-1])

    torch.manual_seed(0)
    model, series = Rnn().eval(), torch.randn(7, 2, 3, requires_grad=True)
    (expected,) = torch.autograd.grad(model(series)[:, 1].sum(), series)
    torch.testing.assert_close(fastsal.Saliency(model).attribute(series, target=1), expected.abs())
    torch.testing.assert_close(fastsal.InputXGradient(model).attribute(series, target=1), (expected * series).detach())
