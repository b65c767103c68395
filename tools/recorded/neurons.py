"""Calls of the methods that explain a neuron, a value of a layer, in place of the model's output."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

import fastsal
from tools.recorded.networks import classifier, curved, image, pair, quarters, references, shifted, two_inputs

NEURON = (2, 1, 3)
OPTIONS: dict[str, dict[str, Any]] = {
    "NeuronGradient": {},
    "NeuronIntegratedGradients": {"n_steps": 5},
    "NeuronConductance": {"n_steps": 5, "target": [0, 1, 2]},
    "NeuronDeepLift": {},
    "NeuronDeepLiftShap": {"baselines": references(image())},
    "NeuronGradientShap": {"baselines": references(image()), "n_samples": 4, "stdevs": 0.1, "seed": 0},
    "NeuronGuidedBackprop": {},
    "NeuronDeconvolution": {},
    "NeuronFeatureAblation": {"feature_mask": quarters(image())},
}
CHUNKS = {
    "NeuronIntegratedGradients": "internal_batch_size",
    "NeuronConductance": "internal_batch_size",
    "NeuronDeepLiftShap": "perturbations_per_eval",
    "NeuronGradientShap": "perturbations_per_eval",
    "NeuronFeatureAblation": "perturbations_per_eval",
}
RECTIFIED = ("NeuronGuidedBackprop", "NeuronDeconvolution")
"""Those of networks with ReLUs."""
ANY = tuple(name for name in OPTIONS if name != "NeuronConductance")
"""Those whose neuron may be several values."""


def _mean(value: Tensor) -> Tensor:
    """Of a channel, for each example."""
    found: Tensor = value[:, 4].mean((1, 2))
    return found


def _call(name: str, neuron: Any = NEURON, dtype: torch.dtype = torch.float32, **options: Any) -> Any:
    given = {"baselines": OPTIONS[name]["baselines"].to(dtype)} if "baselines" in OPTIONS[name] else {}
    explainer = getattr(fastsal, name)(classifier(dtype=dtype), "body")
    return explainer.attribute(image(dtype=dtype), neuron, **{**OPTIONS[name], **given, **options})


def _curved(name: str, **options: Any) -> Any:
    return getattr(fastsal, name)(curved(), "tail").attribute(image(), NEURON, **{**OPTIONS[name], **options})


def _of_two_inputs(name: str, **options: Any) -> Any:
    explainer = getattr(fastsal, name)(two_inputs(), "relu")
    return explainer.attribute(pair(), 3, additional_forward_args=shifted(), **options)


CALLS: dict[str, Callable[[], Any]] = {
    **{name: partial(_call, name) for name in OPTIONS},
    **{f"{name}/float64": partial(_call, name, dtype=torch.float64) for name in OPTIONS},
    **{f"{name}/curved": partial(_curved, name) for name in OPTIONS if name not in RECTIFIED},
    **{f"{name}/slices": partial(_call, name, (2, slice(0, 2), slice(None))) for name in ANY},
    **{f"{name}/function": partial(_call, name, _mean) for name in ANY},
    "NeuronGradient/input": lambda: _call("NeuronGradient", attribute_to_neuron_input=True),
    **{
        f"{name}/chunk-{size}": partial(_curved, name, **{option: size})
        for name, option in CHUNKS.items()
        for size in (1, 4)
    },
    **{f"{name}/two inputs": partial(_of_two_inputs, name) for name in ("NeuronGradient", "NeuronDeepLift")},
    "NeuronIntegratedGradients/two inputs": lambda: _of_two_inputs("NeuronIntegratedGradients", n_steps=4),
    "NeuronConductance/two inputs": lambda: _of_two_inputs("NeuronConductance", n_steps=4, target=1),
}
