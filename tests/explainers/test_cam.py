"""The CAM family, each method against its paper's formula in float64, on activations and gradients read apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastsal
from tests.explainers.by_hand import CLOSE, RAW, layer_values, spatial_mean, spatial_sum
from tests.explainers.networks import image, small, unchanged


def plus_plus(a: Tensor, g: Tensor) -> Tensor:
    alpha = g**2 / (2 * g**2 + spatial_sum(a) * g**3 + 1e-6)
    return (spatial_sum(torch.where(g == 0, 0, alpha) * g.relu()) * a).sum(1)


FORMULAS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "GradCAM": lambda a, g: (spatial_mean(g) * a).sum(1),
    "GradCAMPlusPlus": plus_plus,
    "XGradCAM": lambda a, g: (spatial_sum(g * a / (spatial_sum(a) + 1e-7)) * a).sum(1),
    "LayerCAM": lambda a, g: (g.clamp_min(0) * a).sum(1),
    "HiResCAM": lambda a, g: (g * a).sum(1),
    "GradCAMElementWise": lambda a, g: (g * a).clamp_min(0).sum(1),
    "FEM": lambda a, g: (
        spatial_mean((a > spatial_mean(a) + 2 * (spatial_mean(a**2) - spatial_mean(a) ** 2).sqrt()).to(a)) * a
    ).sum(1),
}
GRADIENT = [name for name in FORMULAS if name != "FEM"]


@pytest.mark.parametrize("dimensions", [1, 2, 3])
@pytest.mark.parametrize("name", FORMULAS)
def test_formulas(name: str, dimensions: int) -> None:
    model, x = small(dimensions, dtype=torch.float64), image(dimensions, dtype=torch.float64)
    target = [2, 0, 3]
    for layer in ("body", "stem"):
        a, g = layer_values(model, getattr(model, layer), x, lambda out: out[range(3), target])
        found = getattr(fastsal, name)(model, layer).attribute(x, target, **RAW)
        torch.testing.assert_close(found[:, 0], FORMULAS[name](a, g), **CLOSE)


@pytest.mark.parametrize("name", FORMULAS)
def test_rendering(name: str) -> None:
    """Rectified, resized linearly with half-pixel centres, then scaled by the extremes of the resized map."""
    model, x = small(dtype=torch.float64), image(size=12, dtype=torch.float64)
    explainer = getattr(fastsal, name)(model, "last")
    raw = explainer.attribute(x, 1, **RAW)
    maps = F.interpolate(raw.relu(), x.shape[2:], mode="bilinear", align_corners=False)
    low, high = maps.flatten(1).amin(1).view(-1, 1, 1, 1), maps.flatten(1).amax(1).view(-1, 1, 1, 1)
    found = explainer.attribute(x, 1)
    assert found.shape == (3, 1, *x.shape[2:])
    torch.testing.assert_close(found, (maps - low) / (high - low + 1e-8), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("name", [*GRADIENT, "EigenGradCAM", "ShapleyCAM"])
def test_many_targets_are_the_single_ones(name: str) -> None:
    model, x = small(dtype=torch.float64), image(dtype=torch.float64)
    explainer = getattr(fastsal, name)(model, ["body", "stem"])
    found = explainer.attribute(x, targets=[0, [1, 2, 3], fastsal.targets.Probability(3)])
    single = [explainer.attribute(x, target) for target in (0, [1, 2, 3], fastsal.targets.Probability(3))]
    torch.testing.assert_close(found, torch.stack(single), **CLOSE)


def test_many_targets_where_an_operation_has_no_batched_derivative() -> None:
    class Squared(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x**2

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> Tensor:
            assert gradients[0].data_ptr() != 0  # reads memory, which a batched tensor has not
            return 2 * ctx.saved_tensors[0] * gradients[0]

    inner = small(dtype=torch.float64)
    inner.last.forward = lambda x: Squared.apply(x)
    x = image(dtype=torch.float64)
    explainer = fastsal.GradCAM(inner, "body")
    found = explainer.attribute(x, targets=[0, 1])
    torch.testing.assert_close(found, torch.stack([explainer.attribute(x, target) for target in (0, 1)]), **CLOSE)


def test_layers_are_fused() -> None:
    model, x = small(dtype=torch.float64), image(dtype=torch.float64)
    single = [fastsal.LayerCAM(model, layer).attribute(x, 1) for layer in ("stem", "last")]
    several = fastsal.LayerCAM(model, ["stem", model.last])

    def scaled(maps: Tensor) -> Tensor:
        low, high = maps.flatten(1).amin(1).view(-1, 1, 1, 1), maps.flatten(1).amax(1).view(-1, 1, 1, 1)
        return (maps - low) / (high - low + 1e-8)

    stacked = torch.stack(single)
    for fuse, fused in (("mean", stacked.mean(0)), ("max", stacked.amax(0)), ("product", stacked.prod(0))):
        torch.testing.assert_close(several.attribute(x, 1, fuse=fuse), scaled(fused), rtol=1e-7, atol=1e-7)
        torch.testing.assert_close(several.attribute(x, 1, fuse=fuse, normalize=False), fused, rtol=1e-7, atol=1e-7)
    refined = fastsal.RefineCAM(model, ["stem", "last"]).attribute(x, 1)
    pair = [fastsal.GradCAMPlusPlus(model, layer).attribute(x, 1) for layer in ("stem", "last")]
    torch.testing.assert_close(refined, scaled(pair[0] * pair[1]), rtol=1e-7, atol=1e-7)
    passes = []
    handle = model.register_forward_hook(lambda *_: passes.append(1))
    several.attribute(x, 1)
    handle.remove()
    assert len(passes) == 1


def test_principal_components_are_numpys() -> None:
    model, x = small(dtype=torch.float64), image(dtype=torch.float64, size=10)
    for layer in ("body", "stem"):
        a, g = layer_values(model, getattr(model, layer), x, lambda out: out[:, 1])
        cases = [
            (fastsal.EigenCAM(model, layer).attribute(x, **RAW), a),
            (fastsal.EigenGradCAM(model, layer).attribute(x, 1, **RAW), g * a),
            (fastsal.GradCAM(model, layer).attribute(x, 1, eigen_smooth=True, **RAW), spatial_mean(g) * a),
            (fastsal.LayerCAM(model, layer).attribute(x, 1, eigen_smooth=True, **RAW), g.relu() * a),
        ]
        for found, values in cases:
            for each, value in zip(found[:, 0], values, strict=True):
                matrix = value.flatten(1).T.numpy()
                centred = matrix - matrix.mean(0)
                expected = centred @ np.linalg.svd(centred, full_matrices=False)[2][0]
                total = matrix.sum(1)
                expected *= np.sign(expected @ (total - total.mean()))
                np.testing.assert_allclose(each.flatten().numpy(), expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("kernel", ["sigmoid", "rbf", "cosine", "linear"])
def test_kernel_components_are_scikit_learns(kernel: str) -> None:
    decomposition = pytest.importorskip("sklearn.decomposition", reason="scikit-learn is not installed")
    model, x = small(dtype=torch.float64), image(dtype=torch.float64)
    a, _ = layer_values(model, model.body, x, lambda out: out[:, 1])
    found = fastsal.KPCACAM(model, "body", kernel=kernel).attribute(x, **RAW)
    for each, value in zip(found[:, 0], a, strict=True):
        matrix = value.flatten(1).T.numpy()
        expected = decomposition.KernelPCA(1, kernel=kernel, eigen_solver="dense").fit_transform(
            matrix - matrix.mean(0)
        )
        np.testing.assert_allclose(each.flatten().numpy(), expected[:, 0], rtol=1e-6, atol=1e-8)


def test_shapley_cam_takes_half_the_curvature_off() -> None:
    model, x = small(dtype=torch.float64), image(dtype=torch.float64)
    explainer, target = fastsal.ShapleyCAM(model, "body"), fastsal.targets.Probability(1)
    found = explainer.attribute(x, target, **RAW)
    a, _ = layer_values(model, model.body, x, lambda out: out[:, 1])

    def score(value: Tensor) -> Tensor:
        return model.head(value.relu().flatten(2).mean(2)).softmax(1)[:, 1].sum()

    gradient, curved = torch.autograd.functional.vhp(score, a, a)[1], None
    curved = torch.autograd.functional.hvp(score, a, a)[1]
    gradient = torch.autograd.functional.jacobian(score, a)
    torch.testing.assert_close(found[:, 0], (spatial_mean(gradient - curved / 2) * a).sum(1), **CLOSE)
    flat = fastsal.ShapleyCAM(model, "last").attribute(x, 1, **RAW)  # the score is affine there
    torch.testing.assert_close(flat, fastsal.GradCAM(model, "last").attribute(x, 1, **RAW), **CLOSE)


def test_class_activation_map_is_the_classifiers_row() -> None:
    model, x = small(dtype=torch.float64), image(dtype=torch.float64)
    a, _ = layer_values(model, model.last, x, lambda out: out[:, 2])
    found = fastsal.CAM(model, "last").attribute(x, 2, **RAW)
    torch.testing.assert_close(found[:, 0], torch.einsum("c,bchw->bhw", model.head.weight[2], a).detach(), **CLOSE)
    with pytest.raises(ValueError, match=r"layer: CAM needs.*GradCAM"):
        fastsal.CAM(model, "body").attribute(x, 2)


def test_finer_cam_takes_the_rivals_off() -> None:
    model, x = small(dtype=torch.float64), image(dtype=torch.float64)

    def score(out: Tensor) -> Tensor:
        rivals = (out - out[:, 1:2]).abs().detach().argsort(1)[:, 1:3]
        return out[:, 1] - 0.7 * out.gather(1, rivals).mean(1)

    a, g = layer_values(model, model.body, x, score)
    found = fastsal.FinerCAM(model, "body", alpha=0.7, rivals=2).attribute(x, 1, **RAW)
    torch.testing.assert_close(found[:, 0], (spatial_mean(g) * a).sum(1), **CLOSE)
    with pytest.raises(ValueError, match="rivals: 4"):
        fastsal.FinerCAM(model, "body", rivals=4).attribute(x, 1)


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_full_gradients_add_up_to_the_score_and_to_the_map(dimensions: int) -> None:
    """Proposition 2: with the head's bias, input x gradient and bias x gradient are all of the score."""
    model, x = small(dimensions, dtype=torch.float64), image(dimensions, dtype=torch.float64)
    leaf = x.clone().requires_grad_()
    stem = model.stem(leaf)
    normed = model.norm(stem)
    body = model.body(normed.relu())
    score = model.head(body.relu().flatten(2).mean(2))[:, 1]
    gradients = torch.autograd.grad(score.sum(), [leaf, stem, normed, body])
    scale = model.norm.weight / (model.norm.running_var + model.norm.eps).sqrt()
    biases = [model.stem.bias, model.norm.bias - model.norm.running_mean * scale, model.body.bias]
    parts = [leaf * gradients[0]]
    parts += [
        bias.view(1, -1, *[1] * dimensions) * gradient for bias, gradient in zip(biases, gradients[1:], strict=True)
    ]
    total = sum(part.flatten(1).sum(1) for part in parts) + model.head.bias[1]
    torch.testing.assert_close(total, score, rtol=1e-9, atol=1e-9)
    expected: Any = 0
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[dimensions]
    for part in parts:
        flat = part.detach().abs().flatten(1)
        low, high = flat.amin(1, keepdim=True), flat.amax(1, keepdim=True)
        scaled = ((flat - low) / (high - low + 1e-6)).view_as(part).sum(1, keepdim=True)
        expected = expected + F.interpolate(scaled, x.shape[2:], mode=mode, align_corners=False)
    with unchanged(model, x):
        found = fastsal.FullGrad(model).attribute(x, 1, normalize=False)
    torch.testing.assert_close(found, expected, **CLOSE)


CAMS = [
    *FORMULAS,
    "EigenCAM",
    "EigenGradCAM",
    "KPCACAM",
    "ShapleyCAM",
    "FinerCAM",
    "RandomCAM",
    "ScoreCAM",
    "AblationCAM",
    "SmoothGradCAMPlusPlus",
    "CAM",
]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", [*CAMS, "FullGrad"])
def test_half_precision(name: str, dtype: torch.dtype) -> None:
    model, x = small(), image()
    arguments = () if name == "FullGrad" else ("last",)
    expected = getattr(fastsal, name)(model, *arguments).attribute(x, 1)
    found = getattr(fastsal, name)(small(dtype=dtype), *arguments).attribute(x.to(dtype), 1)
    assert found.dtype == dtype
    assert found.isfinite().all()
    # 8 or 11 bits in each of the activations, gradients and passes.
    assert (found.float() - expected).abs().mean() < (0.05 if dtype == torch.bfloat16 else 0.01)


@pytest.mark.parametrize("name", [*CAMS, "FullGrad"])
def test_frozen_models_and_every_mode_of_autograd(name: str) -> None:
    model, x = small(), image()
    arguments = () if name == "FullGrad" else ("last",)
    expected = getattr(fastsal, name)(model, *arguments).attribute(x, 1)
    model.requires_grad_(False)
    for context in (torch.no_grad(), torch.inference_mode(), torch.enable_grad()):
        with context:
            found = getattr(fastsal, name)(model, *arguments).attribute(x, 1)
        assert not found.requires_grad
        torch.testing.assert_close(found, expected)
    channels_last = small().to(memory_format=torch.channels_last)
    found = getattr(fastsal, name)(channels_last, *arguments).attribute(x.to(memory_format=torch.channels_last), 1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_augmented_maps_are_the_mean_of_six() -> None:
    model, x = small(dtype=torch.float64), image(dtype=torch.float64)
    explainer = fastsal.GradCAM(model, "last")
    total: Any = 0
    for factor in (0.9, 1.0, 1.1):
        total = total + explainer.attribute(factor * x, 1) + explainer.attribute(factor * x.flip(-1), 1).flip(-1)
    torch.testing.assert_close(explainer.attribute(x, 1, aug_smooth=True), total / 6, **CLOSE)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, x: fastsal.GradCAM(m, []), "layer: the list is empty"),
        (lambda m, x: fastsal.GradCAM(m, "last").attribute(x, 1, targets=[1]), "targets: given beside target"),
        (lambda m, x: fastsal.GradCAM(m, "last").attribute(x, targets=[]), "targets: the list is empty"),
        (lambda m, x: fastsal.GradCAM(m, "last").attribute(x, 1, fuse="sum"), "fuse: 'sum'"),
        (lambda m, x: fastsal.GradCAM(m, "last").attribute(x, 1, aug_smooth=True, upsample=False), "aug_smooth"),
        (
            lambda m, x: fastsal.GradCAM(m, "last", reshape_transform=lambda t: t[0]).attribute(x, 1),
            "reshape_transform",
        ),
        (lambda m, x: fastsal.ScoreCAM(m, "last").attribute(x, targets=[1, 2]), "targets: ScoreCAM"),
        (lambda m, x: fastsal.ScoreCAM(m, "last").attribute(x, 1, create_graph=True), "create_graph: ScoreCAM"),
        (lambda m, x: fastsal.ScoreCAM(m, "last").attribute(x, 1, perturbations_per_eval=0), "perturbations_per_eval"),
        (lambda m, x: fastsal.ISCAM(m, "last").attribute(x, 1, n_samples=0), "n_samples: 0 is below 1"),
        (lambda m, x: fastsal.SSCAM(m, "last").attribute(x, 1, stdevs=-1.0), "stdevs: -1.0 is not a finite number"),
        (lambda m, x: fastsal.SmoothGradCAMPlusPlus(m, "last").attribute(x, 1, stdevs="1"), "stdevs: str"),
        (lambda m, x: fastsal.RandomCAM(m, "last").attribute(x, seed=0.5), "seed: 0.5 is neither an int nor None"),
        (lambda m, x: fastsal.ScoreCAM(m, "last").attribute(x, 9), "target: 9"),
        (lambda m, x: fastsal.AblationCAM(m, "last").attribute(x, 1, create_graph=True), "create_graph: AblationCAM"),
        (lambda m, x: fastsal.KPCACAM(m, "last", kernel="poly"), "kernel: 'poly'"),
        (lambda m, x: fastsal.FullGrad(m).attribute(x[0, 0], 1), "inputs"),
        (lambda m, x: fastsal.LeGrad(m).attribute(x, 1), "no attention over patches"),
    ],
)
def test_refusals(call: Callable[[nn.Module, Tensor], Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        call(small(), image())


class TwoHeads(nn.Module):
    """A segmentation network with an auxiliary head that finishes last."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.c, self.d, self.aux = nn.Conv2d(3, 5, 3, padding=1), nn.Conv2d(5, 4, 1), nn.Conv2d(5, 4, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        a = self.c(x).relu()
        return {"out": self.d(a), "aux": self.aux(a)}


def test_outputs_with_names_and_several_heads() -> None:
    model, x, target = TwoHeads(), image(size=8), fastsal.targets.Segmentation(1)
    explainer = fastsal.GradCAM(model)
    assert explainer.attribute(x, target).shape == (3, 1, 8, 9)
    assert explainer.layer_names == ["c"]  # d is the map of scores
    assert fastsal.EigenCAM(model).attribute(x).shape == (3, 1, 8, 9)
    plain = lambda z: model(z)["out"][:, 1].sum((1, 2))  # noqa: E731
    for name, arguments in (("Occlusion", ((3, 4, 4), (3, 4, 4))), ("FeatureAblation", ()), ("Saliency", ())):
        options = {"feature_mask": torch.arange(72).view(1, 1, 8, 9) // 9} if name == "FeatureAblation" else {}
        found = getattr(fastsal, name)(model).attribute(x, *arguments, target=target, **options)
        expected = getattr(fastsal, name)(plain).attribute(x, *arguments, **options)
        torch.testing.assert_close(found, expected)
    rise = [fastsal.RISE(f).attribute(x, target=t, n_masks=6) for f, t in ((model, target), (plain, None))]
    torch.testing.assert_close(*rise)

    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = small()

        def forward(self, z: Tensor) -> dict[str, Tensor]:
            return {"logits": self.inner(z)}

    for method in ("rise", "occlusion", "gradcam", "saliency"):
        options = {"n_masks": 6} if method == "rise" else {}
        found = fastsal.explain(Named(), x, method, **options).maps[method]
        torch.testing.assert_close(found, fastsal.explain(small(), x, method, **options).maps[method])


def test_targets_that_a_method_cannot_take() -> None:
    model, x = small(), image()
    with pytest.raises(ValueError, match="target: FinerCAM"):
        fastsal.FinerCAM(model, "body", rivals=1).attribute(x, fastsal.targets.Probability(1))
    by_index = fastsal.FinerCAM(model, "body", rivals=1).attribute(x, 1)
    assert torch.equal(fastsal.FinerCAM(model, "body", rivals=1).attribute(x, fastsal.targets.Logit(1)), by_index)
    with pytest.raises(ValueError, match="target: 9 is out of range"):
        fastsal.GradCAM(model, "body").attribute(x, fastsal.targets.Probability(9))
    with pytest.raises(ValueError, match="aug_smooth"):
        fastsal.GradCAM(model, "body").attribute(x, fastsal.targets.Boxes([1], [[0, 0, 1, 1]]), aug_smooth=True)
    assert fastsal.CAM(model, "last").attribute(x, 1, create_graph=True).requires_grad


def test_augmentation_mirrors_the_mask_of_a_target() -> None:
    layer = nn.Conv2d(1, 1, 1, bias=False)
    nn.init.ones_(layer.weight)
    model = nn.Sequential(layer, nn.Identity())
    target = fastsal.targets.Segmentation(0, (torch.arange(16) < 4).expand(16, 16))
    found = fastsal.HiResCAM(model, "0").attribute(torch.ones(1, 1, 16, 16), target, aug_smooth=True)
    torch.testing.assert_close(found[0, 0], (torch.arange(16) < 4).float().expand(16, 16))
