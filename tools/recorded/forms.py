"""Calls with inputs, outputs, targets and states of the model that are not the usual ones."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import fastsal
from tools.recorded.networks import classifier, drawn, image, pair, quarters, segmenter, shifted, two_inputs
from tools.recorded.spelling import explanation

FEATURES = quarters(image())
WINDOWS: dict[str, Any] = {"sliding_window_shapes": (3, 4, 4), "strides": (3, 2, 2), "incremental": False}
SWEEPS: dict[str, tuple[Any, dict[str, Any]]] = {
    "occlusion": (fastsal.Occlusion, WINDOWS),
    "rise": (fastsal.RISE, {"n_masks": 12}),
    "smoothgrad": (fastsal.SmoothGrad, {"n_samples": 4}),
    "integrated-gradients": (fastsal.IntegratedGradients, {"n_steps": 5}),
    "kernel-shap": (fastsal.KernelShap, {"feature_mask": FEATURES, "n_samples": 20, "seed": 0}),
    "shapley-values": (fastsal.ShapleyValues, {"feature_mask": FEATURES}),
}
SEEDLESS: dict[str, tuple[Any, dict[str, Any]]] = {
    "rise": (fastsal.RISE, {"n_masks": 12, "seed": None}),
    "smoothgrad": (fastsal.SmoothGrad, {"n_samples": 4, "seed": None}),
    "gradient-shap": (fastsal.GradientShap, {"baselines": torch.zeros(2, 3, 8, 9), "stdevs": 0.1}),
    "lime": (fastsal.Lime, {"feature_mask": FEATURES}),
    "kernel-shap": (fastsal.KernelShap, {"feature_mask": FEATURES}),
    "shapley-sampling": (fastsal.ShapleyValueSampling, {"feature_mask": FEATURES, "n_samples": 4}),
    "feature-permutation": (fastsal.FeaturePermutation, {"feature_mask": FEATURES}),
}
"""Their numbers come from torch's global generator."""


class Tokens(nn.Module):
    """Integers [B, T] into [B, 3]."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.body, self.head = nn.Embedding(20, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, ids: Tensor) -> Tensor:
        scores: Tensor = self.head(self.body(self.table(ids)).relu().mean(1))
        return scores


class Named(nn.Module):
    """A classifier whose output names its logits."""

    def __init__(self) -> None:
        super().__init__()
        self.model = classifier()

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"logits": self.model(x)}


def _tokens() -> tuple[Any, Tensor]:
    torch.manual_seed(0)
    return Tokens().eval(), torch.arange(15).view(3, 5)


def _of_tokens(kind: Any, **options: Any) -> Any:
    model, ids = _tokens()
    return kind(model).attribute(ids, target=torch.tensor([0, 1, 2]), **options)


def _at_table() -> Any:
    model, ids = _tokens()
    explainer = fastsal.LayerIntegratedGradients(model, model.table)
    return explainer.attribute(ids, torch.zeros_like(ids), target=1, n_steps=6, return_convergence_delta=True)


def _total(x: Tensor) -> Tensor:
    """One score for the whole batch, of a model that is made in each call."""
    scores: Tensor = classifier()(x)[:, 1].sum()
    return scores


def _one_score(kind: Any, x: Tensor | None = None, **options: Any) -> Any:
    model = classifier()
    return kind(lambda x: model(x)[:, 1].sum()).attribute(image() if x is None else x, **options)


def _frozen() -> Any:
    model = classifier()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model


def _sweep(name: str, model: Any = None, **options: Any) -> Any:
    kind, usual = SWEEPS[name]
    return kind(classifier() if model is None else model).attribute(image(), target=1, **usual, **options)


def _frozen_sweep(name: str) -> Any:
    return _sweep(name, _frozen())


def _seedless(name: str) -> Any:
    kind, options = SEEDLESS[name]
    return kind(classifier()).attribute(image(), target=1, **options)


def _without_graph(name: str, guard: Any) -> Any:
    model = classifier().train()
    with guard():
        return _sweep(name, model)


def _with_arguments(name: str, **options: Any) -> Any:
    """An extra tensor with as many entries as there are examples, and a number."""
    return _sweep(name, additional_forward_args=(drawn(3, 6, seed=4), 0.5), **options)


def _several_scores(kind: Any, target: Any, **options: Any) -> Any:
    return kind(segmenter()).attribute(image(), target=target, **options)


CALLS: dict[str, Callable[[], Any]] = {
    **{f"{name}/training, no_grad": partial(_without_graph, name, torch.no_grad) for name in SWEEPS},
    **{f"{name}/inference mode": partial(_without_graph, name, torch.inference_mode) for name in SWEEPS},
    **{f"{name}/frozen": partial(_frozen_sweep, name) for name in SWEEPS},
    **{f"{name}/arguments": partial(_with_arguments, name) for name in SWEEPS},
    **{f"{name}/no seed": partial(_seedless, name) for name in SEEDLESS},
    "noise-tunnel/no seed, two inputs": lambda: fastsal.NoiseTunnel(fastsal.InputXGradient(two_inputs())).attribute(
        pair(), nt_samples=4, target=1, additional_forward_args=shifted()
    ),
    "gradcam/frozen, no_grad": lambda: torch.no_grad()(fastsal.GradCAM(_frozen(), "last").attribute)(image(), 1),
    "tokens/FeatureAblation": lambda: _of_tokens(fastsal.FeatureAblation, incremental=False),
    "tokens/Occlusion": lambda: _of_tokens(fastsal.Occlusion, sliding_window_shapes=(2,), incremental=False),
    "tokens/ShapleyValueSampling": lambda: _of_tokens(fastsal.ShapleyValueSampling, n_samples=4, seed=0),
    "tokens/KernelShap": lambda: _of_tokens(fastsal.KernelShap, n_samples=20, seed=0),
    "tokens/LayerIntegratedGradients": _at_table,
    "one score/FeatureAblation": partial(_one_score, fastsal.FeatureAblation, feature_mask=FEATURES),
    "one score/Occlusion": partial(_one_score, fastsal.Occlusion, **WINDOWS),
    "one score/ShapleyValues": partial(_one_score, fastsal.ShapleyValues, feature_mask=FEATURES),
    "one score/Saliency": partial(_one_score, fastsal.Saliency),
    "one score/KernelShap": partial(
        _one_score, fastsal.KernelShap, image(batch=1), feature_mask=FEATURES, n_samples=20, seed=0
    ),
    "one score/Saliency, model made in the call": lambda: fastsal.Saliency(_total).attribute(image()),
    "named output/explain": lambda: explanation(
        fastsal.explain(Named().eval(), image(), ["gradcam", "saliency", "rise"], n_masks=8)
    ),
    "named output/targets": lambda: fastsal.GradCAM(Named().eval(), "model.last").attribute(
        image(), fastsal.targets.Logit(2)
    ),
    "pixels/one target": lambda: _several_scores(fastsal.Saliency, (1, 2, 3)),
    "pixels/a target each": lambda: _several_scores(fastsal.InputXGradient, [(0, 1, 2), (1, 2, 3), (2, 0, 0)]),
    "pixels/RISE": lambda: _several_scores(fastsal.RISE, (1, 2, 3), n_masks=12),
    "pixels/segmentation": lambda: _several_scores(
        fastsal.SmoothGrad, fastsal.targets.Segmentation(1, drawn(8, 9) > 0), n_samples=3
    ),
    "one example/all": lambda: explanation(
        fastsal.explain(classifier(), image(batch=1), ["gradcam", "rise", "ablationcam", "finercam"], n_masks=8)
    ),
    "several times/rise": lambda: [
        explainer.attribute(image(), target=i, n_masks=8)
        for explainer in [fastsal.RISE(classifier())]
        for i in range(3)
    ],
    "several times/integrated gradients": lambda: [
        explainer.attribute(factor * image(), target=1, n_steps=5)
        for explainer in [fastsal.IntegratedGradients(classifier())]
        for factor in (1.0, 0.5, 2.0)
    ],
    "several times/occlusion": lambda: [
        explainer.attribute(factor * image(), target=1, **{**WINDOWS, "incremental": True})
        for explainer in [fastsal.Occlusion(classifier())]
        for factor in (1.0, 0.5, 1.0)
    ],
}
