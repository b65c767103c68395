"""A layer that runs several times in the pass that an extractor reads, and one that looks at a part of the image."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import fastsal
from fastsal.compat.grad_cam import LayerCAM
from fastsal.compat.torchcam import methods
from fastsal.compat.torchcam.metrics import ClassificationMetric


class Twice(nn.Module):
    """A convolution of two images, and a ReLU that takes in what its first run made."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu, self.last, self.head = (
            nn.Conv2d(3, 4, 3, 2),
            nn.ReLU(),
            nn.Conv2d(4, 4, 3),
            nn.Linear(4, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        both = self.conv(x) + self.conv(x.square()).square()
        return self.head(self.relu(self.last(self.relu(both))).mean((2, 3)))


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("name", ["GradCAM", "LayerCAM", "CAM"])
def test_uses_of_their_own_are_refused(name: str, frozen: bool) -> None:
    torch.manual_seed(0)
    model, x = Twice().eval().requires_grad_(not frozen), torch.rand(2, 3, 20, 24)
    with getattr(methods, name)(model, "conv") as extractor:
        scores = model(x)
        with pytest.raises(ValueError, match="target_layer: conv ran 2 times in the pass"):
            extractor(1, scores)
    with methods.GradCAM(model, "relu") as extractor:  # the last takes in the first
        for _ in range(2):
            scores = model(x)
            (found,) = extractor(1, scores)
    expected = fastsal.GradCAM(model, "relu").attribute(x, target=1, upsample=False)
    torch.testing.assert_close(found, expected[:, 0], rtol=1e-4, atol=1e-5)


def test_without_a_graph_it_cannot_be_told() -> None:
    model, x = Twice().eval(), torch.rand(1, 3, 20, 24)
    with methods.CAM(model, "relu") as extractor, torch.no_grad():
        scores = model(x)
        with pytest.raises(ValueError, match=r"relu ran 2 times .* run the model with gradients enabled"):
            extractor(1, scores)


class Mirrored(nn.Module):
    """Bright pixels are counted in a mirrored part of the image."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.AvgPool2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.flip(2)[:, :, :, 16:]).square().sum((2, 3))


def spot() -> Tensor:
    x = torch.zeros(1, 1, 48, 64)
    x[:, :, 12:16, 24:28] = 1
    return x


def test_pytorch_grad_cams_maps_lie_where_the_layer_looks() -> None:
    (found,) = LayerCAM(Mirrored().eval(), ["layer"])(spot(), [lambda output: output[0]])
    row, column = divmod(int(torch.from_numpy(found).argmax()), 64)
    assert abs(row - 13.5) <= 1
    assert abs(column - 25.5) <= 1


def test_masks_lie_there_too() -> None:
    """The one channel's mask shows the spot, whose score is then as without a mask."""
    seen: list[Tensor] = []
    model = Mirrored().eval()
    model.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    fastsal.ScoreCAM(model, "layer").attribute(spot(), target=0, perturbations_per_eval=1)
    masked = seen[-1][0, 0]
    assert float(masked[13:15, 25:27].min()) > 0.6


def test_what_a_measure_masks_lies_there_too() -> None:
    """A map of the spot leaves some of the score; resized as if it were of the whole image it would leave nothing."""
    model = Mirrored().eval()
    with methods.LayerCAM(model, "layer") as extractor:
        metric = ClassificationMetric(extractor)
        metric.update(spot(), 0)
    assert metric.summary()["avg_drop"] < 0.8
