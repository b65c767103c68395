"""A model's first layer, where it is affine and nothing else reads the input: what is behind it, and what is before."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fastsal._torch import global_module_hooks
from fastsal.engine.reading.affine import reaches
from fastsal.engine.run.forward import run, scratch
from fastsal.engine.run.modules import ForwardFunc, behind, hookable, module_of
from fastsal.engine.run.own import Undone, has_users_hooks, users_forward
from fastsal.engine.run.snapshot import Snapshot

AFFINE = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
MIX = 0.37
"""Where on a path it is checked that the layer's value is affine."""
ROUNDINGS = 64
"""By which two values that are computed in other orders may differ, of the larger one's."""

Along = Callable[[Tensor, Tensor], Tensor]
"""(start, end) into points between these, [points * rows, ...]."""


class _Reached(BaseException):
    """Ends a run of the model at the layer."""


class NotTheOnlyWay(Exception):
    """What is behind the layer gets to know the inputs in another way than by its value."""


class _Met:
    """What a layer was given and what it made of it, in a pass that ends there."""

    def __init__(self, given: Tensor | None, value: Tensor, is_the_input: bool) -> None:
        self.given, self.value, self.is_the_input = given, value, is_the_input


class FirstLayer:
    """A layer's values at both ends of a path, and the model behind it; made by :func:`first_layer`.

    The model behind runs on the path's own inputs, with the layer's value given: whatever else it reads of them, such
    as a mask of their padding, is what it reads in a plain pass. Each such pass checks, for every row, that the layer
    got what it would get on the way between the ends, and that the score depends on the inputs through it alone.

    Call inside ``evaluation``.

    Args:
        forward_func: module or callable around one.
        layer: the first of its layers to run.
        inputs, start: ends of the path, [B, ...].
        additional: further arguments.

    Attributes:
        start, end: the layer's values there, which are outputs of an affine function.

    Raises:
        NotTheOnlyWay: for a layer that cannot stand for the inputs.
    """

    def __init__(
        self, forward_func: ForwardFunc, layer: nn.Module, inputs: Tensor, start: Tensor, additional: tuple[Any, ...]
    ) -> None:
        if is_hooked(layer):
            raise NotTheOnlyWay("the layer has hooks or a forward of its own")
        self._forward_func, self._layer, self._additional = forward_func, layer, additional
        self._inputs, self._begin = inputs, start
        with torch.enable_grad():
            self._leaf = inputs.detach().requires_grad_()
            self._met = met_at(forward_func, layer, self._leaf.clone(), additional)
        before = met_at(forward_func, layer, start.clone(), additional)
        if self._met is None or before is None:
            raise NotTheOnlyWay("the model does not run the layer")
        if not reaches(self._met.value, [[self._leaf]], []):
            raise NotTheOnlyWay("no gradient goes on from the layer to the inputs")
        # Where it gets the input itself, or all of it in another shape, there is nothing to compare.
        self._met_the_input = all(each.given is not None and each.is_the_input for each in (self._met, before))
        self.start, self.end = before.value.detach(), self._met.value.detach()
        self._ends = _detached(before.given), _detached(self._met.given)
        between = met_at(forward_func, layer, torch.lerp(start, inputs, MIX), additional)
        if between is None or not _between(between.value, torch.lerp(self.start, self.end, MIX), self.start, self.end):
            raise NotTheOnlyWay("the layer's value is not affine in the inputs")
        self._along: Along | None = None
        self._read: list[Tensor] = []

    def at(self, along: Along) -> Tensor:
        """The layer's values at points of the path, at which :meth:`behind` runs next."""
        self._along = along
        return along(self.start, self.end)

    def behind(self, value: Tensor, *additional: Any) -> Any:
        """The model's output for the layer's values of :meth:`at`.

        Raises:
            NotTheOnlyWay: where the layer got anything else than on the way between the ends, or ran twice.
        """
        assert self._along is not None
        point = self._along(self._begin, self._inputs).detach().requires_grad_()
        given = point.clone()  # no leaf, so that the model may write to it
        version = given._version
        wrong: list[str] = []
        calls: list[int] = []

        def answer(*args: Any, **kwargs: Any) -> Tensor:
            calls.append(1)
            got = args[0] if args else next(iter(kwargs.values()), None)
            if not self._is_the_input(got, given, version) and not self._expects(got):
                wrong.append("the layer got something else than on the way between the ends")
            return value

        with Undone() as undone:
            undone.forward(self._layer, answer)
            found = run(self._forward_func, (given,), additional)
        if wrong or len(calls) != 1:
            raise NotTheOnlyWay(wrong[0] if wrong else f"the model ran the layer {len(calls)} times")
        self._read = [value, point]
        return found

    def check(self, scores: Tensor) -> None:
        """Whether scores of :meth:`behind`'s output, with their graph, depend on the inputs through the layer alone.

        Raises:
            NotTheOnlyWay: where they do not.
        """
        value, point = self._read
        self._read = []
        if not reaches(scores, [[value]], []) or reaches(scores, [[point]], []):
            raise NotTheOnlyWay("the score depends on the inputs in another way than by the layer's value")

    def pulled(self, gradient: Tensor) -> Tensor:
        """The gradient by the inputs of one by the layer's value, [B, ...]."""
        assert self._met is not None
        with torch.enable_grad():
            value = self._met.value
            (found,) = torch.autograd.grad(value, self._leaf, gradient.to(value), retain_graph=True)
        return found

    def _is_the_input(self, got: Any, given: Tensor, version: int) -> bool:
        """Whether the layer's argument is the model's, as it was given, in another shape at the most."""
        _, end = self._ends
        if not self._met_the_input or not isinstance(got, Tensor) or end is None:
            return False
        copies = given.shape[0] // max(1, self._inputs.shape[0])
        expected = (copies * end.shape[0], *end.shape[1:])
        return got._version == version and got.shape == expected and _is_view(got, given)

    def _expects(self, got: Any) -> bool:
        """Whether the layer's argument is what it would be between those at the ends."""
        start, end = self._ends
        if self._along is None or start is None or end is None or not isinstance(got, Tensor):
            return False
        expected = self._along(start, end)
        return got.shape == expected.shape and _between(got.detach(), expected, start, end)


def _detached(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach()


def _is_view(tensor: Tensor, of: Tensor) -> bool:
    """Whether a tensor is all of another one's memory, in its order."""
    if tensor is of:
        return True
    same = tensor.data_ptr() == of.data_ptr() and tensor.numel() == of.numel() and tensor.dtype == of.dtype
    return same and tensor.is_contiguous() and of.is_contiguous()


def _between(found: Tensor, expected: Tensor, start: Tensor, end: Tensor) -> bool:
    """Whether a value on the way between two is what it should be, up to rounding."""
    if found.dtype != expected.dtype or found.shape != expected.shape or not found.is_floating_point():
        return False
    scale = torch.stack([start.abs().max(), end.abs().max()]).max() if found.numel() else found.new_zeros(())
    apart = (found - expected).abs().max() if found.numel() else scale
    return bool(apart <= ROUNDINGS * torch.finfo(found.dtype).eps * scale)


def met_at(forward_func: ForwardFunc, layer: nn.Module, x: Tensor, additional: tuple[Any, ...]) -> _Met | None:
    """What a layer is given and makes of it, in a pass that ends there; None where it does not run."""
    found: list[_Met] = []
    version = x._version

    def stop(_module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        given = args[0] if args else next(iter(kwargs.values()), None)
        if isinstance(output, Tensor):
            given = given if isinstance(given, Tensor) else None
            same = given is not None and given._version == version and _is_view(given, x)
            found.append(_Met(given, output, same))
        raise _Reached

    with Undone() as undone:
        undone.hook(layer, stop, kwargs=True)
        try:
            run(forward_func, (x,), tuple(map(scratch, additional)))
        except _Reached:
            pass
        except (RuntimeError, ValueError):  # what cannot have a graph, as NumPy cannot
            return None
    return found[0] if len(found) == 1 else None


class Found:
    """What was found for one model and form of input.

    A layer is checked in every call, so that it is kept whatever becomes of the model; that there is none is kept as
    long as the model is as it was.
    """

    def __init__(self, module: nn.Module, form: Any, layer: nn.Module | None) -> None:
        self._module, self._form, self.layer = module, form, layer
        self._snapshot = None if layer is not None else Snapshot(module, [module], values=False)

    def give_up(self) -> None:
        """There is none after all."""
        self.__init__(self._module, self._form, None)  # type: ignore[misc]

    def holds(self, module: nn.Module, form: Any) -> bool:
        """Whether it is of this model and form, and may be used."""
        if module is not self._module or form != self._form:
            return False
        return self._snapshot is None or self._snapshot.change() is None


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

    Call inside ``evaluation`` and ``torch.no_grad``. Looking for it takes a pass of one example that ends there, and
    each call three of all examples; where it is not known what a callable runs, one whole pass of one example more.

    Args:
        forward_func: module or callable around one; none is found in one that was compiled.
        x, start: inputs [B, ...], floating point.
        additional: further arguments.
        known: of an earlier call.
        whatever_it_costs: a layer whose value is larger than its input, too.
    """
    if _could_be_of_examples(additional, len(x)):
        return None, known
    if behind(forward_func) is None:
        try:
            run(forward_func, (x[:1].clone(),), tuple(map(scratch, additional)))
        except Exception:  # the model's own error is raised where the explainer runs it
            return None, known
    module = module_of(forward_func)
    if module is None or not hookable(forward_func):
        return None, known
    form = (tuple(x.shape[1:]), x.dtype, x.device, whatever_it_costs)
    for recalled in (True, False):
        if not recalled or known is None or not known.holds(module, form):
            known = Found(module, form, _search(forward_func, module, x, additional, whatever_it_costs))
            recalled = False
        if known.layer is None:
            break
        with contextlib.suppress(NotTheOnlyWay):
            return FirstLayer(forward_func, known.layer, x, start, additional), known
        if not recalled:  # for these values: others are asked anew
            break
    return None, known


def _could_be_of_examples(additional: tuple[Any, ...], examples: int) -> bool:
    """Whether an argument may go by example, which one example cannot tell."""
    return any(isinstance(value, Tensor) and value.dim() and value.shape[0] == examples for value in additional)


def _search(
    forward_func: ForwardFunc,
    module: nn.Module,
    x: Tensor,
    additional: tuple[Any, ...],
    whatever_it_costs: bool,
) -> nn.Module | None:
    """The first layer to run, by a pass of one example, where its value pays."""
    layers = [part for part in module.modules() if type(part) in AFFINE]
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
    if not ran:
        return None
    # A convolution's value is often several times its input, and costs more to pass than the products that it saves.
    met = met_at(forward_func, ran[0], x[:1].clone(), additional)
    return None if met is None or (not whatever_it_costs and met.value.numel() > one.numel()) else ran[0]


def is_hooked(part: nn.Module) -> bool:
    """Whether something of the user's is around a layer's forward, or in its place."""
    names = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return users_forward(part) is not None or has_users_hooks(part, names) or bool(global_module_hooks())
