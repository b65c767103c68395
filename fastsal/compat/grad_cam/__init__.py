"""pytorch-grad-cam's names: replace ``pytorch_grad_cam`` by ``fastsal.compat.grad_cam`` in the imports.

>>> from fastsal.compat.grad_cam import GradCAM
>>> from fastsal.compat.grad_cam.utils.image import show_cam_on_image
>>> with GradCAM(model=model, target_layers=[model.layer4[-1]]) as cam:
...     maps = cam(input_tensor=images)  # float32 [B, H, W]

Each of its modules is here under its name, as ``fastsal.compat.grad_cam.metrics.road`` or
``fastsal.compat.grad_cam.guided_backprop``.

The maps are pytorch-grad-cam's, scaled and resized in its way. What is different: the model is left as it was, a list
of targets must be as long as the batch, and an activation in place behind a layer does not change what is read of it.
"""

from fastsal.compat.grad_cam import metrics, utils
from fastsal.compat.grad_cam._modules import add_modules
from fastsal.compat.grad_cam.ablation_layer import AblationLayer, AblationLayerFasterRCNN, AblationLayerVit
from fastsal.compat.grad_cam.activations_and_gradients import ActivationsAndGradients
from fastsal.compat.grad_cam.base_cam import BaseCAM
from fastsal.compat.grad_cam.composed import FinerCAM, RefineCAM
from fastsal.compat.grad_cam.feature_factorization.deep_feature_factorization import (
    DeepFeatureFactorization,
    run_dff_on_image,
)
from fastsal.compat.grad_cam.full_grad import FullGrad
from fastsal.compat.grad_cam.guided_backprop import GuidedBackpropReLUModel
from fastsal.compat.grad_cam.methods import (
    FEM,
    KPCA_CAM,
    EigenCAM,
    EigenGradCAM,
    GradCAM,
    GradCAMElementWise,
    GradCAMPlusPlus,
    HiResCAM,
    LayerCAM,
    RandomCAM,
    SegEigenCAM,
    ShapleyCAM,
    XGradCAM,
)
from fastsal.compat.grad_cam.perturbing import AblationCAM, ScoreCAM
from fastsal.compat.grad_cam.sess import SESS

__all__ = [
    "FEM",
    "KPCA_CAM",
    "SESS",
    "AblationCAM",
    "AblationLayer",
    "AblationLayerFasterRCNN",
    "AblationLayerVit",
    "ActivationsAndGradients",
    "BaseCAM",
    "DeepFeatureFactorization",
    "EigenCAM",
    "EigenGradCAM",
    "FinerCAM",
    "FullGrad",
    "GradCAM",
    "GradCAMElementWise",
    "GradCAMPlusPlus",
    "GuidedBackpropReLUModel",
    "HiResCAM",
    "LayerCAM",
    "RandomCAM",
    "RefineCAM",
    "ScoreCAM",
    "SegEigenCAM",
    "ShapleyCAM",
    "XGradCAM",
    "metrics",
    "run_dff_on_image",
    "utils",
]

add_modules(__name__)
