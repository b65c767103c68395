"""torchcam's measure of maps over batches: how much a score falls where the input is multiplied by its map."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastsal.compat.torchcam.methods.core import MODES, Classes, Targets, laid
from fastsal.engine.run import evaluation
from fastsal.explainers.scores import one_score_each

EPSILON = 1e-7


class ClassificationMetric:
    """Average drop and increase in confidence: Chattopadhay et al., "Grad-CAM++" (WACV 2018), section 4.1.

    >>> from fastsal.compat.torchcam.metrics import ClassificationMetric
    >>> from fastsal.compat.torchcam.methods import LayerCAM
    >>> with LayerCAM(model, "block2") as extractor:
    ...     metric = ClassificationMetric(extractor, lambda scores: scores.softmax(1))
    ...     metric.update(images)
    >>> sorted(metric.summary())
    ['avg_drop', 'conf_increase']

    Args:
        cam_extractor: one of :mod:`fastsal.compat.torchcam.methods`.
        logits_fn: function of the model's output that gives what is compared, such as its softmax; None leaves it.
    """

    def __init__(self, cam_extractor: Any, logits_fn: Callable[[Any], Any] | None = None) -> None:
        self.cam_extractor, self.logits_fn = cam_extractor, logits_fn
        self.reset()

    def update(self, input_tensor: Tensor, class_idx: Classes = None, *, targets: Targets = None) -> None:
        """Add a batch.

        Args:
            input_tensor: [N, C, *spatial].
            class_idx: the class, or one for each example; None takes each example's of highest score.
            targets: functions of an example's output, one for all or one each, instead.

        Raises:
            TypeError, ValueError: for arguments outside of the above.
        """
        if targets is not None and class_idx is not None:
            raise ValueError("class_idx, targets: give one of the two")
        examples = len(input_tensor)
        with evaluation(self.cam_extractor.model):
            scores = self._scores(input_tensor)
            if targets is None and class_idx is None:
                class_idx = scores.detach().argmax(1).tolist()
            target = class_idx if targets is None else [targets] * examples if callable(targets) else list(targets)
            given: dict[str, Any] = {"class_idx": class_idx} if targets is None else {"targets": targets}
            each = self.cam_extractor(scores=scores, **given)
            cams = self.cam_extractor.fuse_cams(laid(self.cam_extractor, each, input_tensor))
            before = one_score_each(scores, target, examples).detach()
            maps = F.interpolate(
                cams[:, None], tuple(input_tensor.shape[2:]), mode=MODES[cams.dim()], align_corners=False
            )
            with self.cam_extractor._hooks_off(), torch.no_grad():
                after = one_score_each(self._scores(maps.to(input_tensor) * input_tensor), target, examples)
        # An example whose map is no number has no masked score either.
        kept = ~torch.isnan(cams).flatten(1).any(1)
        before, after = before[kept], after[kept]
        self.drop += float(((before - after).relu() / (before + EPSILON)).sum())
        self.increase += float((before < after).sum())
        self.total += int(kept.sum())
        self.nan_count += int((~kept).sum())

    def _scores(self, images: Tensor) -> Any:
        output = self.cam_extractor.model(images)
        return output if self.logits_fn is None else self.logits_fn(output)

    def summary(self) -> dict[str, float]:
        """``avg_drop`` and ``conf_increase``, means over the examples.

        Raises:
            AssertionError: before there is one with a map.
        """
        if self.total == 0:
            raise AssertionError("there is no example with a map yet: call update() first")
        return {"avg_drop": self.drop / self.total, "conf_increase": self.increase / self.total}

    def reset(self) -> None:
        """Forget all batches."""
        self.drop = self.increase = 0.0
        self.total = self.nan_count = 0
