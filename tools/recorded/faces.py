"""Calls under other packages' names."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from fastsal.compat import captum, grad_cam
from fastsal.compat.grad_cam.utils.model_targets import ClassifierOutputReST, ClassifierOutputTarget
from fastsal.compat.torchcam import methods as torchcam
from tools.recorded.networks import classifier, drawn, image, quarters, references

GRAD_CAM = (
    "GradCAM",
    "HiResCAM",
    "GradCAMElementWise",
    "GradCAMPlusPlus",
    "XGradCAM",
    "LayerCAM",
    "ShapleyCAM",
    "EigenCAM",
    "EigenGradCAM",
    "RandomCAM",
    "FEM",
    "KPCA_CAM",
    "ScoreCAM",
    "AblationCAM",
    "RefineCAM",
)
TORCHCAM = (
    "CAM",
    "GradCAM",
    "GradCAMpp",
    "XGradCAM",
    "LayerCAM",
    "ScoreCAM",
    "SmoothGradCAMpp",
    "RefineCAM",
    "FinerCAM",
)
FLOAT32: dict[str, dict[str, Any]] = {
    "KernelShap": {"feature_mask": quarters(image()), "n_samples": 20, "seed": 0},
    "Lime": {"feature_mask": quarters(image()), "n_samples": 20, "seed": 0},
    "Occlusion": {"sliding_window_shapes": (3, 4, 4), "strides": (3, 2, 2), "incremental": False},
    "ShapleyValueSampling": {"feature_mask": quarters(image()), "n_samples": 4, "seed": 0},
    "ShapleyValues": {"feature_mask": quarters(image())},
}
"""Captum's classes that give float32 whatever the model."""


def _grad_cam(name: str, layers: tuple[str, ...] = ("last",), **options: Any) -> Any:
    model = classifier()
    smooth = {key: options.pop(key) for key in ("eigen_smooth", "aug_smooth") if key in options}
    with getattr(grad_cam, name)(model, [getattr(model, each) for each in layers], **options) as cam:
        return cam(image(), [ClassifierOutputTarget(i) for i in (0, 1, 2)], **smooth), cam.outputs


def _predicted(name: str) -> Any:
    model = classifier()
    return getattr(grad_cam, name)(model, [model.last])(image())


def _torchcam(name: str, layer: Any = "last", **options: Any) -> Any:
    model = classifier()
    with getattr(torchcam, name)(model, layer, input_shape=(3, 8, 9), **options) as extractor:
        scores = model(image())
        return extractor([0, 1, 2], scores)


def _captum(name: str, dtype: torch.dtype, **options: Any) -> Any:
    explainer = getattr(captum, name)(classifier(dtype=dtype))
    return explainer.attribute(image(dtype=dtype), target=1, **options)


def _tunnel(**options: Any) -> Any:
    explainer = getattr(captum, "NoiseTunnel")(captum.IntegratedGradients(classifier()))  # noqa: B009
    return explainer.attribute(image(), **options)


CALLS: dict[str, Callable[[], Any]] = {
    **{f"grad_cam.{name}": partial(_grad_cam, name) for name in GRAD_CAM},
    **{
        f"grad_cam.{name}, eigen_smooth": partial(_grad_cam, name, eigen_smooth=True)
        for name in ("GradCAM", "LayerCAM", "ScoreCAM")
    },
    "grad_cam.GradCAM, aug_smooth": lambda: _grad_cam("GradCAM", aug_smooth=True),
    "grad_cam.GradCAM, two layers": lambda: _grad_cam("GradCAM", ("act", "last")),
    "grad_cam.GradCAM, predicted": lambda: _predicted("GradCAM"),
    "grad_cam.FullGrad": lambda: _grad_cam("FullGrad", eigen_smooth=False),
    "grad_cam.FullGrad, eigen_smooth": lambda: _grad_cam("FullGrad", eigen_smooth=True),
    "grad_cam.FinerCAM": lambda: _grad_cam("FinerCAM"),
    "grad_cam.SegEigenCAM": lambda: _grad_cam("SegEigenCAM"),
    "grad_cam.GradCAM, ReST": lambda: grad_cam.GradCAM(model := classifier(), [model.last])(
        image(), [ClassifierOutputReST(1)] * 3
    ),
    **{f"torchcam.{name}": partial(_torchcam, name) for name in TORCHCAM},
    "torchcam.SSCAM": lambda: _torchcam("SSCAM", num_samples=3, std=1.0),
    "torchcam.ISCAM": lambda: _torchcam("ISCAM", num_samples=3),
    "torchcam.ScoreCAM, batches": lambda: _torchcam("ScoreCAM", batch_size=2),
    "torchcam.LayerCAM, two layers": lambda: _torchcam("LayerCAM", ["act", "last"]),
    **{f"captum.{name}": partial(_captum, name, torch.float64, **FLOAT32[name]) for name in FLOAT32},
    "captum.IntegratedGradients": lambda: _captum("IntegratedGradients", torch.bfloat16, n_steps=4),
    "captum.DeepLift": lambda: _captum("DeepLift", torch.float32, return_convergence_delta=True),
    "captum.GradientShap": lambda: _captum(
        "GradientShap", torch.float32, baselines=references(image()), n_samples=4, stdevs=0.1, seed=0
    ),
    "captum.LRP": lambda: _captum("LRP", torch.float32, return_convergence_delta=True),
    "captum.LayerIntegratedGradients": lambda: captum.LayerIntegratedGradients(
        model := classifier(), model.last
    ).attribute(image(), target=1, n_steps=4),
    "captum.NoiseTunnel": partial(
        _tunnel, nt_samples=3, stdevs=0.2, seed=0, target=1, n_steps=4, baselines=drawn(3, 3, 8, 9)
    ),
}
