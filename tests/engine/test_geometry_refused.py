"""What is no layer of positions is refused with the reason, and what no proof is known of is measured."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastsal
from fastsal.engine.reading import Geometry, Unsettled, geometry_of
from fastsal.engine.reading.geometry import survey
from fastsal.engine.reading.geometry.measuring import measured


class Attention(nn.Module):
    """Self-attention whose every step is a layer."""

    def __init__(self, width: int = 16, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.qkv, self.proj = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.key, self.weights, self.stream = nn.Identity(), nn.Identity(), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(self.norm(x)).view(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        weights = self.weights((q @ self.key(k).mT / c**0.5).softmax(-1))
        return self.stream(x + self.proj((weights @ v).transpose(1, 2).reshape(b, n, c)))


class Everything(nn.Module):
    """A network with the layers that shapes take for images: heads, weights, queries, rows that are no examples."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.attention, self.folded = nn.Conv2d(3, 16, 4, 4), Attention(), nn.Conv2d(4, 4, 3, padding=1)
        self.window, self.rolled, self.restored = nn.Identity(), nn.Identity(), nn.Identity()
        self.queries, self.cross = nn.Parameter(torch.randn(25, 16)), nn.MultiheadAttention(16, 2, batch_first=True)
        self.decoded, self.pooled, self.head = nn.Identity(), nn.AdaptiveAvgPool2d(1), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        b, c, h, w = x.shape
        x = x + self.folded(x.reshape(4 * b, 4, h, w)).reshape(b, c, h, w)
        rolled = self.rolled(x.roll((1, 2), (2, 3)))
        parts = self.window(rolled.view(b, c, h // 4, 4, w // 4, 4).permute(0, 2, 4, 3, 5, 1).reshape(-1, 16, c))
        back = parts.view(b, h // 4, w // 4, 4, 4, c).permute(0, 5, 1, 3, 2, 4).reshape(b, c, h, w)
        x = self.restored(back.roll((-1, -2), (2, 3)))
        memory = self.attention(x.flatten(2).mT)
        queries = self.decoded(self.cross(self.queries.expand(b, -1, -1), memory, memory)[0])
        return self.head(torch.cat([queries.mean(1), self.pooled(x).flatten(1)], 1))


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize(
    ("layer", "why"),
    [
        ("attention.key", "dimensions 1 and 3 follow no axis"),
        ("attention.weights", "both follow dimension 2|follow dimension"),
        ("folded", "rows are .* examples times others"),
        ("window", "rows are .* examples times others"),
        ("rolled", "rolled"),
        ("decoded", "none of its dimensions follows the input"),
        ("pooled", "none of its dimensions follows the input"),
        ("head", "none of its dimensions follows the input"),
    ],
)
def test_what_has_no_positions_is_refused(layer: str, why: str, rows: int) -> None:
    torch.manual_seed(0)
    model, x = Everything().eval(), torch.randn(rows, 3, 32, 48)
    with pytest.raises(Unsettled, match=rf"layer: {layer} \[.*\].*({why}).*reshape_transform"):
        fastsal.GradCAM(model, layer).attribute(x, target=1)
    with pytest.raises(Unsettled, match=why):  # and so it stays known
        fastsal.GradCAM(model, layer).attribute(x, target=1)


@pytest.mark.parametrize("rows", [1, 2])
def test_layers_tell_why_each_is_no_default(rows: int) -> None:
    torch.manual_seed(0)
    model, x = Everything().eval(), torch.randn(rows, 3, 32, 48)
    told = {layer.name: layer for layer in fastsal.layers(model, x, refused=True)}
    usable = [name for name, layer in told.items() if layer.geometry is not None and not layer.passed_over]
    assert usable == ["stem", "restored", "attention.norm", "attention.stream", "attention"]
    assert "sums over all positions" in told["attention.proj"].passed_over
    assert "linear map" in told["attention.qkv"].passed_over
    assert all(layer.passed_over for layer in told.values() if layer.geometry is None)
    restored = told["restored"].geometry
    assert restored is not None
    assert (restored.grid, restored.offset, restored.stride) == ((8, 12), (1.5, 1.5), (4.0, 4.0))
    explainer = fastsal.GradCAM(model)
    explainer.attribute(x, target=1)
    assert explainer.layer_names == ["attention"]


class Scrambled(nn.Module):
    """Tokens put in another order and back by indices: no operation tells which are where."""

    def __init__(self, first: nn.Module, count: int, width: int = 16) -> None:
        super().__init__()
        self.first, self.norm, self.head = first, nn.LayerNorm(width), nn.Linear(width, 4)
        self.block = nn.Sequential(nn.Linear(width, 32), nn.GELU(), nn.Linear(32, width))
        self.register_buffer("order", torch.randperm(count))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = (x.flatten(2).mT if x.dim() > 3 else x.mT)[:, self.order][:, self.order.argsort()]
        return self.head(torch.tanh(self.norm(x + self.block(x))).mean(1))


@pytest.mark.parametrize(
    ("first", "shape", "axes", "grid"),
    [
        (nn.Conv2d(3, 16, 8, 8), (3, 64, 96), (2, 3), (8, 12)),
        (nn.Conv2d(3, 16, (4, 16), (4, 16)), (3, 64, 64), (2, 3), (16, 4)),
        (nn.Conv3d(3, 16, (2, 8, 8), (2, 8, 8)), (3, 12, 32, 32), (2, 3, 4), (6, 4, 4)),
        (nn.Conv1d(6, 16, 10, 10), (6, 400), (2,), (40,)),
    ],
)
def test_what_is_not_proved_is_measured(
    first: nn.Module, shape: tuple[int, ...], axes: tuple[int, ...], grid: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    model, x = Scrambled(first, torch.Size(grid).numel()).eval(), torch.randn(1, *shape)
    found = geometry_of(model, "norm", (x,))
    assert found.evidence == "measured"
    assert (found.examples, found.channels, found.axes, found.grid) == (0, 2, axes, grid)
    explainer = fastsal.GradCAM(model)
    maps = explainer.attribute(x, target=1)
    assert explainer.layer_names == ["norm"]
    assert maps.shape == (1, 1, *shape[1:])


def test_a_recurrent_layer_is_measured() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.norm, self.head = nn.GRU(5, 12, batch_first=True), nn.LayerNorm(12), nn.Linear(12, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.norm(self.rnn(x)[0]).mean(1))

    torch.manual_seed(0)
    found = geometry_of(Recurrent().eval(), "norm", (torch.randn(1, 40, 5),))
    assert (found.channels, found.positions, found.axes, found.grid) == (2, (1,), (1,), (40,))


def test_measuring_agrees_with_the_proofs() -> None:
    """Two witnesses that share nothing: what operations do to dimensions, and where changes of the input show."""
    torch.manual_seed(0)
    model, x = Everything().eval(), torch.randn(1, 3, 64, 96)
    seen = [each for each in survey(model, (x,)).seen if each.settled]
    found = measured(model, [(each.module, each.run) for each in seen], (x,))
    agreed = 0
    for each in seen:
        other = found[each.module, each.run]
        if isinstance(each.found, Geometry) and isinstance(other, Geometry):
            for name in ("examples", "channels", "positions", "axes", "grid", "before", "behind"):
                assert getattr(each.found, name) == getattr(other, name), each.name
            agreed += 1
        elif isinstance(other, Geometry):
            assert each.name == "rolled"  # by less than a window, which a block's width hides
    assert agreed >= 4


def test_neither_proved_nor_measured_is_refused() -> None:
    class Lost(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.mix = nn.Identity(), nn.Parameter(torch.randn(64, 64))

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(torch.fft.fft2(x).abs()).mean((2, 3))

    with pytest.raises(Unsettled, match=r"layer: layer \[1, 3, 32, 32\].*reshape_transform"):
        fastsal.GradCAM(Lost().eval(), "layer").attribute(torch.randn(1, 3, 32, 32), target=1)


def test_no_model_is_kept_alive() -> None:
    model, x = Everything().eval(), torch.randn(1, 3, 32, 48)
    geometry_of(model, "stem", (x,))
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def test_nothing_is_left_on_the_model() -> None:
    model, x = Everything().eval(), torch.randn(1, 3, 32, 48)

    def fails(*_: object) -> None:
        raise RuntimeError("on purpose")

    handle = model.head.register_forward_pre_hook(fails)
    with pytest.raises(RuntimeError, match="on purpose"):
        geometry_of(model, "stem", (x,))
    handle.remove()
    geometry_of(model, "stem", (x,))
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())


def test_two_inputs_are_told_apart() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other, self.both = nn.Conv2d(3, 8, 4, 4), nn.Conv2d(1, 8, 8, 8), nn.Identity()

        def forward(self, x: Tensor, depth: Tensor) -> Tensor:
            return self.both(self.one(x) * F.tanh(self.other(depth))).mean((2, 3))

    model, inputs = Two().eval(), (torch.randn(1, 3, 32, 48), torch.randn(1, 1, 64, 96))
    assert geometry_of(model, "one", inputs).input == 0
    other = geometry_of(model, "other", inputs)
    assert (other.input, other.stride) == (1, (8.0, 8.0))
    assert geometry_of(model, "both", inputs).also == (1,)
    assert fastsal.GradCAM(model, "other").attribute(inputs, target=1).shape == (1, 1, 64, 96)
    maps = fastsal.GradCAM(model, "both").attribute(inputs, target=1)
    assert [each.shape for each in maps] == [(1, 1, 32, 48), (1, 1, 64, 96)]
