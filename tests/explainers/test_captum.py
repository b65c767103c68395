"""The same numbers as Captum 0.9.0, as installed from PyPI.

Captum rounds Integrated Gradients' weights to float32 and returns Occlusion in float32 whatever the input's dtype, so
those comparisons allow float32's rounding of values of order 1; the others are float64 to the last digits.
"""

from __future__ import annotations

from typing import Any

import captum.attr as captum
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fastsal
from tests.explainers.networks import Functional, Modular, residual

FLOAT32 = {"rtol": 1e-6, "atol": 1e-7}
EXACT = {"rtol": 1e-10, "atol": 1e-12}

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def inputs(dimensions: int = 2, examples: int = 3) -> Tensor:
    return torch.randn(examples, 2, *[9, 11, 7][:dimensions], dtype=torch.float64)


def table() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(7, 12), nn.ReLU(), nn.Linear(12, 5), nn.Softplus()).double()


class Pair(nn.Module):
    """Two inputs of different shapes, an additional argument per example and a number."""

    def __init__(self) -> None:
        super().__init__()
        self.image = residual()
        self.row = table()

    def forward(self, image: Tensor, row: Tensor, scale: Tensor | None = None, power: int = 1) -> Tensor:
        out = self.image(image).sigmoid() * self.row(row) ** power
        return out if scale is None else out * scale[:, None]


TARGETS = [
    2,
    -1,
    np.int64(2),
    (3,),
    torch.tensor(1),
    torch.tensor([4]),
    torch.tensor([1, 0, 4]),
    [1, 0, 4],
    [(1,), (0,), (4,)],
]


@pytest.mark.parametrize("target", TARGETS, ids=repr)
def test_saliency_targets(target: Any) -> None:
    model, x = residual(), inputs()
    theirs = int(target) if isinstance(target, np.integer) else target
    torch.testing.assert_close(
        fastsal.Saliency(model).attribute(x, target), captum.Saliency(model).attribute(x, theirs), **EXACT
    )


@pytest.mark.parametrize("dimensions", [1, 2, 3])
@pytest.mark.parametrize("name", ["Saliency", "GuidedBackprop", "Deconvolution"])
@pytest.mark.parametrize("inplace", [True, False])
def test_one_backward_pass(name: str, dimensions: int, inplace: bool) -> None:
    model, x = residual(dimensions, inplace=inplace), inputs(dimensions)
    if name != "Saliency" and inplace:
        # Captum's hooks refuse in-place ReLUs of a residual network, so it gets the same network without.
        other = residual(dimensions, inplace=False)
        expected = getattr(captum, name)(other).attribute(x, [0, 3, 1])
    else:
        expected = getattr(captum, name)(model).attribute(x, [0, 3, 1])
    torch.testing.assert_close(getattr(fastsal, name)(model).attribute(x, [0, 3, 1]), expected, **EXACT)


def test_saliency_signed_and_third_positional() -> None:
    model, x = residual(), inputs()
    torch.testing.assert_close(
        fastsal.Saliency(model).attribute(x, 1, False), captum.Saliency(model).attribute(x, 1, False), **EXACT
    )


@pytest.mark.parametrize(
    "method", ["riemann_right", "riemann_left", "riemann_middle", "riemann_trapezoid", "gausslegendre"]
)
@pytest.mark.parametrize("multiply", [True, False])
def test_integrated_gradients(method: str, multiply: bool) -> None:
    model, x = residual(), inputs()
    arguments = (x, 0.3, [0, 3, 1], None, 9, method)
    got, delta = fastsal.IntegratedGradients(model, multiply).attribute(*arguments, return_convergence_delta=True)
    expected, wanted = captum.IntegratedGradients(model, multiply).attribute(*arguments, return_convergence_delta=True)
    torch.testing.assert_close(got, expected, **FLOAT32)
    torch.testing.assert_close(delta, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "baseline",
    [None, 0, 0.5, torch.full((1, 2, 1, 1), 0.2, dtype=torch.float64), torch.randn(3, 2, 9, 11, dtype=torch.float64)],
    ids=["none", "int", "float", "broadcast", "tensor"],
)
def test_baselines(baseline: Any) -> None:
    model, x = residual(), inputs()
    torch.testing.assert_close(
        fastsal.IntegratedGradients(model).attribute(x, baseline, 1, n_steps=5),
        captum.IntegratedGradients(model).attribute(x, baseline, 1, n_steps=5),
        **FLOAT32,
    )
    torch.testing.assert_close(
        fastsal.Occlusion(model).attribute(x, (2, 4, 5), (2, 3, 2), baseline, 1).float(),
        captum.Occlusion(model).attribute(x, (2, 4, 5), (2, 3, 2), baseline, 1),
        **FLOAT32,
    )


@pytest.mark.parametrize(
    ("window", "strides"), [((2, 3, 3), None), ((1, 4, 5), (1, 3, 4)), ((2, 9, 11), 2), ((2, 3, 4), (2, 2, 4))]
)
@pytest.mark.parametrize("evaluations", [None, 1, 7])
def test_occlusion_geometry(window: Any, strides: Any, evaluations: int | None) -> None:
    model, x = residual(), inputs(examples=2)
    got = fastsal.Occlusion(model).attribute(x, window, strides, target=[4, 2], perturbations_per_eval=evaluations)
    expected = captum.Occlusion(model).attribute(x, window, strides, target=[4, 2], perturbations_per_eval=3)
    assert got.dtype == torch.float64
    torch.testing.assert_close(got.float(), expected, **FLOAT32)


@pytest.mark.parametrize("dimensions", [1, 3])
def test_occlusion_series_and_volume(dimensions: int) -> None:
    model, x = residual(dimensions), inputs(dimensions, examples=2)
    window = (2, *[3] * dimensions)
    got = fastsal.Occlusion(model).attribute(x, window, 2, target=3)
    torch.testing.assert_close(got.float(), captum.Occlusion(model).attribute(x, window, 2, target=3), **FLOAT32)


def test_occlusion_of_all_outputs_of_tables_and_of_integers() -> None:
    model, x = table(), torch.randn(4, 7, dtype=torch.float64)
    got = fastsal.Occlusion(model).attribute(x, (2,), (1,))
    assert got.shape == (20, 7)
    torch.testing.assert_close(got.float(), captum.Occlusion(model).attribute(x, (2,), (1,)), **FLOAT32)
    embedded = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(24, 3))
    tokens = torch.randint(1, 9, (2, 6))
    got = fastsal.Occlusion(embedded).attribute(tokens, (1,), target=1)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, captum.Occlusion(embedded).attribute(tokens, (1,), target=1), **FLOAT32)


def test_occlusion_of_one_score_per_call() -> None:
    model, x = table(), torch.randn(4, 7, dtype=torch.float64)
    for forward in (lambda v: model(v).sum(), lambda v: float(model(v).sum())):
        got = fastsal.Occlusion(forward).attribute(x, (2,), (1,))
        torch.testing.assert_close(got.float(), captum.Occlusion(forward).attribute(x, (2,), (1,)), **FLOAT32)


@pytest.mark.parametrize(
    "additional", [(None, 2), (torch.tensor([1.0, 2.0, -1.0], dtype=torch.float64), 3)], ids=["plain", "tensor"]
)
def test_several_inputs_and_arguments(additional: tuple[Any, ...]) -> None:
    model = Pair()
    pair = (inputs(), torch.randn(3, 7, dtype=torch.float64))
    target = [1, 0, 4]
    for got, expected in zip(
        fastsal.Saliency(model).attribute(pair, target, additional_forward_args=additional),
        captum.Saliency(model).attribute(pair, target, additional_forward_args=additional),
        strict=True,
    ):
        torch.testing.assert_close(got, expected, **EXACT)
    for internal in (None, 1, 7):
        for got, expected in zip(
            fastsal.IntegratedGradients(model).attribute(
                pair, (0.1, 0.0), target, additional, 6, internal_batch_size=internal
            ),
            captum.IntegratedGradients(model).attribute(pair, (0.1, 0.0), target, additional, 6),
            strict=True,
        ):
            torch.testing.assert_close(got, expected, **FLOAT32)
    geometry: dict[str, Any] = {"sliding_window_shapes": ((2, 4, 4), (2,)), "strides": ((2, 3, 3), 1)}
    for got, expected in zip(
        fastsal.Occlusion(model).attribute(pair, **geometry, target=target, additional_forward_args=additional),
        captum.Occlusion(model).attribute(pair, **geometry, target=target, additional_forward_args=additional),
        strict=True,
    ):
        torch.testing.assert_close(got.float(), expected, **FLOAT32)


@pytest.mark.parametrize(("dimensions", "mode"), [(1, "linear"), (2, "bilinear"), (3, "trilinear")])
@pytest.mark.parametrize("layer", ["stem", "body", "down"])
def test_gradcam(dimensions: int, mode: str, layer: str) -> None:
    """The layer ``body`` is followed by an in-place ReLU: Captum gets the network without."""
    model, plain, x = residual(dimensions), residual(dimensions, inplace=False), inputs(dimensions)
    module = plain.get_submodule(layer)
    raw = captum.LayerGradCam(plain, module).attribute(x, [0, 3, 1])
    got = fastsal.GradCAM(model, layer).attribute(
        x, [0, 3, 1], relu_attributions=False, upsample=False, normalize=False
    )
    torch.testing.assert_close(got, raw.detach(), **EXACT)
    rectified = captum.LayerGradCam(plain, module).attribute(x, [0, 3, 1], relu_attributions=True)
    resized = captum.LayerAttribution.interpolate(rectified, tuple(x.shape[2:]), mode).detach()
    got = fastsal.GradCAM(model, model.get_submodule(layer)).attribute(x, [0, 3, 1], normalize=False)
    torch.testing.assert_close(got, resized, **EXACT)
    low, high = resized.flatten(1).amin(1), resized.flatten(1).amax(1)
    shape = (3, *[1] * (dimensions + 1))
    scaled = (resized - low.view(shape)) / (high - low + 1e-8).view(shape)
    torch.testing.assert_close(fastsal.GradCAM(model, layer).attribute(x, [0, 3, 1]), scaled, **EXACT)


@pytest.mark.parametrize("name", ["GuidedBackprop", "Deconvolution"])
def test_functional_relus_count_like_modules(name: str) -> None:
    functional = Functional().double()
    x = inputs()
    expected = getattr(captum, name)(Modular(functional)).attribute(x, 1)
    torch.testing.assert_close(getattr(fastsal, name)(functional).attribute(x, 1), expected, **EXACT)


def test_ours_go_inside_captums_noise_tunnel() -> None:
    model, x = residual(), inputs()
    for ours, theirs in (
        (fastsal.Saliency, captum.Saliency),
        (fastsal.IntegratedGradients, captum.IntegratedGradients),
    ):
        results = []
        for method in (ours, theirs):
            torch.manual_seed(5)
            results.append(captum.NoiseTunnel(method(model)).attribute(x, nt_samples=3, stdevs=0.2, target=[0, 3, 1]))
        torch.testing.assert_close(results[0], results[1], **FLOAT32)


def test_a_function_without_parameters_and_bound_methods() -> None:
    model, x = residual(), inputs(examples=1)
    torch.testing.assert_close(
        fastsal.Saliency(model.forward).attribute(x, 1), captum.Saliency(model).attribute(x, 1), **EXACT
    )
    assert (fastsal.Occlusion(lambda: torch.ones(1)).attribute(x, (2, 3, 3), 2) == 0).all()
