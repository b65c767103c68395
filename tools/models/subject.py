"""A model as the matrix tries it: weights away from zero, norms calibrated, a small input, a score, stated grids."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from tools.models.stated import Stated

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
LEAST = 1e-3
"""A parameter whose largest value is below it was initialised with zero, or nearly."""
KEPT = 0.5
"""The least gain of a linear layer or convolution for independent inputs."""


class Score:
    """A target that is no index: ``of`` takes the model's output and returns one number for each example."""

    def __init__(self, of: Callable[[Any], Tensor]) -> None:
        self.of = of

    def score(self, output: Any) -> Tensor:
        return self.of(output)


@dataclass(frozen=True)
class Subject:
    """What the cells of one architecture share.

    Attributes:
        name: "package:architecture".
        model: in training mode, as a user may bring it.
        inputs: [B, ...], floating point.
        kind: "image", "video", "audio" or "text": what the positions are.
        target: an int for outputs [B, K], a :class:`Score` otherwise.
        stated: the grids that the model's own settings say, and the tokens of no place.
        extra: further arguments of the model.
        kept: what several cells compare with, found once; another subject made of this one begins without.
    """

    name: str
    model: nn.Module
    inputs: Tensor
    kind: str
    target: Any
    stated: Stated = field(default_factory=Stated)
    extra: tuple[Any, ...] = ()
    kept: dict[Any, Any] = field(default_factory=dict, init=False, compare=False, repr=False)

    def once(self, key: Any, find: Callable[[], Any]) -> Any:
        """What ``find`` gives, remembered by ``key``: the model is the same in every cell, or is built again."""
        if key not in self.kept:
            self.kept[key] = find()
        return self.kept[key]

    def of(self, output: Any, target: Any = None) -> Tensor:
        """Scores [B] of an output, without the library."""
        target = self.target if target is None else target
        if isinstance(target, Score):
            return target.of(output)
        logits = plain(output)
        if isinstance(target, Tensor):
            return logits.gather(1, target[:, None])[:, 0]
        return logits[:, target]

    def first(self) -> Subject:
        """The same with its first example alone."""
        return replace(self, inputs=self.inputs[:1])

    def double(self) -> Subject:
        """The same in float64, where rounding is no excuse."""
        extra = tuple(e.double() if isinstance(e, Tensor) and e.is_floating_point() else e for e in self.extra)
        return replace(self, model=copy.deepcopy(self.model).double(), inputs=self.inputs.double(), extra=extra)


def plain(output: Any) -> Tensor:
    """The tensor of a classifier's output."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping):
        named: Tensor = output["logits"] if "logits" in output else next(iter(output.values()))
        return named
    return plain(output.logits if hasattr(output, "logits") else output[0])


@torch.no_grad()
def away_from_zero(model: nn.Module) -> None:
    """Gives a value to parameters that start at zero, so that no path is closed and no map is black by chance; and to
    weights that would let a signal fade over the layers (0.02 in narrow layers) what keeps its size."""
    generator = torch.Generator().manual_seed(7)
    for name, parameter in model.named_parameters():
        if not parameter.is_floating_point() or not parameter.numel():
            continue
        if float(parameter.abs().max()) < LEAST:
            drawn = torch.randn(parameter.shape, generator=generator)
            scale = parameter.dim() <= 1 and not name.endswith("bias")
            parameter.copy_(0.3 * (1 + 0.2 * drawn) if scale else 0.1 * drawn)
    for part in model.modules():
        weight = getattr(part, "weight", None)
        if isinstance(part, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)) and isinstance(weight, Tensor):
            size = float(weight.std()) * math.sqrt(weight[0].numel())
            if 0 < size < KEPT:
                weight.mul_(KEPT / size)


@torch.no_grad()
def calibrate(model: nn.Module, inputs: Tensor, extra: tuple[Any, ...], batches: int = 3) -> None:
    """Sets batch norms' statistics to those of inputs like the given ones."""
    norms = [m for m in model.modules() if isinstance(m, BATCH_NORMS) and m.track_running_stats]
    if not norms:
        return
    model.eval()
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train()
        norm.momentum = None
        norm.reset_running_stats()
    generator = torch.Generator().manual_seed(8)
    for _ in range(batches):
        noise = torch.randn(inputs.shape, generator=generator)
        try:
            model(inputs + 0.5 * noise, *extra)
        except ValueError:  # one value per channel, behind a pooling: its statistics stay
            break
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def textured(*shape: int) -> Tensor:
    """A fixed input with structure at every scale: smooth waves and noise."""
    generator = torch.Generator().manual_seed(3)
    value = 0.5 * torch.randn(shape, generator=generator)
    for axis in range(2, len(shape)):
        line = torch.linspace(0, 6.0 + axis, shape[axis]).sin()
        value = value + line.reshape(-1, *[1] * (len(shape) - 1 - axis))
    return value


def made(
    name: str,
    model: nn.Module,
    inputs: Tensor,
    kind: str,
    target: Any,
    stated: Callable[[nn.Module, Tensor], Stated] | None = None,
    extra: tuple[Any, ...] = (),
) -> Subject:
    """The subject, with its weights moved, its norms calibrated and the model in training mode."""
    away_from_zero(model)
    calibrate(model, inputs, extra)
    model.eval()
    with torch.no_grad():
        model(inputs.clone(), *extra)
    found = Stated() if stated is None else stated(model, inputs)
    return Subject(name, model.train(), inputs, kind, target, found, extra)
