"""The explainers: gradient-based, activation-based and perturbation-based."""

from fastsal.explainers import targets
from fastsal.explainers.anytime import Estimate
from fastsal.explainers.attention.le_grad import LeGrad
from fastsal.explainers.base import Attribution, GradientAttribution, PerturbationAttribution
from fastsal.explainers.cam.ablation_cam import AblationCAM
from fastsal.explainers.cam.class_cam import CAM
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
from fastsal.explainers.cam.refine_cam import RefineCAM
from fastsal.explainers.cam.score_cam import ScoreCAM
from fastsal.explainers.cam.shapley_cam import ShapleyCAM
from fastsal.explainers.cam.smooth_grad_cam_plus_plus import SmoothGradCAMPlusPlus
from fastsal.explainers.cam.ss_cam import SSCAM
from fastsal.explainers.cam.x_grad_cam import XGradCAM
from fastsal.explainers.gradient.deconvolution import Deconvolution
from fastsal.explainers.gradient.deep_lift import DeepLift
from fastsal.explainers.gradient.deep_lift_shap import DeepLiftShap
from fastsal.explainers.gradient.full_grad import FullGrad
from fastsal.explainers.gradient.gradient_shap import GradientShap
from fastsal.explainers.gradient.guided_backprop import GuidedBackprop
from fastsal.explainers.gradient.input_x_gradient import InputXGradient
from fastsal.explainers.gradient.integrated_gradients import IntegratedGradients
from fastsal.explainers.gradient.noise_tunnel import NoiseTunnel
from fastsal.explainers.gradient.saliency import Saliency
from fastsal.explainers.gradient.smooth_grad import SmoothGrad
from fastsal.explainers.layer.guided_grad_cam import GuidedGradCam
from fastsal.explainers.layer.layer_activation import LayerActivation
from fastsal.explainers.layer.layer_attribution import LayerAttribution
from fastsal.explainers.layer.layer_grad_cam import LayerGradCam
from fastsal.explainers.layer.layer_gradient_x_activation import LayerGradientXActivation
from fastsal.explainers.layer.layer_integrated_gradients import LayerIntegratedGradients
from fastsal.explainers.lrp.lrp import LRP
from fastsal.explainers.perturbation.occlusion.feature_ablation import FeatureAblation
from fastsal.explainers.perturbation.occlusion.feature_permutation import FeaturePermutation
from fastsal.explainers.perturbation.occlusion.occlusion import Occlusion
from fastsal.explainers.perturbation.rise.rise import RISE
from fastsal.explainers.perturbation.shapley.shapley_value_sampling import ShapleyValueSampling
from fastsal.explainers.perturbation.shapley.shapley_values import ShapleyValues
from fastsal.explainers.perturbation.surrogate.kernel_shap import KernelShap
from fastsal.explainers.perturbation.surrogate.lime import Lime
from fastsal.explainers.perturbation.surrogate.lime_base import LimeBase
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
    "Deconvolution",
    "DeepLift",
    "DeepLiftShap",
    "EigenCAM",
    "EigenGradCAM",
    "Estimate",
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
    "methods",
    "options",
    "targets",
]
