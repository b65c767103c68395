"""pytorch-grad-cam's formulas, written in NumPy and float64, and what its tests share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import zoom
from sklearn.decomposition import KernelPCA
from torch import Tensor, nn

from fastsal.compat import grad_cam
from fastsal.compat.grad_cam.composed import Composed
from fastsal.compat.grad_cam.utils.model_targets import ClassifierOutputTarget
from tests.explainers.networks import Small, image, small

Array = NDArray[Any]
LAYERS = ["body", "stem"]
CLASSES = [2, 0, 3]
TARGETS = [ClassifierOutputTarget(each) for each in CLASSES]
CLOSE = {"rtol": 1e-4, "atol": 2e-6}
NO_TARGET = ("EigenCAM", "FEM", "KPCA_CAM", "RandomCAM")
ALL = [
    name
    for name in grad_cam.__all__
    if isinstance(found := getattr(grad_cam, name), type)
    and issubclass(found, (grad_cam.BaseCAM, Composed))
    and name not in ("BaseCAM", "SESS")
]
"""Its methods. SESS, which makes a map of dozens of windows, has its own tests."""


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
