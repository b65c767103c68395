"""Outputs that are no tensor: objects that name one, objects that do not, and lists of objects in an image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastsal
from tests.explainers.networks import image, small


@dataclass
class Prediction:
    prediction_logits: Tensor
    loss: Tensor | None = None


@dataclass
class Pooled:
    pooled: Tensor
    classes: Tensor


@dataclass
class Both:
    class_logits: Tensor
    mask_logits: Tensor


class Wrapped(nn.Module):
    """A model whose output is made into something else."""

    def __init__(self, make: Any) -> None:
        super().__init__()
        self.inner, self.make = small(), make

    def forward(self, x: Tensor) -> Any:
        return self.make(self.inner(x))


NAMED: dict[str, Any] = {
    "logits by another name": lambda y: Prediction(y, y.sum()),
    "the only one in floating point": lambda y: Pooled(y, y.argmax(1)),
    "one of a mapping": lambda y: {"aux_logits": y, "features": y.sum()},
}


@pytest.mark.parametrize("name", NAMED)
def test_the_tensor_of_an_object_is_explained(name: str) -> None:
    torch.manual_seed(0)
    model, x = Wrapped(NAMED[name]).double().eval(), image().double()
    for kind in (fastsal.Saliency, fastsal.LRP, fastsal.IntegratedGradients, fastsal.GradCAM):
        found = kind(model).attribute(x, target=1)
        torch.testing.assert_close(found, kind(model.inner).attribute(x, target=1))
    found = fastsal.Occlusion(model).attribute(x, (3, 4, 4), (3, 3, 3), target=1)
    torch.testing.assert_close(found, fastsal.Occlusion(model.inner).attribute(x, (3, 4, 4), (3, 3, 3), target=1))


def test_an_object_that_names_several_is_refused_with_their_names() -> None:
    model = Wrapped(lambda y: Both(y, y)).eval()
    told = r"its output is a Both with class_logits \(\d+, 4\), mask_logits \(\d+, 4\), not a tensor"
    for kind in (fastsal.Saliency, fastsal.RISE):
        with pytest.raises(TypeError, match=told):
            kind(model).attribute(image(), target=1)


def test_relevance_in_half_precision_of_an_object() -> None:
    """Relevance is scaled on its way in float16, and back at the end, whatever the output's form."""
    torch.manual_seed(0)
    model = Wrapped(lambda y: Prediction(y))
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.reset_running_stats()
    half, x = model.half().eval(), image().half()
    found = fastsal.LRP(half).attribute(x, 1)
    torch.testing.assert_close(found, fastsal.LRP(half.inner).attribute(x, 1))


class Batched(nn.Module):
    """Copies each image into a batch of its own, as torchvision's detectors do, before it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = small()

    def forward(self, x: Tensor) -> Tensor:
        batch = x[0].new_full(tuple(x.shape), 0.0)
        for index, each in enumerate(x):
            batch[index, : each.shape[0], : each.shape[1], : each.shape[2]].copy_(each)
        return self.inner(batch)  # type: ignore[no-any-return]


def test_relevance_through_a_batch_that_is_written_to() -> None:
    torch.manual_seed(0)
    model, x = Batched().double().eval(), image().double()
    found = fastsal.LRP(model).attribute(x, 1)
    torch.testing.assert_close(found, fastsal.LRP(model.inner).attribute(x, 1))


class Texts(nn.Module):
    """Three texts beside the images: rows of a layer that are no examples."""

    def __init__(self) -> None:
        super().__init__()
        self.vision, self.text = small(), nn.Conv2d(4, 5, 1)
        self.register_buffer("words", torch.randn(3, 4, 2, 2))

    def forward(self, x: Tensor) -> Tensor:
        texts = self.text(self.words).tanh().mean((2, 3))
        return self.vision(x)[:, :3] * texts.sum(1) ** 2  # type: ignore[no-any-return]


def test_channels_of_rows_that_are_no_examples_are_refused() -> None:
    torch.manual_seed(0)
    model, x = Texts().eval(), image()[:2]
    with pytest.raises(ValueError, match="layer"):
        fastsal.AblationCAM(model, "text").attribute(x, 1)
