"""What is said of a layer by hand: a Geometry in the place of a function, also of what cannot be found out."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import fastsal

GRID = (4, 6)


class Sorted(nn.Module):
    """Patches in an order that no pass shows, sequence first, of a spectrogram [B, T, F] behind a vector."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.layer, self.head = nn.Conv2d(1, 8, 4, 4), nn.Identity(), nn.Linear(8, 3)
        self.factor = nn.Linear(5, 8)

    def forward(self, vector: Tensor, spectrogram: Tensor) -> Tensor:
        tokens = self.patches(spectrogram[:, None]).flatten(2).permute(2, 0, 1) * self.factor(vector).sigmoid()
        tokens = torch.cat([tokens.mean(0, keepdim=True), tokens.sort(0).values * 0.5 + tokens])
        return self.head(self.layer(tokens).square().mean(0))


STATED = fastsal.Geometry(examples=1, channels=2, positions=(0, 0), input=1, axes=(1, 2), grid=GRID, before=1)


def by_hand(model: Sorted, inputs: tuple[Tensor, Tensor]) -> Tensor:
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _args: object, output: Tensor) -> None:
        output.retain_grad()
        kept.append(output)

    handle = model.layer.register_forward_hook(keep)
    model(*inputs)[:, 1].sum().backward()
    handle.remove()
    assert kept[0].grad is not None
    value, gradient = (each[1:].permute(1, 2, 0).detach() for each in (kept[0], kept[0].grad))
    return (gradient.mean(2, keepdim=True) * value).sum(1).unflatten(1, GRID)


def test_a_geometry_says_what_no_function_can() -> None:
    torch.manual_seed(0)
    model, inputs = Sorted().eval(), (torch.randn(2, 5), torch.randn(2, 16, 24))
    explainer = fastsal.GradCAM(model, "layer", reshape_transform=STATED)
    options = {"normalize": False, "relu_attributions": False}
    expected = by_hand(model, inputs)
    torch.testing.assert_close(explainer.attribute(inputs, target=1, upsample=False, **options)[:, 0], expected)
    wide = nn.functional.interpolate(expected[:, None], (16, 24), mode="bilinear")
    torch.testing.assert_close(explainer.attribute(inputs, target=1, **options), wide)
    for name in ("LayerCAM", "EigenCAM", "SmoothGradCAMPlusPlus"):
        found = getattr(fastsal, name)(model, "layer", reshape_transform=STATED).attribute(inputs, target=1)
        assert found.shape == (2, 1, 16, 24), name


def test_where_it_looks_is_said_too() -> None:
    torch.manual_seed(0)
    model, inputs = Sorted().eval(), (torch.randn(1, 5), torch.randn(1, 16, 24))
    mirrored = fastsal.Geometry(1, 2, (0, 0), 1, (1, 2), GRID, 1, offset=(13.5, 1.5), stride=(-4.0, 4.0))
    plain, turned = (
        fastsal.GradCAM(model, "layer", reshape_transform=each).attribute(inputs, target=1, normalize=False)
        for each in (STATED, mirrored)
    )
    torch.testing.assert_close(turned.flip(2), plain)


def test_each_layer_its_own() -> None:
    torch.manual_seed(0)
    model, inputs = Sorted().eval(), (torch.randn(2, 5), torch.randn(2, 16, 24))
    found = fastsal.GradCAM(model, ["patches", "layer"], reshape_transform=[None, STATED]).attribute(inputs, target=1)
    assert found.shape == (2, 1, 16, 24)
    with pytest.raises(ValueError, match="reshape_transform: 1 given, but there are more layers"):
        fastsal.GradCAM(model, ["patches", "layer"], reshape_transform=[STATED]).attribute(inputs, target=1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input": 2}, "reshape_transform: it is of input 2, but there are 2"),
        ({"axes": (1, 3)}, r"reshape_transform: its axes \(1, 3\) are not all dimensions"),
        ({"grid": (4, 5)}, r"reshape_transform: .* is not of a layer's value \(25, 2, 8\)"),
        ({"before": 0}, r"reshape_transform: .* is not of a layer's value"),
        ({"grid": (24,)}, "one entry for each axis"),
        ({"stride": (4.0,)}, "one entry for each axis"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, object], message: str) -> None:
    import dataclasses

    torch.manual_seed(0)
    model, inputs = Sorted().eval(), (torch.randn(2, 5), torch.randn(2, 16, 24))
    stated = dataclasses.replace(STATED, **changes)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=message):
        fastsal.GradCAM(model, "layer", reshape_transform=stated).attribute(inputs, target=1)


def test_features_of_a_layer_are_its_positions_in_explain() -> None:
    """A layer's drop position by position, against the loop; each value would be 8 times as many passes."""

    class Patches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.layer, self.head = nn.Conv2d(3, 8, 4, 4), nn.Tanh(), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            tokens = self.layer(self.conv(x).flatten(2).mT)
            return self.head(tokens.amax(1))

    torch.manual_seed(0)
    model, x = Patches().eval(), torch.randn(2, 3, 8, 12)
    found = fastsal.explain(model, x, "layer-feature-ablation", target=1, layer="layer", score="output").map
    kept: list[Tensor] = []
    handle = model.layer.register_forward_hook(lambda _m, _i, output: kept.append(output))
    with torch.no_grad():
        whole = model(x)[:, 1]
        handle.remove()
        for position in range(math.prod((2, 3))):
            ablated = kept[0].clone()
            ablated[:, position] = 0
            drop = whole - model.head(ablated.amax(1))[:, 1]
            torch.testing.assert_close(found[:, position], drop[:, None].expand(-1, 8))
    with pytest.raises(ValueError, match="layer_mask: 'places' is neither"):
        fastsal.LayerFeatureAblation(model, "layer").attribute(x, target=1, layer_mask="places")
    flat = fastsal.explain(model, x, "layer-feature-ablation", target=1, layer="head", score="output").map
    assert flat.shape == (2, 3)
