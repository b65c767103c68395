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
from tests.explainers.networks import image, small, unchanged
from tests.explainers.transformers import STYLES, ChannelsLast, transformer

CLOSE = {"rtol": 1e-9, "atol": 1e-9}
RAW: dict[str, Any] = {"relu_attributions": False, "upsample": False, "normalize": False}


def layer_values(
    model: nn.Module, layer: nn.Module, x: Tensor, score: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """(A, G) by autograd through the whole model."""
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        kept.append(output)
        return output.clone()

    handle = layer.register_forward_hook(keep)
    try:
        output = model(x.clone().requires_grad_())
    finally:
        handle.remove()
    return kept[0].detach(), torch.autograd.grad(score(output).sum(), kept[0])[0]


def spatial_mean(t: Tensor) -> Tensor:
    return t.flatten(2).mean(2).reshape(*t.shape[:2], *[1] * (t.dim() - 2))


def spatial_sum(t: Tensor) -> Tensor:
    return spatial_mean(t) * t.shape[2:].numel()


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


def upsampled(a: Tensor, size: torch.Size) -> Tensor:
    maps = F.interpolate(a, size, mode="bilinear", align_corners=False)
    low, high = maps.flatten(2).amin(2)[..., None, None], maps.flatten(2).amax(2)[..., None, None]
    return (maps - low) / (high - low + 1e-8)


@pytest.mark.parametrize("rows", [None, 1, 4, 100])
def test_score_cams_scores(rows: int | None) -> None:
    model, x = small(dtype=torch.float64), image(dtype=torch.float64)
    target = [2, 0, 3]
    a, _ = layer_values(model, model.last, x, lambda out: out[:, 0])
    masks = upsampled(a, x.shape[2:])

    def weighted(scores: Tensor) -> Tensor:
        return (scores.softmax(1)[..., None, None] * a).sum(1)

    def scores(share: float) -> Tensor:
        each = [model(x * share * masks[:, c : c + 1]).detach()[range(3), target] for c in range(6)]
        return torch.stack(each, 1)

    found = fastsal.ScoreCAM(model, "last").attribute(x, target, perturbations_per_eval=rows, **RAW)
    torch.testing.assert_close(found[:, 0], weighted(scores(1)), **CLOSE)
    found = fastsal.ISCAM(model, "last").attribute(x, target, perturbations_per_eval=rows, n_samples=3, **RAW)
    torch.testing.assert_close(found[:, 0], weighted((scores(1 / 3) + scores(2 / 3) + scores(1)) / 3), **CLOSE)
    noise: dict[str, Any] = {"n_samples": 3, "stdevs": 0.5, "seed": 4}
    found = fastsal.SSCAM(model, "last").attribute(x, target, perturbations_per_eval=rows, **noise, **RAW)
    each = []
    for c in range(6):
        noisy = fastsal.ops.noise.batch(masks[:, c : c + 1], 0, 3, std=0.5, seed=4 + c).unflatten(0, (3, 3))
        each.append(sum(model(x * noisy[n]).detach()[range(3), target] for n in range(3)) / 3)
    torch.testing.assert_close(found[:, 0], weighted(torch.stack(each, 1)), **CLOSE)


@pytest.mark.parametrize("rows", [None, 1, 4])
@pytest.mark.parametrize("layer", ["last", "body", "act", "stem"])
def test_ablation_cams_shares(layer: str, rows: int | None) -> None:
    """Behind ``last`` all is affine; before it the tail runs."""
    model, x = small(dtype=torch.float64, in_place=True), image(dtype=torch.float64)
    target, part = [2, 0, 3], getattr(model, layer)
    a, _ = layer_values(model, part, x, lambda out: out[:, 0])
    clean = model(x)[range(3), target]
    shares = []
    for c in range(a.shape[1]):

        def ablate(_module: nn.Module, _args: Any, output: Tensor, c: int = c) -> Tensor:
            output = output.clone()
            output[:, c] = 0
            return output

        handle = part.register_forward_hook(ablate)
        shares.append((clean - model(x)[range(3), target]) / clean)
        handle.remove()
    weights = torch.stack(shares, 1)[..., None, None].detach()
    with unchanged(model, x):
        found = fastsal.AblationCAM(model, layer).attribute(x, target, perturbations_per_eval=rows, **RAW)
    torch.testing.assert_close(found[:, 0], (weights * a).sum(1), **CLOSE)


def test_ablation_runs_the_tail_alone() -> None:
    model, x = small(), image(batch=1)
    counts = {"stem": 0, "body": 0}
    for name in counts:
        original = getattr(model, name).forward

        def counted(value: Tensor, name: str = name, original: Any = original) -> Tensor:
            counts[name] += value.shape[0]
            return original(value)

        getattr(model, name).forward = counted
    fastsal.AblationCAM(model, "act").attribute(x, 1)
    assert counts["body"] >= 5
    assert counts["stem"] == 2  # for the activations, and for what is kept before the layer
    fastsal.AblationCAM(model, "last").attribute(x, 1)
    assert counts["stem"] == 3


def test_smooth_grad_cam_plus_plus() -> None:
    model, x = small(dtype=torch.float64), image(dtype=torch.float64)
    target = fastsal.targets.Probability(1)
    found = [
        fastsal.SmoothGradCAMPlusPlus(model, "body").attribute(
            x, target, n_samples=5, stdevs=0.2, seed=3, perturbations_per_eval=rows, **RAW
        )
        for rows in (None, 1, 2)
    ]
    a, _ = layer_values(model, model.body, x, lambda out: out[:, 0])
    noisy = fastsal.ops.noise.batch(x, 0, 5, std=0.2, seed=3).unflatten(0, (5, 3))
    g = torch.stack([layer_values(model, model.body, each, lambda out: out.softmax(1)[:, 1])[1] for each in noisy])
    second, third = (g**2).mean(0), (g**3).mean(0)
    alpha = second / (2 * second + spatial_sum(a) * third + 1e-6)
    expected = (spatial_sum(alpha * g.mean(0).relu()) * a).sum(1)
    for each in found:
        torch.testing.assert_close(each[:, 0], expected, **CLOSE)


def test_random_cam_is_drawn_from_its_seed() -> None:
    model, x = small(), image()
    maps = [fastsal.RandomCAM(model, "last").attribute(x, seed=seed, **RAW) for seed in (0, 0, 1)]
    assert torch.equal(maps[0], maps[1])
    assert not torch.equal(maps[0], maps[2])


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


@pytest.mark.parametrize("extra", [0, 1, 5])
@pytest.mark.parametrize("shape", [(16, 16), (16, 24)])
def test_tokens_become_a_grid(extra: int, shape: tuple[int, int], caplog: pytest.LogCaptureFixture) -> None:
    """The default layer is what the last attention reads: behind it no patch counts, where a token classifies."""
    model, x = transformer(extra).double(), torch.randn(2, 3, *shape, dtype=torch.float64)
    explainer = fastsal.GradCAM(model)
    with caplog.at_level("INFO", "fastsal"):
        found = explainer.attribute(x, 1, **RAW)
        explainer.attribute(x, 1)
    expected = "blocks.1.norm1" if extra else "norm"
    assert explainer.layer_names == [expected]
    assert caplog.messages == [f"layer {expected} [8, {shape[0] // 4}, {shape[1] // 4}], by default"]
    a, g = layer_values(model, model.get_submodule(expected), x, lambda out: out[:, 1])
    a, g = (t[:, extra:].mT.unflatten(2, (shape[0] // 4, shape[1] // 4)) for t in (a, g))
    torch.testing.assert_close(found[:, 0], (spatial_mean(g) * a).sum(1), **CLOSE)

    def reshape(value: Tensor) -> Tensor:
        return value[:, extra:].mT.unflatten(2, (shape[0] // 4, shape[1] // 4))

    named = fastsal.GradCAM(model, expected, reshape_transform=reshape)
    torch.testing.assert_close(named.attribute(x, 1, **RAW), found, **CLOSE)
    assert explainer.attribute(x, 1).shape == (2, 1, *shape)
    ablated = fastsal.AblationCAM(model, "blocks.0").attribute(x, 1, **RAW)
    assert ablated.shape == found.shape
    assert fastsal.ScoreCAM(model, "blocks.0").attribute(x, 1).isfinite().all()


def test_channels_last_layers() -> None:
    torch.manual_seed(0)
    model, x = ChannelsLast().double().eval(), torch.randn(2, 3, 16, 24, dtype=torch.float64)
    explainer = fastsal.LayerCAM(model)
    found = explainer.attribute(x, 1, **RAW)
    assert explainer.layer_names == ["norm"]
    a, g = (t.movedim(-1, 1) for t in layer_values(model, model.norm, x, lambda out: out[:, 1]))
    torch.testing.assert_close(found[:, 0], (g.relu() * a).sum(1), **CLOSE)


@pytest.mark.parametrize("extra", [0, 1, 5])
def test_le_grad_is_the_same_for_every_way_to_write_attention(extra: int) -> None:
    x = torch.randn(2, 3, 16, 24)
    maps = [fastsal.LeGrad(transformer(extra, style)).attribute(x, 1, upsample=False) for style in STYLES]
    assert maps[0].shape == (2, 1, 4, 6)
    torch.testing.assert_close(maps[1], maps[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(maps[2], maps[0], rtol=1e-4, atol=1e-4)
    frozen = transformer(extra).requires_grad_(False)
    torch.testing.assert_close(fastsal.LeGrad(frozen).attribute(x, 1, upsample=False), maps[0], rtol=1e-4, atol=1e-4)


def test_le_grad_is_the_rectified_gradient_by_attention() -> None:
    """Equations 5 to 8, with each block's weights read off a block written here."""
    model, x = transformer(1, "plain").double(), torch.randn(2, 3, 16, 16, dtype=torch.float64)
    kept = []
    tokens = model.patch(x.clone().requires_grad_()).flatten(2).mT
    tokens = torch.cat([model.tokens.expand(2, -1, -1), tokens], 1)
    for block in model.blocks:
        whole = block.attn.whole
        joint = F.linear(block.norm1(tokens), whole.in_proj_weight, whole.in_proj_bias)
        query, key, value = (part.unflatten(2, (2, -1)).transpose(1, 2) for part in joint.chunk(3, 2))
        kept.append((query @ key.mT / 2).softmax(-1))
        tokens = tokens + whole.out_proj((kept[-1] @ value).transpose(1, 2).flatten(2))
        tokens = tokens + block.mlp(block.norm2(tokens))
    score = model.head(model.norm(tokens)[:, 0])[:, 1].sum()
    gradients = torch.autograd.grad(score, kept)
    expected = torch.stack([g.relu().mean((1, 2))[:, 1:] for g in gradients]).mean(0).view(2, 1, 4, 4)
    found = fastsal.LeGrad(model).attribute(x, 1, upsample=False, normalize=False)
    torch.testing.assert_close(found, expected, **CLOSE)
    last = fastsal.LeGrad(model).attribute(x, 1, upsample=False, normalize=False, last_layers=1)
    torch.testing.assert_close(last, gradients[1].relu().mean((1, 2))[:, 1:].reshape(2, 1, 4, 4), **CLOSE)


def test_le_grad_leaves_windows_out_and_reads_the_default_multi_head_attention() -> None:
    class Windows(nn.Module):
        def __init__(self, whole: bool) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.p, self.h, self.whole = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 4), whole
            self.a = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            t = self.p(x).flatten(2).mT  # 64 patches
            parts = t if self.whole else t.reshape(-1, 16, 8)
            mixed, weights = self.a(parts, parts, parts)
            assert weights.shape[-1] == parts.shape[1]
            return self.h(mixed.reshape(t.shape).mean(1))

    x = torch.randn(2, 3, 32, 32)
    assert fastsal.LeGrad(Windows(True)).attribute(x, 1, upsample=False).shape == (2, 1, 8, 8)
    with pytest.raises(ValueError, match="no attention over patches"):
        fastsal.LeGrad(Windows(False)).attribute(x, 1)
    with pytest.raises(ValueError, match="last_layers: 0"):
        fastsal.LeGrad(Windows(True)).attribute(x, 1, last_layers=0)


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
    assert explainer.layer_names == ["d"]
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
