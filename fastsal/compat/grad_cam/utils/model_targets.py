"""pytorch-grad-cam's targets: called with one image's part of the model's output, they return its score.

Any function that does so is a target, those of :mod:`fastsal.targets` too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastsal.explainers.targets import Boxes, Segmentation


class ClassifierOutputTarget:
    """A class's score: output[category] of [K], output[:, category] of [B, K].

    Args:
        category: which, an int.
    """

    def __init__(self, category: int) -> None:
        self.category = category

    def __call__(self, model_output: Tensor) -> Tensor:
        return model_output[..., self.category] if model_output.dim() < 3 else model_output[:, self.category]


class ClassifierOutputSoftmaxTarget(ClassifierOutputTarget):
    """A class's probability, the softmax over the last dimension."""

    def __call__(self, model_output: Tensor) -> Tensor:
        return super().__call__(model_output.softmax(-1))


class ClassifierOutputReST(ClassifierOutputTarget):
    """A class's score plus its log-probability (Cai, "CAMs as Shapley Value-based Explainers", 2025)."""

    def __call__(self, model_output: Tensor) -> Tensor:
        return super().__call__(model_output + model_output.log_softmax(-1))


class BinaryClassifierOutputTarget:
    """The output of a binary classifier for category 1, its negative for 0."""

    def __init__(self, category: int) -> None:
        self.category = category

    def __call__(self, model_output: Tensor) -> Tensor:
        return model_output if self.category == 1 else -model_output


class SoftmaxOutputTarget:
    """The softmax over the last dimension; a CAM needs one number, so an output with one entry."""

    def __call__(self, model_output: Tensor) -> Tensor:
        return model_output.softmax(-1)


class RawScoresOutputTarget:
    """The output as it is; a CAM needs one number, so an output with one entry."""

    def __call__(self, model_output: Tensor) -> Tensor:
        return model_output


class SemanticSegmentationTarget(Segmentation):
    """Sum of a class's scores [K, H, W] over a region.

    Args:
        category: the class.
        mask: [H, W] array or tensor, the region (or weights).
    """

    def __init__(self, category: int, mask: Any) -> None:
        super().__init__(category, mask)


class FasterRCNNBoxScoreTarget(Boxes):
    """:class:`fastsal.targets.Boxes`: overlap plus score of what still matches some objects.

    Args:
        labels: class of each object.
        bounding_boxes: [n, 4] array or tensor, as x1, y1, x2, y2.
        iou_threshold: least intersection over union.
    """

    def __init__(self, labels: Sequence[int], bounding_boxes: Any, iou_threshold: float = 0.5) -> None:
        super().__init__(labels, bounding_boxes, iou_threshold)


class FinerWeightedTarget:
    """sum of p_k (y - alpha y_k) / sum of p_k, over the compared classes k of probability p_k.

    Args:
        main_category: the class of y.
        comparison_categories: the classes k.
        alpha: share of the compared scores that is taken off.
    """

    EPSILON = 1e-9

    def __init__(self, main_category: int, comparison_categories: Sequence[int], alpha: float) -> None:
        self.main_category, self.alpha = main_category, alpha
        self.comparison_categories = list(comparison_categories)

    def __call__(self, model_output: Tensor) -> Tensor:
        compared = torch.as_tensor(self.comparison_categories, device=model_output.device)
        weights = model_output.softmax(-1).index_select(-1, compared)
        main = model_output[..., self.main_category, None]
        differences = main - self.alpha * model_output.index_select(-1, compared)
        return (weights * differences).sum(-1) / (weights.sum(-1) + self.EPSILON)
