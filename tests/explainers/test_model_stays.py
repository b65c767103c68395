"""The model and the caller's tensors stay as they were; every mode, dtype and state gives the right map or an error."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastsal
from tests.explainers.calls import ANY_CALLABLE, CALLS, PERTURBATION
from tests.explainers.networks import image, small, unchanged

ACROSS_EXAMPLES = (
    "smoothgrad",
    "noise-tunnel",
    "gradient-shap",
    "layer-gradient-shap",
    "feature-permutation",
    "SSCAM",
    "SmoothGradCAMPlusPlus",
)
"""Each example has noise of its own, or is mixed with the others."""
NO_GRADIENT = (
    "layer-activation",
    "layer-ablation",
    "layer-lrp",
    "neuron-gradient",  # nor does one go through what is behind the layer
    "neuron-deep-lift",
    "neuron-ablation",
    "lrp",
    "EigenCAM",
    "KPCACAM",
    "FEM",
    "RandomCAM",
    "ScoreCAM",
    "SSCAM",
    "ISCAM",
)
every = pytest.mark.parametrize("name", CALLS)


class Failing(nn.Module):
    """Runs the layers of a small network, then raises."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = small()
        self.last = self.inner.last
        self.passes = 0

    def forward(self, x: Tensor) -> Tensor:
        self.inner(x)
        raise KeyError("the model's own error")


@every
def test_nothing_is_left_behind(name: str) -> None:
    model, x = small(dropout=0.5), image()
    model.train()
    model.norm.eval()
    model.body.eval()
    for parameter in model.stem.parameters():
        parameter.requires_grad_(False)
    with unchanged(model, x):
        found = CALLS[name](model, x)
    assert not found.requires_grad
    torch.testing.assert_close(found, CALLS[name](small(), x))


@every
def test_nothing_is_left_behind_by_an_exception(name: str) -> None:
    model, x = Failing().train(), image()
    with unchanged(model, x), pytest.raises(KeyError, match="the model's own error"):
        CALLS[name](model, x)


@pytest.mark.parametrize("name", [name for name in CALLS if name not in (*PERTURBATION, *NO_GRADIENT)])
def test_an_error_in_the_backward_pass(name: str) -> None:
    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> Tensor:
            raise KeyError("backward")

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = small()
            self.last = self.inner.last

        def forward(self, x: Tensor) -> Tensor:
            return Broken.apply(self.inner(x))

    model, x = Model().train(), image()
    with unchanged(model, x), pytest.raises(KeyError, match="backward"):
        CALLS[name](model, x)


@every
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_inside_every_gradient_mode(name: str, context: Any) -> None:
    model, x = small(), image()
    expected = CALLS[name](model, x)
    with context():
        inside = x.clone()  # an inference tensor, where the context is that
        with unchanged(model, inside):
            found = CALLS[name](model, inside)
    torch.testing.assert_close(found, expected)


@every
def test_the_default_device_is_not_where_things_are_made(name: str) -> None:
    model, x = small(), image()
    expected = CALLS[name](model, x)
    with torch.device("meta"):
        found = CALLS[name](model, x)
    torch.testing.assert_close(found, expected)


@every
def test_inputs_that_require_gradients(name: str) -> None:
    model, x = small(), image()
    expected = CALLS[name](model, x)
    leaf = x.clone().requires_grad_()
    with unchanged(model, leaf):
        torch.testing.assert_close(CALLS[name](model, leaf), expected)
    assert leaf.grad is None
    torch.testing.assert_close(CALLS[name](model, leaf * 1), expected)


@every
def test_frozen_parameters(name: str) -> None:
    model, x = small(), image()
    expected = CALLS[name](model, x)
    model.requires_grad_(False)
    with unchanged(model, x):
        torch.testing.assert_close(CALLS[name](model, x), expected)


@every
def test_a_model_that_writes_into_its_input(name: str) -> None:
    class Writes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = small()
            self.last = self.inner.last

        def forward(self, x: Tensor) -> Tensor:
            x.mul_(2).sub_(0.5)
            return self.inner(x)

    class Reads(Writes):
        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x * 2 - 0.5)

    x = image()
    model = Writes().eval()
    with unchanged(model, x):
        found = CALLS[name](model, x)
    torch.testing.assert_close(found, CALLS[name](Reads().eval(), x))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@every
def test_half_precision(name: str, dtype: torch.dtype) -> None:
    model, x = small(dtype=dtype), image(dtype=dtype)
    found = CALLS[name](model, x).float()
    expected = CALLS[name](small(dtype=dtype).float(), x.float())
    assert found.isfinite().all()
    torch.testing.assert_close(found, expected, rtol=0.1, atol=0.1 * float(expected.abs().max()))


@pytest.mark.parametrize("name", [name for name in CALLS if name not in ("rise", "explain")])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_results_take_the_dtype_of_the_input(name: str, dtype: torch.dtype) -> None:
    assert CALLS[name](small(dtype=dtype), image(dtype=dtype)).dtype == dtype


@pytest.mark.parametrize("name", [name for name in CALLS if name not in ACROSS_EXAMPLES])
def test_a_batch_is_its_examples_one_by_one(name: str) -> None:
    model, x = small(dtype=torch.float64), image(dtype=torch.float64)
    whole = CALLS[name](model, x)
    for row in range(len(x)):
        torch.testing.assert_close(CALLS[name](model, x[row : row + 1]), whole[row : row + 1])


@every
def test_memory_format_and_strides_of_the_input(name: str) -> None:
    model, x = small(), image()
    expected = CALLS[name](model, x)
    torch.testing.assert_close(CALLS[name](model, x.to(memory_format=torch.channels_last)), expected)
    torch.testing.assert_close(CALLS[name](model, x.flip(-1).contiguous().flip(-1)), expected)
    torch.testing.assert_close(CALLS[name](model, torch.stack([x, x], -1)[..., 0]), expected)


@pytest.mark.parametrize("name", ANY_CALLABLE)
def test_a_bound_method_runs_its_module_in_evaluation_mode(name: str) -> None:
    model, x = small(dropout=0.5), image()
    expected = CALLS[name](model, x)
    model.train()
    with unchanged(model, x):
        torch.testing.assert_close(CALLS[name](model.forward, x), expected)


@every
def test_a_model_of_another_dtype(name: str) -> None:
    model, x = small(), image(dtype=torch.float64)
    with unchanged(model, x), pytest.raises((TypeError, ValueError), match=r"inputs.*float64.*float32") as caught:
        CALLS[name](model, x)
    assert isinstance(caught.value.__cause__, RuntimeError)


@pytest.mark.parametrize("name", ["saliency", "ig", "guided", "gradcam"])
def test_a_model_made_in_inference_mode(name: str) -> None:
    with torch.inference_mode():
        model = small()
    with pytest.raises(ValueError, match="inference_mode"):
        CALLS[name](model, image())


@every
def test_autocast_is_left_to_the_caller(name: str) -> None:
    model, x = small(), image()
    with torch.autocast("cpu", torch.bfloat16):
        found = CALLS[name](model, x)
    expected = CALLS[name](model, x)
    torch.testing.assert_close(found.float(), expected, rtol=0.1, atol=0.1 * float(expected.abs().max()))


@pytest.mark.parametrize("name", ANY_CALLABLE)
def test_callables_without_a_module(name: str) -> None:
    model = small()
    expected = CALLS[name](model, image())
    for forward in (lambda x: model(x), functools.partial(model)):
        torch.testing.assert_close(CALLS[name](forward, image()), expected)


def test_a_function_without_arguments() -> None:
    """Captum calls it without any; what it returns does not depend on the input."""
    x, scores = image(), torch.randn(3, 4)
    assert not fastsal.Occlusion(lambda: scores).attribute(x, (3, 8, 9), target=1).any()
    with pytest.raises(ValueError, match=r"does not depend|gradient"):
        fastsal.Saliency(lambda: scores).attribute(x, target=1)


def test_torchscript_gives_gradients_and_refuses_what_it_hides() -> None:
    model, x = small(), image()
    traced = torch.jit.trace(model, x)
    for name in ANY_CALLABLE:
        torch.testing.assert_close(CALLS[name](traced, x), CALLS[name](model, x), rtol=1e-4, atol=1e-5)
    for explainer in (fastsal.GuidedBackprop, fastsal.Deconvolution):
        with pytest.raises(TypeError, match="TorchScript"):
            explainer(traced).attribute(x, target=1)
        with pytest.raises(TypeError, match="TorchScript"):
            explainer(nn.Sequential(traced)).attribute(x, target=1)


@pytest.mark.parametrize("explainer", [fastsal.GuidedBackprop, fastsal.Deconvolution])
def test_a_model_without_relu_is_told_of(explainer: Any) -> None:
    model, x = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2)).eval(), torch.randn(3, 4)
    with pytest.warns(UserWarning, match="plain gradient"):
        found = explainer(model).attribute(x, target=1)
    torch.testing.assert_close(found, fastsal.Saliency(model).attribute(x, target=1, abs=False))
