"""Targets that are no index: what a score is for segmentation, detection, embeddings, and other classifiers.

One of these, or a list with one per example, goes where a target goes. So does any object of your own with
``score(output)`` that returns one number per example, [B]; and in a list a function that gets an example's part of the
model's output and returns one number as a tensor. Where copies of the inputs are altered, the output has their rows,
copy by copy: an object whose score is not row by row gives with ``repeated(count)`` what scores that many copies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fastsal.explainers.outputs import count_examples, example_scores


class ExampleTarget:
    """A score of one example: called with its part of the model's output, it returns a tensor with one element."""

    def __call__(self, output: Any) -> Tensor:
        raise NotImplementedError

    def score(self, output: Any) -> Tensor:
        """Scores [B] of a model's output, which has a part for each example."""
        return example_scores(output, self, count_examples(output))

    def mirrored(self) -> ExampleTarget:
        """The same for an input that is mirrored along its last dimension."""
        return self

    def __repr__(self) -> str:
        told = [f"{name}={_told(value)}" for name, value in vars(self).items()]
        return f"{type(self).__name__}({', '.join(told)})"


class Logit(ExampleTarget):
    """An entry of the output [K], or its only one.

    Args:
        category: which, an int.
    """

    def __init__(self, category: int) -> None:
        self.category = category

    def __call__(self, output: Any) -> Tensor:
        return self._entry(_vector(output))

    def _entry(self, vector: Tensor) -> Tensor:
        if not -len(vector) <= self.category < len(vector):
            raise ValueError(f"target: {self.category} is out of range for an output of {len(vector)}")
        return vector[self.category]


class Probability(Logit):
    """The softmax of an entry of the output [K]."""

    def __call__(self, output: Any) -> Tensor:
        return self._entry(_vector(output).softmax(-1))


class LogProbability(Logit):
    """The log-softmax of an entry of the output [K]."""

    def __call__(self, output: Any) -> Tensor:
        return self._entry(_vector(output).log_softmax(-1))


class Binary(ExampleTarget):
    """The single logit of a binary classifier, or its negative.

    Args:
        positive: whether to explain the positive answer.
    """

    def __init__(self, positive: bool = True) -> None:
        self.positive = positive

    def __call__(self, output: Any) -> Tensor:
        score = _tensor(output)
        if score.numel() != 1:
            raise ValueError(f"target: a binary classifier has one logit per example, this output {tuple(score.shape)}")
        return score.reshape(()) if self.positive else -score.reshape(())


class Segmentation(ExampleTarget):
    """Sum of a class's scores over a region of the output [K, *spatial].

    Args:
        category: the class.
        mask: [*spatial] tensor or array, the region (or weights); None takes every pixel.
    """

    def __init__(self, category: int, mask: Any = None) -> None:
        self.category = category
        self.mask = None if mask is None else torch.as_tensor(mask)

    def __call__(self, output: Any) -> Tensor:
        scores = _tensor(output)[self.category]
        if self.mask is None:
            return scores.sum()
        if self.mask.shape != scores.shape:
            raise ValueError(f"target: the mask {tuple(self.mask.shape)} is not of the scores' {tuple(scores.shape)}")
        return (scores * self.mask.to(scores)).sum()

    def mirrored(self) -> Segmentation:
        return Segmentation(self.category, None if self.mask is None else self.mask.flip(-1))


class Boxes(ExampleTarget):
    """Detections that still match: overlap plus score of the best box for each of some objects.

    For each object, the predicted box that overlaps it the most; where that has its label and enough overlap, the
    overlap plus the score is added. As in pytorch-grad-cam.

    Args:
        labels: class of each object.
        boxes: [n, 4] tensor or array, as x1, y1, x2, y2.
        iou_threshold: least intersection over union, in [0, 1].
    """

    def __init__(self, labels: Sequence[int], boxes: Any, iou_threshold: float = 0.5) -> None:
        self.labels = list(labels)
        self.boxes = torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4)
        self.iou_threshold = iou_threshold
        if len(self.labels) != len(self.boxes):
            raise ValueError(f"boxes: {len(self.boxes)} given for {len(self.labels)} labels; one each is needed")

    def __call__(self, output: Any) -> Tensor:
        if not isinstance(output, Mapping) or not {"boxes", "labels", "scores"} <= set(output):
            raise TypeError("target: Boxes needs an output with boxes, labels and scores for each example")
        total: Tensor = output["scores"].sum() * 0
        if len(output["boxes"]) == 0:
            return total
        overlap = box_iou(self.boxes.to(output["boxes"]), output["boxes"])
        for label, ious in zip(self.labels, overlap, strict=True):
            best = int(ious.argmax())
            if ious[best] > self.iou_threshold and int(output["labels"][best]) == label:
                total = total + ious[best] + output["scores"][best]
        return total

    def mirrored(self) -> Boxes:
        raise ValueError("aug_smooth: the boxes of a target cannot be mirrored; average maps of your own")


class Similarity(ExampleTarget):
    """Cosine similarity of the output [D] to an embedding.

    Args:
        embedding: tensor [D].
        negative: its negative: what makes the two differ.
    """

    def __init__(self, embedding: Tensor, negative: bool = False) -> None:
        self.embedding = embedding
        self.negative = negative

    def __call__(self, output: Any) -> Tensor:
        vector = _vector(output)
        found = torch.cosine_similarity(vector, self.embedding.to(vector).reshape(-1), dim=0)
        return -found if self.negative else found


def box_iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union [n, m] of boxes [n, 4] and [m, 4], as x1, y1, x2, y2."""
    low = torch.maximum(first[:, None, :2], second[None, :, :2])
    high = torch.minimum(first[:, None, 2:], second[None, :, 2:])
    common = (high - low).clamp_min(0).prod(-1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).clamp_min(0).prod(-1) for boxes in (first, second)]
    return common / (areas[0][:, None] + areas[1][None, :] - common).clamp_min(torch.finfo(common.dtype).tiny)


def _told(value: Any) -> str:
    return f"tensor {list(value.shape)}" if isinstance(value, Tensor) else repr(value)


def _tensor(output: Any) -> Tensor:
    if not isinstance(output, Tensor):
        raise TypeError(f"target: the output is a {type(output).__name__}, not a tensor")
    return output


def _vector(output: Any) -> Tensor:
    vector = _tensor(output)
    return vector.reshape(-1) if vector.dim() == 0 else vector
