"""The architecture of the built-in demo model: a small residual CNN for 96x96 RGB canvases with one digit."""

from __future__ import annotations

from torch import Tensor, nn


def _conv(in_channels: int, out_channels: int, stride: int = 1) -> list[nn.Module]:
    return [
        nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
    ]


class Residual(nn.Module):
    """relu(x + conv-BN-ReLU-conv-BN(x)): [B, channels, H, W] -> the same shape."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*_conv(channels, channels), nn.ReLU(), *_conv(channels, channels))
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.relu(x + self.body(x))
        return out


class DemoNet(nn.Module):
    """Images [B, 3, H, W] with values in [0, 1] -> logits [B, classes].

    Three strided stages bring 96x96 to 12x12, two residual blocks give each of those cells a view of a whole digit,
    and a linear layer reads the largest value of each channel. The maximum rather than the average, because a digit is
    in one place, and because deconvolution learns of the image through max-pooling's choices alone: behind an average
    its map would be the same for every image. The input is not normalised, so that a baseline of zero means black.
    """

    def __init__(self, classes: int = 10, width: int = 64) -> None:
        super().__init__()
        self.stem = nn.Sequential(*_conv(3, width // 4, stride=2), nn.ReLU())
        self.down1 = nn.Sequential(*_conv(width // 4, width // 2, stride=2), nn.ReLU())
        self.down2 = nn.Sequential(*_conv(width // 2, width, stride=2), nn.ReLU())
        self.block1 = Residual(width)
        self.block2 = Residual(width)
        self.pool = nn.AdaptiveMaxPool2d(1)
        self.flatten = nn.Flatten()
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        features = self.block2(self.block1(self.down2(self.down1(self.stem(x)))))
        logits: Tensor = self.head(self.flatten(self.pool(features)))
        return logits
