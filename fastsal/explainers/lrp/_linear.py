"""The functions with weights, as layers that rules can run again with altered ones."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastsal.explainers.functions import WEIGHTED, FunctionCall
from fastsal.explainers.lrp.layer import HALF, RelevanceLayer, widen

# torch.batch_norm and the aten op have another order than torch.nn.functional's.
ATEN_BATCH_NORM = ("input", "weight", "bias", "running_mean", "running_var", "training", "momentum", "eps")


def _along(vector: Tensor, axis: int) -> Tensor:
    """A vector in the shape that broadcasts along a dimension, counted from the end."""
    return vector.reshape(-1, *[1] * (-axis - 1))


def _detached(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach()


def weighted(name: str, func: Any, args: Any, kwargs: Any, found: list[Tensor]) -> tuple[RelevanceLayer, Tensor] | None:
    """A linear layer or convolution, and its input; None where more than the input carries relevance."""
    given = dict(zip(("input", "weight", "bias"), args, strict=False)) | kwargs
    x, weight, bias = given["input"], given["weight"], given.get("bias")
    if len(found) != 1 or found[0] is not x:
        return None
    channels, spatial = WEIGHTED[name]
    axis = -1 - spatial
    call = FunctionCall(func, args, kwargs, (x, weight, bias))
    kept = _detached(bias)

    def run(xs: tuple[Tensor, ...], weight: Tensor | None, bias: Tensor | None) -> Tensor:
        if bias is kept:
            same: Tensor = call(*xs, weight, bias)
            return same
        z: Tensor = call(*xs, weight, None)
        return z if bias is None else z + _along(bias, axis)

    return RelevanceLayer(name, run, weight.detach(), kept, channels=channels, axis=axis, learned=True), x


def product(name: str, func: Any, args: Any, kwargs: Any, found: list[Tensor]) -> tuple[RelevanceLayer, Tensor] | None:
    """A product with a constant matrix as a linear layer, and its input; None for other products."""
    adds = name in ("addmm", "baddbmm")
    operands = args[1:3] if adds else args[:2]
    if len(found) != 1 or len(operands) != 2 or kwargs:
        return None
    (x,) = found
    weight = operands[1] if operands[0] is x else operands[0]
    if weight is x or not any(operand is x for operand in operands):
        return None
    reverse = name == "__rmatmul__"
    call = FunctionCall(torch.matmul, operands[::-1] if reverse else operands, {}, (x, weight))

    def run(xs: tuple[Tensor, ...], weight: Tensor | None, bias: Tensor | None) -> Tensor:
        z: Tensor = call(*xs, weight)
        return z if bias is None else z + bias

    return RelevanceLayer(name, run, weight.detach(), args[0].detach() if adds else None, learned=True), x


class BatchNorm:
    """Batch normalisation by running statistics: y = (x - mean) / sqrt(var + eps) * weight + bias.

    Attributes:
        input: what is normalised.
        statistic: the running mean, which a module without weight is known by.

    Raises:
        TypeError: without running statistics, since the result is then no function of each example.
    """

    def __init__(self, func: Any, args: Any, kwargs: Any) -> None:
        if func is F.batch_norm:
            bound = inspect.signature(F.batch_norm).bind(*args, **kwargs)
            bound.apply_defaults()
            given = dict(bound.arguments)
        else:
            given = dict(zip(ATEN_BATCH_NORM, args, strict=False)) | kwargs
        if given["training"] or given["running_mean"] is None:
            raise TypeError(
                "batch_norm: it normalises by the batch itself, so no rule holds for one example; use running "
                "statistics (track_running_stats=True)"
            )
        self.input: Tensor = given["input"]
        self.weight: Tensor | None = given["weight"]
        self.statistic: Tensor = given["running_mean"]
        self._bias: Tensor | None = given["bias"]
        self._variance: Tensor = given["running_var"]
        self._eps: float = given["eps"]
        self._axis = 1 - self.input.dim()

    def normalising(self) -> RelevanceLayer:
        """As a layer of ``weight`` and ``bias``, which is what Captum's rules alter."""
        mean, variance, eps = self.statistic, self._variance, self._eps

        def run(xs: tuple[Tensor, ...], weight: Tensor | None, bias: Tensor | None) -> Tensor:
            (x,) = xs
            statistics = (mean, variance) if x.dtype in HALF else (mean.to(x.dtype), variance.to(x.dtype))
            return F.batch_norm(x, *statistics, weight, bias, False, 0.0, eps)

        return RelevanceLayer("batch_norm", run, _detached(self.weight), _detached(self._bias))

    def _scale_and_shift(self) -> tuple[Tensor, Tensor]:
        scale = (widen(self._variance) + self._eps).rsqrt()
        if self.weight is not None:
            scale = scale * self.weight.detach()
        shift = -self.statistic * scale
        return scale, shift if self._bias is None else shift + self._bias.detach()

    def affine(self) -> RelevanceLayer:
        """As a layer scale * x + shift, which rules can take apart."""
        axis = self._axis

        def run(xs: tuple[Tensor, ...], weight: Tensor | None, bias: Tensor | None) -> Tensor:
            assert weight is not None
            z = xs[0] * _along(weight, axis)
            return z if bias is None else z + _along(bias, axis)

        return RelevanceLayer("batch_norm", run, *self._scale_and_shift())

    def merged(self, before: RelevanceLayer, name: str) -> RelevanceLayer | None:
        """The layer before and this one as one layer; None where their channels differ."""
        (scale, shift), weight = self._scale_and_shift(), before.weight
        if weight is None or before.channels is None or before.axis != self._axis:
            return None
        if weight.shape[before.channels] != scale.numel():
            return None
        if before.bias is not None:
            shift = shift + before.bias * scale
        # From the end, since the weight's leading dimensions are broadcast over.
        new = weight * _along(scale, before.channels - weight.dim())
        return dataclasses.replace(before, name=f"{before.name} + {name}", weight=new, bias=shift, graph=None)
