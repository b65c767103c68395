"""fastsal.compat.torchcam.metrics by hand, and against torchcam."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from fastsal.compat.torchcam import methods
from fastsal.compat.torchcam.metrics import ClassificationMetric
from tests.explainers.networks import image, small, unchanged


def softmax(scores: Tensor) -> Tensor:
    return scores.softmax(-1)


def first(row: Tensor) -> Tensor:
    return row[0]


CALLS: dict[str, dict[str, Any]] = {
    "highest": {},
    "one": {"class_idx": 2},
    "each": {"class_idx": [2, 0, 3]},
    "target": {"targets": first},
}


@pytest.mark.parametrize("call", CALLS)
def test_drop_and_increase(call: str) -> None:
    model = small()
    with methods.LayerCAM(model, "body") as extractor:
        metric = ClassificationMetric(extractor, softmax)
        drops, rises = [], []
        for seed in (1, 2):
            x = image(seed=seed)
            metric.update(x, **CALLS[call])
            scores = model(x).softmax(1)
            classes = {"highest": scores.argmax(1).tolist(), "one": [2] * 3, "each": [2, 0, 3], "target": [0] * 3}[call]
            (maps,) = extractor(classes, scores)
            masks = torch.nn.functional.interpolate(maps[:, None], (8, 9), mode="bilinear")
            with torch.no_grad():
                after = model(masks * x).softmax(1)[range(3), classes]
            before = scores[range(3), classes].detach()
            drops += ((before - after).relu() / before).tolist()
            rises += (after > before).float().tolist()
    found = metric.summary()
    assert found["avg_drop"] == pytest.approx(sum(drops) / 6, rel=1e-4)
    assert found["conf_increase"] == pytest.approx(sum(rises) / 6)
    metric.reset()
    with pytest.raises(AssertionError, match="call update"):
        metric.summary()


@pytest.mark.parametrize("call", CALLS)
def test_against_torchcam(call: str) -> None:
    theirs = pytest.importorskip("torchcam.metrics", reason="torchcam is not installed")
    their_methods = pytest.importorskip("torchcam.methods", reason="torchcam is not installed")
    found = []
    for package, metrics in ((methods, ClassificationMetric), (their_methods, theirs.ClassificationMetric)):
        with package.LayerCAM(small(), "body") as extractor:
            metric = metrics(extractor, softmax)
            metric.update(image(), **CALLS[call])
            found.append(metric.summary())
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def test_the_model_and_what_is_refused() -> None:
    model = small(dropout=0.5).train()
    with methods.GradCAM(model, "body") as extractor:
        metric = ClassificationMetric(extractor)
        with unchanged(model):
            metric.update(image())
        assert model.training
        with pytest.raises(ValueError, match="class_idx, targets: give one of the two"):
            metric.update(image(), 1, targets=first)
