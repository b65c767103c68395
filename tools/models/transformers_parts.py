"""How transformers' architectures become subjects: statements of their grids, and wrappers of what is no classifier."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from tools.models.stated import Stated, strided
from tools.models.subject import Score, Subject, made, textured

SIDE = 64
Statement = Callable[[nn.Module, Tensor], Stated]
Build = Callable[[str], Subject]


def package() -> Any:
    """transformers, when it is needed."""
    return importlib.import_module("transformers")


def built(model: str, config: str, **settings: Any) -> nn.Module:
    """A model of that configuration, without weights."""
    transformers = package()
    found: nn.Module = getattr(transformers, model)(getattr(transformers, config)(**settings))
    return found


def patches(side: int, before: int = 0, behind: int = 0) -> Statement:
    """Of one stage of patches."""

    def state(_model: nn.Module, inputs: Tensor) -> Stated:
        found = strided(inputs.shape[2:], [side])
        return Stated(found.grids, before, behind, "config.patch_size")

    return state


def stages(*strides: int, before: int = 0) -> Statement:
    """Of stages with strides against the input."""
    return lambda _model, inputs: strided(inputs.shape[2:], strides, before, "config's strides")


def places(
    *grids: tuple[int, ...], before: int = 0, source: str = "config", order: tuple[int, ...] | None = None
) -> Statement:
    """Of grids that are given, the last first."""
    return lambda _model, _inputs: Stated(grids, before, 0, source, order)


class Embedded(nn.Module):
    """A text model of its tokens' embeddings [B, T, H], which have gradients."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, embeddings: Tensor) -> Tensor:
        logits: Tensor = self.inner(inputs_embeds=embeddings).logits
        return logits if logits.dim() == 2 else logits[:, -1]


class Similarity(nn.Module):
    """The similarity of images to fixed texts [B, texts]."""

    def __init__(self, inner: nn.Module, tokens: Tensor) -> None:
        super().__init__()
        self.inner = inner
        self.register_buffer("tokens", tokens)

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.inner(input_ids=self.tokens, pixel_values=images).logits_per_image
        return found


class TextCNN(nn.Module):
    """Convolutions over time of embeddings [B, T, H]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(24, 16, 3, padding=1)
        self.head = nn.Linear(16, 5)

    def forward(self, embeddings: Tensor) -> Tensor:
        found: Tensor = self.head(self.conv(embeddings.mT).relu().amax(2))
        return found


class Recurrent(nn.Module):
    """An LSTM over embeddings [B, T, H]."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(24, 16, batch_first=True)
        self.head = nn.Linear(16, 5)

    def forward(self, embeddings: Tensor) -> Tensor:
        found: Tensor = self.head(self.lstm(embeddings)[0][:, -1])
        return found


def shape_of(settings: dict[str, Any]) -> tuple[int, ...]:
    """Of two images in the size that a configuration gives, or of :data:`SIDE`."""
    size = settings.get("image_size", SIDE)
    return (2, 3, *([size, size] if isinstance(size, int) else size))


def image(model: str, config: str, stated: Statement, shape: tuple[int, ...] | None = None, **settings: Any) -> Build:
    """A classifier of images."""
    given = shape or shape_of(settings)
    return lambda name: made(name, built(model, config, **settings), textured(*given), "image", 1, stated)


def dense(
    model: str,
    config: str,
    stated: Statement,
    of: Callable[[Any], Tensor],
    shape: tuple[int, ...] | None = None,
    **settings: Any,
) -> Build:
    """A model of images whose score ``of`` takes from its output."""
    given = shape or shape_of(settings)
    return lambda name: made(name, built(model, config, **settings), textured(*given), "image", Score(of), stated)


def text(model: str, config: str, width: int = 48, tokens: int = 12, **settings: Any) -> Build:
    """A classifier or language model, of embeddings."""

    def build(name: str) -> Subject:
        inner = built(model, config, **settings)
        return made(name, Embedded(inner), textured(2, tokens, width), "text", 1, places((tokens,), source="tokens"))

    return build


def own(model: Callable[[], nn.Module], shape: tuple[int, ...], kind: str, stated: Statement) -> Build:
    """A network of this file."""
    return lambda name: made(name, model(), textured(*shape), kind, 1, stated)


def other(
    model: str, config: str, kind: str, shape: tuple[int, ...], stated: Statement, target: Any = 1, **settings: Any
) -> Build:
    """A classifier of sound, series or video."""
    return lambda name: made(name, built(model, config, **settings), textured(*shape), kind, target, stated)
