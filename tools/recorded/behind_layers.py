"""Calls of the methods that are put at a layer: paths, DeepLift and SHAP, features of its values, relevance."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

import fastsal
from tools.recorded.networks import classifier, curved, image, pair, references, shifted, two_inputs

OPTIONS: dict[str, dict[str, Any]] = {
    "LayerConductance": {"n_steps": 5},
    "InternalInfluence": {"n_steps": 5},
    "LayerDeepLift": {},
    "LayerDeepLiftShap": {"baselines": references(image())},
    "LayerGradientShap": {"baselines": references(image()), "n_samples": 4, "stdevs": 0.1, "seed": 0},
    "LayerFeatureAblation": {"layer_mask": torch.arange(6)[:, None, None] // 2},
    "LayerFeaturePermutation": {"layer_mask": torch.arange(6)[:, None, None] // 2, "seed": 0},
    "LayerLRP": {},
}
ADD_UP = ("LayerConductance", "LayerDeepLift", "LayerDeepLiftShap", "LayerGradientShap", "LayerLRP")
"""Those with a convergence delta."""
CHUNKS = {
    "LayerConductance": "internal_batch_size",
    "InternalInfluence": "internal_batch_size",
    "LayerDeepLiftShap": "perturbations_per_eval",
    "LayerGradientShap": "perturbations_per_eval",
    "LayerFeatureAblation": "perturbations_per_eval",
    "LayerFeaturePermutation": "perturbations_per_eval",
}


def _call(name: str, model: Any = None, layer: Any = "last", **options: Any) -> Any:
    model = curved() if model is None else model
    return getattr(fastsal, name)(model, layer).attribute(image(), **{"target": [0, 1, 2], **OPTIONS[name], **options})


def _of_a_classifier(name: str, dtype: torch.dtype = torch.float32, **options: Any) -> Any:
    given = {"baselines": OPTIONS[name]["baselines"].to(dtype)} if "baselines" in OPTIONS[name] else {}
    options = {"target": 1, **OPTIONS[name], **given, **options}
    return getattr(fastsal, name)(classifier(dtype=dtype), "body").attribute(image(dtype=dtype), **options)


def _of_two_inputs(name: str, **options: Any) -> Any:
    explainer = getattr(fastsal, name)(two_inputs(), "relu")
    return explainer.attribute(pair(), target=1, additional_forward_args=shifted(), **options)


CALLS: dict[str, Callable[[], Any]] = {
    **{name: partial(_of_a_classifier, name) for name in OPTIONS},
    **{f"{name}/float64": partial(_of_a_classifier, name, torch.float64) for name in OPTIONS},
    **{f"{name}/curved": partial(_call, name) for name in OPTIONS if name != "LayerLRP"},
    **{f"{name}/delta": partial(_of_a_classifier, name, return_convergence_delta=True) for name in ADD_UP},
    **{
        f"{name}/chunk-{size}": partial(_call, name, **{option: size})
        for name, option in CHUNKS.items()
        for size in (1, 4)
    },
    **{
        f"{name}/input": partial(_call, name, attribute_to_layer_input=True)
        for name in ("LayerConductance", "InternalInfluence", "LayerDeepLift", "LayerFeatureAblation")
    },
    **{
        f"{name}/two layers": partial(_call, name, layer=["body", "last"])
        for name in ("InternalInfluence", "LayerFeatureAblation", "LayerFeaturePermutation")
    },
    "LayerConductance/two inputs": lambda: _of_two_inputs("LayerConductance", n_steps=4),
    "LayerDeepLift/two inputs": lambda: _of_two_inputs("LayerDeepLift", baselines=(0.5, -0.5)),
    "LayerFeatureAblation/two inputs": lambda: _of_two_inputs("LayerFeatureAblation", layer_baselines=0.25),
    "LayerLRP/composite": lambda: _of_a_classifier("LayerLRP", composite="epsilon-plus"),
}
