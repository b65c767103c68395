"""pytorch-grad-cam's Guided Backprop, recorder, layers and image helpers; by hand, and against it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fastsal.compat import grad_cam
from fastsal.compat.grad_cam.ablation_layer import AblationLayer, AblationLayerFasterRCNN, AblationLayerVit
from fastsal.compat.grad_cam.guided_backprop import GuidedBackpropReLUasModule
from fastsal.compat.grad_cam.sobel_cam import sobel_cam
from fastsal.compat.grad_cam.utils import find_layers, svd_on_activations
from fastsal.compat.grad_cam.utils import image as images
from fastsal.compat.grad_cam.utils.model_targets import ClassifierOutputTarget
from tests.explainers.networks import Functional, image, small, unchanged

Array = NDArray[Any]
TARGETS = [ClassifierOutputTarget(each) for each in (2, 0, 3)]
CLOSE = {"rtol": 1e-4, "atol": 2e-5}


def package(name: str = "pytorch_grad_cam") -> Any:
    return pytest.importorskip(name, reason="pytorch-grad-cam is not installed")


def batch() -> tuple[nn.Module, Tensor, Array]:
    """A model, images, and maps of these."""
    model, x = small(), image(size=16)
    return model, x, grad_cam.GradCAM(model, [model.body])(x, TARGETS)


# Guided Backprop


def guided_by_hand(model: nn.Module, x: Tensor, category: int) -> Array:
    """Autograd through ReLUs that are replaced in a copy."""
    copy = small()
    copy.load_state_dict(model.state_dict())
    copy.act = copy.last = GuidedBackpropReLUasModule()  # type: ignore[assignment]
    leaf = x.clone().requires_grad_()
    copy(leaf)[0, category].backward()
    assert leaf.grad is not None
    return leaf.grad[0].permute(1, 2, 0).numpy()


@pytest.mark.parametrize("category", [None, 0, 3])
def test_guided_backprop(category: int | None) -> None:
    model, x = small(), image()
    with unchanged(model, x):
        found = grad_cam.GuidedBackpropReLUModel(model=model, device="cpu")(x, target_category=category)
        functional = grad_cam.GuidedBackpropReLUModel(Functional(model))(x, category)
    expected = guided_by_hand(model, x, int(model(x)[0].argmax()) if category is None else category)
    assert found.shape == (8, 9, 3)
    np.testing.assert_allclose(found, expected, **CLOSE)
    np.testing.assert_allclose(functional, expected, **CLOSE)


@pytest.mark.parametrize("category", [None, 1])
def test_guided_backprop_against_the_package(category: int | None) -> None:
    theirs = package().GuidedBackpropReLUModel(model=small(), device="cpu")
    ours = grad_cam.GuidedBackpropReLUModel(model=small(), device="cpu")
    np.testing.assert_allclose(ours(image(batch=1), category), theirs(image(batch=1), category), **CLOSE)


def test_guided_layers_in_a_model_and_back() -> None:
    guided = grad_cam.GuidedBackpropReLUModel(small())
    guided.recursive_replace_relu_with_guidedrelu(guided.model)
    assert isinstance(guided.model.act, GuidedBackpropReLUasModule)
    torch.testing.assert_close(guided.forward(image()), small()(image()))
    guided.recursive_replace_guidedrelu_with_relu(guided.model)
    assert type(guided.model.last) is nn.ReLU


# Recorders and layers


@pytest.mark.parametrize("detach", [True, False])
def test_activations_and_gradients(detach: bool) -> None:
    model, x = small(in_place=True), image()
    recorder = grad_cam.ActivationsAndGradients(model, [model.body, model.stem], None, detach)
    for _ in range(2):
        output = recorder(x)
        output[:, 1].sum().backward()
    # In the order in which they run, whatever the order in which they were given.
    assert [tuple(each.shape) for each in recorder.activations] == [(3, 5, 8, 9), (3, 6, 4, 5)]
    leaf = model.body(model.act(model.norm(model.stem(x)))).detach().requires_grad_()
    (expected,) = torch.autograd.grad(model.head(leaf.relu().flatten(2).mean(2))[:, 1].sum(), leaf)
    torch.testing.assert_close(recorder.gradients[1].detach(), expected)
    if detach:
        torch.testing.assert_close(recorder.activations[1], leaf.detach())  # not what ReLU made of it in place
    recorder.release()
    assert not any(part._forward_hooks for part in model.modules())
    assert recorder.activations == recorder.gradients == []


def test_recorded_values_are_reshaped() -> None:
    model = small()
    recorder = grad_cam.ActivationsAndGradients(model, [model.body], lambda value: value.flatten(2))
    recorder(image())[:, 0].sum().backward()
    assert [tuple(each.shape) for each in (*recorder.activations, *recorder.gradients)] == [(3, 6, 20)] * 2


def test_find_layers() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(nn.ReLU(), nn.Conv2d(4, 4, 1)), nn.ReLU())
    inner: Any = model[1]
    assert find_layers.find_layer_types_recursive(model, [nn.ReLU]) == [inner[0], model[2]]
    assert find_layers.find_layer_predicate_recursive(model, lambda m: m is inner[1]) == [inner[1]]
    old, new = inner[1], nn.Identity()
    assert find_layers.replace_layer_recursive(model, old, new)
    assert inner[1] is new
    assert not find_layers.replace_layer_recursive(model, old, new)


@pytest.mark.parametrize("relu", [False, True])
def test_ablation_layers(relu: bool) -> None:
    value = torch.randn(2, 4, 3, 3)
    value = value.relu() if relu else value
    layer = AblationLayer()
    layer.set_next_batch(1, value, 4)
    assert layer.activations_to_be_ablated(value[1].numpy()).tolist() == [0, 1, 2, 3]
    found = layer(None)
    for row in range(4):
        kept = [channel for channel in range(4) if channel != row]
        torch.testing.assert_close(found[row, kept], value[1, kept])
        expected = 0.0 if relu else float(value[1].min() - 1e7)
        assert (found[row, row] == expected).all()
    tokens = value.flatten(2).mT
    vit = AblationLayerVit()
    vit.set_next_batch(1, tokens, 4)
    vit.activations_to_be_ablated(value[1].numpy())
    torch.testing.assert_close(vit(None), found.flatten(2).mT)
    levels = {name: torch.randn(1, 256, 2, 2) for name in ("0", "1", "2", "3", "pool")}
    pyramid = AblationLayerFasterRCNN()
    pyramid.set_next_batch(0, levels, 2)
    pyramid.indices = np.array([3, 256 * 4 + 7], np.int32)
    found = pyramid(None)
    assert (found["0"][0, 3] == -1000).all()
    assert (found["pool"][1, 7] == -1000).all()
    assert (found["0"][1] == levels["0"][0]).all()


def test_ablation_layers_against_the_package() -> None:
    theirs = package().AblationLayer()
    activations = np.random.default_rng(0).random((8, 5, 5)).astype(np.float32)
    for ratio in (1.0, 0.5, 0.25):
        found = AblationLayer().activations_to_be_ablated(activations, ratio)
        assert found.tolist() == theirs.activations_to_be_ablated(activations, ratio).tolist()


# Images


def test_sobel() -> None:
    flat, edge = np.full((6, 7, 3), 90, np.uint8), np.zeros((6, 7, 3), np.uint8)
    edge[:, 4:] = 40
    assert not sobel_cam(flat).any()
    # 1, 2, 1 times 40, beside the edge alone; half of it, as nothing changes downwards.
    assert sobel_cam(edge)[:, [3, 4]].tolist() == [[80, 80]] * 6
    assert sobel_cam(edge).sum() == 80 * 12


def test_sobel_against_the_package() -> None:
    theirs = package("pytorch_grad_cam.sobel_cam").sobel_cam
    picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)
    # One level where the grey of the two differs in its rounding.
    assert np.abs(sobel_cam(picture).astype(int) - theirs(picture)).max() <= 4
    assert (sobel_cam(picture) == theirs(picture)).mean() > 0.9


def test_projections() -> None:
    a = np.random.default_rng(0).random((2, 5, 3, 4)).astype(np.float32)
    a[0, 0, 0, 0] = np.nan
    found = svd_on_activations.get_2d_projection(a)
    for maps, each in zip(found, np.nan_to_num(a), strict=True):
        matrix = each.reshape(5, -1).T.astype(np.float64)
        matrix = matrix - matrix.mean(0)
        expected = matrix @ np.linalg.svd(matrix)[2][0]
        expected *= np.sign(expected @ matrix.sum(1))
        np.testing.assert_allclose(maps.ravel(), expected, **CLOSE)
    positive = svd_on_activations.get_2d_projection_with_sign_correction(-a)
    assert (positive.reshape(2, -1).max(1) >= -positive.reshape(2, -1).min(1)).all()
    np.testing.assert_allclose(abs(positive), abs(found), **CLOSE)


def test_projections_against_the_package() -> None:
    theirs = package("pytorch_grad_cam.utils.svd_on_activations")
    a = np.random.default_rng(0).random((2, 5, 3, 4)).astype(np.float32)
    for name in ("get_2d_projection", "get_2d_projection_with_sign_correction", "get_2d_projection_kernel"):
        found, expected = getattr(svd_on_activations, name)(a), getattr(theirs, name)(a)
        # It takes the sign of the first that LAPACK happens to give.
        sign = np.sign((found * expected).sum((1, 2), keepdims=True)) if name == "get_2d_projection" else 1
        np.testing.assert_allclose(found * sign, expected, rtol=1e-3, atol=1e-5, err_msg=name)


def test_labels_and_factors_in_colours() -> None:
    scores = np.array([[0.1, 0.7, 0.2], [0.5, 0.1, 0.4]])
    labels = images.create_labels_legend(scores, {0: "cat", 1: "dog, hound, cur, pup", 2: "hen"}, top_k=2)
    assert labels == ["dog, hound, cur:0.70\nhen:0.20", "cat:0.50\nhen:0.40"]
    picture, maps = np.full((8, 6, 3), 0.5), np.zeros((2, 8, 6), np.float32)
    maps[0, :, :3], maps[1, :, 3:] = 1.0, 0.5
    colors = [np.array([1.0, 0, 0]), np.array([0, 0, 1.0])]
    found = images.show_factorization_on_image(picture, maps, colors, image_weight=0.5)
    assert found[0, 0].tolist() == [191, 63, 63]
    assert found[0, 5].tolist() == [63, 63, 127 - 1] or found[0, 5].tolist() == [63, 63, 127]
    pytest.importorskip("matplotlib", reason="Matplotlib is not installed")
    assert images.show_factorization_on_image(picture, maps, concept_labels=labels).shape == (8, 12, 3)


def test_factors_in_colours_against_the_package() -> None:
    theirs = package("pytorch_grad_cam.utils.image")
    draw = np.random.default_rng(0)
    picture, maps = draw.random((9, 7, 3)).astype(np.float32), draw.random((5, 9, 7)).astype(np.float32)
    colors = [draw.random(3) for _ in range(5)]
    found = images.show_factorization_on_image(picture, maps, colors)
    expected = theirs.show_factorization_on_image(picture, maps.copy(), colors)
    assert np.abs(found.astype(int) - expected).max() <= 1
    scores = draw.random((3, 4))
    names = dict(enumerate("abcd"))
    assert images.create_labels_legend(scores, names) == theirs.create_labels_legend(scores, names)


def test_own_transforms_in_aug_smooth() -> None:
    class Brighter:
        def __init__(self, factor: float) -> None:
            self.factor = factor

        def augment_image(self, x: Tensor) -> Tensor:
            return self.factor * x

        def deaugment_mask(self, maps: Tensor) -> Tensor:
            return maps

    class Wide(grad_cam.GradCAM):
        tta = (Brighter(1.0), Brighter(2.0))

        def __init__(self, model: nn.Module, target_layers: list[nn.Module]) -> None:
            grad_cam.BaseCAM.__init__(self, model, target_layers, tta_transforms=self.tta)

    model, x = small(), image()
    found = Wide(model, [model.body])(x, TARGETS, aug_smooth=True)
    plain = grad_cam.GradCAM(model, [model.body])
    np.testing.assert_allclose(found, (plain(x, TARGETS) + plain(2 * x, TARGETS)) / 2, **CLOSE)
    assert plain.get_target_width_height(x) == (9, 8)
