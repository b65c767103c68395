"""One table of names: an argument is called the same in every explainer, and what is new is entered here."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

import fastsal
from fastsal.compat import captum

CLASSES = {
    name: kind
    for name in fastsal.__all__
    if inspect.isclass(kind := getattr(fastsal, name))
    and issubclass(kind, fastsal.Attribution)
    # Captum's faces over an explainer, which explain a text.
    and name not in ("LLMAttribution", "LLMGradientAttribution")
}
EXPLAINERS = {name: kind for name, kind in CLASSES.items() if hasattr(kind, "attribute")}
OF_CAPTUM = {kind.__name__ for kind in captum.CLASSES}
ANY = None
INTEGRATED = {
    *("IntegratedGradients", "LayerIntegratedGradients", "LayerConductance", "InternalInfluence"),
    *("NeuronIntegratedGradients", "NeuronConductance"),
}
FEATURES = {
    "FeatureAblation",
    "FeaturePermutation",
    "KernelShap",
    "Lime",
    "ShapleyValueSampling",
    "ShapleyValues",
    "NeuronFeatureAblation",
    "DataLoaderAttribution",
}
CAMS = {name for name, kind in EXPLAINERS.items() if "reshape_transform" in inspect.signature(kind).parameters}
TO_LAYERS = {
    "GuidedGradCam",
    "InternalInfluence",
    *(name for name in EXPLAINERS if name.startswith("Layer") and name != "LayerCAM"),
}
TOKENS = {name for name, kind in EXPLAINERS.items() if kind.reads == "attention"}
OF_NEURONS = {name for name in EXPLAINERS if name.startswith("Neuron")}
LIFTS = {f"{of}{name}" for of in ("", "Layer", "Neuron") for name in ("DeepLift", "DeepLiftShap")}

CONSTRUCTORS: dict[str, set[str] | None] = {
    "model": ANY,
    "forward_func": ANY,
    "attribution_method": {"NoiseTunnel"},
    "attr_method": {"DataLoaderAttribution"},
    "layer": CAMS | TO_LAYERS | OF_NEURONS,
    "device_ids": (TO_LAYERS | OF_NEURONS) - LIFTS - {"LayerLRP"},
    "reshape_transform": CAMS,
    "multiply_by_inputs": ANY,
    "alpha": {"FinerCAM"},
    "rivals": {"FinerCAM"},
    "k": {"FEM"},
    "kernel": {"KPCACAM"},
    "gamma": {"KPCACAM"},
    "eps": {"DeepLift"},
    "memory_efficient": {"LayerGradientXActivation"},
    "perm_func": {"FeaturePermutation"},
    "interpretable_model": {"Lime", "LimeBase"},
    "similarity_func": {"Lime", "LimeBase"},
    "perturb_func": {"Lime", "LimeBase"},
    "perturb_interpretable_space": {"LimeBase"},
    "from_interp_rep_transform": {"LimeBase"},
    "to_interp_rep_transform": {"LimeBase"},
}
"""What a constructor may take, and whose."""
ATTRIBUTE: dict[str, set[str] | None] = {
    # What is explained.
    "inputs": ANY,
    "target": ANY,
    "targets": CAMS,
    "additional_forward_args": ANY,
    "baselines": ANY,
    "feature_mask": FEATURES,
    "dataloader": {"DataLoaderAttribution"},
    "input_roles": {"DataLoaderAttribution"},
    "reduce": {"DataLoaderAttribution"},
    "to_metric": {"DataLoaderAttribution"},
    "perturbations_per_pass": {"DataLoaderAttribution"},
    "composite": {"LRP", "LayerLRP"},
    "layer_mask": {"LayerFeatureAblation", "LayerFeaturePermutation"},
    "layer_baselines": {"LayerFeatureAblation"},
    "neuron_selector": OF_NEURONS,
    "attribute_to_neuron_input": OF_NEURONS,
    # How many, and how they are drawn.
    "n_samples": ANY,
    "n_masks": {"RISE"},
    "n_steps": INTEGRATED,
    "nt_samples": {"NoiseTunnel"},
    "nt_type": {"NoiseTunnel"},
    "draw_baseline_from_distrib": {"NoiseTunnel"},
    "stdevs": ANY,
    "noise_level": {"SmoothGrad"},
    "seed": ANY,
    "method": INTEGRATED,
    "sliding_window_shapes": {"Occlusion"},
    "strides": {"Occlusion"},
    "grid_size": {"RISE"},
    "probability": {"RISE"},
    "border": {"RISE"},
    "design": {"RISE"},
    "estimator": {"RISE"},
    # How they are run.
    "perturbations_per_eval": ANY,
    "internal_batch_size": INTEGRATED,
    "nt_samples_batch_size": {"NoiseTunnel"},
    "show_progress": ANY,
    "incremental": {"Occlusion", "FeatureAblation"},
    "first_layer_once": {"IntegratedGradients"},
    "create_graph": ANY,
    "allow_unused": ANY,
    "grad_kwargs": ANY,
    "custom_attribution_func": {
        f"{of}{name}" for of in ("", "Layer", "Neuron") for name in ("DeepLift", "DeepLiftShap")
    },
    "verbose": {"LRP", "LayerLRP"},
    # What is returned.
    "return_convergence_delta": ANY,
    "return_input_shape": {"Lime", "KernelShap", "DataLoaderAttribution"},
    "abs": ANY,
    "relu_attributions": CAMS | {"LayerGradCam"},
    "attr_dim_summation": {"LayerGradCam"},
    "attribute_to_layer_input": TO_LAYERS,
    "interpolate_mode": {"GuidedGradCam"},
    "upsample": CAMS | TOKENS,
    "normalize": CAMS | TOKENS | {"FullGrad"},
    "last_layers": {"LeGrad", "GradECLIP"},
    "queries": TOKENS - {"LeGrad"},
    "attention_layer": {"RawAttention", "GradientAttention"},
    "head": {"RawAttention"},
    "fuse": CAMS | {"AttentionRollout"},
    "eigen_smooth": CAMS,
    "aug_smooth": CAMS,
    "kwargs": {"NoiseTunnel", "LimeBase"},
}
"""What ``attribute`` may take, and whose."""
LIMITS = ("tolerance", "deadline", "refine")
"""Of ``estimate`` alone."""


def _constructor(kind: Any) -> list[inspect.Parameter]:
    return list(inspect.signature(kind).parameters.values())


def _attribute(kind: Any) -> list[inspect.Parameter]:
    return list(inspect.signature(kind.attribute).parameters.values())[1:]


@pytest.mark.parametrize("name", EXPLAINERS)
def test_every_argument_is_in_the_table(name: str) -> None:
    for table, parameters in ((CONSTRUCTORS, _constructor), (ATTRIBUTE, _attribute)):
        for parameter in parameters(EXPLAINERS[name]):
            assert parameter.name in table
            owners = table[parameter.name]
            assert owners is ANY or name in owners, parameter.name


@pytest.mark.parametrize("table", [CONSTRUCTORS, ATTRIBUTE], ids=["constructors", "attribute"])
def test_the_table_has_nothing_else(table: dict[str, set[str] | None]) -> None:
    parameters = _constructor if table is CONSTRUCTORS else _attribute
    found = {name: {each.name for each in parameters(kind)} for name, kind in EXPLAINERS.items()}
    assert set(table) == set().union(*found.values())
    assert [
        (argument, name)
        for argument, owners in table.items()
        for name in owners or ()
        if argument not in found[name] and not (argument == "layer" or owners in (CAMS, FEATURES, TO_LAYERS))
    ] == []


@pytest.mark.parametrize("name", CLASSES)
def test_the_model_comes_first(name: str) -> None:
    first = _constructor(CLASSES[name])[0].name
    wrapped = {"NoiseTunnel": "attribution_method", "DataLoaderAttribution": "attr_method"}
    assert first in ((wrapped[name],) if name in wrapped else ("model", "forward_func"))


@pytest.mark.parametrize("name", EXPLAINERS)
def test_the_inputs_come_first(name: str) -> None:
    assert _attribute(EXPLAINERS[name])[0].name == ("dataloader" if name == "DataLoaderAttribution" else "inputs")


@pytest.mark.parametrize("name", EXPLAINERS)
def test_seeds_are_0_for_ours_and_none_for_captums(name: str) -> None:
    seeds = [
        each.default for each in (*_constructor(EXPLAINERS[name]), *_attribute(EXPLAINERS[name])) if each.name == "seed"
    ]
    assert seeds in ([], [None if name in OF_CAPTUM else 0])


@pytest.mark.parametrize("name", EXPLAINERS)
def test_limits_are_of_estimate_alone(name: str) -> None:
    kind: Any = EXPLAINERS[name]
    assert not set(LIMITS) & {each.name for each in _attribute(kind)}
    if hasattr(kind, "estimate"):
        parameters = inspect.signature(kind.estimate).parameters
        limits = [parameters[limit] for limit in LIMITS if limit in parameters]
        assert limits
        assert all(each.kind is each.KEYWORD_ONLY for each in limits)
