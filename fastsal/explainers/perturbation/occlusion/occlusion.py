"""Occlusion: how the output changes when a window of the input is replaced."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastsal.engine.run import observed
from fastsal.explainers.anytime import Estimate, relative
from fastsal.explainers.arguments import Baselines, Inputs, examples_of
from fastsal.explainers.base import PerturbationAttribution, attribution
from fastsal.explainers.call import Call
from fastsal.explainers.perturbation.altered import AlteredScores
from fastsal.explainers.perturbation.occlusion._changes import Changes, of_windows
from fastsal.explainers.perturbation.occlusion._incremental import checked_setting, incremental_scores
from fastsal.explainers.perturbation.occlusion._refine import checked_refine, refined
from fastsal.explainers.scores import Target
from fastsal.explainers.task import Task
from fastsal.ops import windows


def _per_input(name: str, value: Any, count: int, given_tuple: bool) -> tuple[Any, ...]:
    """One window or stride per input: a tuple of them where the inputs are a tuple."""
    nested = isinstance(value, tuple) and bool(value) and (isinstance(value[0], tuple) or (given_tuple and count > 1))
    if not nested:
        if count > 1 and value is not None and not isinstance(value, int):
            raise ValueError(f"{name}: {value} is one for {count} inputs; pass a tuple of {count}")
        return (value,) * count
    if len(value) != count:
        raise ValueError(f"{name}: {len(value)} given for {count} inputs; one each is needed")
    return value  # type: ignore[no-any-return]


SHARE = 8
"""A window is one so manieth of each spatial dimension, where nobody says what it is."""


def _window(tensor: Tensor) -> tuple[int, ...]:
    """All channels of an image, a share of each spatial dimension; one feature of a table."""
    if tensor.dim() < 2:
        raise ValueError(f"inputs: shape {tuple(tensor.shape)} has nothing beside the batch to occlude")
    if tensor.dim() == 2:
        return (1,)
    return (tensor.shape[1], *[-(-extent // SHARE) for extent in tensor.shape[2:]])


class Occlusion(PerturbationAttribution):
    """Zeiler, Fergus, "Visualizing and Understanding Convolutional Networks" (ECCV 2014), section 4.2.

    An element's attribution is the mean of F(x) - F(x with a window replaced) over the windows that cover it. Costs
    one pass per window and one for x; memory does not grow with the number of windows.

    >>> maps = fastsal.Occlusion(model).attribute(images, (3, 4, 4), strides=(3, 2, 2), target=classes)

    Args:
        forward_func: module or callable.
    """

    summary = "drop of the score under a sliding window"
    cost = "1 forward, 1 for each window"
    fixed = exportable = True

    @classmethod
    def defaults(cls, inputs: tuple[Tensor, ...]) -> dict[str, Any]:
        shapes = tuple(_window(tensor) for tensor in inputs)
        strides = tuple(tuple(-(-width // 2) for width in shape) for shape in shapes)
        strides = tuple((t.shape[1], *s[1:]) if t.dim() > 2 else s for t, s in zip(inputs, strides, strict=True))
        return {"sliding_window_shapes": shapes, "strides": strides}

    @attribution
    def attribute(
        self,
        inputs: Inputs,
        sliding_window_shapes: Any,
        strides: Any = None,
        baselines: Baselines = None,
        target: Target = None,
        additional_forward_args: Any = None,
        perturbations_per_eval: int | None = None,
        show_progress: bool = False,
        *,
        incremental: bool | str = "auto",
    ) -> Call[Any]:
        """Attribution in the form and shapes of the inputs, in the finer of their dtype and the output's.

        Integers count as float32.

        Args:
            inputs: tensor [B, *shape] or tuple of them, any dtype.
            sliding_window_shapes: window per dimension of shape (channel included); a tuple of these for several. ()
                is that of inputs [B], with a number for each example.
            strides: step of the window: None (1), an int, one per dimension, or a tuple of these for several inputs.
            baselines: what a window is replaced by: None (0), a number, a tensor that broadcasts, a tuple of these.
            target: which output to explain. With None, an output [B, K] gives attributions [B * K, *shape].
            additional_forward_args: further arguments of the model; per-example tensors are repeated.
            perturbations_per_eval: windows per model call. When None, chosen from memory, but 1 where an additional
                tensor has as many entries as there are examples: only the caller knows whether to repeat it.
            show_progress: show a bar.
            incremental: compute only what a window changes of each layer's map, and keep the rest (Nakandala, Kumar,
                Papakonstantinou, SIGMOD 2019): exact up to rounding, and checked against the plain forward in every
                call. ``"auto"``: where layers are local and it pays in this very call, a trace of the model
                included, by the sizes of layers and of the sweep and whether the model is prepared, never by a clock
                or earlier calls: the same arguments have the same bits. ``plan()`` tells. True: or an error that
                says why not. False: never.

        Raises:
            TypeError, ValueError: for arguments outside of the above, or a stride above its window.
        """
        setting = checked_setting(incremental)
        task = self.task(
            inputs,
            target,
            additional_forward_args,
            baselines=baselines,
            per_call=perturbations_per_eval,
            show_progress=show_progress,
        )
        swept = _Windows(self, task, sliding_window_shapes, strides, setting)

        def run() -> Any:
            with task.context():
                scores = AlteredScores(task)
                found = [swept.folded(index, scores, swept.change(index, scores)) for index in range(len(task.inputs))]
            return task.result(found)

        return task.once(run)

    def estimate(
        self,
        inputs: Inputs,
        sliding_window_shapes: Any,
        strides: Any = None,
        baselines: Baselines = None,
        target: Target = None,
        additional_forward_args: Any = None,
        perturbations_per_eval: int | None = None,
        show_progress: bool = False,
        *,
        refine: float,
        incremental: bool | str = "auto",
    ) -> Estimate:
        """The map of one input from coarse to fine, from a part of the windows.

        Windows side by side are scored, then all those next to one that changes an output by more than a share of the
        most that any does; elsewhere the change is interpolated.

        Args:
            inputs: one tensor [B, *shape].
            sliding_window_shapes: window per dimension of shape (channel included).
            strides: step of the window: None (1), an int, or one per dimension.
            baselines: what a window is replaced by: None (0), a number, a tensor that broadcasts.
            target: which output to explain. With None, an output [B, K] gives attributions [B * K, *shape].
            additional_forward_args: further arguments of the model; per-example tensors are repeated.
            perturbations_per_eval: windows per model call, as of :meth:`attribute`.
            show_progress: show a bar.
            refine: the share, between 0 and 1.
            incremental: as of :meth:`attribute`.

        Returns:
            An :class:`Estimate` whose ``error`` is what interpolation misses, measured on a tenth of the windows left
            out, drawn at random; ``samples`` are the windows scored.

        Raises:
            TypeError, ValueError: for arguments outside of the above, or a stride above its window.
        """
        began = time.perf_counter()
        refine, setting = checked_refine(refine), checked_setting(incremental)
        task = self.task(
            inputs,
            target,
            additional_forward_args,
            baselines=baselines,
            per_call=perturbations_per_eval,
            show_progress=show_progress,
        )
        if len(task.inputs) > 1:
            raise ValueError(f"refine: for one input, {len(task.inputs)} are given")
        swept = _Windows(self, task, sliding_window_shapes, strides, setting)
        made = swept.geometry[0]
        with observed() as sweeps, task.context():
            scores = AlteredScores(task)
            found = refined(
                lambda positions: swept.change(0, scores, positions),
                made.counts,
                made.window,
                made.stride,
                refine,
            )
            maps, errors = swept.folded(0, scores, found.changes), swept.folded(0, scores, found.error)
        self.state.sweeps = tuple(sweeps)
        ratio, seconds = relative((maps,), (errors,)), time.perf_counter() - began
        return Estimate(task.result([maps]), task.result([errors]), ratio, found.scored, seconds)


class _Windows:
    """The windows of each input, and the change of the scores under each of them.

    Attributes:
        geometry: of each input, checked.
    """

    def __init__(self, explainer: Occlusion, task: Task, shapes: Any, strides: Any, setting: bool | str) -> None:
        self._explainer, self._task, self._setting = explainer, task, setting
        examples_of(task.inputs)
        count, is_tuple = len(task.inputs), task.given.is_tuple or task.given.names is not None
        shapes = _per_input("sliding_window_shapes", task.given.each(shapes), count, is_tuple)
        strides = _per_input("strides", task.given.each(strides), count, is_tuple)
        self.geometry = [_geometry(*each) for each in zip(task.inputs, shapes, strides, strict=True)]
        # A number for each example is a row of one.
        self._tensors = [_as_row(tensor) for tensor in task.inputs]
        self._baselines = [
            _as_row(each.expand(t.shape)) if t.dim() == 1 and isinstance(each, Tensor) else each
            for each, t in zip(task.baselines, task.inputs, strict=True)
        ]

    def change(self, index: int, scores: AlteredScores, positions: Tensor | None = None) -> Tensor:
        """[positions, outputs] of one input; of all positions, or of some in ascending order."""
        task, made = self._task, self.geometry[index]
        tensor, baseline = self._tensors[index], self._baselines[index]

        def changes() -> Changes:
            all_of_them = of_windows(tensor, made, baseline)
            return all_of_them if positions is None else all_of_them.of(positions)

        quick = incremental_scores(
            self._explainer, scores, task.inputs, changes, self._setting, task.per_call, task.show_progress
        )
        if quick is not None:
            return scores.clean - quick
        total = made.total if positions is None else len(positions)
        found = scores.clean.new_empty((total, scores.clean.numel()), device=tensor.device)

        def work(start: int, stop: int) -> Tensor:
            if positions is None:
                rows = made.batch(tensor, start, stop, baseline)
            else:
                rows = made.at(tensor, positions[start:stop], baseline)
            rows = rows.reshape(-1, *task.inputs[index].shape[1:])
            return scores.clean - scores(stop - start, {index: rows})

        def keep(start: int, stop: int, changed: Tensor) -> None:
            found[start:stop] = changed

        scores.sweep(total, work, keep).run()
        return found

    def folded(self, index: int, scores: AlteredScores, found: Tensor) -> Tensor:
        """Values at the windows as a map of one input."""
        maps, tensor = self.geometry[index].fold(found), self._task.inputs[index]
        return maps.reshape(-1, *tensor.shape[1:]).to(_finer(tensor.dtype, scores.dtype))


def _as_row(tensor: Tensor) -> Tensor:
    return tensor[:, None] if tensor.dim() == 1 else tensor


def _finer(of_input: torch.dtype, of_output: torch.dtype) -> torch.dtype:
    """The finer of the input's dtype and the output's, float32 for integers."""
    given = (dtype if dtype.is_floating_point else torch.float32 for dtype in (of_input, of_output))
    if not of_output.is_floating_point and of_input.is_floating_point:
        return of_input
    return torch.promote_types(*given)


def _geometry(tensor: Tensor, window: Any, stride: Any) -> windows.Windows:
    """The windows of one input.

    Raises:
        TypeError, ValueError: for a wrong kind or number, or a stride above its window where that leaves gaps.
    """
    if not isinstance(window, tuple):
        raise TypeError(f"sliding_window_shapes: {window!r} is not a tuple with one int per dimension beside the batch")
    window, stride = _python_ints(window), _python_ints(stride)
    if tensor.dim() == 1:  # the window is the number itself
        stride = (stride or (1,)) if isinstance(stride, tuple) else stride
        window = window or (1,)
    try:
        made = windows.Windows(_as_row(tensor).shape[1:], window, 1 if stride is None else stride)
    except (TypeError, ValueError) as error:
        named = str(error).replace("window:", "sliding_window_shapes:", 1).replace("stride:", "strides:", 1)
        raise type(error)(named) from None
    for size, width, move, count in zip(made.shape, made.window, made.stride, made.counts, strict=True):
        if move > width and count > 1:
            raise ValueError(f"strides: {move} is above the window's {width} in a dimension of {size}, and leaves gaps")
    return made


def _python_ints(value: Any) -> Any:
    """NumPy's integers as Python's."""
    if isinstance(value, np.integer):
        return int(value)
    return tuple(map(_python_ints, value)) if isinstance(value, tuple) else value
