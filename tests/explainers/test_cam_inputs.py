"""A layer that looks at several inputs has a map for each, as gradients have; one that runs for each input too."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastsal

SMALL, PLAIN = {"upsample": False, "normalize": False, "relu_attributions": False}, {"normalize": False}


def cam(value: Tensor, gradient: Tensor) -> Tensor:
    """Grad-CAM [B, *spatial] of [B, C, *spatial]."""
    return (gradient.flatten(2).mean(2).view(*gradient.shape[:2], *[1] * (value.dim() - 2)) * value).sum(1)


class Fused(nn.Module):
    """An image and a depth map of twice its size in one grid."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.depth = nn.Conv2d(3, 8, 4, 4), nn.Conv2d(1, 8, 8, 8)
        self.both, self.head = nn.ReLU(), nn.Linear(8, 3)

    def forward(self, image: Tensor, depth: Tensor) -> Tensor:
        return self.head(self.both(self.image(image) + self.depth(depth)).mean((2, 3)))


class Siamese(nn.Module):
    """One encoder for both inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.head = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.Tanh()), nn.Linear(16, 3)

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        return self.head(torch.cat([self.encoder(each).square().mean((2, 3)) for each in (one, other)], 1))


class OneSequence(nn.Module):
    """Words and patches one behind the other, as in ViLT."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.patches = nn.Embedding(20, 16), nn.Conv2d(3, 16, 8, 8)
        self.block, self.head = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), nn.Linear(16, 3)

    def forward(self, words: Tensor, image: Tensor) -> Tensor:
        tokens = torch.cat([self.words(words), self.patches(image).flatten(2).mT], 1)
        return self.head(self.block(tokens).square().mean(1))


def read(model: nn.Module, layer: nn.Module, *inputs: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Each run's value and its gradient by the sum of score 1."""
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _args: object, output: Tensor) -> None:
        output.retain_grad()
        kept.append(output)

    handle = layer.register_forward_hook(keep)
    model(*inputs)[:, 1].sum().backward()
    handle.remove()
    model.zero_grad()
    return [(each.detach(), each.grad) for each in kept]  # type: ignore[misc]


def wide(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(maps[:, None], size, mode="bilinear")


def test_two_inputs_of_one_grid_have_a_map_each() -> None:
    torch.manual_seed(0)
    model, inputs = Fused().eval(), (torch.randn(2, 3, 32, 48), torch.randn(2, 1, 64, 96))
    (found,) = read(model, model.both, *inputs)
    maps = fastsal.GradCAM(model, "both").attribute(inputs, target=1, **PLAIN)
    assert [each.shape for each in maps] == [(2, 1, 32, 48), (2, 1, 64, 96)]
    for each in maps:
        torch.testing.assert_close(each, wide(cam(*found).relu(), tuple(each.shape[2:])))
    for name in ("LayerCAM", "EigenCAM", "AblationCAM", "ScoreCAM", "SmoothGradCAMPlusPlus"):
        both = getattr(fastsal, name)(model, "both").attribute(inputs, target=1)
        assert [each.shape for each in both] == [(2, 1, 32, 48), (2, 1, 64, 96)], name
    assert fastsal.GradCAM(model, "image").attribute(inputs, target=1).shape == (2, 1, 32, 48)
    assert fastsal.GradCAM(model, "depth").attribute(inputs, target=1).shape == (2, 1, 64, 96)


def test_the_form_is_that_of_the_inputs() -> None:
    torch.manual_seed(0)
    model = Fused().eval()
    named = {"image": torch.randn(1, 3, 32, 48), "depth": torch.randn(1, 1, 64, 96)}
    maps = fastsal.GradCAM(model, "both").attribute(named, target=1)
    assert {name: each.shape for name, each in maps.items()} == {"image": (1, 1, 32, 48), "depth": (1, 1, 64, 96)}
    several = fastsal.GradCAM(model, "both").attribute(tuple(named.values()), targets=[0, 1])
    assert [each.shape for each in several] == [(2, 1, 1, 32, 48), (2, 1, 1, 64, 96)]
    explanation = fastsal.explain(model, tuple(named.values()), "gradcam", target=1, layer="both")
    torch.testing.assert_close(explanation.map, tuple(maps.values()))
    output, _, compiled = fastsal.compile(fastsal.GradCAM(model, "both"), tuple(named.values()))(tuple(named.values()))
    assert output.shape == (1, 3)
    assert [each.shape for each in compiled] == [(1, 1, 32, 48), (1, 1, 64, 96)]


def test_layers_of_different_inputs_are_fused_by_input() -> None:
    torch.manual_seed(0)
    model, inputs = Fused().eval(), (torch.randn(2, 3, 32, 48), torch.randn(2, 1, 64, 96))
    apart = fastsal.GradCAM(model, ["image", "depth"]).attribute(inputs, target=1)
    for each, name in zip(apart, ("image", "depth"), strict=True):
        torch.testing.assert_close(each, fastsal.GradCAM(model, name).attribute(inputs, target=1))


@pytest.mark.parametrize("layer", ["encoder.1", None])
def test_a_layer_that_runs_for_each_input_has_a_map_of_each_run(layer: str | None) -> None:
    torch.manual_seed(0)
    model, inputs = Siamese().eval(), (torch.randn(2, 3, 32, 48), torch.randn(2, 3, 24, 16))
    explainer = fastsal.GradCAM(model, layer)
    for _ in range(2):
        maps = explainer.attribute(inputs, target=1, **SMALL)
        assert explainer.layer_names[0] in ("encoder.1", "encoder")
        for each, found in zip(maps, read(model, model.encoder[1], *inputs), strict=True):
            torch.testing.assert_close(each[:, 0], cam(*found))
    assert [each.shape for each in explainer.attribute(inputs, target=1)] == [(2, 1, 32, 48), (2, 1, 24, 16)]
    for name in ("EigenCAM", "ScoreCAM", "SmoothGradCAMPlusPlus"):
        both = getattr(fastsal, name)(model, "encoder.1").attribute(inputs, target=1)
        assert [each.shape for each in both] == [(2, 1, 32, 48), (2, 1, 24, 16)], name


def test_a_layer_that_runs_twice_for_one_input_is_refused() -> None:
    torch.manual_seed(0)
    model = Siamese().eval()
    x = torch.randn(1, 3, 32, 48)
    with pytest.raises(ValueError, match="runs it 2 times"):
        fastsal.GradCAM(lambda one: model(one, one.flip(2)), "encoder.1").attribute(x, target=1)


def test_words_and_patches_in_one_sequence() -> None:
    torch.manual_seed(0)
    model, words, image = OneSequence().eval(), torch.randint(0, 20, (2, 6)), torch.randn(2, 3, 32, 48)
    ((value, gradient),) = read(model, model.block, words, image)
    text, pixels = fastsal.GradCAM(model, "block").attribute((words, image), target=1, **SMALL)
    torch.testing.assert_close(text[:, 0], cam(value[:, :6].mT, gradient[:, :6].mT), rtol=1e-4, atol=1e-6)
    value, gradient = (each[:, 6:].mT.unflatten(2, (4, 6)) for each in (value, gradient))
    torch.testing.assert_close(pixels[:, 0], cam(value, gradient), rtol=1e-4, atol=1e-6)
    assert fastsal.GradCAM(model, "block").attribute((words, image), target=1)[1].shape == (2, 1, 32, 48)


def test_what_is_of_two_inputs_places_is_no_grid_of_one() -> None:
    class Similar(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.patches, self.weights = nn.Linear(5, 8), nn.Conv2d(3, 8, 8, 8), nn.Identity()

        def forward(self, words: Tensor, image: Tensor) -> Tensor:
            return self.weights((self.words(words) @ self.patches(image).flatten(2)).softmax(-1)).amax(2)

    with pytest.raises(ValueError, match=r"layer: weights .*follows another input"):
        fastsal.GradCAM(Similar().eval(), "weights").attribute(
            (torch.randn(1, 7, 5), torch.randn(1, 3, 32, 48)), target=1
        )


def test_masks_are_of_the_input_that_the_layer_looks_at() -> None:
    """Score-CAM of an image whose channels are last, against the loop of the paper."""

    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.factor, self.conv, self.head = nn.Linear(4, 3), nn.Conv2d(3, 5, 4, 4), nn.Linear(5, 3)

        def forward(self, given: Tensor, image: Tensor) -> Tensor:
            features = self.conv(image.movedim(3, 1)).relu()
            return self.head(features.mean((2, 3))) * self.factor(given)

    torch.manual_seed(0)
    model, given, image = Last().eval(), torch.randn(1, 4), torch.randn(1, 16, 24, 3)
    with torch.no_grad():
        value = model.conv(image.movedim(3, 1))
        masks = F.interpolate(value, (16, 24), mode="bilinear")[0]
        low, high = (extreme(masks.flatten(1), 1).values.view(-1, 1, 1) for extreme in (torch.min, torch.max))
        masks = (masks - low) / (high - low + 1e-8)
        scores = torch.cat([model(given, image * mask[None, :, :, None]) for mask in masks])[:, 1]
        small = (scores.softmax(0).view(1, -1, 1, 1) * value).sum(1, keepdim=True).relu()
        expected = F.interpolate(small, (16, 24), mode="bilinear")
    found = fastsal.ScoreCAM(model, "conv").attribute((given, image), target=1, normalize=False)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
