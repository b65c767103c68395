"""Small networks with fixed weights, and inputs for them."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


class Classifier(nn.Module):
    """Two convolutions, batch norm, ReLUs, pooling and a linear head: [B, 3, *spatial] into [B, 4]."""

    def __init__(self, dimensions: int = 2) -> None:
        super().__init__()
        self.stem = CONVOLUTIONS[dimensions](3, 5, 3, padding=1)
        self.norm = NORMS[dimensions](5)
        self.act = nn.ReLU()
        self.body = CONVOLUTIONS[dimensions](5, 6, 3, stride=2, padding=1)
        self.last = nn.ReLU()
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor, shift: Tensor | None = None, scale: float = 1.0) -> Tensor:
        x = self.act(self.norm(self.stem(x)))
        x = self.last(self.body(x)).flatten(2).mean(2)
        scores: Tensor = self.head(x if shift is None else x + shift)
        return scale * scores


class TwoInputs(nn.Module):
    """[B, 3, 4] and [B, 5] into [B, 4]; a shift [B, 8] and a scale as additional arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(12, 8), nn.Linear(5, 8)
        self.relu, self.head = nn.ReLU(), nn.Linear(8, 4)

    def forward(self, a: Tensor, b: Tensor, shift: Tensor | None = None, scale: float = 1.0) -> Tensor:
        hidden = self.relu(self.first(a.flatten(1)) + self.second(b))
        scores: Tensor = self.head((hidden if shift is None else hidden + shift).tanh())
        return scale * scores


class Decoder(nn.Module):
    """Ids [rows, tokens] into logits [rows, tokens, 9], of what is before each token."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(9, 4), nn.Linear(4, 9)

    def forward(self, input_ids: Tensor) -> Tensor:
        before = self.embedding(input_ids).cumsum(1)
        logits: Tensor = self.head(before.tanh())
        return logits


class Digits:
    """A tokenizer of one-digit numbers."""

    def encode(self, text: str, add_special_tokens: bool = True, return_tensors: str | None = None) -> Any:
        ids = [int(word) for word in text.split()]
        return torch.tensor([ids]) if return_tensors else ids

    def decode(self, ids: Any) -> str:
        return " ".join(map(str, torch.as_tensor(ids).reshape(-1).tolist()))

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return list(map(str, ids))


class Segmenter(nn.Module):
    """Scores [B, 3, *spatial] of each pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.last, self.head = nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.last(self.body(x)))
        return scores


class Curved(nn.Module):
    """[B, 3, H, W] into [B, 4], smooth and curved in the value of its layer ``last``."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.last = nn.Conv2d(3, 6, 3, padding=1), nn.Softplus()
        self.tail, self.head = nn.Conv2d(6, 8, 3, stride=2), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.tail(self.last(self.body(x))))
        scores: Tensor = self.head(x.tanh().flatten(2).mean(2))
        return scores


class Block(nn.Module):
    """Attention and a perceptron, both beside the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.joint, self.out = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.norm2, self.mlp = nn.LayerNorm(width), nn.Sequential(nn.Linear(width, 12), nn.GELU(), nn.Linear(12, width))

    def forward(self, x: Tensor) -> Tensor:
        parts = self.joint(self.norm1(x)).unflatten(2, (3, 2, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.out(F.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2))
        mixed: Tensor = x + self.mlp(self.norm2(x))
        return mixed


class Transformer(nn.Module):
    """Images [B, 3, 4 h, 4 w] in patches of 4, and a token that is classified."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.token = nn.Conv2d(3, 8, 4, 4), nn.Parameter(torch.randn(1, 1, 8))
        self.blocks = nn.Sequential(Block(8), Block(8))
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).mT
        x = self.norm(self.blocks(torch.cat([self.token.expand(len(x), -1, -1), x], 1)))
        scores: Tensor = self.head(x[:, 0])
        return scores


def _made(kind: Any, dtype: torch.dtype, *arguments: Any) -> Any:
    """An instance in evaluation mode; the same weights in every call."""
    torch.manual_seed(0)
    return kind(*arguments).to(dtype).eval()


def decoder() -> Decoder:
    torch.manual_seed(0)
    return Decoder().eval()


def classifier(dimensions: int = 2, dtype: torch.dtype = torch.float32) -> Any:
    """A :class:`Classifier` with batch norm statistics that do something."""
    model = _made(Classifier, dtype, dimensions)
    model.norm.running_mean.copy_(torch.linspace(-0.2, 0.2, 5))
    model.norm.running_var.copy_(torch.linspace(0.5, 1.5, 5))
    return model


def two_inputs(dtype: torch.dtype = torch.float32) -> Any:
    """A :class:`TwoInputs`."""
    return _made(TwoInputs, dtype)


def segmenter() -> Any:
    """A :class:`Segmenter`."""
    return _made(Segmenter, torch.float32)


def curved() -> Any:
    """A :class:`Curved`."""
    return _made(Curved, torch.float32)


def transformer() -> Any:
    """A :class:`Transformer`."""
    return _made(Transformer, torch.float32)


def smooth() -> Any:
    """[B, 1, 9, 12] into two outputs that are smooth in the input, in float64."""
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Flatten(), nn.Linear(108, 8), nn.Tanh(), nn.Linear(8, 2))
    return layers.double().eval()


def drawn(*shape: int, seed: int = 1, dtype: torch.dtype = torch.float32) -> Tensor:
    """Standard normal numbers, the same in every call."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def image(dimensions: int = 2, dtype: torch.dtype = torch.float32, batch: int = 3) -> Tensor:
    """[B, 3, 8, 9, ...]."""
    return drawn(batch, 3, *range(8, 8 + dimensions), dtype=dtype)


def pair(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Inputs of :class:`TwoInputs`."""
    return drawn(3, 3, 4, seed=2, dtype=dtype), drawn(3, 5, seed=3, dtype=dtype)


def shifted(dtype: torch.dtype = torch.float32) -> tuple[Tensor, float]:
    """Additional arguments of :class:`TwoInputs`: one tensor with a row for each example, and a number."""
    return drawn(3, 8, seed=4, dtype=dtype), 0.5


def quarters(x: Tensor) -> Tensor:
    """Four features of an image: a mask [1, 1, H, W]."""
    rows, columns = (torch.arange(size) * 2 // size for size in x.shape[2:])
    return (2 * rows[:, None] + columns)[None, None]


def references(x: Tensor) -> Tensor:
    """Two baselines in an input's dtype, [2, ...]."""
    return torch.stack([torch.zeros_like(x[0]), torch.full_like(x[0], 0.5)])
