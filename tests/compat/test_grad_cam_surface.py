"""Every public name of pytorch-grad-cam is here, in its module, with its arguments."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from fastsal.compat import grad_cam

# What its README, its notebooks and its command line import.
IMPORTS = """
pytorch_grad_cam: GradCAM HiResCAM ScoreCAM GradCAMPlusPlus AblationCAM XGradCAM EigenCAM FullGrad EigenGradCAM LayerCAM
pytorch_grad_cam: RandomCAM GradCAMElementWise KPCA_CAM FEM ShapleyCAM FinerCAM RefineCAM SegEigenCAM SESS BaseCAM
pytorch_grad_cam: GuidedBackpropReLUModel ActivationsAndGradients DeepFeatureFactorization run_dff_on_image
pytorch_grad_cam: AblationLayer AblationLayerVit AblationLayerFasterRCNN
pytorch_grad_cam.ablation_layer: AblationLayer AblationLayerVit AblationLayerFasterRCNN
pytorch_grad_cam.ablation_cam: AblationCAM
pytorch_grad_cam.activations_and_gradients: ActivationsAndGradients
pytorch_grad_cam.base_cam: BaseCAM
pytorch_grad_cam.grad_cam: GradCAM
pytorch_grad_cam.guided_backprop: GuidedBackpropReLUModel GuidedBackpropReLU GuidedBackpropReLUasModule
pytorch_grad_cam.sobel_cam: sobel_cam
pytorch_grad_cam.sess: SESS
pytorch_grad_cam.metrics.ARCC: ARCC
pytorch_grad_cam.metrics.arcc: ARCC
pytorch_grad_cam.metrics.cam_mult_image: CamMultImageConfidenceChange DropInConfidence IncreaseInConfidence
pytorch_grad_cam.metrics.road: ROADMostRelevantFirst ROADLeastRelevantFirst ROADCombined NoisyLinearImputer
pytorch_grad_cam.metrics.road: ROADMostRelevantFirstAverage ROADLeastRelevantFirstAverage
pytorch_grad_cam.feature_factorization.deep_feature_factorization: dff DeepFeatureFactorization run_dff_on_image
pytorch_grad_cam.utils.find_layers: find_layer_types_recursive replace_layer_recursive
pytorch_grad_cam.utils.image: show_cam_on_image preprocess_image deprocess_image scale_cam_image
pytorch_grad_cam.utils.image: scale_accross_batch_and_channels show_factorization_on_image create_labels_legend
pytorch_grad_cam.utils.model_targets: ClassifierOutputTarget ClassifierOutputSoftmaxTarget FasterRCNNBoxScoreTarget
pytorch_grad_cam.utils.model_targets: SemanticSegmentationTarget BinaryClassifierOutputTarget RawScoresOutputTarget
pytorch_grad_cam.utils.reshape_transforms: vit_reshape_transform fasterrcnn_reshape_transform
pytorch_grad_cam.utils.svd_on_activations: get_2d_projection
"""
# Another AblationCAM that its package imports nowhere, and that calls its own methods with wrong arguments.
NOT_OFFERED = ["pytorch_grad_cam.ablation_cam_multilayer"]
# What a subclass there overrides, which is another class's attribute() here.
OVERRIDDEN = [
    "aggregate_multi_layers",
    "assemble_ablation_scores",
    "compute_cam_per_layer",
    "get_bias_data",
    "get_cam_image",
    "get_cam_weights",
    "save_activation",
]
# (name, argument): another default, since None is chosen from memory or found, or the argument is another class here.
OTHER_DEFAULTS = {
    ("AblationCAM", "ablation_layer"),
    ("AblationCAM", "batch_size"),
    ("FullGrad", "target_layers"),
    ("run_dff_on_image", "reshape_transform"),
    ("NoisyLinearImputer", "weighting"),
}
RENAMED = {("SemanticSegmentationTarget", "__call__"), ("FasterRCNNBoxScoreTarget", "__call__")}


@pytest.mark.parametrize("line", IMPORTS.split("\n")[1:-1])
def test_what_is_imported_from_it(line: str) -> None:
    module, _, names = line.partition(":")
    ours = importlib.import_module(module.replace("pytorch_grad_cam", grad_cam.__name__))
    assert [name for name in names.split() if not hasattr(ours, name)] == []


def theirs() -> ModuleType:
    found: ModuleType = pytest.importorskip("pytorch_grad_cam", reason="pytorch-grad-cam is not installed")
    return found


def public(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """The classes and functions of a module that are its package's, where they are defined or given out."""
    given_out = module.__name__ == "pytorch_grad_cam" or hasattr(module, "__path__")
    for name, value in vars(module).items():
        if name.startswith("_") or not (inspect.isclass(value) or inspect.isfunction(value)):
            continue
        if value.__module__ == module.__name__ or (given_out and value.__module__.startswith("pytorch_grad_cam")):
            yield name, value


def modules() -> list[str]:
    package = theirs()
    found = ["pytorch_grad_cam", *(each.name for each in pkgutil.walk_packages(package.__path__, "pytorch_grad_cam."))]
    return [name for name in found if name not in NOT_OFFERED]


def same_default(name: str, argument: str, ours: Any, expected: Any) -> bool:
    if isinstance(expected, (list, tuple)):
        expected = list(expected)
        return isinstance(ours, (list, tuple)) and list(ours) == expected
    if inspect.isclass(expected) and expected is not inspect.Parameter.empty:
        return inspect.isclass(ours) and ours.__name__ == expected.__name__
    # An argument that may be left out here where it may not there.
    return ours == expected or (expected is inspect.Parameter.empty and ours is None)


def test_every_public_name_and_its_arguments() -> None:
    problems = []
    for module in modules():
        ours = importlib.import_module(module.replace("pytorch_grad_cam", grad_cam.__name__))
        for name, value in public(importlib.import_module(module)):
            if not hasattr(ours, name):
                problems.append(f"{module}.{name}")
                continue
            problems += compared(name, getattr(ours, name), value)
    assert problems == []


def compared(name: str, ours: Any, expected: Any) -> Iterator[str]:
    pairs = [("", ours, expected)]
    if inspect.isclass(expected):
        if issubclass(expected, (torch.nn.Module, torch.autograd.Function)):
            return  # called through a method of PyTorch's
        for member, function in vars(expected).items():
            if not inspect.isfunction(function) or (member.startswith("_") and member != "__call__"):
                continue
            if not hasattr(ours, member):
                if member not in OVERRIDDEN:
                    yield f"{name}.{member}"
            elif (name, member) not in RENAMED:
                pairs.append((member, getattr(ours, member), function))
    for member, one, other in pairs:
        wanted = list(inspect.signature(other).parameters.values())
        if any(each.kind is each.VAR_POSITIONAL for each in wanted):
            continue
        found = list(inspect.signature(one).parameters.values())
        if [each.name for each in found[: len(wanted)]] != [each.name for each in wanted]:
            yield f"{name}.{member}{inspect.signature(one)} for {inspect.signature(other)}"
            continue
        for mine, each in zip(found, wanted, strict=False):
            known = (name, each.name) in OTHER_DEFAULTS
            if not known and not same_default(name, each.name, mine.default, each.default):
                yield f"{name}.{member}({each.name}={mine.default!r}) for {each.default!r}"


def test_the_road_weights() -> None:
    road = pytest.importorskip("pytorch_grad_cam.metrics.road", reason="pytorch-grad-cam is not installed")
    ours = importlib.import_module("fastsal.compat.grad_cam.metrics.road").neighbors_weights
    assert sorted(ours) == sorted(road.neighbors_weights)
    assert np.isclose(sum(weight for _, weight in ours), 1)
