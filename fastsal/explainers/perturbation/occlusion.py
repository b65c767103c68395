"""Occlusion: how the output changes when a window of the input is replaced."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastsal.engine import ChunkTooLarge, Plan, evaluation, scratch, sweep
from fastsal.explainers._wrapped import attribute_method
from fastsal.explainers.base import (
    Baselines,
    Inputs,
    PerturbationAttribution,
    Target,
    as_arguments,
    as_baselines,
    as_inputs,
    as_result,
    could_be_per_example,
    examples_of,
    tile,
    tile_target,
)
from fastsal.explainers.perturbation._scores import rows, scores_of
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
    ) -> Any:
        """Attribution in the form and shapes of the inputs, in their dtype (float32 for integer inputs).

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

        Raises:
            TypeError, ValueError: for arguments outside of the above, or a stride above its window.
        """
        tensors, given_tuple = as_inputs(inputs)
        examples_of(tensors)
        plain = tuple(scratch(tensor) if tensor.is_inference() else tensor.detach() for tensor in tensors)
        shapes = _per_input("sliding_window_shapes", sliding_window_shapes, len(plain), given_tuple)
        steps = _per_input("strides", strides, len(plain), given_tuple)
        starts = as_baselines(baselines, plain)
        additional = as_arguments(additional_forward_args)
        if perturbations_per_eval is not None and perturbations_per_eval < 1:
            raise ValueError(f"perturbations_per_eval: {perturbations_per_eval} is below 1")
        geometry = [
            _geometry(tensor, shape, stride) for tensor, shape, stride in zip(plain, shapes, steps, strict=True)
        ]
        with evaluation(self.forward_func), torch.no_grad():
            clean = scores_of(self.forward_func, tuple(map(scratch, plain)), tuple(map(scratch, additional)), target)
            results = []
            for index in range(len(plain)):
                window, stride = geometry[index]

                def altered(
                    start: int, stop: int, index: int = index, window: Any = window, stride: Any = stride
                ) -> Tensor:
                    return windows.batch(
                        plain[index], start, stop, window=window, stride=stride, baseline=starts[index]
                    )

                total = prod(windows.counts(plain[index].shape[1:], window, stride))
                differences = self._differences(
                    altered, total, clean, plain, index, additional, target, perturbations_per_eval, show_progress
                )
                folded = windows.fold(differences, plain[index].shape[1:], window=window, stride=stride)
                results.append(folded.to(plain[index].dtype if plain[index].is_floating_point() else torch.float32))
        return as_result(results, given_tuple)

    def _differences(
        self,
        altered: Callable[[int, int], Tensor],
        total: int,
        clean: Tensor,
        plain: tuple[Tensor, ...],
        index: int,
        additional: tuple[Any, ...],
        target: Target,
        perturbations_per_eval: int | None,
        show_progress: bool,
    ) -> Tensor:
        """[windows, outputs]: the clean score minus that of each window."""
        examples = plain[0].shape[0]
        # One score for the whole batch (or a number) can only be asked for one window at a time.
        single = clean.dim() == 0 or clean.shape[0] != examples
        if single and perturbations_per_eval not in (None, 1):
            raise ValueError("perturbations_per_eval: the output has one score per call, so it must be 1")
        base = clean.detach().reshape(1, 1, -1) if single else rows(clean, 1, examples)
        base = base if base.is_floating_point() else base.to(torch.float32)
        wide = torch.promote_types(base.dtype, torch.float32)
        found = torch.empty((total, base.shape[1] * base.shape[2]), dtype=wide, device=plain[index].device)
        row_bytes = sum(tensor[:1].numel() * tensor.element_size() for tensor in plain)
        alone = single or (perturbations_per_eval is None and could_be_per_example(additional, examples))
        plan = Plan(total, examples, row_bytes, plain[0].device, 1 if alone else perturbations_per_eval)

        def step(start: int, stop: int) -> Callable[[], None]:
            count = stop - start
            batch = tuple(
                altered(start, stop) if i == index else tile(scratch(tensor), count, examples)
                for i, tensor in enumerate(plain)
            )
            extra = tuple(tile(scratch(value), count, examples) for value in additional)
            scores = scores_of(self.forward_func, batch, extra, tile_target(target, count, examples))
            if count > 1 and perturbations_per_eval is None and scores.shape[:1] == clean.shape[:1]:
                raise ChunkTooLarge("forward_func returns one score per call, whatever the batch")
            scores = scores.detach().reshape(1, 1, -1) if single else rows(scores, count, examples)
            change = (base.to(wide) - scores.to(wide)).reshape(count, -1)

            def commit() -> None:
                found[start:stop] = change

            return commit

        sweep(total, step, plan, show_progress=show_progress, description="Occlusion")
        return found


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
    counts = windows.counts(shape, window, step)
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
