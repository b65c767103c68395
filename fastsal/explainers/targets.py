"""Targets that are no index: what a score is for segmentation, detection, embeddings, and other classifiers.

One of these, or a list with one per example, goes where a target goes. A function of your own does too, in such a list:
it gets an example's part of the model's output and returns one number as a tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


class ExampleTarget:
    """A score of one example: called with its part of the model's output, it returns a tensor with one element."""

    def __call__(self, output: Any) -> Tensor:
        raise NotImplementedError

    def mirrored(self) -> ExampleTarget:
        """The same for an input that is mirrored along its last dimension."""
        return self


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


def main_output(output: Any) -> Any:
    """The tensor of an output that names it: ``logits`` (transformers), ``out`` (torchvision's segmentation)."""
    if isinstance(output, Tensor):
        return output
    for name in ("logits", "out"):
        found = output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)
        if isinstance(found, Tensor):
            return found
    return output


def count_examples(output: Any) -> int:
    """How many examples an output is of."""
    output = main_output(output)
    if isinstance(output, Mapping):
        return count_examples(next(iter(output.values())))
    return len(output) if not isinstance(output, Tensor) or output.dim() else 1


def example_outputs(output: Any, examples: int) -> list[Any]:
    """Each example's part of a model's output.

    Raises:
        TypeError, ValueError: for an output without one part per example.
    """
    output = main_output(output)
    if isinstance(output, Mapping):
        parts = {name: example_outputs(value, examples) for name, value in output.items()}
        return [{name: part[i] for name, part in parts.items()} for i in range(examples)]
    if not isinstance(output, (Tensor, list, tuple)):
        raise TypeError(f"forward_func: its output is a {type(output).__name__}, which has no part for each example")
    if isinstance(output, Tensor) and output.dim() == 0 and examples == 1:
        return [output]
    size = len(output) if not isinstance(output, Tensor) else (output.shape[0] if output.dim() else 0)
    if size != examples:
        raise ValueError(f"forward_func: its output has {size} entries for {examples} examples")
    return list(output)


def example_scores(output: Any, target: Any, examples: int) -> Tensor:
    """Scores [B] of one target for all examples, or of a list with one each.

    Raises:
        TypeError, ValueError: for a wrong number of targets, or one that returns anything but one number.
    """
    targets: list[Callable[[Any], Tensor]] = list(target) if isinstance(target, list) else [target] * examples
    if len(targets) != examples:
        raise ValueError(f"target: {len(targets)} entries for {examples} examples")
    scores = []
    for each, part in zip(targets, example_outputs(output, examples), strict=True):
        score = each(part)
        if not isinstance(score, Tensor) or score.numel() != 1:
            given = tuple(score.shape) if isinstance(score, Tensor) else type(score).__name__
            raise ValueError(f"target: {each!r} returned {given} for an example, not a tensor with one element")
        scores.append(score.reshape(()))
    return torch.stack(scores)


def _tensor(output: Any) -> Tensor:
    if not isinstance(output, Tensor):
        raise TypeError(f"target: the output is a {type(output).__name__}, not a tensor")
    return output


def _vector(output: Any) -> Tensor:
    vector = _tensor(output)
    return vector.reshape(-1) if vector.dim() == 0 else vector


def mirrored(target: Any) -> Any:
    """A target for inputs that are mirrored along their last dimension."""
    if isinstance(target, list):
        return [mirrored(each) for each in target]
    return target.mirrored() if isinstance(target, ExampleTarget) else target
