"""The methods by name, and what each does with a model, an input and a target."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from fastsal.explainers._old import ESTIMATING
from fastsal.explainers.base import Attribution
from fastsal.explainers.cam.ablation_cam import AblationCAM
from fastsal.explainers.cam.base import ActivationMap
from fastsal.explainers.cam.eigen_cam import EigenCAM, EigenGradCAM
from fastsal.explainers.cam.fem import FEM
from fastsal.explainers.cam.finer_cam import FinerCAM
from fastsal.explainers.cam.grad_cam import GradCAM
from fastsal.explainers.cam.grad_cam_element_wise import GradCAMElementWise
from fastsal.explainers.cam.grad_cam_plus_plus import GradCAMPlusPlus
from fastsal.explainers.cam.hires_cam import HiResCAM
from fastsal.explainers.cam.is_cam import ISCAM
from fastsal.explainers.cam.kpca_cam import KPCACAM
from fastsal.explainers.cam.layer_cam import LayerCAM
from fastsal.explainers.cam.random_cam import RandomCAM
from fastsal.explainers.cam.score_cam import ScoreCAM
from fastsal.explainers.cam.shapley_cam import ShapleyCAM
from fastsal.explainers.cam.smooth_grad_cam_plus_plus import SmoothGradCAMPlusPlus
from fastsal.explainers.cam.ss_cam import SSCAM
from fastsal.explainers.cam.x_grad_cam import XGradCAM
from fastsal.explainers.gradient.deconvolution import Deconvolution
from fastsal.explainers.gradient.deep_lift import DeepLift
from fastsal.explainers.gradient.full_grad import FullGrad
from fastsal.explainers.gradient.guided_backprop import GuidedBackprop
from fastsal.explainers.gradient.input_x_gradient import InputXGradient
from fastsal.explainers.gradient.integrated_gradients import IntegratedGradients
from fastsal.explainers.gradient.saliency import Saliency
from fastsal.explainers.gradient.smooth_grad import SmoothGrad
from fastsal.explainers.perturbation.occlusion.occlusion import Occlusion
from fastsal.explainers.perturbation.rise.rise import RISE


class Method(NamedTuple):
    """A method as :func:`fastsal.explain` runs it.

    ``perturbs`` tells that it scores altered inputs, by probabilities unless told otherwise; ``rows`` names the
    option that bounds the rows of a model call.
    """

    explainer: Callable[..., Attribution]
    description: str
    perturbs: bool = False
    rows: str | None = None


METHODS: Mapping[str, Method] = {
    "gradcam": Method(GradCAM, "activations of a layer, weighted by the target's mean gradient"),
    "saliency": Method(Saliency, "absolute gradient of the target by the input"),
    "input-x-gradient": Method(InputXGradient, "input times gradient"),
    "smoothgrad": Method(SmoothGrad, "gradient averaged over noisy inputs", rows="perturbations_per_eval"),
    "integrated-gradients": Method(
        IntegratedGradients, "gradient averaged on the path from a baseline", rows="internal_batch_size"
    ),
    "deep-lift": Method(DeepLift, "differences from a baseline, sent back by the Rescale rule"),
    "guided-backprop": Method(GuidedBackprop, "gradient, negative ones stopped at every ReLU"),
    "deconvolution": Method(Deconvolution, "activations sent back through rectifiers"),
    "occlusion": Method(Occlusion, "drop of the score under a sliding window", True, "perturbations_per_eval"),
    "rise": Method(RISE, "random masks weighted by the score that they leave", True, "perturbations_per_eval"),
    "gradcam++": Method(GradCAMPlusPlus, "Grad-CAM with positive gradients, weighed by how much each position counts"),
    "xgradcam": Method(XGradCAM, "Grad-CAM with gradients weighed by a position's share of its channel"),
    "layercam": Method(LayerCAM, "each position weighed by its own positive gradient"),
    "hirescam": Method(HiResCAM, "gradient times activation, position by position"),
    "gradcam-element-wise": Method(GradCAMElementWise, "the same, each product rectified"),
    "finercam": Method(FinerCAM, "Grad-CAM of the score less its rivals'"),
    "shapleycam": Method(ShapleyCAM, "Grad-CAM less half the curvature"),
    "smooth-gradcam++": Method(SmoothGradCAMPlusPlus, "Grad-CAM++ with derivatives averaged over noisy inputs"),
    "eigencam": Method(EigenCAM, "first principal component of a layer; of no target"),
    "eigengradcam": Method(EigenGradCAM, "first principal component of gradient times activation"),
    "kpca-cam": Method(KPCACAM, "first kernel principal component of a layer; of no target"),
    "fem": Method(FEM, "channels weighed by their share of rare positions; of no target"),
    "ablationcam": Method(AblationCAM, "channels weighed by the score's drop without them"),
    "scorecam": Method(ScoreCAM, "channels weighed by the score that each leaves as a mask"),
    "ss-cam": Method(SSCAM, "Score-CAM with noisy masks"),
    "is-cam": Method(ISCAM, "Score-CAM with masks of growing strength"),
    "fullgrad": Method(FullGrad, "input times gradient, and bias times gradient of every layer"),
    "random-cam": Method(RandomCAM, "channels weighed at random: what the others must beat"),
}

SHARED = (
    *ESTIMATING,
    "self",
    "inputs",
    "target",
    "additional_forward_args",
    "return_convergence_delta",
    "create_graph",
    "targets",
    "grad_kwargs",
    "custom_attribution_func",
)


def methods() -> dict[str, str]:
    """Names of the methods with a line on each, in the order in which to show them."""
    return {name: method.description for name, method in METHODS.items()}


def cams() -> list[str]:
    """Names of the class activation maps."""
    kinds = (ActivationMap, FullGrad)
    return [name for name, method in METHODS.items() if issubclass(method.explainer, kinds)]  # type: ignore[arg-type]


def options(method: str) -> list[str]:
    """Names of the options that :func:`fastsal.explain` passes on to a method.

    Raises:
        ValueError: for an unknown method.
    """
    signature = inspect.signature(find(method).explainer.attribute)  # type: ignore[attr-defined]
    extra = ["batch_size", "score"] if find(method).perturbs else ["batch_size"]
    return [name for name in signature.parameters if name not in SHARED] + extra


def find(name: str) -> Method:
    """The method of a name.

    Raises:
        ValueError: for an unknown one, with the nearest.
    """
    import difflib

    if name not in METHODS:
        near = difflib.get_close_matches(str(name), METHODS, n=2, cutoff=0.3)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise ValueError(f"method: {name!r} is not one of {', '.join(METHODS)}{hint}")
    return METHODS[name]


def keywords(method: Method, given: Mapping[str, Any]) -> dict[str, Any]:
    """The given options as arguments of a method's ``attribute``."""
    chosen: dict[str, Any] = dict(given)
    batch_size = chosen.pop("batch_size", None)
    if batch_size is not None and method.rows is not None:
        chosen.setdefault(method.rows, batch_size)
    return chosen
