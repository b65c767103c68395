"""Calls of the explainers that read a layer: class activation maps, attention, relevance, and attribution to layers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

import fastsal
from tools.recorded.networks import classifier, curved, drawn, image, pair, segmenter, shifted, transformer, two_inputs
from tools.recorded.spelling import attribute, public

CAMS: dict[str, dict[str, Any]] = {
    "GradCAM": {},
    "GradCAMPlusPlus": {},
    "XGradCAM": {},
    "LayerCAM": {},
    "HiResCAM": {},
    "GradCAMElementWise": {},
    "CAM": {},
    "EigenCAM": {},
    "EigenGradCAM": {},
    "KPCACAM": {"kernel": "rbf"},
    "FEM": {"k": 1.0},
    "FinerCAM": {"alpha": 0.5, "rivals": 2},
    "ShapleyCAM": {},
    "RandomCAM": {"seed": 3},
    "RefineCAM": {},
    "AblationCAM": {},
    "ScoreCAM": {},
    "SSCAM": {"n_samples": 3, "stdevs": 1.0, "seed": 1},
    "ISCAM": {"n_samples": 4},
    "SmoothGradCAMPlusPlus": {"n_samples": 5, "stdevs": 0.2, "seed": 1},
}
SWEPT = ("AblationCAM", "ScoreCAM", "SSCAM", "SmoothGradCAMPlusPlus")


def _cam(name: str, dtype: torch.dtype = torch.float32, dimensions: int = 2, **options: Any) -> Any:
    options = {"target": [0, 1, 2], **CAMS[name], **options}
    made = (classifier(dimensions, dtype), options.pop("layer", "last"))
    return attribute(getattr(fastsal, name), made, image(dimensions, dtype), **options)


def _curved(name: str, **options: Any) -> Any:
    """Where the score is no affine function of the layer, so that every derivative counts."""
    return attribute(
        getattr(fastsal, name), (curved(), "last"), image(), **{"target": [0, 1, 2], **CAMS[name], **options}
    )


def _segmented(target: Any) -> Any:
    return fastsal.GradCAM(segmenter(), "last").attribute(image(), target)


def _grid(value: Tensor) -> Tensor:
    """Tokens of 2 x 2 patches, without the first, as [B, C, 2, 2]."""
    tokens: Tensor = value[:, 1:].mT.unflatten(2, (2, 2))
    return tokens


def _on_tokens(kind: Any, layer: str | None = None, **options: Any) -> Any:
    made = (transformer(),) if layer is None else (transformer(), layer)
    return attribute(kind, made, drawn(3, 3, 8, 8), target=1, **options)


def _relevance(dtype: torch.dtype = torch.float32, dimensions: int = 2, **options: Any) -> Any:
    explainer = fastsal.LRP(classifier(dimensions, dtype))
    return explainer.attribute(image(dimensions, dtype), target=1, return_convergence_delta=True, **options)


def _rules_of_modules() -> Any:
    model = classifier()
    model.stem.rule = _rule("GammaRule", 0.5)
    model.body.rule = _rule("Alpha1_Beta0_Rule")
    model.head.rule = _rule("EpsilonRule", 1e-4)
    return fastsal.LRP(model).attribute(image(), target=torch.tensor([3, 2, 1]))


def _rule(name: str, *arguments: Any) -> Any:
    return public(f"fastsal.lrp.{name}", f"fastsal.explainers.activation.lrp_rules.{name}")(*arguments)


def _composite() -> Any:
    kind = public("fastsal.lrp.Composite", "fastsal.explainers.activation.lrp_composites.Composite")
    return kind(_rule("ZPlusRule"), first=_rule("BoxRule", -3.0, 3.0), linear=_rule("EpsilonRule", 1e-3))


def _at_layer(name: str, layer: str, **options: Any) -> Any:
    model = classifier()
    return getattr(fastsal, name)(model, getattr(model, layer)).attribute(image(), **options)


def _of_two_inputs(name: str, **options: Any) -> Any:
    model = two_inputs()
    explainer = getattr(fastsal, name)(model, model.relu)
    return explainer.attribute(pair(), target=1, additional_forward_args=shifted(), **options)


TARGETS = fastsal.targets
COMPOSITES = ("epsilon", "epsilon-plus", "epsilon-plus-flat", "epsilon-gamma-box", "epsilon-alpha2-beta1-flat")
CALLS: dict[str, Callable[[], Any]] = {
    **{name: partial(_cam, name) for name in CAMS},
    **{f"{name}/curved": partial(_curved, name) for name in CAMS if name != "CAM"},
    **{f"{name}/curved, smoothed": partial(_curved, name, aug_smooth=True) for name in ("ShapleyCAM", "SSCAM")},
    **{f"{name}/float64": partial(_cam, name, torch.float64) for name in CAMS},
    **{f"{name}/bfloat16": partial(_cam, name, torch.bfloat16) for name in ("GradCAM", "LayerCAM", "ScoreCAM")},
    **{f"{name}/eigen_smooth": partial(_cam, name, eigen_smooth=True) for name in ("GradCAM", "LayerCAM", "ScoreCAM")},
    **{f"{name}/aug_smooth": partial(_cam, name, aug_smooth=True) for name in ("GradCAM", "EigenCAM", "ScoreCAM")},
    **{f"{name}/chunk-{size}": partial(_cam, name, perturbations_per_eval=size) for name in SWEPT for size in (1, 3)},
    **{
        f"GradCAM/fused by {fuse}": partial(_cam, "GradCAM", layer=["act", "last"], fuse=fuse)
        for fuse in ("mean", "max", "product")
    },
    "RefineCAM/two layers": lambda: _cam("RefineCAM", layer=["act", "last"]),
    "AblationCAM/two layers": lambda: _cam("AblationCAM", layer=["act", "last"]),
    "GradCAM/several targets": lambda: _cam("GradCAM", target=None, targets=[0, [1, 2, 3], torch.tensor([3, 3, 0])]),
    "LayerCAM/several targets": lambda: _cam("LayerCAM", target=None, targets=[0, 2]),
    "GradCAM/plain": lambda: _cam("GradCAM", relu_attributions=False, upsample=False, normalize=False),
    "GradCAM/default layer": lambda: _cam("GradCAM", layer=None),
    "GradCAM/1-D": lambda: _cam("GradCAM", dimensions=1),
    "GradCAM/3-D": lambda: _cam("GradCAM", dimensions=3),
    "GradCAM/rescaled": lambda: fastsal.GradCAM(classifier(), "last").attribute(image(), 1, (drawn(3, 6, seed=4), 0.5)),
    "GradCAM/segmentation": lambda: _segmented(TARGETS.Segmentation(1, drawn(8, 9) > 0)),
    "GradCAM/targets": lambda: _cam(
        "GradCAM", target=[TARGETS.LogProbability(0), TARGETS.Similarity(drawn(4)), TARGETS.Similarity(drawn(4), True)]
    ),
    "GradCAM/tokens": lambda: _on_tokens(fastsal.GradCAM, "blocks.1.norm1"),
    "ScoreCAM/tokens": lambda: _on_tokens(fastsal.ScoreCAM, "blocks.0"),
    "GradCAM/reshape_transform": lambda: _on_tokens(fastsal.GradCAM, "blocks.0", reshape_transform=_grid),
    "LeGrad": lambda: _on_tokens(fastsal.LeGrad),
    "LeGrad/last layer": lambda: _on_tokens(fastsal.LeGrad, last_layers=1, upsample=False, normalize=False),
    **{name: partial(_on_tokens, getattr(fastsal, name)) for name in ("RawAttention", "AttentionRollout")},
    **{name: partial(_on_tokens, getattr(fastsal, name)) for name in ("GradientAttention", "AttentionRelevance")},
    "GradECLIP": lambda: _on_tokens(fastsal.GradECLIP, last_layers=2),
    "LRP": _relevance,
    "LRP/float64": lambda: _relevance(torch.float64),
    "LRP/bfloat16": lambda: _relevance(torch.bfloat16),
    "LRP/1-D": lambda: _relevance(dimensions=1),
    **{f"LRP/{name}": partial(_relevance, composite=name) for name in COMPOSITES},
    "LRP/own composite": lambda: _relevance(composite=_composite()),
    "LRP/rules of modules": _rules_of_modules,
    "LayerActivation": lambda: _at_layer("LayerActivation", "body"),
    "LayerActivation/input": lambda: _at_layer("LayerActivation", "body", attribute_to_layer_input=True),
    "LayerGradCam": lambda: _at_layer("LayerGradCam", "last", target=1),
    "LayerGradCam/per channel": lambda: _at_layer(
        "LayerGradCam",
        "body",
        target=1,
        relu_attributions=True,
        attr_dim_summation=False,
        attribute_to_layer_input=True,
    ),
    "LayerGradientXActivation": lambda: _at_layer("LayerGradientXActivation", "act", target=[1, 0, 2]),
    "LayerGradientXActivation/two inputs": lambda: _of_two_inputs("LayerGradientXActivation"),
    "LayerIntegratedGradients": lambda: _at_layer("LayerIntegratedGradients", "last", target=1, n_steps=7),
    "LayerIntegratedGradients/chunks": lambda: _at_layer(
        "LayerIntegratedGradients", "body", target=1, n_steps=7, internal_batch_size=3, attribute_to_layer_input=True
    ),
    "LayerIntegratedGradients/two inputs": lambda: _of_two_inputs(
        "LayerIntegratedGradients", n_steps=5, return_convergence_delta=True
    ),
    "GuidedGradCam": lambda: _at_layer("GuidedGradCam", "last", target=1),
    "GuidedGradCam/bilinear": lambda: _at_layer("GuidedGradCam", "act", target=1, interpolate_mode="bilinear"),
    "LayerAttribution/interpolate": lambda: fastsal.LayerAttribution.interpolate(image(), (11, 7), "bilinear"),
}
