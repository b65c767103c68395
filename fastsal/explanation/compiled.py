"""An explainer for inputs of one shape, in one call with its prediction: on a GPU one CUDA graph."""

from __future__ import annotations

import contextlib
import inspect
import threading
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fastsal.engine.prepare import Prepared, Step, difference, unprepared
from fastsal.engine.run import (
    Graph,
    NotCapturable,
    bounded,
    evaluation,
    find,
    modules_of,
    observed,
    run,
    scratch,
    without_waiting,
)
from fastsal.engine.run.snapshot import Snapshot
from fastsal.explainers import Attribution, describe
from fastsal.explainers.arguments import Inputs, as_arguments, as_inputs, as_result, examples_of
from fastsal.explainers.base import Report
from fastsal.explainers.outputs import main_output, no_tensor
from fastsal.explainers.registry import registered
from fastsal.explainers.scores import Target, scores_examples

NOT_FIXED = {
    "aug_smooth",
    "create_graph",
    "return_convergence_delta",
    "show_progress",
    "target",
    "targets",
}
"""Options that give something else than one map, or as many passes as the values tell."""
TOLERANCE = 1e-3
"""How far a replayed map may be from the plain one, as a share of its spread: libraries may choose other algorithms
while they are captured."""


class Explained(NamedTuple):
    """What a compiled explainer returns.

    Attributes:
        output: the model's output: its tensor where it has or names one.
        target: what was explained: classes [B], or the target as it was given.
        attribution: what the explainer's ``attribute`` returns.
    """

    output: Any
    target: Any
    attribution: Any


class Compiled:
    """An explainer for inputs of one shape; made by :func:`compile`.

    A call ``compiled(inputs)`` or, where it was compiled with a target, ``compiled(inputs, target)`` returns an
    :class:`Explained`. On a GPU nothing between the call and its result makes the host wait, but that of a prepared
    model for a fingerprint of the weights, without ``verify=False``. Calls from several threads take turns.
    """

    def __init__(self, explainer: Attribution, inputs: Inputs, target: Target, options: dict[str, Any]) -> None:
        self._explainer, self._options = explainer, options
        tensors, self._given_tuple = as_inputs(inputs)
        self._examples = examples_of(tensors)
        self._shapes = [(tuple(tensor.shape), tensor.dtype, tensor.device) for tensor in tensors]
        self._lock = threading.RLock()
        self._graph: Graph | None = None
        self._snapshot: Snapshot | None = None
        self._takes_target = is_index(target)
        self._fixed = None if self._takes_target else target
        plain = tuple(map(scratch, tensors))
        if not self._takes_target:
            first = self._first(plain)
        else:
            with evaluation(explainer.forward_func), torch.no_grad():
                additional = tuple(map(scratch, as_arguments(options.get("additional_forward_args"))))
                self._outputs = _classes(run(explainer.forward_func, tuple(map(scratch, plain)), additional))
            plain = (*plain, self._column(target))
            first = self._first(plain)
        self._fix_batch()
        self.step = self._capture(plain, first)

    def _explain(self, *tensors: Tensor) -> Explained:
        """Prediction and map, from the inputs and, where there is one, the target."""
        inputs, given = (tensors[:-1], tensors[-1]) if self._takes_target else (tensors, None)
        form = as_result(inputs, self._given_tuple)
        if given is not None:
            return explained(self._explainer, form, self._options, lambda _output: given)
        target = top_class if self._fixed is None else self._fixed
        return explained(self._explainer, form, self._options, target)

    def _first(self, arguments: tuple[Tensor, ...]) -> Explained:
        """The first explanation; where a graph may follow, with the passes that it can hold, whose rows are fixed."""
        with without_waiting() if arguments[0].is_cuda else contextlib.nullcontext():
            return self._explain(*arguments)

    def _fix_batch(self) -> None:
        """The rows per model call that the first attribution came to, for all that follow."""
        sweeps, name = self._explainer.plan().sweeps, self._explainer.per_call
        if name is None or self._options.get(name) is not None or not sweeps:
            return
        items = max(max(swept.sizes) for swept in sweeps)
        self._options[name] = items * (self._examples if name == "internal_batch_size" else 1)

    def _capture(self, arguments: tuple[Tensor, ...], first: Explained) -> Step:
        device = arguments[0].device
        name = "cuda graph"
        if device.type != "cuda":
            return Step(name, False, f"not used: the inputs are on {device}; the explainer runs as it is")
        # A graph reads weights where they are; what was folded from them is elsewhere.
        modules = modules_of(self._explainer.forward_func)
        found = [(unprepared(module), isinstance(module, Prepared)) for module in modules]
        try:
            weights = [tensor for module, _ in found for tensor in (*module.parameters(), *module.buffers())]
            graph = Graph(self._explain, arguments, weights)
            # Its own inputs would not tell a graph that recorded nothing from one that works.
            other = tuple(map(_other, arguments))
            apart = max(
                difference(graph(*arguments).attribution, first.attribution),
                difference(graph(*other).attribution, self._explain(*other).attribution),
            )
        except NotCapturable as error:
            return Step(name, False, f"not used: {error}; the explainer runs as it is")
        except (RuntimeError, torch.AcceleratorError) as error:
            message = str(error).strip().split("\n", 1)[0]
            return Step(name, False, f"not used, the capture failed: {message}")
        if apart > TOLERANCE:
            return Step(name, False, f"not used: its map was off by {apart:.1e} of the spread")
        self._graph = graph
        prepared = [module for module in modules if isinstance(module, Prepared)]
        self._snapshot = Snapshot(
            self._explainer.forward_func,
            [module for module, _ in found],
            values=bool(prepared),
            samples=any(module.verifies for module in prepared),
        )
        return Step(name, True, "prediction and map are one graph")

    def __call__(self, inputs: Inputs, target: Target = None) -> Explained:
        """Prediction and map.

        Args:
            inputs: in the form, shapes, dtypes and on the device of the example.
            target: where it was compiled with one: an int, or one per example. A tensor on a GPU is not checked by the
                host; where it is out of range the example's map is NaN.

        Raises:
            TypeError, ValueError: for another form, or a target where none was compiled, or the other way around.
        """
        tensors, given_tuple = as_inputs(inputs)
        shapes = [(tuple(tensor.shape), tensor.dtype, tensor.device) for tensor in tensors]
        if shapes != self._shapes or given_tuple != self._given_tuple:
            told = ", ".join(f"{dtype} of shape {shape} on {device}" for shape, dtype, device in self._shapes)
            found = ", ".join(f"{dtype} of shape {shape} on {device}" for shape, dtype, device in shapes)
            raise ValueError(f"inputs: compiled for {told}, these are {found}")
        if (target is not None) != self._takes_target:
            raise ValueError(
                "target: compiled to take one; pass it"
                if self._takes_target
                else "target: compiled for the top class or what is no index; compile with a target that is one"
            )
        arguments = tensors if target is None else (*tensors, self._column(target))
        with self._lock:
            if self._graph is not None:
                plain = tuple(tensor.detach() for tensor in arguments)
                explained: Explained = self._graph(*plain)
                # Looked for while the device is busy.
                if self._snapshot is None or self._snapshot.change() is None:
                    return explained
                self._graph = None
                first = self._explain(*plain)
                self.step = self._capture(plain, first)
                return first
            with without_waiting():
                return self._explain(*arguments)

    def _column(self, target: Target) -> Tensor:
        """A target as [B] of ints on the device; only what the host knows is checked.

        Raises:
            TypeError, ValueError: for another form, or out of range.
        """
        device = self._shapes[0][2]
        if isinstance(target, Tensor):
            if target.is_floating_point() or target.dtype == torch.bool or target.dim() > 1:
                raise TypeError(f"target: {target.dtype} of shape {tuple(target.shape)} is not [B] of ints")
            column = target.to(torch.int64)
        else:
            try:
                column = torch.tensor(target, dtype=torch.int64, device="cpu")
            except (TypeError, ValueError, RuntimeError):
                raise TypeError(f"target: {target!r} is neither an int nor one int per example") from None
        if column.dim() > 1 or column.numel() not in (1, self._examples):
            raise ValueError(f"target: {column.numel()} entries for {self._examples} examples")
        column = column.reshape(-1).expand(self._examples)
        if column.device.type == "cpu" and not bool(((column >= -self._outputs) & (column < self._outputs)).all()):
            raise ValueError(f"target: {target!r} is out of range for an output of {self._outputs}")
        return column.to(device, non_blocking=True)

    def plan(self) -> Report:
        """How the model and the explainer are run."""
        report = self._explainer.plan()
        return Report((*report.steps, self.step), report.sweeps)


def explained(explainer: Attribution, form: Inputs, options: Mapping[str, Any], target: Target) -> Explained:
    """Prediction and map; the prediction comes from the explainer's own first pass where it has one.

    Args:
        explainer: one that :func:`compile` takes.
        form: its inputs.
        options: further arguments of its ``attribute``.
        target: with one score for each example; a function gets the output, detached.
    """
    found = whole(explainer, form, options, target)
    return found._replace(output=main_output(found.output))


@bounded
def whole(explainer: Attribution, form: Inputs, options: Mapping[str, Any], target: Target) -> Explained:
    """The same with all that the model returns in the place of the prediction."""
    call = describe(explainer, form, target=target, **options)
    call.task.asks = True
    with observed() as sweeps:
        attribution = call.run()
    explainer.state.sweeps = tuple(sweeps)
    return Explained(call.task.output, call.task.target, attribution)


def is_index(target: Target) -> bool:
    """Whether a target is an int or one int per example, which a call can be given."""
    if isinstance(target, (Tensor, np.ndarray)):
        return True
    if isinstance(target, (list, tuple)) and not (isinstance(target, list) and target and scores_examples(target)):
        return isinstance(target, list) and not any(isinstance(each, tuple) for each in target)
    return target is not None and not callable(target) and not scores_examples(target)


def top_class(output: Any) -> Tensor | None:
    """The classes [B] of an output [B, K]; None of one with one score for each example.

    Raises:
        TypeError, ValueError: for another output.
    """
    if not isinstance(output, Tensor):
        raise TypeError(f"target: needed, since {no_tensor(output)}")
    if output.dim() == 1:
        return None
    if output.dim() != 2:
        raise ValueError(
            f"target: needed for an output of {tuple(output.shape)}, of which only [B, K] has a top class; a tuple "
            "(class, ...) or one of fastsal.targets"
        )
    return output.argmax(1)


@bounded
def compile(explainer: Attribution, inputs: Inputs, target: Target = None, **options: Any) -> Compiled:
    """An explainer for inputs of one shape, that returns prediction and map in one call.

    >>> explain = fastsal.compile(fastsal.GradCAM(model), images)
    >>> output, target, maps = explain(images)

    On a GPU generation, model, gradient and fold are captured as one CUDA graph and replayed: no launch costs, and no
    wait of the host between the call and its result. What cannot be captured, and every other device, runs the
    explainer as it is, with the same results; ``plan()`` says which and why. A change of the model is seen by the next
    call, which then may have to capture again.

    Args:
        explainer: one whose passes are the same in every call (``fixed``: gradients, class activation maps, Integrated
            Gradients, SmoothGrad, Occlusion, RISE).
        inputs: an example: tensor [B, ...] or tuple of them.
        target: None explains the top class of an output [B, K], chosen on the device, or the score of an output [B].
            With an int, or one per example, calls take one. Any other target (a tuple into a dense output, one of
            :mod:`fastsal.targets`, a list of functions of an example's part of the output) is fixed from here on.
        options: further arguments of the explainer's ``attribute``, fixed from here on. Tensors in them are constants.

    Raises:
        TypeError: for another explainer, an option that it does not have.
        ValueError: for options that would differ from call to call, and what the explainer refuses.
    """
    if not (isinstance(explainer, Attribution) and explainer.fixed and hasattr(explainer, "attribute")):
        names = ", ".join(sorted(kind.__name__ for kind in registered() if kind.fixed))
        raise TypeError(f"explainer: {type(explainer).__name__} is none of {names}, whose passes are fixed")
    check_fixed(explainer, options)
    additional = as_arguments(options.get("additional_forward_args"))
    for module in find(explainer.forward_func, as_inputs(inputs)[0], additional):
        if isinstance(module, Prepared) and module.choice.compiled == "reduce-overhead":
            raise ValueError("explainer: its model replays graphs of its own; prepare it without cuda_graphs")
    return Compiled(explainer, inputs, target, options)


def check_fixed(explainer: Attribution, options: Mapping[str, Any]) -> None:
    """Refuses options that an explainer of fixed options does not take.

    Raises:
        TypeError: for an option that its ``attribute`` has not, or that a compiled one has not.
        ValueError: for options that would differ from call to call.
    """
    known = set(inspect.signature(explainer.attribute).parameters)  # type: ignore[attr-defined]
    for name in options:
        if name not in known or name in NOT_FIXED:
            raise TypeError(f"{name}: {type(explainer).__name__} takes no such option when it is compiled")
    if "seed" in known and options.get("seed", 0) is None:
        raise ValueError("seed: None would be drawn once and repeated by every call; pass a number")


def _other(argument: Tensor) -> Tensor:
    """Another input of the same kind; integers, which may be a target, as they are."""
    if not argument.is_floating_point():
        return argument
    return 0.75 * argument.flip(-1) + 0.25


def _classes(output: Any) -> int:
    """K of an output [B, K].

    Raises:
        TypeError, ValueError: for another output.
    """
    output = main_output(output)
    if not isinstance(output, Tensor):
        raise TypeError(f"target: an index needs an output [B, K], but {no_tensor(output)}")
    if output.dim() != 2:
        raise ValueError(
            f"target: an index needs an output [B, K], this one is {tuple(output.shape)}; pass a tuple (class, ...) or "
            "one of fastsal.targets, which is fixed"
        )
    return output.shape[1]
