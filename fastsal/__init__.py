"""fastsal: drop-in, GPU-fast saliency explainers for PyTorch.

>>> import fastsal
>>> explanation = fastsal.explain(model, images, method=["gradcam", "rise"])
"""

from fastsal._version import __version__
from fastsal.engine import layers
from fastsal.explainers import (
    RISE,
    Deconvolution,
    Explanation,
    GradCAM,
    GuidedBackprop,
    IntegratedGradients,
    Occlusion,
    Saliency,
    explain,
    methods,
)

__all__ = [
    "RISE",
    "Deconvolution",
    "Explanation",
    "GradCAM",
    "GuidedBackprop",
    "IntegratedGradients",
    "Occlusion",
    "Saliency",
    "__version__",
    "explain",
    "layers",
    "methods",
]
