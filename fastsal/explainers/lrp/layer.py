"""One step of a model through which relevance is sent back, and the autograd function that does it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

HALF = (torch.float16, torch.bfloat16)

Run = Callable[[tuple[Tensor, ...], Tensor | None, Tensor | None], Tensor]


def widen(tensor: Tensor) -> Tensor:
    """In at least float32."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


class Saved:
    """A value that the backward pass needs; whoever is about to overwrite its memory calls :meth:`keep`."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor.detach()
        self.copied = False

    def keep(self) -> None:
        """Take a copy."""
        self.tensor = self.tensor.clone()
        self.copied = True


class Rule(Protocol):
    """What a layer asks of a rule."""

    def relevance(self, layer: RelevanceLayer, relevance: Tensor) -> tuple[Tensor, ...]:
        """Relevance of each input of the layer from that of its output."""


class Identity:
    """The rule of elementwise functions of one input: what arrives passes. It needs no value, so none is saved."""

    def relevance(self, layer: RelevanceLayer, relevance: Tensor) -> tuple[Tensor, ...]:
        return (relevance,)

    def __repr__(self) -> str:
        return "IdentityRule()"


@dataclass(eq=False)
class RelevanceLayer:
    """A function that the model ran.

    Attributes:
        name: the function's, or the module's where that is one layer.
        run: the function again, of (inputs, weight, bias).
        weight, bias: what rules may alter, detached.
        channels: the weight's dimension of output channels, by which batch normalisation scales it.
        axis: the output's dimension of channels, from its end.
        learned: whether it is a linear layer or convolution, none of which is before the first layer.
        rule: how relevance passes.
        saved: the inputs that carry relevance.
        graph: leaves and output of the run that the model made, where the rule can use that one.
        output: the values of that run.
    """

    name: str
    run: Run | None = None
    weight: Tensor | None = None
    bias: Tensor | None = None
    channels: int | None = None
    axis: int = -1
    learned: bool = False
    rule: Rule = field(default_factory=Identity)
    saved: tuple[Saved, ...] = ()
    graph: tuple[tuple[Tensor, ...], Tensor] | None = None
    output: Saved | None = None

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """The inputs that carry relevance, as they were when the model used them."""
        return tuple(saved.tensor for saved in self.saved)

    def widened(self) -> RelevanceLayer:
        """The same layer on values of at least float32: 1e-9 is 0 in float16, and a quotient by it is infinite."""
        return dataclasses.replace(
            self,
            saved=tuple(Saved(widen(tensor)) for tensor in self.inputs),
            weight=None if self.weight is None else widen(self.weight),
            bias=None if self.bias is None else widen(self.bias),
            graph=None,
        )


class Propagate(torch.autograd.Function):
    """A value that was computed already; its backward is the layer's rule."""

    @staticmethod
    def forward(ctx: Any, layer: RelevanceLayer, value: list[Tensor], *inputs: Tensor) -> Tensor:
        # In a list, since a tensor that is both argument and result would be taken for a view.
        ctx.layer = layer
        return value.pop()

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> tuple[Tensor | None, ...]:
        layer: RelevanceLayer = ctx.layer
        return (None, None, *layer.rule.relevance(layer, relevance))


def through(layer: RelevanceLayer, value: Tensor, inputs: tuple[Tensor, ...]) -> Tensor:
    """``value`` with the layer's rule between it and the inputs."""
    function: Any = Propagate
    result: Tensor = function.apply(layer, [value.detach()], *inputs)
    return result
