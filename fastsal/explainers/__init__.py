"""The explainers: gradient-based, activation-based and perturbation-based, and one call for all of them."""

from fastsal.explainers import targets
from fastsal.explainers._anytime import Estimate
from fastsal.explainers.activation.cam.ablation_cam import AblationCAM
from fastsal.explainers.activation.cam.class_cam import CAM
from fastsal.explainers.activation.cam.eigen_cam import EigenCAM, EigenGradCAM
from fastsal.explainers.activation.cam.fem import FEM
from fastsal.explainers.activation.cam.finer_cam import FinerCAM
from fastsal.explainers.activation.cam.full_grad import FullGrad
from fastsal.explainers.activation.cam.grad_cam import GradCAM
from fastsal.explainers.activation.cam.grad_cam_element_wise import GradCAMElementWise
from fastsal.explainers.activation.cam.grad_cam_plus_plus import GradCAMPlusPlus
from fastsal.explainers.activation.cam.hires_cam import HiResCAM
from fastsal.explainers.activation.cam.kpca_cam import KPCACAM
from fastsal.explainers.activation.cam.layer_cam import LayerCAM
from fastsal.explainers.activation.cam.le_grad import LeGrad
from fastsal.explainers.activation.cam.random_cam import RandomCAM
from fastsal.explainers.activation.cam.refine_cam import RefineCAM
from fastsal.explainers.activation.cam.score_cam import ISCAM, SSCAM, ScoreCAM
from fastsal.explainers.activation.cam.shapley_cam import ShapleyCAM
from fastsal.explainers.activation.cam.smooth_grad_cam_plus_plus import SmoothGradCAMPlusPlus
from fastsal.explainers.activation.cam.x_grad_cam import XGradCAM
from fastsal.explainers.activation.deconvolution import Deconvolution
from fastsal.explainers.activation.guided_backprop import GuidedBackprop
from fastsal.explainers.activation.guided_grad_cam import GuidedGradCam
from fastsal.explainers.activation.layer_activation import LayerActivation
from fastsal.explainers.activation.layer_attribution import LayerAttribution
from fastsal.explainers.activation.layer_grad_cam import LayerGradCam
from fastsal.explainers.activation.layer_gradient_x_activation import LayerGradientXActivation
from fastsal.explainers.activation.lrp import LRP
from fastsal.explainers.base import Attribution, GradientAttribution, PerturbationAttribution
from fastsal.explainers.compiled import Compiled, Explained, check_fixed, compile, explained
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
from fastsal.explainers.registry import cams, methods, options

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
    "PerturbationAttribution",
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
    "cams",
    "check_fixed",
    "compile",
    "explain",
    "explained",
    "methods",
    "options",
    "targets",
]
