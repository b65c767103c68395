"""fastsal.compat.grad_cam against pytorch-grad-cam's formulas, written here in NumPy and float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import zoom
from sklearn.decomposition import KernelPCA
from torch import Tensor, nn

from fastsal.compat import grad_cam
from fastsal.compat.grad_cam.utils.model_targets import (
    BinaryClassifierOutputTarget,
    ClassifierOutputReST,
    ClassifierOutputSoftmaxTarget,
    ClassifierOutputTarget,
    FasterRCNNBoxScoreTarget,
    FinerWeightedTarget,
    RawScoresOutputTarget,
    SemanticSegmentationTarget,
    SoftmaxOutputTarget,
)
from fastsal.compat.grad_cam.utils.reshape_transforms import (
    fasterrcnn_reshape_transform,
    swinT_reshape_transform,
    vit_reshape_transform,
)
from tests.explainers.networks import Small, image, small, unchanged

Array = NDArray[Any]
LAYERS = ["body", "stem"]
CLASSES = [2, 0, 3]
TARGETS = [ClassifierOutputTarget(each) for each in CLASSES]
CLOSE = {"rtol": 1e-4, "atol": 2e-6}
NO_TARGET = ("EigenCAM", "FEM", "KPCA_CAM", "RandomCAM")
ALL = [name for name in grad_cam.__all__ if name not in ("BaseCAM", "AblationLayer", "AblationLayerVit")]


def spatial(a: Array) -> tuple[int, ...]:
    return tuple(range(2, a.ndim))


def mean(a: Array) -> Array:
    return a.mean(spatial(a), keepdims=True)


def total(a: Array) -> Array:
    return a.sum(spatial(a), keepdims=True)


def plus_plus(a: Array, g: Array) -> Array:
    alpha = np.where(g == 0, 0, g**2 / (2 * g**2 + total(a) * g**3 + 1e-6))
    return total(np.maximum(g, 0) * alpha) * a


def fem(a: Array, k: float = 2) -> Array:
    return mean((a > mean(a) + k * a.std(spatial(a), keepdims=True)).astype(float)) * a


WEIGHTED: dict[str, Callable[[Array, Array], Array]] = {
    "GradCAM": lambda a, g: mean(g) * a,
    "HiResCAM": lambda a, g: g * a,
    "GradCAMElementWise": lambda a, g: np.maximum(g * a, 0),
    "GradCAMPlusPlus": plus_plus,
    "XGradCAM": lambda a, g: total(g * a / (total(a) + 1e-7)) * a,
    "LayerCAM": lambda a, g: np.maximum(g, 0) * a,
    "FEM": lambda a, g: fem(a),
}
"""Activations, weighed; their sum over channels is the map."""


def projected(weighted: Array) -> Array:
    """On the first right singular vector, in the sign in which it goes with the sum over channels."""
    maps = []
    for each in weighted:
        matrix = each.reshape(each.shape[0], -1).T
        centered = matrix - matrix.mean(0)
        projection = centered @ np.linalg.svd(centered)[2][0]
        maps.append((projection * np.sign(projection @ centered.sum(1))).reshape(each.shape[1:]))
    return np.stack(maps)


def signed_by_extremes(maps: Array) -> Array:
    return np.stack([-each if abs(each.min()) > abs(each.max()) else each for each in maps])


def kernel_projected(a: Array) -> Array:
    maps = []
    for each in a:
        matrix = each.reshape(each.shape[0], -1).T
        found = KernelPCA(n_components=1, kernel="sigmoid").fit_transform(matrix - matrix.mean(0))
        maps.append(found.reshape(each.shape[1:]))
    return np.stack(maps)


PROJECTED: dict[str, Callable[[Array, Array], Array]] = {
    "EigenCAM": lambda a, g: projected(a),
    "EigenGradCAM": lambda a, g: projected(g * a),
    "SegEigenCAM": lambda a, g: signed_by_extremes(projected(abs(g) * a)),
    "KPCA_CAM": lambda a, g: kernel_projected(a),
}


def linear(values: Array, size: int, axis: int) -> Array:
    """Half-pixel centres, ends clamped."""
    extent = values.shape[axis]
    at = np.clip((np.arange(size) + 0.5) * extent / size - 0.5, 0, extent - 1)
    low = np.floor(at).astype(int)
    share = (at - low).reshape([-1 if i == axis else 1 for i in range(values.ndim)])
    return values.take(low, axis) * (1 - share) + values.take(np.minimum(low + 1, extent - 1), axis) * share


def scale(maps: Array, size: tuple[int, ...] | None = None) -> Array:
    result = []
    for each in maps:
        each = each - each.min()
        each = each / (1e-7 + each.max())
        if size is not None and each.ndim == 2:
            each = linear(linear(each, size[0], 0), size[1], 1)
        elif size is not None:
            each = zoom(each.astype(np.float32), [new / old for new, old in zip(size, each.shape, strict=True)])
        result.append(each)
    return np.stack(result)


def rendered(layers: list[Array], size: tuple[int, ...]) -> Array:
    each = [np.maximum(scale(np.maximum(maps, 0), size), 0) for maps in layers]
    return scale(np.mean(each, axis=0))


def layer_values(
    model: nn.Module, layers: list[str], x: Tensor, targets: list[Callable[[Tensor], Tensor]]
) -> list[tuple[Array, Array]]:
    """(A, G) per layer, by autograd through the whole model."""
    kept: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., Tensor]:
        def hook(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
            kept[name] = output
            return output.clone()

        return hook

    handles = [model.get_submodule(name).register_forward_hook(keep(name)) for name in layers]
    output = model(x.clone().requires_grad_())
    for handle in handles:
        handle.remove()
    score = sum(target(row) for target, row in zip(targets, output, strict=True))
    gradients = torch.autograd.grad(score, [kept[name] for name in layers])
    return [(kept[name].detach().numpy(), g.numpy()) for name, g in zip(layers, gradients, strict=True)]


def modules(model: nn.Module, names: list[str]) -> list[nn.Module]:
    return [model.get_submodule(name) for name in names]


def setting(dimensions: int = 2) -> tuple[Small, Tensor]:
    return small(dimensions, dtype=torch.float64), image(dimensions, dtype=torch.float64)


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("layers", [["body"], LAYERS], ids=["one", "two"])
@pytest.mark.parametrize("name", [*WEIGHTED, *PROJECTED])
def test_methods_of_one_pass(name: str, layers: list[str], dimensions: int) -> None:
    model, x = setting(dimensions)
    cams = []
    for a, g in layer_values(model, layers, x, TARGETS):
        cams.append(PROJECTED[name](a, g) if name in PROJECTED else WEIGHTED[name](a, g).sum(1))
    found = getattr(grad_cam, name)(model, modules(model, layers))(x, TARGETS)
    assert found.dtype == np.float32
    assert found.shape == (3, *x.shape[2:])
    np.testing.assert_allclose(found, rendered(cams, x.shape[2:]), **CLOSE)


@pytest.mark.parametrize("name", [*WEIGHTED, *PROJECTED, "ScoreCAM"])
def test_eigen_smooth(name: str) -> None:
    model, x = setting()
    cam = getattr(grad_cam, name)(model, modules(model, LAYERS))
    found = cam(x, TARGETS, eigen_smooth=True)
    if name in PROJECTED or name == "FEM":
        np.testing.assert_array_equal(found, cam(x, TARGETS))
        return
    if name == "ScoreCAM":
        cams = [projected(score_weights(model, name, x)[:, :, None, None] * a) for name, a in activations(model, x)]
    else:
        cams = [projected(WEIGHTED[name](a, g)) for a, g in layer_values(model, LAYERS, x, TARGETS)]
    np.testing.assert_allclose(found, rendered(cams, x.shape[2:]), **CLOSE)


@pytest.mark.parametrize("name", ["GradCAM", "LayerCAM", "EigenCAM"])
def test_aug_smooth(name: str) -> None:
    model, x = setting()
    cam = getattr(grad_cam, name)(model, [model.body])
    maps = [cam(factor * x, TARGETS) for factor in (0.9, 1, 1.1)]
    maps += [cam(factor * x.flip(3), TARGETS)[:, :, ::-1] for factor in (0.9, 1, 1.1)]
    np.testing.assert_allclose(cam(x, TARGETS, aug_smooth=True), np.mean(maps, axis=0), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", [name for name in ALL if name != "RandomCAM"])
def test_without_targets_the_highest_score(name: str) -> None:
    model, x = setting()
    cam = getattr(grad_cam, name)(model, [model.body])
    highest = [ClassifierOutputTarget(int(each)) for each in model(x).argmax(1)]
    if name == "FinerCAM":
        scores = model(x).detach().numpy()
        orders = [np.argsort(abs(row - row.max()), kind="stable").tolist() for row in scores]
        highest = [FinerWeightedTarget(order[0], order[1:], 1) for order in orders]
    np.testing.assert_allclose(cam(x), cam(x, highest), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(cam.outputs, model(x).detach())


@pytest.mark.parametrize("name", [name for name in ALL if name not in NO_TARGET])
@pytest.mark.parametrize("count", [0, 2, 4])
def test_another_number_of_targets_is_refused(name: str, count: int) -> None:
    model, x = small(), image()
    with unchanged(model, x), pytest.raises(ValueError, match=f"targets: {count} given for 3 images"):
        getattr(grad_cam, name)(model, [model.body])(x, [ClassifierOutputTarget(0)] * count)


def test_shapley_cam() -> None:
    model, x = setting()
    with torch.no_grad():
        model.head.weight *= 40  # so that the softmax is curved
    targets = [ClassifierOutputSoftmaxTarget(each) for each in CLASSES]
    a = model.body(model.act(model.norm(model.stem(x)))).detach().requires_grad_()

    def score(a: Tensor) -> Tensor:
        probabilities = model.head(a.relu().flatten(2).mean(2)).softmax(1)
        return probabilities[range(3), CLASSES].sum()

    (g,) = torch.autograd.grad(score(a), a)
    _, product = torch.autograd.functional.hvp(score, a, a.detach())
    assert product.abs().max() > 0.1 * g.abs().max()
    cams = (mean((g - product / 2).numpy()) * a.detach().numpy()).sum(1)
    found = grad_cam.ShapleyCAM(model, [model.body])(x, targets)
    np.testing.assert_allclose(found, rendered([cams], x.shape[2:]), **CLOSE)


def test_random_cam_draws_from_numpy() -> None:
    model, x = setting()
    (a, _), *_ = layer_values(model, ["body"], x, TARGETS)
    np.random.seed(7)
    found = grad_cam.RandomCAM(model, [model.body])(x)
    np.random.seed(7)
    weights = np.random.uniform(-1, 1, size=(3, 6))
    np.testing.assert_allclose(found, rendered([(weights[:, :, None, None] * a).sum(1)], x.shape[2:]), **CLOSE)


def activations(model: nn.Module, x: Tensor) -> list[tuple[str, Array]]:
    return [(name, a) for name, (a, _) in zip(LAYERS, layer_values(model, LAYERS, x, TARGETS), strict=True)]


def score_weights(model: nn.Module, layer: str, x: Tensor) -> Array:
    """Corner-aligned masks, one by one."""
    a = dict(activations(model, x))[layer]
    scores = np.zeros(a.shape[:2])
    with torch.no_grad():
        for row, channel in np.ndindex(*scores.shape):
            mask = a[row, channel]
            for axis, size in enumerate(x.shape[2:]):
                grid = np.linspace(0, mask.shape[axis] - 1, size)
                mask = np.apply_along_axis(
                    lambda line, grid=grid: np.interp(grid, np.arange(len(line)), line), axis, mask
                )
            mask = (mask - mask.min()) / (mask.max() - mask.min() + 1e-8)
            scores[row, channel] = model(x[row : row + 1] * torch.from_numpy(mask))[0, CLASSES[row]]
    exponentials = np.exp(scores - scores.max(1, keepdims=True))
    return exponentials / exponentials.sum(1, keepdims=True)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_score_cam(dimensions: int) -> None:
    model, x = setting(dimensions)
    cams = []
    for name, a in activations(model, x):
        weights = score_weights(model, name, x)
        cams.append((weights.reshape(*weights.shape, *[1] * dimensions) * a).sum(1))
    cam = grad_cam.ScoreCAM(model, modules(model, LAYERS))
    found = cam(x, TARGETS)
    np.testing.assert_allclose(found, rendered(cams, x.shape[2:]), **CLOSE)
    for batch_size in (1, 4, 100):
        cam.batch_size = batch_size
        np.testing.assert_allclose(cam(x, TARGETS), found, rtol=1e-6, atol=1e-7)


def ablated_scores(model: Small, layer: str, x: Tensor, values: list[float]) -> Array:
    a = dict(layer_values_of(model, layer, x))[layer]
    scores = np.zeros(a.shape[:2])
    for row, channel in np.ndindex(*scores.shape):
        changed = torch.from_numpy(a[row : row + 1].copy())
        changed[:, channel] = values[row]
        handle = model.get_submodule(layer).register_forward_hook(lambda *_, changed=changed: changed)
        with torch.no_grad():
            scores[row, channel] = model(x[row : row + 1])[0, CLASSES[row]]
        handle.remove()
    return scores


def layer_values_of(model: nn.Module, layer: str, x: Tensor) -> list[tuple[str, Array]]:
    return [(layer, layer_values(model, [layer], x, TARGETS)[0][0])]


@pytest.mark.parametrize("layer", ["last", "act", "body", "stem"])
def test_ablation_cam(layer: str) -> None:
    """0 behind a ReLU, with the classifier alone after it or more; else the minimum less 1e7."""
    model, x = setting()
    a = dict(layer_values_of(model, layer, x))[layer]
    lows = [float(each.min()) for each in a]
    values = [0.0 if low == 0 else low - 1e7 for low in lows]
    assert (layer in ("last", "act")) == all(value == 0 for value in values)
    clean = model(x).detach().numpy()[range(3), CLASSES][:, None]
    weights = (clean - ablated_scores(model, layer, x, values)) / clean
    cams = (weights[:, :, None, None] * a).sum(1)
    cam = grad_cam.AblationCAM(model, [model.get_submodule(layer)], batch_size=4)
    np.testing.assert_allclose(cam(x, TARGETS), rendered([cams], x.shape[2:]), **CLOSE)


def test_ablation_cam_below_a_minimum_from_one_gradient() -> None:
    """Where only averages and linear maps follow, no channel is run."""
    model, x = setting()
    model.last = nn.Identity()
    a = dict(layer_values_of(model, "body", x))["body"]
    clean = model(x).detach().numpy()[range(3), CLASSES][:, None]
    scores = ablated_scores(model, "body", x, [float(each.min()) - 1e7 for each in a])
    cams = (((clean - scores) / clean)[:, :, None, None] * a).sum(1)
    found = grad_cam.AblationCAM(model, [model.body])(x, TARGETS)
    np.testing.assert_allclose(found, rendered([cams], x.shape[2:]), **CLOSE)


def full_grad_channels(model: Small, x: Tensor) -> list[Array]:
    leaf = x.clone().requires_grad_()
    stem = model.stem(leaf)
    norm = model.norm(stem)
    body = model.body(norm.relu())
    output = model.head(body.relu().flatten(2).mean(2))
    gradients = torch.autograd.grad(output[range(3), CLASSES].sum(), [leaf, stem, norm, body])
    shift = model.norm.running_mean * model.norm.weight / (model.norm.running_var + model.norm.eps).sqrt()
    biases = [model.stem.bias, model.norm.bias - shift, model.body.bias]
    size = tuple(x.shape[2:])

    def each_scaled(values: Array) -> Array:
        return scale(values.reshape(-1, *values.shape[2:]), size).reshape(*values.shape[:2], *size)

    channels = [each_scaled((x * gradients[0]).abs().numpy())]
    for bias, gradient in zip(biases, gradients[1:], strict=True):
        product = bias.detach().view(1, -1, *[1] * len(size)) * gradient
        channels.append(each_scaled(product.abs().numpy()).sum(1, keepdims=True))
    return channels


@pytest.mark.parametrize("dimensions", [2, 3])
def test_full_grad(dimensions: int) -> None:
    model, x = setting(dimensions)
    expected = scale(np.concatenate(full_grad_channels(model, x), axis=1).sum(1))
    np.testing.assert_allclose(grad_cam.FullGrad(model, [])(x, TARGETS), expected, **CLOSE)


def test_full_grad_eigen_smooth() -> None:
    model, x = small(dtype=torch.float64), image(size=32, dtype=torch.float64)
    stacked = np.concatenate(full_grad_channels(model, x), axis=1)
    small_maps = scale(stacked.reshape(-1, *stacked.shape[2:]), (4, 4)).reshape(*stacked.shape[:2], 4, 4)
    expected = scale(scale(projected(small_maps), tuple(x.shape[2:])))
    found = grad_cam.FullGrad(model, [])(x, TARGETS, eigen_smooth=True)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("base", ["GradCAM", "LayerCAM", "ScoreCAM"])
def test_finer_cam(base: str) -> None:
    model, x = setting()
    scores = model(x).detach().numpy()
    base_method = getattr(grad_cam, base)
    cam = grad_cam.FinerCAM(model, [model.body], base_method=base_method)
    for options in ({}, {"alpha": 0.5, "comparison_categories": [1, 3], "target_idx": 1}):
        main = scores.max(1) if not options else scores[:, 1]
        order = np.argsort(abs(scores - main[:, None]), axis=1, kind="stable")
        ranks = options.get("comparison_categories", [1, 2, 3])

        def score(row: Tensor, index: int, order: Array = order, ranks: Any = ranks, o: Any = options) -> Tensor:
            weights = row.softmax(0)[order[index, ranks]]
            gaps = row[order[index, 0]] - o.get("alpha", 1) * row[order[index, ranks]]
            return (weights * gaps).sum() / (weights.sum() + 1e-9)

        targets = [lambda row, i=i, score=score: score(row, i) for i in range(3)]
        expected = base_method(model, [model.body])(x, targets)
        np.testing.assert_allclose(cam(x, **options), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("eigen_smooth", [False, True])
def test_refine_cam(eigen_smooth: bool) -> None:
    model, x = setting()
    maps = []
    for a, g in layer_values(model, LAYERS, x, TARGETS):
        weighted = plus_plus(a, g)
        maps.append(rendered([projected(weighted) if eigen_smooth else weighted.sum(1)], x.shape[2:]))
    found = grad_cam.RefineCAM(model, modules(model, LAYERS))(x, TARGETS, eigen_smooth)
    np.testing.assert_allclose(found, scale(np.prod(maps, axis=0)), **CLOSE)
    other = grad_cam.RefineCAM(model, [model.body], base_method=grad_cam.FEM, k=1)(x)
    cams = fem(layer_values(model, ["body"], x, TARGETS)[0][0], 1).sum(1)
    np.testing.assert_allclose(other, rendered([cams], x.shape[2:]), **CLOSE)


def test_an_activation_in_place_changes_nothing() -> None:
    x = image(dtype=torch.float64)
    for name in ("GradCAM", "EigenCAM", "ScoreCAM", "AblationCAM", "FullGrad"):
        maps = []
        for in_place in (False, True):
            model = small(in_place=in_place, dtype=torch.float64)
            maps.append(getattr(grad_cam, name)(model, [model.norm])(x, TARGETS))
        np.testing.assert_allclose(maps[0], maps[1], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ALL)
def test_the_model_stays_as_it_was(name: str) -> None:
    model, x = small(dropout=0.5).train(), image()
    model.norm.eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    with unchanged(model, x):
        cam = getattr(grad_cam, name)(model, [model.body])
    with unchanged(model, x), torch.no_grad():
        np.random.seed(0)
        found = cam(x, TARGETS)
    np.random.seed(0)
    np.testing.assert_allclose(found, getattr(grad_cam, name)(small(), ["body"])(x, TARGETS), rtol=1e-5, atol=1e-5)


def failing_target(_output: Tensor) -> Tensor:
    raise IndexError("the target's own error")


@pytest.mark.parametrize("name", [name for name in ALL if name not in NO_TARGET])
def test_an_index_error_is_not_swallowed(name: str) -> None:
    model, x = small().train(), image()

    def run() -> None:
        with getattr(grad_cam, name)(model, [model.body]) as cam:
            cam(x, [failing_target] * 3)

    with unchanged(model, x), pytest.raises(IndexError, match="the target's own error"):
        run()


@pytest.mark.parametrize("name", ALL)
def test_a_failing_model(name: str) -> None:
    model, x = small().train(), image()
    model.head.forward = failing_target
    cam = getattr(grad_cam, name)(model, [model.body])
    with unchanged(model, x), pytest.raises(IndexError, match="the target's own error"):
        cam(x, TARGETS)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype) -> None:
    model, x = small(), image()
    found = grad_cam.GradCAM(model.to(dtype), [model.body])(x.to(dtype), TARGETS)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, grad_cam.GradCAM(small(), ["body"])(x, TARGETS), atol=0.1)


def test_tokens_with_and_without_a_transform() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch = nn.Conv2d(3, 6, 4, stride=4)
            self.block = nn.Linear(6, 6)
            self.head = nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            tokens = self.patch(x).flatten(2).mT
            tokens = self.block(torch.cat([tokens.mean(1, keepdim=True), tokens], 1)).tanh()
            return self.head(tokens.mean(1))

    torch.manual_seed(0)
    model, x = Tokens().double().eval(), image(size=16, dtype=torch.float64)[..., :16]
    ((a, g),) = layer_values(model, ["block"], x, TARGETS)
    a, g = (each[:, 1:].transpose(0, 2, 1).reshape(3, 6, 4, 4) for each in (a, g))
    expected = rendered([(mean(g) * a).sum(1)], (16, 16))
    for transform in (None, lambda t: vit_reshape_transform(t, 4, 4)):
        found = grad_cam.GradCAM(model, [model.block], reshape_transform=transform)(x, TARGETS)
        np.testing.assert_allclose(found, expected, **CLOSE)
    layer = grad_cam.AblationLayerVit()
    cam = grad_cam.AblationCAM(model, [model.block], lambda t: vit_reshape_transform(t, 4, 4), ablation_layer=layer)
    assert cam(x, TARGETS).shape == (3, 16, 16)


def test_reshape_transforms() -> None:
    tokens = torch.arange(2 * 7 * 3).view(2, 7, 3)
    grid = tokens[:, 1:].reshape(2, 2, 3, 3).permute(0, 3, 1, 2)
    torch.testing.assert_close(vit_reshape_transform(tokens, 2, 3), grid)
    torch.testing.assert_close(swinT_reshape_transform(tokens[:, 1:], 2, 3), grid)
    pyramid = {"0": -torch.ones(1, 2, 8, 8), "pool": torch.ones(1, 3, 2, 2)}
    torch.testing.assert_close(fasterrcnn_reshape_transform(pyramid), torch.ones(1, 5, 2, 2))


def test_targets() -> None:
    row, rows = torch.randn(5), torch.randn(2, 5)
    assert ClassifierOutputTarget(3)(row) == row[3]
    torch.testing.assert_close(ClassifierOutputTarget(3)(rows), rows[:, 3])
    torch.testing.assert_close(ClassifierOutputSoftmaxTarget(3)(row), row.exp()[3] / row.exp().sum())
    loss = nn.functional.cross_entropy(row[None], torch.tensor([3]))
    torch.testing.assert_close(ClassifierOutputReST(3)(row), row[3] - loss)
    assert BinaryClassifierOutputTarget(1)(row[:1]) == row[0]
    assert BinaryClassifierOutputTarget(0)(row[:1]) == -row[0]
    torch.testing.assert_close(SoftmaxOutputTarget()(rows), rows.exp() / rows.exp().sum(1, keepdim=True))
    assert RawScoresOutputTarget()(row) is row
    mask = np.array([[1.0, 0.0], [0.0, 1.0]], dtype=np.float32)
    scores = torch.randn(3, 2, 2)
    torch.testing.assert_close(SemanticSegmentationTarget(1, mask)(scores), scores[1, 0, 0] + scores[1, 1, 1])
    found = {"boxes": torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30]]), "labels": torch.tensor([1, 2])}
    found["scores"] = torch.tensor([0.9, 0.8])
    boxes = np.array([[0, 0, 10, 8], [20, 20, 30, 30]], dtype=np.float32)
    torch.testing.assert_close(FasterRCNNBoxScoreTarget([1, 1], boxes)(found), torch.tensor(0.8 + 0.9))


def test_refusals() -> None:
    model, x = small(), image()
    cam = grad_cam.GradCAM(model, [model.body])
    with pytest.raises(TypeError, match="target_layers: pass a list"):
        grad_cam.GradCAM(model, model.body)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="none named 'bodi'; did you mean body"):
        grad_cam.GradCAM(model, ["bodi"])
    with pytest.raises(TypeError, match=r"2 is not callable; wrap a class as ClassifierOutputTarget"):
        cam(x, [2, 0, 3])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="input_tensor: list is not a tensor"):
        cam([x])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"input_tensor: shape \(3, 8\)"):
        cam(x[0, :, :, 0])
    with pytest.raises(ValueError, match=r"an output \(3, 4\) has not the dimensions"):
        grad_cam.GradCAM(model, [model.head])(x)
    with pytest.raises(ValueError, match=r"ratio_channels_to_ablate: 0\.5"):
        grad_cam.AblationCAM(model, [model.body], ratio_channels_to_ablate=0.5)
    with pytest.raises(ValueError, match=r"targets: without them .* \[B, K\], this is \(3, 5, 8, 9\)"):
        grad_cam.GradCAM(nn.Sequential(model.stem, model.norm), [model.stem])(x)
    with pytest.raises(NotImplementedError, match=r"get_cam_image\(\) of pytorch-grad-cam are not called"):
        grad_cam.BaseCAM(model, [model.body])
    with pytest.raises(ValueError, match="comparison_categories"):
        grad_cam.FinerCAM(model, [model.body])(x, comparison_categories=[4])


# The latter two are of its development version; the former two's sign depends on the LAPACK.
THEIRS = [name for name in ALL if name not in ("EigenCAM", "EigenGradCAM", "SegEigenCAM", "RefineCAM")]


# Its ShapleyCAM cannot be deleted without an error: it detaches views in place.
@pytest.mark.filterwarnings(r"ignore:.*<function BaseCAM\.__del__:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", THEIRS)
def test_against_the_package(name: str) -> None:
    theirs = pytest.importorskip("pytorch_grad_cam", reason="pytorch-grad-cam is not installed")
    targets = pytest.importorskip("pytorch_grad_cam.utils.model_targets", reason="pytorch-grad-cam is not installed")
    model, x = small(), image()
    given = [targets.ClassifierOutputTarget(each) for each in CLASSES]
    np.random.seed(0)
    # After a ReLU: there it ablates with 0.
    expected = getattr(theirs, name)(model, [model.last])(x, given)
    np.random.seed(0)
    found = getattr(grad_cam, name)(model, [model.last])(x, TARGETS)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
