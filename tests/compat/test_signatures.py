"""Signatures, parameter by parameter, and the members of Captum's classes that its users rely on."""

from __future__ import annotations

import inspect
from typing import Any

import captum.attr
import captum.metrics
import pytest
from torch import nn

import fastsal
import fastsal.metrics
from tests.explainers.networks import small

CLASSES = [
    "Deconvolution",
    "DeepLift",
    "DeepLiftShap",
    "FeatureAblation",
    "FeaturePermutation",
    "GradientShap",
    "GuidedBackprop",
    "GuidedGradCam",
    "InputXGradient",
    "IntegratedGradients",
    "KernelShap",
    "LRP",
    "LayerActivation",
    "LayerGradCam",
    "LayerGradientXActivation",
    "LayerIntegratedGradients",
    "Lime",
    "LimeBase",
    "NoiseTunnel",
    "Occlusion",
    "Saliency",
    "ShapleyValueSampling",
    "ShapleyValues",
]
CHOSEN_FROM_MEMORY = ("perturbations_per_eval",)
"""Captum's default is one at a time; ours is None, which fills the machine."""
NOT_OURS = {"FeatureAblation": ["kwargs"], "FeaturePermutation": ["kwargs"], "LimeBase": []}
"""Captum swallows unknown keywords there; ours refuses them."""


def same(name: str, ours: Any, theirs: Any) -> None:
    found = list(inspect.signature(ours).parameters.values())
    expected = [p for p in inspect.signature(theirs).parameters.values() if p.name not in NOT_OURS.get(name, [])]
    variadic = [p for p in expected if p.kind is inspect.Parameter.VAR_KEYWORD]
    expected = [p for p in expected if p not in variadic]
    assert [p.name for p in found[: len(expected)]] == [p.name for p in expected]
    for one, other in zip(found, expected, strict=False):
        assert one.kind == other.kind, one.name
        if one.name in CHOSEN_FROM_MEMORY:
            assert one.default is None
        elif callable(other.default) and other.default is not inspect.Parameter.empty:
            assert callable(one.default)
        else:
            assert one.default == other.default, one.name
    rest = found[len(expected) :]
    assert [p.name for p in rest if p.kind is inspect.Parameter.VAR_KEYWORD] == [p.name for p in variadic]
    assert all(p.kind in (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD) for p in rest)


@pytest.mark.parametrize("name", CLASSES)
def test_constructor_and_attribute(name: str) -> None:
    ours, theirs = getattr(fastsal, name), getattr(captum.attr, name)
    same(name, ours.__init__, theirs.__init__)
    same(name, ours.attribute, theirs.attribute)
    assert callable(ours.attribute.__wrapped__)


@pytest.mark.parametrize("name", ["infidelity", "sensitivity_max", "infidelity_perturb_func_decorator"])
def test_metrics(name: str) -> None:
    same(name, getattr(fastsal.metrics, name), getattr(captum.metrics, name, None) or _decorator())


def _decorator() -> Any:
    from captum.metrics._core.infidelity import infidelity_perturb_func_decorator

    return infidelity_perturb_func_decorator


def make(namespace: Any, name: str, model: nn.Module) -> Any:
    """An explainer of a class, with the arguments that its constructor asks for."""
    if name == "NoiseTunnel":
        return namespace.NoiseTunnel(namespace.IntegratedGradients(model))
    if name.startswith("Layer") or name == "GuidedGradCam":
        return getattr(namespace, name)(model, model.body)
    return getattr(namespace, name)(model)


@pytest.mark.parametrize("name", [name for name in CLASSES if name != "LimeBase"])
def test_members(name: str) -> None:
    model = small()
    if name == "Lime":
        pytest.importorskip("sklearn")  # Captum's Lime asks for it
    ours, theirs = make(fastsal, name, model), make(captum.attr, name, model)
    if name != "NoiseTunnel":
        assert ours.forward_func is model
    assert ours.has_convergence_delta() == theirs.has_convergence_delta()
    assert ours.multiplies_by_inputs == theirs.multiplies_by_inputs
    assert ours.get_name() == theirs.get_name()
    for base in ("Attribution", "GradientAttribution", "PerturbationAttribution", "LayerAttribution"):
        if isinstance(theirs, getattr(captum.attr, base)):
            assert isinstance(ours, getattr(fastsal, base)), base
    if name.startswith("Layer"):
        assert ours.layer is model.body
        assert ours.device_ids is None
        assert callable(ours.interpolate)
