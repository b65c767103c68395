"""The built-in demo model with its held-out canvases: real digits on real photographs, and where each digit is."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from torch import Tensor

from fastsal.models.demo_net import DemoNet

_DATA = Path(__file__).parent / "data"
_WEIGHTS = _DATA / "demo.safetensors"

CLASS_NAMES = tuple(str(digit) for digit in range(10))
SIZE = 96


@dataclass(frozen=True)
class Canvases:
    """Held-out canvases of the demo model.

    images: float32 [n, 3, 96, 96] in [0, 1], the model's input.
    labels: int64 [n], the digit.
    boxes: int64 [n, 4], the digit's left, top, right and bottom in pixels, right and bottom exclusive.
    masks: bool [n, 96, 96], true on the digit's stroke.
    """

    images: Tensor
    labels: Tensor
    boxes: Tensor
    masks: Tensor

    def __len__(self) -> int:
        return self.labels.shape[0]

    def box_masks(self) -> Tensor:
        """bool [n, 96, 96], true inside each canvas's box."""
        position = torch.arange(SIZE)
        left, top, right, bottom = self.boxes[:, :, None].unbind(1)
        columns = (position >= left) & (position < right)
        rows = (position >= top) & (position < bottom)
        return rows[:, :, None] & columns[:, None, :]


def demo() -> DemoNet:
    """The trained demo model in evaluation mode, on the CPU: images [B, 3, 96, 96] in [0, 1] -> logits [B, 10].

    tools/train_demo.py trains it; `demo_facts` says how and with what accuracy.
    """
    model = DemoNet()
    with safe_open(_WEIGHTS, framework="pt") as file:
        model.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    return model.eval()


def demo_facts() -> dict[str, str]:
    """What the weights' file says of its training: accuracy on held-out canvases, seed, steps, date, and so on."""
    with safe_open(_WEIGHTS, framework="pt") as file:
        return dict(file.metadata())


def demo_canvases(count: int | None = None) -> Canvases:
    """The first `count` held-out canvases (all 110 when None); the labels run 0, 1, ..., 9, 0, 1, ...

    Raises ValueError when there are fewer than `count`.
    """
    facts = json.loads((_DATA / "canvases.json").read_text())
    total = len(facts["labels"])
    if count is not None and not 1 <= count <= total:
        raise ValueError(f"count must be between 1 and the {total} canvases there are, got {count}")
    chosen = slice(count)
    images = _cut("canvases.png", "RGB", facts["columns"])[chosen]
    masks = _cut("masks.png", "L", facts["columns"])[chosen]
    return Canvases(
        images=torch.from_numpy(images).permute(0, 3, 1, 2).float().div(255).contiguous(),
        labels=torch.tensor(facts["labels"][chosen]),
        boxes=torch.tensor(facts["boxes"][chosen]),
        masks=torch.from_numpy(masks > 127),
    )


def demo_images() -> list[Path]:
    """The PNG files of six of the held-out canvases, to be used as images from disk."""
    return sorted(_DATA.glob("canvas-*.png"))


def demo_photos() -> list[Path]:
    """The JPEG files of three free photographs, 256x256, for models of everyday images."""
    return sorted(_DATA.glob("photo-*.jpg"))


def _cut(name: str, mode: str, columns: int) -> np.ndarray:
    """The tiles of a strip written by tools/train_demo.py, row by row: uint8 [n, 96, 96, ...]."""
    with Image.open(_DATA / name) as image:
        pixels = np.asarray(image.convert(mode))
    rows = pixels.shape[0] // SIZE
    tiles = pixels.reshape(rows, SIZE, columns, SIZE, *pixels.shape[2:])
    return np.ascontiguousarray(tiles.swapaxes(1, 2).reshape(rows * columns, SIZE, SIZE, *pixels.shape[2:]))
