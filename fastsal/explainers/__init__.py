"""The explainers: gradient-based, activation-based and perturbation-based.

A line here makes a class known everywhere: to :func:`fastsal.explain`, ``fastsal.methods()`` and the command line.
"""

from typing import TYPE_CHECKING

from fastsal.explainers.anytime import Estimate as Estimate
from fastsal.explainers.attention.attention_relevance import AttentionRelevance as AttentionRelevance
from fastsal.explainers.attention.attention_rollout import AttentionRollout as AttentionRollout
from fastsal.explainers.attention.grad_eclip import GradECLIP as GradECLIP
from fastsal.explainers.attention.gradient_attention import GradientAttention as GradientAttention
from fastsal.explainers.attention.le_grad import LeGrad as LeGrad
from fastsal.explainers.attention.raw_attention import RawAttention as RawAttention
from fastsal.explainers.base import Attribution as Attribution
from fastsal.explainers.base import Estimating as Estimating
from fastsal.explainers.base import GradientAttribution as GradientAttribution
from fastsal.explainers.base import PerturbationAttribution as PerturbationAttribution
from fastsal.explainers.base import attribution as attribution
from fastsal.explainers.base import describe as describe
from fastsal.explainers.call import Call as Call
from fastsal.explainers.cam.ablation_cam import AblationCAM as AblationCAM
from fastsal.explainers.cam.class_cam import CAM as CAM
from fastsal.explainers.cam.eigen_cam import EigenCAM as EigenCAM
from fastsal.explainers.cam.eigen_cam import EigenGradCAM as EigenGradCAM
from fastsal.explainers.cam.fem import FEM as FEM
from fastsal.explainers.cam.finer_cam import FinerCAM as FinerCAM
from fastsal.explainers.cam.grad_cam import GradCAM as GradCAM
from fastsal.explainers.cam.grad_cam_element_wise import GradCAMElementWise as GradCAMElementWise
from fastsal.explainers.cam.grad_cam_plus_plus import GradCAMPlusPlus as GradCAMPlusPlus
from fastsal.explainers.cam.hires_cam import HiResCAM as HiResCAM
from fastsal.explainers.cam.is_cam import ISCAM as ISCAM
from fastsal.explainers.cam.kpca_cam import KPCACAM as KPCACAM
from fastsal.explainers.cam.layer_cam import LayerCAM as LayerCAM
from fastsal.explainers.cam.random_cam import RandomCAM as RandomCAM
from fastsal.explainers.cam.refine_cam import RefineCAM as RefineCAM
from fastsal.explainers.cam.score_cam import ScoreCAM as ScoreCAM
from fastsal.explainers.cam.shapley_cam import ShapleyCAM as ShapleyCAM
from fastsal.explainers.cam.smooth_grad_cam_plus_plus import SmoothGradCAMPlusPlus as SmoothGradCAMPlusPlus
from fastsal.explainers.cam.ss_cam import SSCAM as SSCAM
from fastsal.explainers.cam.x_grad_cam import XGradCAM as XGradCAM
from fastsal.explainers.embeddings import InterpretableEmbeddingBase as InterpretableEmbeddingBase
from fastsal.explainers.embeddings import TokenReferenceBase as TokenReferenceBase
from fastsal.explainers.embeddings import (
    configure_interpretable_embedding_layer as configure_interpretable_embedding_layer,
)
from fastsal.explainers.embeddings import remove_interpretable_embedding_layer as remove_interpretable_embedding_layer
from fastsal.explainers.gradient.deconvolution import Deconvolution as Deconvolution
from fastsal.explainers.gradient.deep_lift import DeepLift as DeepLift
from fastsal.explainers.gradient.deep_lift_shap import DeepLiftShap as DeepLiftShap
from fastsal.explainers.gradient.full_grad import FullGrad as FullGrad
from fastsal.explainers.gradient.gradient_shap import GradientShap as GradientShap
from fastsal.explainers.gradient.guided_backprop import GuidedBackprop as GuidedBackprop
from fastsal.explainers.gradient.input_x_gradient import InputXGradient as InputXGradient
from fastsal.explainers.gradient.integrated_gradients import IntegratedGradients as IntegratedGradients
from fastsal.explainers.gradient.noise_tunnel import NoiseTunnel as NoiseTunnel
from fastsal.explainers.gradient.saliency import Saliency as Saliency
from fastsal.explainers.gradient.smooth_grad import SmoothGrad as SmoothGrad
from fastsal.explainers.layer.guided_grad_cam import GuidedGradCam as GuidedGradCam
from fastsal.explainers.layer.internal_influence import InternalInfluence as InternalInfluence
from fastsal.explainers.layer.layer_activation import LayerActivation as LayerActivation
from fastsal.explainers.layer.layer_attribution import LayerAttribution as LayerAttribution
from fastsal.explainers.layer.layer_conductance import LayerConductance as LayerConductance
from fastsal.explainers.layer.layer_deep_lift import LayerDeepLift as LayerDeepLift
from fastsal.explainers.layer.layer_deep_lift_shap import LayerDeepLiftShap as LayerDeepLiftShap
from fastsal.explainers.layer.layer_feature_ablation import LayerFeatureAblation as LayerFeatureAblation
from fastsal.explainers.layer.layer_feature_permutation import LayerFeaturePermutation as LayerFeaturePermutation
from fastsal.explainers.layer.layer_grad_cam import LayerGradCam as LayerGradCam
from fastsal.explainers.layer.layer_gradient_shap import LayerGradientShap as LayerGradientShap
from fastsal.explainers.layer.layer_gradient_x_activation import LayerGradientXActivation as LayerGradientXActivation
from fastsal.explainers.layer.layer_integrated_gradients import LayerIntegratedGradients as LayerIntegratedGradients
from fastsal.explainers.layer.layer_lrp import LayerLRP as LayerLRP
from fastsal.explainers.layer.neuron_attribution import NeuronAttribution as NeuronAttribution
from fastsal.explainers.layer.neuron_conductance import NeuronConductance as NeuronConductance
from fastsal.explainers.layer.neuron_deconvolution import NeuronDeconvolution as NeuronDeconvolution
from fastsal.explainers.layer.neuron_deep_lift import NeuronDeepLift as NeuronDeepLift
from fastsal.explainers.layer.neuron_deep_lift_shap import NeuronDeepLiftShap as NeuronDeepLiftShap
from fastsal.explainers.layer.neuron_feature_ablation import NeuronFeatureAblation as NeuronFeatureAblation
from fastsal.explainers.layer.neuron_gradient import NeuronGradient as NeuronGradient
from fastsal.explainers.layer.neuron_gradient_shap import NeuronGradientShap as NeuronGradientShap
from fastsal.explainers.layer.neuron_guided_backprop import NeuronGuidedBackprop as NeuronGuidedBackprop
from fastsal.explainers.layer.neuron_integrated_gradients import NeuronIntegratedGradients as NeuronIntegratedGradients
from fastsal.explainers.lrp.lrp import LRP as LRP
from fastsal.explainers.perturbation.dataloader_attribution import DataLoaderAttribution as DataLoaderAttribution
from fastsal.explainers.perturbation.occlusion.feature_ablation import FeatureAblation as FeatureAblation
from fastsal.explainers.perturbation.occlusion.feature_permutation import FeaturePermutation as FeaturePermutation
from fastsal.explainers.perturbation.occlusion.occlusion import Occlusion as Occlusion
from fastsal.explainers.perturbation.rise.rise import RISE as RISE
from fastsal.explainers.perturbation.shapley.shapley_value_sampling import ShapleyValueSampling as ShapleyValueSampling
from fastsal.explainers.perturbation.shapley.shapley_values import ShapleyValues as ShapleyValues
from fastsal.explainers.perturbation.surrogate.kernel_shap import KernelShap as KernelShap
from fastsal.explainers.perturbation.surrogate.lime import Lime as Lime
from fastsal.explainers.perturbation.surrogate.lime_base import LimeBase as LimeBase
from fastsal.explainers.registry import methods as methods
from fastsal.explainers.registry import register as register
from fastsal.explainers.statistics import MSE as MSE
from fastsal.explainers.statistics import ClassSummarizer as ClassSummarizer
from fastsal.explainers.statistics import CommonStats as CommonStats
from fastsal.explainers.statistics import Count as Count
from fastsal.explainers.statistics import Max as Max
from fastsal.explainers.statistics import Mean as Mean
from fastsal.explainers.statistics import Min as Min
from fastsal.explainers.statistics import StatValue as StatValue
from fastsal.explainers.statistics import StdDev as StdDev
from fastsal.explainers.statistics import Sum as Sum
from fastsal.explainers.statistics import Summarizer as Summarizer
from fastsal.explainers.statistics import SummarizerSingleTensor as SummarizerSingleTensor
from fastsal.explainers.statistics import Var as Var
from fastsal.explainers.task import Task as Task
from fastsal.explainers.text.image_input import ImageMaskInput as ImageMaskInput
from fastsal.explainers.text.interpretable_input import InterpretableInput as InterpretableInput
from fastsal.explainers.text.llm_attribution import LLMAttribution as LLMAttribution
from fastsal.explainers.text.llm_gradient_attribution import LLMGradientAttribution as LLMGradientAttribution
from fastsal.explainers.text.product_baselines import ProductBaselines as ProductBaselines
from fastsal.explainers.text.result import LLMAttributionResult as LLMAttributionResult
from fastsal.explainers.text.template_input import TextTemplateInput as TextTemplateInput
from fastsal.explainers.text.token_input import TextTokenInput as TextTokenInput

for _found in list(vars().values()):
    # Bases have no summary; LimeBase is made of the caller's parts, so that no name alone can make one.
    if isinstance(_found, type) and issubclass(_found, Attribution) and _found.summary and _found.nameable:
        register(_found)

if not TYPE_CHECKING:  # a type checker takes the names above
    __all__ = sorted(
        name for name, value in vars().items() if not name.startswith("_") and (callable(value) or name == "StatValue")
    )
