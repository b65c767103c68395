"""The explainers: gradient-based, activation-based and perturbation-based, and one call for all of them."""

from fastsal.explainers.activation.deconvolution import Deconvolution
from fastsal.explainers.activation.gradcam import GradCAM
from fastsal.explainers.activation.guided_backprop import GuidedBackprop
from fastsal.explainers.activation.guided_grad_cam import GuidedGradCam
from fastsal.explainers.activation.layer_activation import LayerActivation
from fastsal.explainers.activation.layer_attribution import LayerAttribution
from fastsal.explainers.activation.layer_grad_cam import LayerGradCam
from fastsal.explainers.activation.layer_gradient_x_activation import LayerGradientXActivation
from fastsal.explainers.activation.lrp import LRP
from fastsal.explainers.base import Attribution, GradientAttribution, PerturbationAttribution
from fastsal.explainers.explain import Explanation, explain
from fastsal.explainers.gradient.deep_lift import DeepLift
from fastsal.explainers.gradient.deep_lift_shap import DeepLiftShap
from fastsal.explainers.gradient.gradient_shap import GradientShap
from fastsal.explainers.gradient.input_x_gradient import InputXGradient
from fastsal.explainers.gradient.integrated_gradients import IntegratedGradients
from fastsal.explainers.gradient.layer_integrated_gradients import LayerIntegratedGradients
from fastsal.explainers.gradient.noise_tunnel import NoiseTunnel
from fastsal.explainers.gradient.saliency import Saliency
from fastsal.explainers.gradient.smooth_grad import SmoothGrad
from fastsal.explainers.perturbation.feature_ablation import FeatureAblation
from fastsal.explainers.perturbation.feature_permutation import FeaturePermutation
from fastsal.explainers.perturbation.kernel_shap import KernelShap
from fastsal.explainers.perturbation.lime import Lime
from fastsal.explainers.perturbation.lime_base import LimeBase
from fastsal.explainers.perturbation.occlusion import Occlusion
from fastsal.explainers.perturbation.rise import RISE
from fastsal.explainers.perturbation.shapley_value_sampling import ShapleyValueSampling
from fastsal.explainers.perturbation.shapley_values import ShapleyValues
from fastsal.explainers.registry import methods, options

__all__ = [
    "LRP",
    "RISE",
    "Attribution",
    "Deconvolution",
    "DeepLift",
    "DeepLiftShap",
    "Explanation",
    "FeatureAblation",
    "FeaturePermutation",
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
    "ShapleyValueSampling",
    "ShapleyValues",
    "SmoothGrad",
    "explain",
    "methods",
    "options",
]
