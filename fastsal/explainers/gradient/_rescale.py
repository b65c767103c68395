"""A model run on inputs and baselines together, in which nonlinear functions send multipliers back, not gradients.

Shrikumar, Greenside, Kundaje, "Learning Important Features Through Propagating Activation Differences" (ICML 2017):
the Rescale rule (section 3.5.2) and the multipliers' chain rule (section 3.2).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from fastsal._torch import get_softmax_dim
from fastsal.explainers.functions import (
    ELEMENTWISE,
    MAX_POOLING,
    function_name,
    plain_name,
    works_in_place,
)

RESCALED = frozenset(name for name in ELEMENTWISE if not name.endswith("dropout")) | {"sin", "cos", "exp", "square"}
WITH_INDICES = "_with_indices"


def _difference(value: Tensor) -> Tensor:
    """Inputs' half minus baselines' half, in at least float32."""
    first, second = value.detach().chunk(2)
    wide = torch.promote_types(value.dtype, torch.float32)
    return first.to(wide) - second.to(wide)


class _Elementwise(torch.autograd.Function):
    """delta_out / delta_in as the derivative; the gradient where delta_in is too small to divide by."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, run: Callable[[Tensor], Tensor], eps: float, in_place: bool, softmax: int | None
    ) -> Tensor:
        with torch.enable_grad():
            leaf = (x.detach().clone() if in_place else x.detach()).requires_grad_()
            out = run(leaf)
        # Before the model can overwrite either of them.
        delta = _difference(leaf)
        ctx.small = delta.abs() < eps
        ctx.ratio = _difference(out) / delta
        ctx.graph, ctx.softmax = (leaf, out), softmax
        if in_place:
            ctx.mark_dirty(x)
            return x.copy_(out.detach())
        return out.detach().clone() if out is leaf else out.detach()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        leaf, out = ctx.graph
        (plain,) = torch.autograd.grad(out, leaf, gradient, retain_graph=True)
        ratio, small = torch.cat([ctx.ratio] * 2), torch.cat([ctx.small] * 2)
        result = torch.where(small, plain, (gradient * ratio).to(plain))
        if ctx.softmax is not None:
            # Only differences between the classes count (section 3.6).
            result = result - result.mean(ctx.softmax, keepdim=True)
        return result, None, None, None, None


class _MaxPool(torch.autograd.Function):
    """Each output's change goes to the inputs that were its maximum, in the input and in the baseline."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, run: Callable[[Tensor], tuple[Tensor, Tensor]], eps: float) -> Any:
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            out, indices = run(leaf)
        ctx.delta = _difference(leaf)
        wide = out.detach().to(ctx.delta.dtype)
        first, second = wide.chunk(2)
        highest = torch.maximum(first, second)
        ctx.change = torch.cat([highest - second, first - highest])
        ctx.graph, ctx.indices, ctx.eps = (leaf, out), indices, eps
        ctx.mark_non_differentiable(indices)
        return out.detach(), indices

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        leaf, out = ctx.graph
        (plain,) = torch.autograd.grad(out, leaf, gradient, retain_graph=True)
        # Windows that overlap add up, where unpooling would keep one of them.
        moved = torch.zeros(leaf.shape, dtype=ctx.delta.dtype, device=leaf.device).flatten(2)
        moved.scatter_add_(2, ctx.indices.flatten(2), (gradient * ctx.change).flatten(2))
        first, second = moved.reshape(leaf.shape).chunk(2)
        multiplier = torch.cat([(first + second) / ctx.delta] * 2)
        small = torch.cat([ctx.delta.abs() < ctx.eps] * 2)
        return torch.where(small, plain, multiplier.to(plain)), None, None


class RescaleMode(TorchFunctionMode):
    """Inside this mode every nonlinear function, module or function, in place or not, has the rule as its derivative.

    The model is not touched, and one that is used twice is met twice. Its inputs are B inputs and then B baselines.
    """

    def __init__(self, rows: int, eps: float) -> None:
        super().__init__()
        self._rows, self._eps = rows, eps

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        full_name = function_name(func)
        name = plain_name(full_name).removesuffix(WITH_INDICES)
        kind = name if name in ("softmax", "_softmax") else "rescaled" if name in RESCALED else "pooled"
        if not (name in RESCALED or name in MAX_POOLING or kind in ("softmax", "_softmax")):
            return func(*args, **kwargs)
        key = None if args else ("input" if "input" in kwargs else "self")
        x = args[0] if key is None else kwargs.get(key)
        if not (isinstance(x, Tensor) and x.requires_grad and torch.is_grad_enabled()):
            return func(*args, **kwargs)
        if x.dim() == 0 or x.shape[0] % self._rows:
            raise ValueError(
                f"model: {name} ran on a tensor {tuple(x.shape)} that does not have the {self._rows} inputs and "
                "baselines as dimension 0, so they cannot be compared; use an explainer that needs no pairs, such as "
                "IntegratedGradients"
            )
        rest = args[1:]
        others = {k: v for k, v in kwargs.items() if k != key}
        if kind == "pooled":
            with_indices = getattr(F, name + WITH_INDICES)
            wanted = full_name.endswith(WITH_INDICES) or bool(others.pop("return_indices", False))
            pool: Any = _MaxPool
            pooled = pool.apply(x, lambda leaf: with_indices(leaf, *rest, **others), self._eps)
            return pooled if wanted else pooled[0]
        in_place = works_in_place(func, full_name, args, kwargs)

        def run(leaf: Tensor) -> Tensor:
            # The copy is what an in-place function may write to; a leaf is not.
            result: Tensor = func(leaf.clone() if in_place else leaf, *rest, **others)
            return result

        dim: int | None = None
        if kind != "rescaled":
            given = others.get("dim", rest[0] if rest else None)
            dim = given if isinstance(given, int) else get_softmax_dim("softmax", x.dim())
        elementwise: Any = _Elementwise
        return elementwise.apply(x, run, self._eps, in_place, dim)
