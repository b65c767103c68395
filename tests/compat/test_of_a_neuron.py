"""Methods of a neuron give Captum 0.9.0's numbers, for every form of the selector; sums are checked by hand."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from captum import attr
from torch import Tensor, nn

import fastsal
from tests.compat.test_layers import EXACT, Pairs, check
from tests.explainers.networks import TwoInputs, image, small, unchanged

METHODS: dict[str, dict[str, Any]] = {
    "NeuronGradient": {},
    "NeuronIntegratedGradients": {"n_steps": 6},
    "NeuronConductance": {"n_steps": 6, "target": [1, 3]},
    "NeuronDeepLift": {},
    "NeuronGuidedBackprop": {},
    "NeuronDeconvolution": {},
    "NeuronFeatureAblation": {},
}
SELECTORS: dict[str, Any] = {
    "tuple": (1, 2, 0),
    "slices": (slice(0, 2), 1, slice(None)),
    "function": lambda value: value[:, 3, 0, 1],
}


def captum(name: str, model: nn.Module, layer: nn.Module, *arguments: Any, **options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return getattr(attr, name)(model, layer).attribute(*arguments, **options)


@pytest.mark.parametrize(
    ("name", "selector"),
    [
        (name, selector)
        for name in METHODS
        for selector in SELECTORS
        # Captum multiplies sums there: test_conductance_of_several_is_the_sum_of_theirs.
        if (name, selector) != ("NeuronConductance", "slices")
    ],
)
def test_selectors(name: str, selector: str) -> None:
    model, x = small(dtype=torch.float64), image(batch=2, size=6, dtype=torch.float64)
    for layer, at_input in (("norm", False), ("last", True)):
        options = {"attribute_to_neuron_input": at_input, **METHODS[name]}
        theirs = captum(name, model, getattr(model, layer), x, SELECTORS[selector], **options)
        with unchanged(model, x), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that no ReLU ran
            found = getattr(fastsal, name)(model, layer).attribute(x, SELECTORS[selector], **options)
        check(found, theirs, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", METHODS)
def test_an_int_of_a_vector_two_inputs_and_extra_arguments(name: str) -> None:
    model, inputs = TwoInputs().double().eval(), (torch.randn(2, 3, 4).double(), torch.randn(2, 5).double())
    options = {"additional_forward_args": (torch.randn(2, 8).double(), 2.0), **METHODS[name]}
    theirs = captum(name, model, model.relu, inputs, 3, **options)
    check(getattr(fastsal, name)(model, "relu").attribute(inputs, 3, **options), theirs, rtol=1e-6, atol=1e-7)


def test_shap_methods() -> None:
    model, x = small(dtype=torch.float64), image(batch=2, size=6, dtype=torch.float64)
    baselines = torch.rand(3, 3, 6, 7).double()
    theirs = captum("NeuronDeepLiftShap", model, model.last, x, (1, 1, 1), baselines)
    check(fastsal.NeuronDeepLiftShap(model, "last").attribute(x, (1, 1, 1), baselines), theirs, rtol=1e-6, atol=1e-7)
    # Random: that of a neuron is that of a model which returns it, with the same draws.

    class Neuron(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return model.last(model.body(model.act(model.norm(model.stem(x)))))[:, 1, 1, 1]

    options: dict[str, Any] = {"n_samples": 4, "stdevs": 0.1, "seed": 2}
    expected = fastsal.GradientShap(Neuron()).attribute(x, baselines, **options)
    check(fastsal.NeuronGradientShap(model, "last").attribute(x, (1, 1, 1), baselines, **options), expected, **EXACT)


def test_conductance_of_several_is_the_sum_of_theirs() -> None:
    """Captum multiplies the sum of the gradients by the sum of the values' gradients, which is none of them."""
    model, x = small(dtype=torch.float64), image(batch=2, size=4, dtype=torch.float64)
    conductance = fastsal.NeuronConductance(model, "last")
    options: dict[str, Any] = {"target": 1, "n_steps": 5}
    together = conductance.attribute(x, (slice(0, 2), 1, slice(None)), **options)
    width = model.last(model.body(model.act(model.norm(model.stem(x))))).shape[3]
    each = [conductance.attribute(x, (c, 1, column), **options) for c in range(2) for column in range(width)]
    check(together, torch.stack(each).sum(0), **EXACT)
    of_function = conductance.attribute(x, lambda value: value[:, :2, 1].sum((1, 2)), **options)
    check(of_function, together, **EXACT)


def test_conductances_add_up_to_integrated_gradients() -> None:
    """All of what flows to the target flows through some value of a layer that nothing bypasses."""
    model, x = small(dtype=torch.float64), image(batch=2, size=4, dtype=torch.float64)
    options: dict[str, Any] = {"target": 2, "n_steps": 9, "method": "gausslegendre"}
    through = fastsal.NeuronConductance(model, "body").attribute(x, (slice(None),) * 3, **options)
    check(through, fastsal.IntegratedGradients(model).attribute(x, **options), **EXACT)


@pytest.mark.parametrize("rows", [1, 3, 100])
def test_chunks(rows: int) -> None:
    model, x = small(dtype=torch.float64), image(batch=2, size=4, dtype=torch.float64)
    for name in ("NeuronIntegratedGradients", "NeuronConductance"):
        neuron = getattr(fastsal, name)(model, "last")
        whole = neuron.attribute(x, (1, 1, 1), **METHODS[name])
        check(neuron.attribute(x, (1, 1, 1), internal_batch_size=rows, **METHODS[name]), whole, **EXACT)


def test_layers_of_several_tensors_take_a_function() -> None:
    model, x = Pairs().double().eval(), torch.randn(3, 4).double()
    for name in ("NeuronGradient", "NeuronIntegratedGradients", "NeuronFeatureAblation"):
        theirs = captum(name, model, model.split, x, lambda pair: pair[1][:, 2])
        found = getattr(fastsal, name)(model, "split").attribute(x, lambda pair: pair[1][:, 2])
        check(found, theirs, rtol=1e-6, atol=1e-8)
        with pytest.raises(ValueError, match="which of the layer's 2 tensors"):
            getattr(fastsal, name)(model, "split").attribute(x, 0)


@pytest.mark.parametrize(
    ("selector", "error", "message"),
    [
        ((9, 0, 0), ValueError, "neuron_selector: 9 is out of range for 6"),
        (0, ValueError, "name one value per example, or slices"),
        ((0, 0, 0, 0), ValueError, "has more entries than"),
        ("a", TypeError, "neither an int, a tuple of ints"),
        (lambda value: value, ValueError, "return one value for each row"),
    ],
)
def test_refusals(selector: Any, error: type[Exception], message: str) -> None:
    model, x = small(), image(batch=2)
    for name in ("NeuronGradient", "NeuronFeatureAblation", "NeuronConductance"):
        options = {"target": 1} if name == "NeuronConductance" else {}
        with unchanged(model, x), pytest.raises(error, match=message):
            getattr(fastsal, name)(model, "last").attribute(x, selector, **options)


def test_a_prepared_model_has_the_same_neurons() -> None:
    model, x = small(), image(batch=2)
    prepared = fastsal.prepare(model, x, fold_batch_norm=False)
    expected = fastsal.NeuronGradient(model, "last").attribute(x, (1, 2, 3))
    check(fastsal.NeuronGradient(prepared, "last").attribute(x, (1, 2, 3)), expected, rtol=1e-4, atol=1e-6)
