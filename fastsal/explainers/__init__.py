"""The explainers: gradient-based, activation-based and perturbation-based, and one call for all of them."""

from fastsal.explainers.activation.deconvolution import Deconvolution
from fastsal.explainers.activation.gradcam import GradCAM
from fastsal.explainers.activation.guided_backprop import GuidedBackprop
from fastsal.explainers.explain import Explanation, explain
from fastsal.explainers.gradient.integrated_gradients import IntegratedGradients
from fastsal.explainers.gradient.saliency import Saliency
from fastsal.explainers.perturbation.occlusion import Occlusion
from fastsal.explainers.perturbation.rise import RISE
from fastsal.explainers.registry import methods, options

__all__ = [
    "RISE",
    "Deconvolution",
    "Explanation",
    "GradCAM",
    "GuidedBackprop",
    "IntegratedGradients",
    "Occlusion",
    "Saliency",
    "explain",
    "methods",
    "options",
]
