"""A model's first layer, where it is affine and nothing else reads the input: what is behind it, and what is before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fastsal._torch import tree_leaves
from fastsal.engine.prepare.prepared import Prepared
from fastsal.engine.prepare.watch import Watch
from fastsal.engine.run.forward import ForwardFunc, owner, owners, run, scratch

AFFINE = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
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

        handle = self.layer.register_forward_hook(stop)
        try:
            run(self._forward_func, (x,), additional)
        except _Reached:
            pass
        finally:
            handle.remove()
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

    def _answered(self, value: Tensor, x: Tensor, additional: tuple[Any, ...]) -> Any:
        calls: list[int] = []

        def answer(*_args: Any, **_kwargs: Any) -> Tensor:
            calls.append(1)
            return value

        self.layer.__dict__["forward"] = answer
        try:
            found = run(self._forward_func, (x,), additional)
        finally:
            del self.layer.__dict__["forward"]
        if len(calls) != 1:
            raise ValueError(f"forward_func: it ran its first layer {len(calls)} times")
        return found

    def is_the_only_way(self, x: Tensor, additional: tuple[Any, ...]) -> bool:
        """Whether an output that is given the layer's value is the same for an input that is not a number."""
        expected = run(self._forward_func, (x.clone(),), additional)
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

    Call inside ``evaluation`` and ``torch.no_grad``. Looking for it takes two passes of one example.

    Args:
        forward_func: module or callable around one; not one that was compiled.
        x, start: inputs [B, ...], floating point.
        additional: further arguments.
        known: of an earlier call.
        whatever_it_costs: a layer whose value is larger than its input, too.
    """
    module = owner(forward_func)
    if module is None or _compiled(forward_func):
        return None, known
    form = (tuple(x.shape[1:]), x.dtype, x.device, whatever_it_costs)
    if known is None or not known.holds(module, form):
        layer = _search(forward_func, module, x, start, additional, whatever_it_costs)
        known = Found(module, form, layer)
    found = None if known.layer is None else FirstLayer(forward_func, known.layer)
    if found is not None and not found.is_affine(x, start, additional):
        found = None
    return found, known


def _search(
    forward_func: ForwardFunc,
    module: nn.Module,
    x: Tensor,
    start: Tensor,
    additional: tuple[Any, ...],
    whatever_it_costs: bool,
) -> nn.Module | None:
    layers = [part for part in module.modules() if type(part) in AFFINE]
    if any(isinstance(value, Tensor) and value.dim() and value.shape[0] == len(x) for value in additional):
        return None  # whether it goes by example, one example cannot tell
    one = x[:1].clone()
    ran: list[nn.Module] = []

    def note(part: nn.Module, *_: Any) -> None:
        ran.append(part)
        raise _Reached

    handles = [part.register_forward_pre_hook(note) for part in layers]
    try:
        run(forward_func, (one,), tuple(map(scratch, additional)))
    except _Reached:
        pass
    except Exception:  # the model's own error is raised where the explainer runs it
        return None
    finally:
        for handle in handles:
            handle.remove()
    if not ran or _hooked(ran[0]) or "forward" in ran[0].__dict__:
        return None
    first = FirstLayer(forward_func, ran[0])
    # A convolution's value is often several times its input, and costs more to pass than the products that it saves.
    if not whatever_it_costs and first.value(one.clone(), additional).numel() > one.numel():
        return None
    return ran[0] if first.is_the_only_way(one, additional) else None


def _hooked(part: nn.Module) -> bool:
    return any(
        getattr(part, name)
        for name in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    )


def _compiled(forward_func: ForwardFunc) -> bool:
    """Whether something runs that was traced without what is done to the layer, or on other devices."""
    for module in owners(forward_func):
        if isinstance(module, Prepared):
            if module.choice.compiled is not None or module.choice.devices:
                return True
        elif hasattr(module, "_orig_mod") or isinstance(module, torch.jit.ScriptModule):
            return True
    return False
