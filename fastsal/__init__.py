"""fastsal: drop-in, GPU-fast saliency explainers for PyTorch.

>>> import fastsal
>>> explanation = fastsal.explain(model, images, method=["gradcam", "rise"])

Names are resolved at their first use (PEP 562), so that importing this package imports no torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

from fastsal._version import __version__

if TYPE_CHECKING:
    from fastsal import compat as compat
    from fastsal import deploy as deploy
    from fastsal import explainers as explainers
    from fastsal import explanation as explanation
    from fastsal import lrp as lrp
    from fastsal import metrics as metrics
    from fastsal import models as models
    from fastsal import ops as ops
    from fastsal import targets as targets
    from fastsal import viz as viz
    from fastsal.deploy import *
    from fastsal.engine.prepare import *
    from fastsal.engine.reading import *
    from fastsal.explainers import *
    from fastsal.explanation import *

__all__ = [
    "CAM",
    "FEM",
    "ISCAM",
    "KPCACAM",
    "LRP",
    "RISE",
    "SSCAM",
    "AblationCAM",
    "Attribution",
    "Compiled",
    "Deconvolution",
    "DeepLift",
    "DeepLiftShap",
    "EigenCAM",
    "EigenGradCAM",
    "Estimate",
    "Explained",
    "Explanation",
    "FeatureAblation",
    "FeaturePermutation",
    "FinerCAM",
    "FullGrad",
    "GradCAM",
    "GradCAMElementWise",
    "GradCAMPlusPlus",
    "GradientAttribution",
    "GradientShap",
    "GuidedBackprop",
    "GuidedGradCam",
    "HiResCAM",
    "InputXGradient",
    "IntegratedGradients",
    "KernelShap",
    "LayerActivation",
    "LayerAttribution",
    "LayerCAM",
    "LayerGradCam",
    "LayerGradientXActivation",
    "LayerIntegratedGradients",
    "LeGrad",
    "Lime",
    "LimeBase",
    "NoiseTunnel",
    "Occlusion",
    "Package",
    "PerturbationAttribution",
    "Prepared",
    "RandomCAM",
    "RefineCAM",
    "Saliency",
    "ScoreCAM",
    "ShapleyCAM",
    "ShapleyValueSampling",
    "ShapleyValues",
    "SmoothGrad",
    "SmoothGradCAMPlusPlus",
    "XGradCAM",
    "__version__",
    "compile",
    "explain",
    "export",
    "layers",
    "load",
    "methods",
    "prepare",
    "targets",
]

_HOMES = ("explainers", "explanation", "engine.prepare", "engine.reading", "deploy")
"""Where the names of ``__all__`` are, by whose own ``__all__``."""
_ROOMS = (
    "compat",
    "deploy",
    "engine",
    "explainers",
    "explanation",
    "lrp",
    "metrics",
    "models",
    "ops",
    "targets",
    "viz",
)
"""What is imported when it is first asked for as an attribute."""


if not TYPE_CHECKING:  # a type checker knows the names, and what is none of them

    def __getattr__(name: str) -> Any:
        if name in _ROOMS:
            return importlib.import_module(f"{__name__}.{name}")
        if name in __all__:
            for home in _HOMES:
                module = importlib.import_module(f"{__name__}.{home}")
                if name in module.__all__:
                    globals()[name] = value = getattr(module, name)
                    return value
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_ROOMS})
