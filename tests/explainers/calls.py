"""One call of every method, on a :class:`tests.explainers.networks.Small` or what has its layer ``last``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import fastsal

Explain = Callable[..., Tensor]
NEURON = (1, slice(None), slice(None))
"""A channel."""


def segments(x: Tensor) -> Tensor:
    """Four features of an image: its quarters."""
    rows, columns = (torch.arange(size, device=x.device) * 2 // size for size in x.shape[2:])
    return (2 * rows[:, None] + columns)[None, None]


def reference(x: Tensor) -> Tensor:
    """Two baselines in the dtype of the input."""
    return torch.stack([torch.zeros_like(x[0]), torch.full_like(x[0], 0.5)])


def seeded(options: dict[str, Any]) -> dict[str, Any]:
    return {"seed": 0, **options}


GRADIENT: dict[str, Explain] = {
    "saliency": lambda model, x, **o: fastsal.Saliency(model).attribute(x, target=1, **o),
    "input-x-gradient": lambda model, x, **o: fastsal.InputXGradient(model).attribute(x, target=1, **o),
    "ig": lambda model, x, **o: fastsal.IntegratedGradients(model).attribute(x, target=1, n_steps=4, **o),
    "smoothgrad": lambda model, x, **o: fastsal.SmoothGrad(model).attribute(x, target=1, n_samples=3, **seeded(o)),
    "noise-tunnel": lambda model, x, **o: fastsal.NoiseTunnel(fastsal.InputXGradient(model)).attribute(
        x, "vargrad", target=1, stdevs=0.5, **seeded(o)
    ),
    "gradient-shap": lambda model, x, **o: fastsal.GradientShap(model).attribute(
        x, reference(x), target=1, **seeded(o)
    ),
}
CAMS = (
    "GradCAMPlusPlus",
    "XGradCAM",
    "HiResCAM",
    "GradCAMElementWise",
    "EigenCAM",
    "EigenGradCAM",
    "KPCACAM",
    "FEM",
    "ShapleyCAM",
    "FinerCAM",
    "RandomCAM",
    "ScoreCAM",
    "SSCAM",
    "ISCAM",
    "AblationCAM",
    "SmoothGradCAMPlusPlus",
)
MODULE: dict[str, Explain] = {
    "guided": lambda model, x, **o: fastsal.GuidedBackprop(model).attribute(x, target=1, **o),
    "deconvolution": lambda model, x, **o: fastsal.Deconvolution(model).attribute(x, target=1, **o),
    "guided-gradcam": lambda model, x, **o: fastsal.GuidedGradCam(model, model.last).attribute(x, target=1, **o),
    "gradcam": lambda model, x, **o: fastsal.GradCAM(model, model.last).attribute(x, target=1, **o),
    "gradcam-default": lambda model, x, **o: fastsal.GradCAM(model).attribute(x, target=1, **o),
    **{
        name: (lambda model, x, name=name, **o: getattr(fastsal, name)(model, model.last).attribute(x, target=1, **o))
        for name in CAMS
    },
    "cam-targets": lambda model, x, **o: fastsal.GradCAM(model, model.last).attribute(x, targets=[1, 2], **o)[0],
    "full-grad": lambda model, x, **o: fastsal.FullGrad(model).attribute(x, target=1, **o),
    "layer-gradcam": lambda model, x, **o: fastsal.LayerGradCam(model, model.last).attribute(x, target=1, **o),
    "layer-activation": lambda model, x, **o: fastsal.LayerActivation(model, model.last).attribute(x, **o),
    "layer-gradient-x-activation": lambda model, x, **o: fastsal.LayerGradientXActivation(model, model.last).attribute(
        x, target=1, **o
    ),
    "layer-ig": lambda model, x, **o: fastsal.LayerIntegratedGradients(model, model.last).attribute(
        x, target=1, n_steps=4, **o
    ),
    "deep-lift": lambda model, x, **o: fastsal.DeepLift(model).attribute(x, target=1, **o),
    "deep-lift-shap": lambda model, x, **o: fastsal.DeepLiftShap(model).attribute(x, reference(x), target=1, **o),
    "layer-conductance": lambda model, x, **o: fastsal.LayerConductance(model, model.last).attribute(
        x, target=1, n_steps=4, **o
    ),
    "internal-influence": lambda model, x, **o: fastsal.InternalInfluence(model, model.last).attribute(
        x, target=1, n_steps=4, **o
    ),
    "layer-deep-lift": lambda model, x, **o: fastsal.LayerDeepLift(model, model.last).attribute(x, target=1, **o),
    "layer-deep-lift-shap": lambda model, x, **o: fastsal.LayerDeepLiftShap(model, model.last).attribute(
        x, reference(x), target=1, **o
    ),
    "layer-gradient-shap": lambda model, x, **o: fastsal.LayerGradientShap(model, model.last).attribute(
        x, reference(x), target=1, **seeded(o)
    ),
    "layer-ablation": lambda model, x, **o: fastsal.LayerFeatureAblation(model, model.last).attribute(
        x, target=1, layer_mask=torch.arange(6, device=x.device)[:, None, None] // 3, **o
    ),
    "layer-lrp": lambda model, x, **o: fastsal.LayerLRP(model, model.last).attribute(x, target=1, **o),
    "neuron-gradient": lambda model, x, **o: fastsal.NeuronGradient(model, model.last).attribute(x, NEURON, **o),
    "neuron-conductance": lambda model, x, **o: fastsal.NeuronConductance(model, model.last).attribute(
        x, NEURON, target=1, n_steps=4, **o
    ),
    "neuron-deep-lift": lambda model, x, **o: fastsal.NeuronDeepLift(model, model.last).attribute(x, NEURON, **o),
    "neuron-ablation": lambda model, x, **o: fastsal.NeuronFeatureAblation(model, model.last).attribute(
        x, NEURON, feature_mask=segments(x), **o
    ),
    "lrp": lambda model, x, **o: fastsal.LRP(model).attribute(x, target=1, **o),
}
PERTURBATION: dict[str, Explain] = {
    "occlusion": lambda model, x, **o: fastsal.Occlusion(model).attribute(x, (3, 4, 4), (3, 3, 3), target=1, **o),
    "rise": lambda model, x, **o: fastsal.RISE(model).attribute(x, target=1, n_masks=8, grid_size=3, **o),
    "feature-ablation": lambda model, x, **o: fastsal.FeatureAblation(model).attribute(
        x, target=1, feature_mask=segments(x), **o
    ),
    "feature-permutation": lambda model, x, **o: fastsal.FeaturePermutation(model).attribute(
        x, target=1, feature_mask=segments(x), **seeded(o)
    ),
    "shapley-sampling": lambda model, x, **o: fastsal.ShapleyValueSampling(model).attribute(
        x, target=1, feature_mask=segments(x), n_samples=3, **seeded(o)
    ),
    "shapley": lambda model, x, **o: fastsal.ShapleyValues(model).attribute(x, target=1, feature_mask=segments(x), **o),
    "lime": lambda model, x, **o: fastsal.Lime(model).attribute(
        x, target=1, feature_mask=segments(x), n_samples=12, **seeded(o)
    ),
    "kernel-shap": lambda model, x, **o: fastsal.KernelShap(model).attribute(
        x, target=1, feature_mask=segments(x), n_samples=12, **seeded(o)
    ),
}
EXPLAIN: dict[str, Explain] = {
    "explain": lambda model, x, **o: fastsal.explain(model, x, ["gradcam", "saliency", "rise"], n_masks=8, **o).maps[
        "rise"
    ],
}
CALLS = {**GRADIENT, **MODULE, **PERTURBATION, **EXPLAIN}
RANDOM = (
    "smoothgrad",
    "noise-tunnel",
    "gradient-shap",
    "layer-gradient-shap",
    "feature-permutation",
    "shapley-sampling",
    "lime",
    "kernel-shap",
)
ANY_CALLABLE = [*GRADIENT, *PERTURBATION]
"""Methods that take any callable, where the others need a module."""
