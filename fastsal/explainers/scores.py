"""What a target picks from a model's output: scores of examples, and of altered copies of them."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastsal.engine.run import host_may_wait
from fastsal.explainers.columns import Columns
from fastsal.explainers.outputs import count_examples, example_scores, main_output, no_tensor
from fastsal.explainers.targets import ExampleTarget

Target = Any


def tile(value: Any, count: int, examples: int) -> Any:
    """A per-example tensor repeated for ``count`` altered copies, copy-major; anything else as it is."""
    if isinstance(value, Tensor) and value.dim() > 0 and value.shape[0] == examples:
        return value.repeat(count, *[1] * (value.dim() - 1))
    return value


def could_be_per_example(additional: tuple[Any, ...], examples: int) -> bool:
    """Whether an extra argument has as many entries as there are examples, on purpose or by accident."""
    return any(isinstance(value, Tensor) and value.dim() > 0 and value.shape[0] == examples for value in additional)


def unrepeatable(additional: tuple[Any, ...], examples: int) -> bool:
    """Whether an extra argument that is no tensor has as many entries as there are examples: it goes as it is."""
    return any(isinstance(value, (list, tuple, np.ndarray)) and len(value) == examples for value in additional)


def tile_target(target: Target, count: int, examples: int) -> Target:
    """A target for ``count`` altered copies of a batch, copy-major."""
    if chooses(target):
        raise TypeError(
            "target: a function would choose anew for each altered copy; pass what it returns for the inputs"
        )
    if callable(getattr(target, "repeated", None)):
        return target.repeated(count)
    if isinstance(target, np.ndarray):
        target = target.tolist()
    if isinstance(target, list) and len(target) == examples:
        return target * count
    if isinstance(target, Tensor) and target.dim() == 1 and target.shape[0] == examples:
        return target.repeat(count)
    return target


def _index(name: str, value: Any) -> int:
    try:
        if isinstance(value, bool):
            raise TypeError
        index: int = operator.index(value)
        return index
    except TypeError:
        raise TypeError(f"{name}: {value!r} is not an int") from None


def _in_range(indices: tuple[int | slice, ...], shape: tuple[int, ...]) -> None:
    if len(indices) > len(shape):
        raise ValueError(f"target: {indices} has more entries than the output {shape} has dimensions beside the batch")
    for index, size in zip(indices, shape, strict=False):
        if not isinstance(index, slice) and not -size <= index < size:
            raise ValueError(f"target: {index} is out of range for an output of {size} (0 to {size - 1})")


def scores_examples(target: Target) -> bool:
    """Whether a target scores the output itself: an object with ``score``, or a list of functions of an example's."""
    if isinstance(target, list):
        return bool(target) and callable(target[0]) and not isinstance(target[0], Tensor)
    return callable(getattr(target, "score", None))


def chooses(target: Target) -> bool:
    """Whether a target is a function of the output that returns what is explained."""
    return callable(target) and not isinstance(target, Tensor) and not scores_examples(target)


def resolved(target: Target, output: Any) -> Target:
    """A target that is a function of the output as what it returns for it; any other as it is."""
    return target(main_output(output)) if chooses(target) else target


def _scored(output: Any, target: Target, examples: int) -> Tensor:
    """Scores [examples] of a target that scores the output itself.

    Raises:
        ValueError: for another number of them.
    """
    if isinstance(target, (list, ExampleTarget)):
        return example_scores(output, target, examples)
    scores = target.score(output)
    if not isinstance(scores, Tensor) or scores.numel() != examples:
        given = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise ValueError(f"target: score() of {target!r} returned {given} for {examples} examples; one number each")
    return scores.reshape(-1)


def target_of(target: Target, row: int, examples: int) -> Target:
    """One example's part of a target, for that example alone."""
    if isinstance(target, Columns):
        return target.values[row]
    if isinstance(target, np.ndarray):
        target = target.tolist()
    if isinstance(target, list) and len(target) == examples:
        return target[row : row + 1]
    if isinstance(target, Tensor) and target.numel() > 1:
        return target[row : row + 1]
    return target


def select_target(output: Tensor, target: Target) -> Tensor:
    """The target's scores from an output whose dimension 0 is the batch.

    Args:
        output: [B, ...]; for the targets of :mod:`fastsal.targets` whatever has a part for each example.
        target: None (the output itself), an int (also numpy's) or tuple of ints for all examples, a tensor, array or
            list of ints with one entry per example (2-D output), a list of tuples, one per example, a function of
            the output that returns one of these, any object with ``score(output)`` that returns [B] (one of
            :mod:`fastsal.targets`, say), or a list of functions of an example's output that return a number.

    Raises:
        TypeError, ValueError: for another form, a wrong number of entries, or an index out of range.
    """
    if target is None:
        return output
    if scores_examples(target):
        return _scored(output, target, len(target) if isinstance(target, list) else count_examples(output))
    target = resolved(target, output)
    if isinstance(target, np.ndarray):
        target = target.tolist()
    if isinstance(target, Tensor) and target.numel() == 1 and (host_may_wait() or target.dim() != 1):
        if target.is_floating_point() or target.dtype == torch.bool:
            raise TypeError(f"target: a tensor of {target.dtype} is not an index")
        target = int(target)
    examples, rest = output.shape[0] if output.dim() else 0, tuple(output.shape[1:])
    if isinstance(target, tuple):
        indices = tuple(entry if isinstance(entry, slice) else _index("target", entry) for entry in target)
        _in_range(indices, rest)
        where: tuple[Any, ...] = (slice(None), *indices)
        return output[where]
    if isinstance(target, (Tensor, list, Columns)):
        # len() of a tensor would make a number of a size that stands for every batch.
        entries = target.shape[0] if isinstance(target, Tensor) and target.dim() else len(target)
        if entries != examples:
            raise ValueError(f"target: {entries} entries for {examples} examples")
        if isinstance(target, list) and target and isinstance(target[0], tuple):
            rows = [tuple(_index("target", entry) for entry in row) for row in target]
            for row in rows:
                _in_range(row, rest)
            return torch.stack([output[(i, *row)] for i, row in enumerate(rows)])
        if output.dim() != 2:
            raise ValueError(f"target: one int per example needs an output [B, K], this one is {tuple(output.shape)}")
        if isinstance(target, Tensor):
            if target.dim() != 1 or target.is_floating_point() or target.dtype == torch.bool:
                raise TypeError(f"target: {target.dtype} of shape {tuple(target.shape)} is not [B] of ints")
            column = target.to(device=output.device, dtype=torch.int64)
            if not host_may_wait():
                return _gathered_or_nan(output, column)
            target = Columns(column.tolist(), placed=column)
        elif isinstance(target, list):
            target = Columns([_index("target", entry) for entry in target])
        for extreme in target.extremes:
            _in_range((extreme,), rest)
        return output.gather(1, (target.on(output.device) % rest[0])[:, None])[:, 0]
    index = _index("target", target)
    if output.dim() < 2:
        raise ValueError(
            f"target: {index} given, but the output {tuple(output.shape)} has one score per example (use None), or its "
            "batch dimension was squeezed (keep it)"
        )
    _in_range((index,), rest)
    return output[:, index]


def _gathered_or_nan(output: Tensor, column: Tensor) -> Tensor:
    """Entries [B] of an output [B, K]; NaN where there is none, which the device can tell without the host."""
    count = output.shape[1]
    scores = output.gather(1, (column % count)[:, None])[:, 0]
    # A product, by which the score stays a linear function, as it is where the host has looked.
    dtype = scores.dtype if scores.is_floating_point() else torch.float32
    there = torch.ones(column.shape, dtype=dtype, device=scores.device)
    return scores * there.masked_fill(column.clamp(-count, count - 1) != column, torch.nan)


def one_score_each(output: Any, target: Target, examples: int, time_first: bool = False) -> Tensor:
    """One score per example, as gradients need.

    Args:
        output: the model's.
        target: what is explained.
        examples: their number, in the inputs' dimension 0.
        time_first: take one score for each row of the output too, where that is not the inputs' dimension 0.

    Raises:
        TypeError: for an output that is no tensor.
        ValueError: for a target that leaves several scores per example.
    """
    if scores_examples(target):
        return _scored(output, target, examples)
    output = main_output(output)
    if not isinstance(output, Tensor):
        raise TypeError(f"forward_func: {no_tensor(output)}")
    check_batch(output, examples)
    scores = select_target(output, target)
    # len() would make a number of a size that stands for every batch.
    if time_first and scores.dim() == 1 and output.dim() > 1 and scores.shape[0] == output.shape[0]:
        return scores
    if scores.numel() != examples and scores.numel() != 1:
        raise ValueError(
            f"target: {target!r} leaves {tuple(scores.shape)} of the output {tuple(output.shape)}; "
            "name one score per example"
        )
    return scores.reshape(-1)


def check_batch(output: Tensor, examples: int) -> None:
    """Refuses an output of one dimension with neither one score for each example nor one for all.

    Raises:
        ValueError: for such an output.
    """
    if output.dim() == 1 and len(output) not in (1, examples):
        given = "1 example" if examples == 1 else f"{examples} examples"
        raise ValueError(
            f"forward_func: its output {tuple(output.shape)} for {given} has no batch dimension; was it squeezed? "
            "return [B, K]"
        )


def per_example(part: Tensor) -> Tensor:
    """[B, features] in at least float32."""
    wide = part.to(torch.promote_types(part.dtype, torch.float32))
    return wide.flatten(1) if wide.dim() > 1 else wide[:, None]


def selected(output: Any, target: Target) -> Tensor:
    """The same of an output."""
    if isinstance(output, (int, float)) and not isinstance(output, bool):
        output = torch.tensor(output, dtype=torch.float64 if isinstance(output, float) else torch.int64)
    if not scores_examples(target):
        output = main_output(output)
        if not isinstance(output, Tensor):
            raise TypeError(f"forward_func: {no_tensor(output)}")
    return select_target(output, target)


def rows(scores: Tensor, count: int, examples: int) -> Tensor:
    """Scores [count * examples, ...] as [count, examples, K] in floating point.

    Raises:
        ValueError: for an output whose dimension 0 is not the batch.
    """
    if scores.dim() == 0 or scores.shape[0] != count * examples:
        raise ValueError(
            f"forward_func: its output for {count * examples} rows has the shape {tuple(scores.shape)}; there must be "
            "scores for each row"
        )
    if not scores.is_floating_point():
        scores = scores.to(torch.float32)
    return scores.detach().reshape(count, examples, -1)


def mirrored(target: Any) -> Any:
    """A target for inputs that are mirrored along their last dimension."""
    if isinstance(target, list):
        return [mirrored(each) for each in target]
    return target.mirrored() if isinstance(target, ExampleTarget) else target
