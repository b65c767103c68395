"""torchcam's extractors."""

from fastsal.compat.torchcam.methods.activation import CAM, ISCAM, SSCAM, ScoreCAM
from fastsal.compat.torchcam.methods.composed import FinerCAM, RefineCAM
from fastsal.compat.torchcam.methods.core import OutputTarget as OutputTarget
from fastsal.compat.torchcam.methods.gradient import GradCAM, GradCAMpp, LayerCAM, SmoothGradCAMpp, XGradCAM

__all__ = [
    "CAM",
    "ISCAM",
    "SSCAM",
    "FinerCAM",
    "GradCAM",
    "GradCAMpp",
    "LayerCAM",
    "RefineCAM",
    "ScoreCAM",
    "SmoothGradCAMpp",
    "XGradCAM",
]
