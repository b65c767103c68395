"""Every class that Captum has gives Captum 0.9.0's numbers, from the same constructor and attribute()."""

from __future__ import annotations

import inspect
import warnings
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from captum import attr
from torch import Tensor, nn

import fastsal
from tests.explainers.networks import Functional, TwoInputs, image, small

TOLERANCE: dict[torch.dtype, dict[str, float]] = {
    torch.float64: {"rtol": 1e-10, "atol": 1e-12},
    torch.float32: {"rtol": 2e-4, "atol": 2e-6},
}
NAMES = ["Saliency", "InputXGradient", "IntegratedGradients", "GuidedBackprop", "Deconvolution", "Occlusion"]
GRADIENT = NAMES[:5]
METHODS = ["gausslegendre", "riemann_left", "riemann_right", "riemann_middle", "riemann_trapezoid"]
TARGETS: list[Any] = [
    1,
    -1,
    (2,),
    torch.tensor(1),
    torch.tensor([3]),
    torch.tensor([0, 3, 1]),
    [2, 0, 3],
    [(1,), (0,), (2,)],
]


def both(name: str, model: Any, inputs: Any, **options: Any) -> tuple[Any, Any]:
    """(ours, Captum's) of one call."""
    if name == "Occlusion" and "sliding_window_shapes" not in options:
        options.setdefault("sliding_window_shapes", (3, *[3] * (inputs.dim() - 2)))
        options.setdefault("strides", (3, *[2] * (inputs.dim() - 2)))
    ours = getattr(fastsal, name)(model).attribute(inputs, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = getattr(attr, name)(model).attribute(inputs, **options)
    return ours, theirs


def check(found: Any, expected: Any, dtype: torch.dtype = torch.float32) -> None:
    assert isinstance(found, tuple) == isinstance(expected, tuple)
    pairs = zip(found, expected, strict=True) if isinstance(found, tuple) else [(found, expected)]
    for ours, theirs in pairs:
        assert ours.shape == theirs.shape
        torch.testing.assert_close(ours, theirs.detach().to(ours.dtype), **TOLERANCE[dtype])


@pytest.mark.parametrize("name", [*NAMES, "GradCAM"])
def test_arguments_of_captum_come_first_and_in_its_order(name: str) -> None:
    ours, theirs = getattr(fastsal, name), getattr(attr, "LayerGradCam" if name == "GradCAM" else name)
    taken = {"attribute_to_layer_input", "relu_attributions", "attr_dim_summation", "grad_kwargs"}
    expected = [p for p in inspect.signature(theirs.attribute).parameters if p not in taken]
    parameters = inspect.signature(ours.attribute).parameters
    assert list(parameters)[: len(expected)] == expected
    rest = list(parameters.values())[len(expected) :]
    assert all(parameter.kind is inspect.Parameter.KEYWORD_ONLY for parameter in rest)
    if name != "GradCAM":
        assert list(inspect.signature(ours).parameters) == list(inspect.signature(theirs).parameters)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dimensions", [1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_networks_of_one_to_three_dimensions(name: str, dimensions: int, dtype: torch.dtype) -> None:
    model, x = small(dimensions, seed=dimensions, dtype=dtype), image(dimensions, size=5, dtype=dtype)
    ours, theirs = both(name, model, x, target=[1, 3, 0])
    assert ours.dtype == dtype
    # Captum rounds these to float32 even in a float64 model: IG's weights, Occlusion's result.
    rounded = name in ("IntegratedGradients", "Occlusion")
    check(ours, theirs, torch.float32 if rounded else dtype)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_forms_of_target(name: str, target: Any) -> None:
    ours, theirs = both(name, small(), image(), target=target)
    check(ours, theirs)


@pytest.mark.parametrize("name", [*NAMES, "GradCAM"])
@pytest.mark.parametrize("target", [np.int64(2), np.int32(2), [np.int64(2)] * 3, (np.int64(2),)], ids=repr)
def test_numpy_integers_are_targets(name: str, target: Any) -> None:
    explainer, options = getattr(fastsal, name)(small()), {"sliding_window_shapes": (3, 3, 3)}
    options = options if name == "Occlusion" else {}
    ours = explainer.attribute(image(), target=target, **options)
    torch.testing.assert_close(ours, explainer.attribute(image(), target=2, **options))


@pytest.mark.parametrize("name", NAMES)
def test_outputs_of_more_dimensions(name: str) -> None:
    conv = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
    x = image(size=6)
    for target in [(1, 0, 1), [(1, 0, 1), (0, 1, 1), (0, 0, 2)]]:
        ours, theirs = both(name, conv, x, target=target)
        check(ours, theirs)


@pytest.mark.parametrize("name", NAMES)
def test_one_score_an_example_needs_no_target(name: str) -> None:
    model = small(classes=1)
    for forward in (model, nn.Sequential(model, nn.Flatten(0))):
        ours, theirs = both(name, forward, image())
        check(ours, theirs)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", GRADIENT)
def test_tuples_of_inputs_and_additional_arguments(name: str, seed: int) -> None:
    torch.manual_seed(seed)
    model, inputs = TwoInputs().eval(), (torch.randn(3, 3, 4), torch.randn(3, 5))
    shift = torch.randn(3, 8)
    for additional in (None, shift, (shift,), (shift, 0.5), (None, 2.0)):
        ours, theirs = both(name, model, inputs, target=[0, 1, 3], additional_forward_args=additional)
        check(ours, theirs)
    one = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 4))
    ours, theirs = both(name, one, inputs[1:], target=2)
    check(ours, theirs)  # a tuple of one comes back as one


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("steps", [2, 7, 50])
def test_quadrature_rules(method: str, steps: int) -> None:
    ours, theirs = both("IntegratedGradients", small(), image(), target=1, method=method, n_steps=steps)
    check(ours, theirs)


@pytest.mark.parametrize(
    "baselines",
    [None, 0, 0.25, torch.full((3, 3, 8, 9), 0.5), torch.full((1, 3, 8, 9), -0.5), torch.rand(1, 3, 1, 1)],
    ids=["none", "int", "float", "full", "one", "broadcast"],
)
@pytest.mark.parametrize("name", ["IntegratedGradients", "Occlusion"])
def test_forms_of_baseline(name: str, baselines: Any) -> None:
    ours, theirs = both(name, small(), image(), target=2, baselines=baselines)
    check(ours, theirs)


def test_integrated_gradients_of_tuples_with_delta() -> None:
    model, inputs = TwoInputs().eval(), (torch.randn(3, 3, 4), torch.randn(3, 5))
    for baselines in (None, (0.5, torch.randn(1, 5)), (torch.randn(3, 3, 4), 1)):
        options = {"target": [0, 1, 3], "baselines": baselines, "return_convergence_delta": True, "n_steps": 9}
        (ours, delta), (theirs, expected) = both("IntegratedGradients", model, inputs, **options)
        check(ours, theirs)
        torch.testing.assert_close(delta, expected, rtol=1e-3, atol=1e-5)


def test_integrated_gradients_in_parts_and_without_the_factor() -> None:
    model, x = small(), image()
    whole = fastsal.IntegratedGradients(model).attribute(x, target=1, n_steps=10)
    for rows in (1, 3, 7, 30, 1000):
        parts = fastsal.IntegratedGradients(model).attribute(x, target=1, n_steps=10, internal_batch_size=rows)
        torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-7)
    ours = fastsal.IntegratedGradients(model, multiply_by_inputs=False)
    theirs = attr.IntegratedGradients(model, multiply_by_inputs=False)
    assert not ours.multiplies_by_inputs
    check(ours.attribute(x, target=1), theirs.attribute(x, target=1))


def test_integrated_gradients_are_exact_in_float64() -> None:
    """sum(x ** 3) has the mean gradient x ** 2, which two Gauss points integrate without error."""
    x = torch.randn(4, 6, dtype=torch.float64)
    found = fastsal.IntegratedGradients(lambda z: (z**3).sum(1)).attribute(x, n_steps=2)
    torch.testing.assert_close(found, x**3, rtol=1e-13, atol=1e-13)


GEOMETRIES: list[tuple[Any, Any]] = [
    ((3, 3, 3), None),
    ((1, 2, 3), 1),
    ((3, 3, 3), (3, 2, 2)),
    ((3, 4, 5), (3, 3, 4)),
    ((2, 3, 3), (1, 3, 3)),
    ((3, 8, 9), (5, 9, 9)),
    ((1, 1, 1), None),
]


@pytest.mark.parametrize(("window", "stride"), GEOMETRIES, ids=str)
def test_occlusion_windows_that_overlap_and_hang_over(window: Any, stride: Any) -> None:
    options = {"sliding_window_shapes": window, "strides": stride, "target": [1, 3, 0]}
    ours, theirs = both("Occlusion", small(), image(), **options)
    check(ours, theirs)
    for count in (1, 2, 5, 1000):
        parts = fastsal.Occlusion(small()).attribute(image(), perturbations_per_eval=count, **options)
        torch.testing.assert_close(parts, ours, rtol=1e-5, atol=1e-6)


def test_occlusion_of_tuples_of_inputs() -> None:
    model, inputs = TwoInputs().eval(), (torch.randn(3, 3, 4), torch.randn(3, 5))
    for strides in (None, 1, (2, 1), ((1, 2), 2), ((2, 1), (1,))):
        for baselines in (None, (0.5, torch.randn(1, 5))):
            options = {"sliding_window_shapes": ((2, 2), (2,)), "strides": strides, "baselines": baselines}
            if strides == 1:  # Captum wants a tuple here; ours takes it for both inputs
                options["strides"] = (1, 1)
            ours, theirs = both(
                "Occlusion", model, inputs, target=1, additional_forward_args=torch.ones(3, 8), **options
            )
            check(ours, theirs)


def test_occlusion_of_several_and_of_shared_outputs() -> None:
    x = image(batch=2)
    model = small()
    for forward in (model, lambda z: model(z).sum(), lambda z: float(model(z).sum()), lambda z: model(z).sum(0)):
        ours, theirs = both("Occlusion", forward, x)
        check(ours, theirs)


def test_occlusion_of_integers() -> None:
    tokens = torch.randint(1, 9, (3, 6))
    table = nn.Embedding(9, 4)

    def forward(indices: Tensor) -> Tensor:
        assert indices.dtype == torch.int64
        return table(indices).sum(1)

    for baselines in (None, 2, torch.randint(0, 9, (1, 6))):
        options = {"sliding_window_shapes": (2,), "strides": (1,), "target": 1, "baselines": baselines}
        ours, theirs = both("Occlusion", forward, tokens, **options)
        assert ours.dtype == torch.float32
        check(ours, theirs)


@pytest.mark.parametrize("name", ["GuidedBackprop", "Deconvolution"])
@pytest.mark.parametrize("in_place", [False, True])
def test_every_form_of_relu_has_the_rule(name: str, in_place: bool) -> None:
    model = small(in_place=in_place)
    ours, theirs = both(name, model, image(), target=1)
    check(ours, theirs)
    functional = getattr(fastsal, name)(Functional(model)).attribute(image(), target=1)
    check(functional, theirs)
    torch.testing.assert_close(getattr(fastsal, name)(model).attribute(image(), target=1, abs=True), ours.abs())


@pytest.mark.parametrize("name", ["GuidedBackprop", "Deconvolution"])
def test_a_residual_that_is_read_after_an_in_place_relu(name: str) -> None:
    """The residual is the rectified value, as in the plain network; Captum's hooks copy and so change the network."""

    class Residual(nn.Module):
        def __init__(self, in_place: bool) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 3)
            self.relu = nn.ReLU(inplace=in_place)

        def forward(self, x: Tensor) -> Tensor:
            hidden = self.first(x)
            rectified = self.relu(hidden)
            return self.second(rectified + (hidden if self.relu.inplace else rectified))

    x = torch.randn(4, 6)
    check(*(getattr(fastsal, name)(Residual(in_place).eval()).attribute(x, target=1) for in_place in (True, False)))


@pytest.mark.parametrize("layer", ["stem", "norm", "act", "body", "last"])
@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_gradcam_is_captums_layer_gradcam_upsampled(layer: str, dimensions: int) -> None:
    model, x = small(dimensions), image(dimensions, size=6)
    where = getattr(model, layer)
    for relu in (True, False):
        theirs = attr.LayerGradCam(model, where).attribute(x, [1, 3, 0], relu_attributions=relu).detach()
        ours = fastsal.GradCAM(model, layer)
        raw = ours.attribute(x, [1, 3, 0], relu_attributions=relu, upsample=False, normalize=False)
        check(raw, theirs)
        mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[dimensions]
        larger = F.interpolate(theirs, x.shape[2:], mode=mode)
        check(ours.attribute(x, [1, 3, 0], relu_attributions=relu, normalize=False), larger)
        low, high = larger.flatten(1).amin(1), larger.flatten(1).amax(1)
        low, high = (value.view(-1, *[1] * (dimensions + 1)) for value in (low, high))
        torch.testing.assert_close(
            ours.attribute(x, [1, 3, 0], relu_attributions=relu),
            (larger - low) / (high - low + 1e-8),
            rtol=1e-4,
            atol=1e-5,
        )


def test_gradcam_with_a_layer_used_twice_and_in_place_activations() -> None:
    shared = nn.ReLU()
    model = nn.Sequential(nn.Conv2d(3, 4, 3), shared, nn.Conv2d(4, 4, 3), shared, nn.Flatten(), nn.Linear(64, 3)).eval()
    x = image(size=8)[..., :8]
    theirs = attr.LayerGradCam(model, shared).attribute(x, 1).detach()
    check(
        fastsal.GradCAM(model, shared).attribute(x, 1, relu_attributions=False, upsample=False, normalize=False), theirs
    )
    # The ordinary way fails, or is silently wrong, where an in-place activation follows the layer: compare without one.
    plain = small(in_place=False)
    in_place = small(in_place=True)
    for layer in ("norm", "body"):
        torch.testing.assert_close(
            fastsal.GradCAM(in_place, layer).attribute(image(), 1), fastsal.GradCAM(plain, layer).attribute(image(), 1)
        )


@pytest.mark.parametrize("kind", ["smoothgrad", "vargrad"])
@pytest.mark.parametrize("name", ["Saliency", "IntegratedGradients"])
def test_inside_captums_noise_tunnel(name: str, kind: str) -> None:
    model, x = small(), image(batch=2)
    found = []
    for module in (fastsal, attr):
        torch.manual_seed(5)
        tunnel = attr.NoiseTunnel(getattr(module, name)(model))
        found.append(tunnel.attribute(x, kind, nt_samples=3, stdevs=0.1, target=[1, 2]))
    check(*found)
    if name == "IntegratedGradients":
        tunnel = attr.NoiseTunnel(fastsal.IntegratedGradients(model))
        _, delta = tunnel.attribute(x, nt_samples=3, stdevs=0.1, target=1, return_convergence_delta=True)
        assert delta.shape == (6,)


def test_the_other_members_of_captums_classes() -> None:
    model = small()
    for name in NAMES:
        ours, theirs = getattr(fastsal, name)(model), getattr(attr, name)(model)
        assert ours.forward_func is model
        assert ours.has_convergence_delta() == theirs.has_convergence_delta()
        assert ours.multiplies_by_inputs == theirs.multiplies_by_inputs
        assert ours.get_name() == theirs.get_name()
        assert callable(ours.attribute.__wrapped__)
    x = image()
    given = torch.randn_like(x)
    arguments = (given, 0.5, x, [1, 2, 3])
    expected = attr.IntegratedGradients(model).compute_convergence_delta(*arguments)
    found = fastsal.IntegratedGradients(model).compute_convergence_delta(*arguments)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
