"""fastsal.compat.torchcam against torchcam's formulas, written here in float64, and against the package."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastsal.compat.torchcam import methods
from fastsal.compat.torchcam.methods.core import Extractor
from tests.explainers.networks import Small, image, small, unchanged

LAYERS = ["body", "stem"]
CLASSES = [2, 0, 3]
CLOSE = {"rtol": 1e-7, "atol": 1e-8}
GRADIENT = ["GradCAM", "GradCAMpp", "XGradCAM", "LayerCAM"]
ALL = methods.__all__
RUN_AGAIN = ["ScoreCAM", "SSCAM", "ISCAM", "SmoothGradCAMpp"]


def make(name: str, model: nn.Module, layers: Any = "body", **options: Any) -> Any:
    return getattr(methods, name)(model, layers, **options)


def mean(a: Tensor) -> Tensor:
    return a.flatten(2).mean(2).reshape(*a.shape[:2], *[1] * (a.dim() - 2))


def total(a: Tensor) -> Tensor:
    return mean(a) * a[0, 0].numel()


FORMULAS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "GradCAM": lambda a, g: mean(g) * a,
    "GradCAMpp": lambda a, g: total(torch.where(g == 0, 0, g**2 / (2 * g**2 + total(a) * g**3 + 1e-6)) * g.relu()) * a,
    "XGradCAM": lambda a, g: total(g * a) / (total(a) + 1e-7) * a,
    "LayerCAM": lambda a, g: g.relu() * a,
}


def minmax(maps: Tensor) -> Tensor:
    low = maps.flatten(1).amin(1).reshape(-1, *[1] * (maps.dim() - 1))
    high = maps.flatten(1).amax(1).reshape(-1, *[1] * (maps.dim() - 1))
    return (maps - low) / (high - low + 1e-8)


def layer_values(
    model: nn.Module, layers: list[str], x: Tensor, score: Callable[[Tensor], Tensor] | None = None
) -> list[tuple[Tensor, Tensor]]:
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
    chosen = output[range(3), CLASSES] if score is None else score(output)
    gradients = torch.autograd.grad(chosen.sum(), [kept[name] for name in layers])
    return [(kept[name].detach(), g) for name, g in zip(layers, gradients, strict=True)]


def setting(dimensions: int = 2) -> tuple[Small, Tensor]:
    return small(dimensions, dtype=torch.float64), image(dimensions, dtype=torch.float64)


@pytest.mark.parametrize("dimensions", [1, 2, 3])
@pytest.mark.parametrize("name", GRADIENT)
def test_gradient_methods(name: str, dimensions: int) -> None:
    model, x = setting(dimensions)
    expected = [FORMULAS[name](a, g).sum(1).relu() for a, g in layer_values(model, LAYERS, x)]
    with make(name, model, LAYERS) as extractor:
        scores = model(x)
        raw = extractor(CLASSES, scores, normalized=False, retain_graph=True)
        maps = extractor(CLASSES, scores)
    for found, scaled, wanted in zip(raw, maps, expected, strict=True):
        assert not found.requires_grad
        torch.testing.assert_close(found, wanted, **CLOSE)
        torch.testing.assert_close(scaled, minmax(wanted), **CLOSE)


@pytest.mark.parametrize("name", GRADIENT)
def test_functions_as_targets(name: str) -> None:
    model, x = setting()
    ((a, g),) = layer_values(model, ["body"], x, lambda out: out.softmax(1)[:, 1])
    wanted = minmax(FORMULAS[name](a, g).sum(1).relu())
    with make(name, model) as extractor:
        for targets in (lambda row: row.softmax(0)[1], [lambda row: row.softmax(0)[1]] * 3):
            (found,) = extractor(scores=model(x), targets=targets)
            torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


def test_cam() -> None:
    model, x = setting()
    ((a, _),) = layer_values(model, ["last"], x)
    wanted = (model.head.weight.detach()[CLASSES][:, :, None, None] * a).sum(1)
    for classifier in (None, "head", model.head):
        with methods.CAM(model, "last", classifier) as extractor, torch.inference_mode():
            model(x)
            (raw,), (found,) = extractor(CLASSES, normalized=False), extractor(CLASSES)
        torch.testing.assert_close(raw, wanted, **CLOSE)
        torch.testing.assert_close(found, minmax(wanted), **CLOSE)


def masked_scores(model: nn.Module, a: Tensor, x: Tensor, factors: list[float]) -> Tensor:
    """Mean score of the inputs times factors times each channel, scaled at its resolution and then resized."""
    mode = {3: "linear", 4: "bilinear", 5: "trilinear"}[x.dim()]
    masks = F.interpolate(minmax(a.flatten(0, 1)).unflatten(0, a.shape[:2]), x.shape[2:], mode=mode)
    scores = torch.zeros(a.shape[:2], dtype=x.dtype)
    with torch.no_grad():
        for (row, channel), factor in itertools.product(np.ndindex(*scores.shape), factors):
            output = model(factor * x[row : row + 1] * masks[row, channel])
            scores[row, channel] += output[0, CLASSES[row]] / len(factors)
    return scores


@pytest.mark.parametrize("dimensions", [1, 2, 3])
@pytest.mark.parametrize("name", ["ScoreCAM", "ISCAM", "SSCAM"])
def test_score_methods(name: str, dimensions: int) -> None:
    """IS-CAM's shares are i / n; without noise SS-CAM is Score-CAM."""
    model, x = setting(dimensions)
    options = {"ISCAM": {"num_samples": 4}, "SSCAM": {"num_samples": 2, "std": 0.0}}.get(name, {})
    factors = [0.25, 0.5, 0.75, 1.0] if name == "ISCAM" else [1.0]
    wanted = []
    for a, _ in layer_values(model, LAYERS, x):
        weights = masked_scores(model, a, x, factors).softmax(1)
        wanted.append((weights.reshape(*weights.shape, *[1] * dimensions) * a).sum(1).relu())
    for batch_size in (None, 5):
        with make(name, model, LAYERS, batch_size=batch_size, **options) as extractor:
            with torch.no_grad():
                model(x)
            for found, expected in zip(extractor(CLASSES), wanted, strict=True):
                torch.testing.assert_close(found, minmax(expected), **CLOSE)


def test_noise_comes_from_the_global_generator() -> None:
    model, x = setting()
    for name in ("SSCAM", "SmoothGradCAMpp"):
        with make(name, model) as extractor:
            model(x)
            maps = []
            for seed in (0, 0, 1):
                torch.manual_seed(seed)
                maps += extractor(CLASSES, normalized=False)
        assert torch.equal(maps[0], maps[1])
        assert not torch.equal(maps[0], maps[2])


def test_smooth_grad_cam_pp() -> None:
    """Without noise it is Grad-CAM++."""
    model, x = setting()
    with make("SmoothGradCAMpp", model, LAYERS, std=0.0) as extractor:
        with torch.no_grad():
            model(x)
        found = extractor(CLASSES, normalized=False)
    for each, (a, g) in zip(found, layer_values(model, LAYERS, x), strict=True):
        torch.testing.assert_close(each, FORMULAS["GradCAMpp"](a, g).sum(1).relu(), **CLOSE)


@pytest.mark.parametrize("base", ["GradCAM", "LayerCAM", "GradCAMpp"])
@pytest.mark.parametrize("comparison", [None, 1, [1], [[1, 3], [1, 2], [0, 1]]])
def test_finer_cam(base: str, comparison: Any) -> None:
    model, x = setting()
    scores = model(x).detach()
    compared = [[1]] * 3 if comparison in (1, [1]) else comparison
    if comparison is None:
        distance = (scores - scores[range(3), CLASSES][:, None]).abs()
        compared = distance.argsort(1)[:, 1:3].tolist()

    def contrast(out: Tensor) -> Tensor:
        return out[range(3), CLASSES] - 0.5 * out.gather(1, torch.tensor(compared)).mean(1)

    ((a, g),) = layer_values(model, ["body"], x, contrast)
    options = {"base_method": getattr(methods, base), "gamma": 0.5, "num_references": 2}
    with methods.FinerCAM(model, "body", **options) as extractor:
        (found,) = extractor(CLASSES, model(x), comparison)
    torch.testing.assert_close(found, minmax(FORMULAS[base](a, g).sum(1).relu()), **CLOSE)


@pytest.mark.parametrize("base", ["GradCAMpp", "LayerCAM"])
def test_refine_cam(base: str) -> None:
    model, x = setting()
    # Normalised by the base, and again where they are multiplied: the epsilon counts twice.
    maps = [minmax(minmax(FORMULAS[base](a, g).sum(1).relu())) for a, g in layer_values(model, LAYERS, x)]
    product = F.interpolate(maps[0][:, None], x.shape[2:], mode="bilinear")[:, 0] * maps[1]
    with methods.RefineCAM(model, LAYERS, base_method=getattr(methods, base)) as extractor:
        (found,) = extractor(CLASSES, model(x))
        (raw,) = extractor(CLASSES, model(x), normalized=False)
    torch.testing.assert_close(found, minmax(product), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(raw, product, rtol=1e-6, atol=1e-6)


def test_fusion() -> None:
    first, second = torch.rand(2, 3, 4), torch.rand(2, 6, 3)
    resized = [F.interpolate(each[:, None], (6, 4), mode="bilinear")[:, 0] for each in (first, second)]
    torch.testing.assert_close(methods.GradCAM.fuse_cams([first, second]), torch.maximum(*resized))
    resized = [F.interpolate(torch.tanh(2 * each)[:, None], (5, 5), mode="bilinear")[:, 0] for each in (first, second)]
    torch.testing.assert_close(methods.LayerCAM.fuse_cams([first, second], (5, 5)), torch.maximum(*resized))
    assert methods.LayerCAM.fuse_cams([first]) is first
    with pytest.raises(ValueError, match="cams: the list is empty"):
        methods.GradCAM.fuse_cams([])
    with pytest.raises(TypeError, match="cams: pass a list of tensors"):
        methods.GradCAM.fuse_cams(first)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [name for name in ALL if name != "CAM"])
def test_an_activation_in_place_changes_nothing(name: str) -> None:
    x, maps = image(dtype=torch.float64), []
    for in_place in (False, True):
        model = small(in_place=in_place, dtype=torch.float64)
        with make(name, model, ["norm", "body"]) as extractor:
            scores = model(x)
            torch.manual_seed(0)
            maps.append(extractor(CLASSES, scores))
    for first, second in zip(*maps, strict=True):
        torch.testing.assert_close(first, second, **CLOSE)


@pytest.mark.parametrize("name", ALL)
def test_the_model_stays_as_it_was(name: str) -> None:
    model, x = small().train(), image()
    model.norm.eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    with unchanged(model, x):
        with make(name, model, ["body"]) as extractor:
            scores = model(x)
            torch.manual_seed(0)
            (found,) = extractor(CLASSES, scores)
            assert found.device == x.device
            assert found.dtype == x.dtype
        with pytest.raises(AssertionError, match="the model has not run"):
            extractor(CLASSES, scores)
    other = small()
    with make(name, other, other.body) as extractor:
        scores = other(x)
        torch.manual_seed(0)
        torch.testing.assert_close(extractor(CLASSES, scores)[0], found, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_an_exception_inside(name: str) -> None:
    model, x = small().train(), image()

    def run() -> None:
        with make(name, model) as extractor:
            scores = model(x)
            if name in RUN_AGAIN:
                model.head.forward = failing
            elif name == "CAM":
                raise IndexError("an error")
            else:
                scores.register_hook(failing)  # called by the backward pass
            extractor(CLASSES, scores)

    before = [module.training for module in model.modules()]
    with pytest.raises(IndexError, match="an error"):
        run()
    vars(model.head).pop("forward", None)
    assert [module.training for module in model.modules()] == before
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def failing(*_: Any) -> Tensor:
    raise IndexError("an error")


def test_the_users_own_backward_pass_still_works() -> None:
    model, x = small(), image()
    with make("GradCAM", model) as extractor:
        scores = model(x)
        extractor(CLASSES, scores, retain_graph=True)
        scores.sum().backward()
    plain = small()
    plain(x).sum().backward()
    for parameter, expected in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, expected.grad)


def test_hooks_on_and_off() -> None:
    model, x = setting()
    extractor = make("GradCAM", model, enable_hooks=False)
    model(x)
    with pytest.raises(AssertionError, match="the model has not run"):
        extractor(CLASSES, model(x))
    extractor.enable_hooks()
    scores = model(x)
    extractor.disable_hooks()
    model(2 * x)
    (found,) = extractor(CLASSES, scores)
    extractor.remove_hooks()
    extractor.reset_hooks()
    assert not model.body._forward_hooks
    with make("GradCAM", model) as other:
        torch.testing.assert_close(found, other(CLASSES, model(x))[0])


def test_default_layer(caplog: pytest.LogCaptureFixture) -> None:
    model, x = setting()
    with methods.GradCAM(model, input_shape=(3, 8, 9)) as extractor:
        assert extractor.target_names == ["last"]
        assert "set to 'last'" in caplog.text
        assert extractor(1, model(x))[0].shape == (3, 4, 5)
        assert repr(extractor) == "GradCAM(target_layer=['last'])"


def test_tokens() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block, self.head = nn.Linear(6, 6), nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.block(x).tanh().mean(1))

    torch.manual_seed(0)
    model, x = Tokens().double(), torch.randn(3, 7, 6, dtype=torch.float64)
    ((a, g),) = layer_values(model, ["block"], x)
    a, g = (each[:, 1:].mT.unflatten(2, (2, 3)) for each in (a, g))
    with make("GradCAM", model, "block", reshape_transform=lambda t: t[:, 1:].mT.unflatten(2, (2, 3))) as extractor:
        (found,) = extractor(CLASSES, model(x))
    torch.testing.assert_close(found, minmax((mean(g) * a).sum(1).relu()), **CLOSE)


SAME = ["CAM", "GradCAM", "XGradCAM", "LayerCAM", "ScoreCAM", "FinerCAM", "RefineCAM"]
"""GradCAMpp and ISCAM are right here, SSCAM and SmoothGradCAMpp draw other noise."""


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("name", SAME)
def test_against_the_package(name: str, dimensions: int) -> None:
    theirs = pytest.importorskip("torchcam.methods", reason="torchcam is not installed")
    model, x = setting(dimensions)
    layers = ["last"] if name == "CAM" else ["last", "act"]
    results = []
    for package in (theirs, methods):
        options = {"base_method": package.LayerCAM} if name == "RefineCAM" else {}
        with getattr(package, name)(model, list(layers), **options) as extractor:
            cams = extractor(CLASSES, model(x))
            results.append([*cams, extractor.fuse_cams(cams)])
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_every_extractor_is_one() -> None:
    composed = ("FinerCAM", "RefineCAM")
    assert all(issubclass(getattr(methods, name), Extractor) == (name not in composed) for name in ALL)
