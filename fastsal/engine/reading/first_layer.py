"""A model's first layer, where it is affine and nothing else reads the input: what is behind it, and what is before."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fastsal._torch import tree_leaves
from fastsal.engine.prepare.watch import Watch
from fastsal.engine.run.forward import run, scratch
from fastsal.engine.run.modules import ForwardFunc, behind, hookable, module_of
from fastsal.engine.run.own import Undone, has_users_hooks, users_forward

AFFINE = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
MIX = 0.37
"""Where on a path it is checked that the layer's value is affine."""


class _Reached(BaseException):
    """Ends a run of the model at the layer."""


class FirstLayer:
    """Made by :func:`first_layer`; call inside ``evaluation``.

    Args:
        forward_func: module or callable around one.
        layer: the first of its layers to run.
    """

    def __init__(self, forward_func: ForwardFunc, layer: nn.Module) -> None:
        self._forward_func, self.layer = forward_func, layer

    def value(self, x: Tensor, additional: tuple[Any, ...]) -> Tensor:
        """The layer's value for inputs [B, ...]; what is behind it does not run."""
        found: list[Tensor] = []

        def stop(_module: nn.Module, _args: Any, output: Tensor) -> None:
            found.append(output)
            raise _Reached

        with Undone() as undone, contextlib.suppress(_Reached):
            undone.hook(self.layer, stop)
            run(self._forward_func, (x,), additional)
        if len(found) != 1:
            raise ValueError("forward_func: it no longer runs its first layer")
        return found[0]

    def behind(self, like: Tensor) -> Callable[..., Any]:
        """The model as a function of the layer's value [n, ...], for inputs like [B, ...]."""

        def output(value: Tensor, *additional: Any) -> Any:
            return self._answered(value, like.new_zeros((value.shape[0], *like.shape[1:])), additional)

        return output

    def pulled(self, gradient: Tensor, x: Tensor, additional: tuple[Any, ...]) -> Tensor:
        """The gradient by the inputs of one by the layer's value."""
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            value = self.value(leaf.clone(), additional)
            (found,) = torch.autograd.grad(value, leaf, gradient.to(value))
        return found

    def is_reached(self, x: Tensor, additional: tuple[Any, ...]) -> bool:
        """Whether a gradient by the layer's value goes on to the inputs."""
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            try:
                value = self.value(leaf.clone(), additional)
            except (RuntimeError, ValueError):  # what cannot have a graph, as NumPy cannot
                return False
            if not value.requires_grad:
                return False
            return torch.autograd.grad(value.sum(), leaf, allow_unused=True)[0] is not None

    def _answered(self, value: Tensor, x: Tensor, additional: tuple[Any, ...]) -> Any:
        calls: list[int] = []

        def answer(*_args: Any, **_kwargs: Any) -> Tensor:
            calls.append(1)
            return value

        with Undone() as undone:
            undone.forward(self.layer, answer)
            found = run(self._forward_func, (x,), additional)
        if len(calls) != 1:
            raise ValueError(f"forward_func: it ran its first layer {len(calls)} times")
        return found

    def is_the_only_way(self, x: Tensor, additional: tuple[Any, ...], expected: Any) -> bool:
        """Whether an output that is given the layer's value is the expected one for an input that is not a number."""
        try:
            value = self.value(x.clone(), additional)
            got = self._answered(value.clone(), torch.full_like(x, torch.nan), additional)
        except Exception:  # whatever a model's code makes of it
            return False
        leaves = [[leaf for leaf in tree_leaves(each) if isinstance(leaf, Tensor)] for each in (got, expected)]
        return len(leaves[0]) == len(leaves[1]) and all(
            a.shape == b.shape and torch.allclose(a, b, rtol=1e-4, atol=1e-6, equal_nan=True)
            for a, b in zip(*leaves, strict=True)
        )

    def is_affine(self, x: Tensor, start: Tensor, additional: tuple[Any, ...]) -> bool:
        """Whether the layer's value on the way between two inputs is between its values for them."""
        ends = [self.value(each.clone(), additional) for each in (start, x)]
        between = self.value(torch.lerp(start, x, MIX), additional)
        apart = (torch.lerp(ends[0], ends[1], MIX) - between).abs().max()
        scale = torch.stack([each.abs().max() for each in ends]).max()
        return between.dtype == x.dtype and bool(apart <= 64 * torch.finfo(between.dtype).eps * scale)


class Found:
    """What was found for one model and form of input, and whether it still holds."""

    def __init__(self, module: nn.Module, form: Any, layer: nn.Module | None) -> None:
        self._watch, self._module, self._form, self.layer = Watch(module, values=False), module, form, layer

    def holds(self, module: nn.Module, form: Any) -> bool:
        """Whether the model and its parts are as they were."""
        return module is self._module and form == self._form and not self._watch.changed()


def first_layer(
    forward_func: ForwardFunc,
    x: Tensor,
    start: Tensor,
    additional: tuple[Any, ...],
    known: Found | None,
    *,
    whatever_it_costs: bool = False,
) -> tuple[FirstLayer | None, Found | None]:
    """(the first layer where it can stand for the input, what to pass as ``known`` the next time).

    Call inside ``evaluation`` and ``torch.no_grad``. Looking for it takes two passes of one example; where it is not
    known what a callable runs, the first is made before anything is looked for.

    Args:
        forward_func: module or callable around one; none is found in one that was compiled.
        x, start: inputs [B, ...], floating point.
        additional: further arguments.
        known: of an earlier call.
        whatever_it_costs: a layer whose value is larger than its input, too.
    """
    expected = None
    if behind(forward_func) is None:
        if _could_be_of_examples(additional, len(x)):
            return None, known
        try:
            expected = run(forward_func, (x[:1].clone(),), tuple(map(scratch, additional)))
        except Exception:  # the model's own error is raised where the explainer runs it
            return None, known
    module = module_of(forward_func)
    if module is None or not hookable(forward_func):
        return None, known
    form = (tuple(x.shape[1:]), x.dtype, x.device, whatever_it_costs)
    if known is None or not known.holds(module, form):
        layer = _search(forward_func, module, x, additional, whatever_it_costs, expected)
        known = Found(module, form, layer)
    found = None if known.layer is None else FirstLayer(forward_func, known.layer)
    if found is not None and not found.is_affine(x, start, additional):
        found = None
    return found, known


def _could_be_of_examples(additional: tuple[Any, ...], examples: int) -> bool:
    """Whether an argument may go by example, which one example cannot tell."""
    return any(isinstance(value, Tensor) and value.dim() and value.shape[0] == examples for value in additional)


def _search(
    forward_func: ForwardFunc,
    module: nn.Module,
    x: Tensor,
    additional: tuple[Any, ...],
    whatever_it_costs: bool,
    expected: Any,
) -> nn.Module | None:
    """The first layer, by two passes of one example, or one where the expected output of that is given."""
    layers = [part for part in module.modules() if type(part) in AFFINE]
    if _could_be_of_examples(additional, len(x)):
        return None
    one = x[:1].clone()
    ran: list[nn.Module] = []

    def note(part: nn.Module, *_: Any) -> None:
        ran.append(part)
        raise _Reached

    with Undone() as undone:
        for part in layers:
            undone.hook(part, note, before=True)
        try:
            run(forward_func, (one,), tuple(map(scratch, additional)))
        except _Reached:
            pass
        except Exception:  # the model's own error is raised where the explainer runs it
            return None
    if not ran or has_users_hooks(ran[0], _HOOKS) or users_forward(ran[0]) is not None:
        return None
    first = FirstLayer(forward_func, ran[0])
    # A convolution's value is often several times its input, and costs more to pass than the products that it saves.
    if not whatever_it_costs and first.value(one.clone(), additional).numel() > one.numel():
        return None
    if expected is None:
        expected = run(forward_func, (one.clone(),), additional)
    reached = first.is_reached(one, additional)
    return ran[0] if reached and first.is_the_only_way(one, additional, expected) else None
