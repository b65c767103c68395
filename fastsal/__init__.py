"""fastsal: drop-in, GPU-fast saliency explainers for PyTorch.

>>> import fastsal
>>> explanation = fastsal.explain(model, images, method=["gradcam", "rise"])
"""

from fastsal._version import __version__
from fastsal.engine import layers
from fastsal.explainers import (
    LRP,
    RISE,
    Attribution,
    Deconvolution,
    Explanation,
    GradCAM,
    GradientAttribution,
    GradientShap,
    GuidedBackprop,
    GuidedGradCam,
    InputXGradient,
    IntegratedGradients,
    KernelShap,
    LayerActivation,
    LayerAttribution,
    LayerGradCam,
    LayerGradientXActivation,
    LayerIntegratedGradients,
    Lime,
    LimeBase,
    NoiseTunnel,
    Occlusion,
    PerturbationAttribution,
    Saliency,
    SmoothGrad,
    explain,
    methods,
)

__all__ = [
    "LRP",
    "RISE",
    "Attribution",
    "Deconvolution",
    "Explanation",
    "GradCAM",
    "GradientAttribution",
    "GradientShap",
    "GuidedBackprop",
    "GuidedGradCam",
    "InputXGradient",
    "IntegratedGradients",
    "KernelShap",
    "LayerActivation",
    "LayerAttribution",
    "LayerGradCam",
    "LayerGradientXActivation",
    "LayerIntegratedGradients",
    "Lime",
    "LimeBase",
    "NoiseTunnel",
    "Occlusion",
    "PerturbationAttribution",
    "Saliency",
    "SmoothGrad",
    "__version__",
    "explain",
    "layers",
    "methods",
]
