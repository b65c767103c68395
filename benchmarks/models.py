"""Networks of true size with random weights: what a benchmark needs of them is their cost."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Bottleneck(nn.Module):
    """He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition" (2016), figure 5 right."""

    def __init__(self, channels_in: int, width: int, stride: int) -> None:
        super().__init__()
        channels_out = 4 * width
        self.body = nn.Sequential(
            nn.Conv2d(channels_in, width, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, stride, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, channels_out, 1, bias=False),
            nn.BatchNorm2d(channels_out),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride, bias=False), nn.BatchNorm2d(channels_out)
            )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.relu(self.body(x) + self.shortcut(x))
        return out


class Basic(nn.Module):
    """The same, figure 5 left."""

    def __init__(self, channels_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels_in, width, 3, stride, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, 1, 1, bias=False),
            nn.BatchNorm2d(width),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != width:
            self.shortcut = nn.Sequential(nn.Conv2d(channels_in, width, 1, stride, bias=False), nn.BatchNorm2d(width))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.relu(self.body(x) + self.shortcut(x))
        return out


class ResNet(nn.Module):
    """A residual network in four stages, from a block and how many of it each stage has."""

    def __init__(self, block: type[Basic] | type[Bottleneck], blocks: tuple[int, ...]) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)
        )
        channels = 64
        stages = []
        for stage, count in enumerate(blocks):
            width, parts = 64 * 2**stage, []
            for index in range(count):
                parts.append(block(channels, width, 2 if index == 0 and stage > 0 else 1))
                channels = width if block is Basic else 4 * width
            stages.append(nn.Sequential(*parts))
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(channels, 1000)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.pool(self.stages(self.stem(x))).flatten(1))
        return out


class EncoderBlock(nn.Module):
    """Dosovitskiy et al., "An Image is Worth 16x16 Words" (ICLR 2021), equations 2 and 3."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention, self.norm_mlp = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.projection, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        joint = self.projection(self.norm_attention(x)).unflatten(2, (3, self.heads, -1))
        query, key, value = joint.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        x = x + self.out(mixed)
        out: Tensor = x + self.mlp(self.norm_mlp(x))
        return out


class VisionTransformer(nn.Module):
    """The same, equations 1 to 4, for 224 x 224 images in patches of 16."""

    def __init__(self, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 16, 16)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(torch.randn(1, 197, width) * 0.02)
        self.blocks = nn.Sequential(*[EncoderBlock(width, heads) for _ in range(depth)])
        self.norm, self.head = nn.LayerNorm(width, eps=1e-6), nn.Linear(width, 1000)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).mT
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.position
        out: Tensor = self.head(self.norm(self.blocks(x))[:, 0])
        return out


class InvertedResidual(nn.Module):
    """Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks" (CVPR 2018), table 1."""

    def __init__(self, channels_in: int, channels_out: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = channels_in * expansion
        parts: list[nn.Module] = []
        if expansion != 1:
            parts += [nn.Conv2d(channels_in, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU6(inplace=True)]
        parts += [
            nn.Conv2d(width, width, 3, stride, 1, groups=width, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU6(inplace=True),
            nn.Conv2d(width, channels_out, 1, bias=False),
            nn.BatchNorm2d(channels_out),
        ]
        self.body = nn.Sequential(*parts)
        self.residual = stride == 1 and channels_in == channels_out

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x)
        return x + out if self.residual else out


class Classifier(nn.Module):
    """Features, their mean over positions, and a linear head."""

    def __init__(self, features: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.features, self.pool, self.head = features, nn.AdaptiveAvgPool2d(1), head

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.pool(self.features(x)).flatten(1))
        return out


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of [B, C, H, W]."""

    def forward(self, x: Tensor) -> Tensor:
        normed = F.layer_norm(x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias, self.eps)
        out: Tensor = normed.permute(0, 3, 1, 2)
        return out


class ConvNeXtBlock(nn.Module):
    """Liu et al., "A ConvNet for the 2020s" (CVPR 2022), figure 4; the linear layers as convolutions of one pixel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mix, self.norm = nn.Conv2d(width, width, 7, padding=3, groups=width), nn.LayerNorm(width, eps=1e-6)
        self.expand, self.act, self.project = nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        self.scale = nn.Parameter(torch.full((width,), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        out = self.project(self.act(self.expand(self.norm(self.mix(x).permute(0, 2, 3, 1)))))
        out = x + (self.scale * out).permute(0, 3, 1, 2)
        return out  # type: ignore[no-any-return]


def vgg16(device: str) -> nn.Module:
    """VGG-16 (Simonyan and Zisserman, 2015, column D) for 224 x 224: 138.4 M parameters, 15.5 G multiply-adds."""
    torch.manual_seed(0)
    features: list[nn.Module] = []
    channels = 3
    for width, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(count):
            features += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
            channels = width
        features.append(nn.MaxPool2d(2))
    head = nn.Sequential(
        nn.AdaptiveAvgPool2d(7),
        nn.Flatten(),
        nn.Linear(25088, 4096),
        nn.ReLU(inplace=True),
        nn.Dropout(),
        nn.Linear(4096, 4096),
        nn.ReLU(inplace=True),
        nn.Dropout(),
        nn.Linear(4096, 1000),
    )
    return nn.Sequential(nn.Sequential(*features), head).eval().to(device)


def mobilenet_v2(device: str) -> nn.Module:
    """MobileNetV2 in evaluation mode, the same weights each time: 3.5 M parameters, 0.3 G multiply-adds at 224."""
    torch.manual_seed(0)
    parts: list[nn.Module] = [nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU6(inplace=True)]
    channels = 32
    for expansion, width, count, stride in (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ):
        for index in range(count):
            parts.append(InvertedResidual(channels, width, stride if index == 0 else 1, expansion))
            channels = width
    parts += [nn.Conv2d(320, 1280, 1, bias=False), nn.BatchNorm2d(1280), nn.ReLU6(inplace=True)]
    return Classifier(nn.Sequential(*parts), nn.Linear(1280, 1000)).eval().to(device)


def convnext_t(device: str) -> nn.Module:
    """ConvNeXt-T in evaluation mode, the same weights each time: 28.6 M parameters, 4.5 G multiply-adds at 224."""
    torch.manual_seed(0)
    parts: list[nn.Module] = [nn.Conv2d(3, 96, 4, 4), ChannelNorm(96, eps=1e-6)]
    channels = 96
    for width, count in ((96, 3), (192, 3), (384, 9), (768, 3)):
        if width != channels:
            parts += [ChannelNorm(channels, eps=1e-6), nn.Conv2d(channels, width, 2, 2)]
            channels = width
        parts += [ConvNeXtBlock(width) for _ in range(count)]
    head = nn.Sequential(nn.LayerNorm(768, eps=1e-6), nn.Linear(768, 1000))
    return Classifier(nn.Sequential(*parts), head).eval().to(device)


def vit_b_16(device: str) -> nn.Module:
    """ViT-B/16 in evaluation mode, the same weights each time: 86.6 M parameters, 17.6 G multiply-adds at 224 x 224."""
    torch.manual_seed(0)
    return VisionTransformer(768, 12, 12).eval().to(device)


def resnet50(device: str) -> nn.Module:
    """ResNet-50 in evaluation mode, the same weights each time: 25.6 M parameters, 4.1 G multiply-adds at 224 x 224."""
    torch.manual_seed(0)
    return ResNet(Bottleneck, (3, 4, 6, 3)).eval().to(device)


def resnet18(device: str) -> nn.Module:
    """ResNet-18 in evaluation mode, the same weights each time: 11.7 M parameters, 1.8 G multiply-adds at 224 x 224."""
    torch.manual_seed(0)
    return ResNet(Basic, (2, 2, 2, 2)).eval().to(device)


def small_cnn(device: str) -> nn.Module:
    """Three convolutions and a head for 64 x 64 images, in evaluation mode: where bookkeeping weighs the most."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for channels_in, channels_out in ((3, 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(channels_in, channels_out, 3, 2, 1), nn.BatchNorm2d(channels_out), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)).eval().to(device)
