"""Occlusion: how the output changes when a window of the input is replaced."""

from __future__ import annotations

import time
from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastsal.engine.run import evaluation, scratch
from fastsal.explainers._old import attribute_method, sweep
from fastsal.explainers.anytime import Estimate, relative
from fastsal.explainers.arguments import (
    Baselines,
    Inputs,
    as_arguments,
    as_baselines,
    as_inputs,
    as_result,
    examples_of,
)
from fastsal.explainers.base import PerturbationAttribution
from fastsal.explainers.perturbation.altered import AlteredScores
from fastsal.explainers.perturbation.occlusion._changes import Changes, of_windows
from fastsal.explainers.perturbation.occlusion._incremental import checked_setting, incremental_scores
from fastsal.explainers.perturbation.occlusion._refine import checked_refine, refined
from fastsal.explainers.scores import Target
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


class Occlusion(PerturbationAttribution):
    """Zeiler, Fergus, "Visualizing and Understanding Convolutional Networks" (ECCV 2014), section 4.2.

    An element's attribution is the mean of F(x) - F(x with a window replaced) over the windows that cover it. Costs
    one pass per window and one for x; memory does not grow with the number of windows.
    """

    @attribute_method
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
        refine: float | None = None,
    ) -> Any:
        """Attribution in the form and shapes of the inputs, in the finer of their dtype and the output's.

        Integers count as float32.

        Args:
            inputs: tensor [B, *shape] or tuple of them, any dtype.
            sliding_window_shapes: window per dimension of shape (channel included); a tuple of these for several.
            strides: step of the window: None (1), an int, one per dimension, or a tuple of these for several inputs.
            baselines: what a window is replaced by: None (0), a number, a tensor that broadcasts, a tuple of these.
            target: which output to explain. With None, an output [B, K] gives attributions [B * K, *shape].
            additional_forward_args: further arguments of the model; per-example tensors are repeated.
            perturbations_per_eval: windows per model call. When None, chosen from memory, but 1 where an additional
                tensor has as many entries as there are examples: only the caller knows whether to repeat it.
            show_progress: show a bar.
            incremental: compute only what a window changes of each layer's map, and keep the rest (Nakandala, Kumar,
                Papakonstantinou, SIGMOD 2019): exact up to rounding, and checked against the plain forward in every
                call. ``"auto"``: where layers are local and it pays, after a trace of the model; ``plan()``
                tells. True: or an error that says why not. False: never, and the same bits in every call.
            refine: of one input, from coarse to fine: score windows side by side, then all those next to one that
                changes an output by more than this share (between 0 and 1) of the most that any does, and interpolate
                elsewhere. Returns an :class:`Estimate` whose ``error`` is what interpolation misses, measured on a
                tenth of the windows left out, drawn at random; ``samples`` are the windows scored.

        Raises:
            TypeError, ValueError: for arguments outside of the above, or a stride above its window.
        """
        began = time.perf_counter()
        setting = checked_setting(incremental)
        tensors, given_tuple = as_inputs(inputs)
        examples_of(tensors)
        if refine is not None:
            refine = checked_refine(refine)
            if len(tensors) > 1:
                raise ValueError(f"refine: for one input, {len(tensors)} are given")
        plain = tuple(scratch(tensor) if tensor.is_inference() else tensor.detach() for tensor in tensors)
        shapes = _per_input("sliding_window_shapes", sliding_window_shapes, len(plain), given_tuple)
        steps = _per_input("strides", strides, len(plain), given_tuple)
        starts = as_baselines(baselines, plain)
        geometry = [
            _geometry(tensor, shape, stride) for tensor, shape, stride in zip(plain, shapes, steps, strict=True)
        ]
        with evaluation(self.forward_func), torch.no_grad():
            scores = AlteredScores(
                self.forward_func, plain, as_arguments(additional_forward_args), target, perturbations_per_eval
            )

            def change(index: int, positions: Tensor | None = None) -> Tensor:
                """[positions, outputs] of one input; of all positions, or of some in ascending order."""
                window, stride = geometry[index]

                def changes() -> Changes:
                    all_of_them = of_windows(plain[0], window, stride, starts[0])
                    return all_of_them if positions is None else all_of_them.of(positions)

                rows = perturbations_per_eval
                quick = incremental_scores(self, scores, plain, changes, setting, rows, show_progress)
                if quick is not None:
                    return scores.clean - quick
                total = prod(windows.counts(plain[index].shape[1:], window, stride))
                total = total if positions is None else len(positions)
                found = scores.clean.new_empty((total, scores.clean.numel()), device=plain[index].device)

                def batch(start: int, stop: int) -> Tensor:
                    return windows.batch(
                        plain[index], start, stop, window=window, stride=stride, baseline=starts[index]
                    )

                def step(start: int, stop: int) -> Callable[[], None]:
                    if positions is None:
                        rows = batch(start, stop)
                    else:
                        rows = torch.cat([batch(place, place + 1) for place in positions[start:stop].tolist()])
                    changed = scores.clean - scores(stop - start, {index: rows})

                    def commit() -> None:
                        found[start:stop] = changed

                    return commit

                sweep(total, step, scores.plan(total), show_progress=show_progress, description="Occlusion")
                return found

            def folded(index: int, found: Tensor) -> Tensor:
                window, stride = geometry[index]
                values = windows.fold(found, plain[index].shape[1:], window=window, stride=stride)
                return values.to(_finer(plain[index].dtype, scores.dtype))

            if refine is None:
                return as_result([folded(index, change(index)) for index in range(len(plain))], given_tuple)
            counts = windows.counts(plain[0].shape[1:], *geometry[0])
            window, stride = (_per_dimension(each, len(counts)) for each in geometry[0])
            found = refined(lambda positions: change(0, positions), counts, window, stride, refine)
            maps, errors = folded(0, found.changes), folded(0, found.error)
        ratio, seconds = relative((maps,), (errors,)), time.perf_counter() - began
        attribution, error = (as_result([each], given_tuple) for each in (maps, errors))
        return Estimate(attribution, error, ratio, found.scored, seconds)


def _per_dimension(value: int | tuple[int, ...], dimensions: int) -> tuple[int, ...]:
    return (value,) * dimensions if isinstance(value, int) else tuple(value)


def _finer(of_input: torch.dtype, of_output: torch.dtype) -> torch.dtype:
    """The finer of the input's dtype and the output's, float32 for integers."""
    given = (dtype if dtype.is_floating_point else torch.float32 for dtype in (of_input, of_output))
    if not of_output.is_floating_point and of_input.is_floating_point:
        return of_input
    return torch.promote_types(*given)


def _geometry(tensor: Tensor, window: Any, stride: Any) -> tuple[Any, Any]:
    """Window and stride of one input, checked.

    Raises:
        TypeError, ValueError: for a wrong kind or number, or a stride above its window where that leaves gaps.
    """
    if not isinstance(window, tuple):
        raise TypeError(f"sliding_window_shapes: {window!r} is not a tuple with one int per dimension beside the batch")
    window, stride = _python_ints(window), _python_ints(stride)
    shape = tensor.shape[1:]
    step = 1 if stride is None else stride
    try:
        counts = windows.counts(shape, window, step)
    except (TypeError, ValueError) as error:
        named = str(error).replace("window:", "sliding_window_shapes:", 1).replace("stride:", "strides:", 1)
        raise type(error)(named) from None
    steps = (step,) * len(shape) if isinstance(step, int) else tuple(step)
    for size, width, move, count in zip(shape, window, steps, counts, strict=True):
        if move > width and count > 1:
            raise ValueError(f"strides: {move} is above the window's {width} in a dimension of {size}, and leaves gaps")
    return window, steps


def _python_ints(value: Any) -> Any:
    """NumPy's integers as Python's."""
    if isinstance(value, np.integer):
        return int(value)
    return tuple(map(_python_ints, value)) if isinstance(value, tuple) else value
