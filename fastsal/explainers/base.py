"""What explainers share: forms of inputs, targets, baselines and extra arguments, and the attribute() contract.

The forms are Captum's (0.9.0), so that its users change an import and nothing else.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from fastsal.engine.prepare import Prepared, Step
from fastsal.engine.run import Swept, evaluation, host_may_wait, modules_of, run, scratch
from fastsal.explainers.targets import ExampleTarget, count_examples, example_scores, main_output

Inputs = Tensor | tuple[Tensor, ...]
Target = Any
Baselines = Any


def as_inputs(inputs: Any, name: str = "inputs") -> tuple[tuple[Tensor, ...], bool]:
    """(tensors, whether a tuple was given).

    Raises:
        TypeError: for anything but a tensor or a tuple of tensors.
        ValueError: for tensors without a batch dimension.
    """
    given_tuple = isinstance(inputs, tuple)
    tensors = inputs if given_tuple else (inputs,)
    for tensor in tensors:
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name}: {type(tensor).__name__} is neither a tensor nor a tuple of tensors")
        if tensor.dim() == 0:
            raise ValueError(f"{name}: a tensor without dimensions has no examples; dimension 0 is the batch")
    if not tensors:
        raise ValueError(f"{name}: the tuple is empty")
    return tensors, given_tuple


def examples_of(inputs: tuple[Tensor, ...]) -> int:
    """Number of examples, which a sweep repeats in every input alike.

    Raises:
        ValueError: for inputs that differ in it, or have none.
    """
    shapes = ", ".join(str(tuple(tensor.shape)) for tensor in inputs)
    if any(tensor.shape[0] != inputs[0].shape[0] for tensor in inputs):
        raise ValueError(f"inputs: shapes {shapes} differ in dimension 0, the number of examples")
    if inputs[0].shape[0] == 0:
        raise ValueError(f"inputs: shape {shapes} has no examples")
    return inputs[0].shape[0]


def as_arguments(additional: Any) -> tuple[Any, ...]:
    """Extra arguments of the model as a tuple."""
    if additional is None:
        return ()
    return additional if isinstance(additional, tuple) else (additional,)


def as_result(results: Sequence[Tensor], given_tuple: bool) -> Any:
    """The form in which the inputs came."""
    return tuple(results) if given_tuple else results[0]


def as_baselines(baselines: Baselines, inputs: tuple[Tensor, ...]) -> tuple[float | Tensor, ...]:
    """One number or tensor per input; None is 0.

    Raises:
        TypeError, ValueError: for a baseline of another kind, or a wrong number of them.
    """
    if baselines is None:
        return (0.0,) * len(inputs)
    given = baselines if isinstance(baselines, tuple) else (baselines,)
    if len(given) != len(inputs):
        raise ValueError(f"baselines: {len(given)} given for {len(inputs)} inputs; one each is needed")
    for baseline, tensor in zip(given, inputs, strict=True):
        if isinstance(baseline, Tensor):
            if baseline.dim() == tensor.dim() and baseline.shape[0] not in (1, tensor.shape[0]):
                raise ValueError(
                    f"baselines: shape {tuple(baseline.shape)} has neither 1 nor {tensor.shape[0]} examples"
                )
            try:
                baseline.expand(tensor.shape)
            except RuntimeError:
                shapes = f"{tuple(baseline.shape)} does not broadcast to the input's {tuple(tensor.shape)}"
                raise ValueError(f"baselines: shape {shapes}") from None
        elif isinstance(baseline, bool) or not isinstance(baseline, (int, float, np.integer, np.floating)):
            raise TypeError(f"baselines: {type(baseline).__name__} is neither a number nor a tensor")
        _fits(baseline, tensor.dtype)
    return tuple(b.item() if isinstance(b, np.generic) else b for b in given)


def _fits(baseline: Any, dtype: torch.dtype) -> None:
    """Refuses what an input's dtype cannot hold, which a conversion would wrap around or make infinite.

    Raises:
        ValueError: for a fraction, or a number out of range.
    """
    if isinstance(baseline, Tensor):
        if baseline.numel() == 0 or baseline.dtype == dtype or baseline.is_complex():
            return
        whole = not baseline.is_floating_point() or torch.equal(baseline, baseline.round())
        finite = baseline[baseline.isfinite()]
        low, high = (finite.min().item(), finite.max().item()) if finite.numel() else (0, 0)
    else:
        whole = float(baseline).is_integer()
        low = high = baseline if math.isfinite(baseline) else 0
    if dtype.is_complex:
        return
    if not dtype.is_floating_point and not whole:
        raise ValueError(f"baselines: a fraction does not fit in an input of {dtype}; convert the input")
    if dtype.is_floating_point:
        least, most = torch.finfo(dtype).min, torch.finfo(dtype).max
    else:
        least, most = (0, 1) if dtype == torch.bool else (torch.iinfo(dtype).min, torch.iinfo(dtype).max)
    for value in (low, high):
        if not least <= value <= most:
            raise ValueError(f"baselines: {value} does not fit in an input of {dtype}; convert the input")


def baseline_inputs(baselines: Baselines, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Baselines as inputs of the model: tensors in the shapes, dtypes and on the devices of the inputs."""
    return tuple(
        start.expand_as(tensor).to(tensor) if isinstance(start, Tensor) else torch.full_like(tensor, start)
        for start, tensor in zip(as_baselines(baselines, inputs), inputs, strict=True)
    )


def at_least_one(name: str, value: Any) -> int:
    """A count as given.

    Raises:
        TypeError, ValueError: for what is not an int, or below 1.
    """
    try:
        count: int = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: {value!r} is not an int") from None
    if count < 1:
        raise ValueError(f"{name}: {count} is below 1")
    return count


def tile(value: Any, count: int, examples: int) -> Any:
    """A per-example tensor or list repeated for ``count`` altered copies, copy-major; anything else as it is."""
    if isinstance(value, Tensor) and value.dim() > 0 and value.shape[0] == examples:
        return value.repeat(count, *[1] * (value.dim() - 1))
    return value


def could_be_per_example(additional: tuple[Any, ...], examples: int) -> bool:
    """Whether an extra argument has as many entries as there are examples, on purpose or by accident."""
    return any(isinstance(value, Tensor) and value.dim() > 0 and value.shape[0] == examples for value in additional)


def tile_target(target: Target, count: int, examples: int) -> Target:
    """A target for ``count`` altered copies of a batch, copy-major."""
    if callable(target) and not isinstance(target, (Tensor, ExampleTarget)):
        raise TypeError(
            "target: a function would choose anew for each altered copy; pass what it returns for the inputs"
        )
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
    """Whether a target is one of :mod:`fastsal.targets`, or a list of functions of an example's output."""
    if isinstance(target, list):
        return bool(target) and callable(target[0]) and not isinstance(target[0], Tensor)
    return isinstance(target, ExampleTarget)


def resolved(target: Target, output: Any) -> Target:
    """A target that is a function of the output as what it returns for it; any other as it is."""
    chooses = callable(target) and not isinstance(target, (Tensor, ExampleTarget))
    return target(main_output(output)) if chooses else target


def target_of(target: Target, row: int, examples: int) -> Target:
    """One example's part of a target, for that example alone."""
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
            the output that returns one of these, or one of :mod:`fastsal.targets`, or a list of them.

    Raises:
        TypeError, ValueError: for another form, a wrong number of entries, or an index out of range.
    """
    if target is None:
        return output
    if scores_examples(target):
        return example_scores(output, target, len(target) if isinstance(target, list) else count_examples(output))
    if callable(target) and not isinstance(target, Tensor):
        target = target(output)
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
    if isinstance(target, (Tensor, list)):
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
        else:
            column = torch.tensor([_index("target", entry) for entry in target], device=output.device)
        if column.numel():
            _in_range((int(column.min()),), rest)
            _in_range((int(column.max()),), rest)
        return output.gather(1, (column % rest[0])[:, None])[:, 0]
    index = _index("target", target)
    if output.dim() < 2:
        raise ValueError(
            f"target: {index} given, but the output {tuple(output.shape)} has one score per example; use None"
        )
    _in_range((index,), rest)
    return output[:, index]


def _gathered_or_nan(output: Tensor, column: Tensor) -> Tensor:
    """Entries [B] of an output [B, K]; NaN where there is none, which the device can tell without the host."""
    count = output.shape[1]
    scores = output.gather(1, (column % count)[:, None])[:, 0]
    return torch.where((column >= -count) & (column < count), scores, torch.nan)


def one_score_each(output: Any, target: Target, examples: int) -> Tensor:
    """One score per example, as gradients need.

    Raises:
        TypeError: for an output that is no tensor.
        ValueError: for a target that leaves several scores per example.
    """
    if scores_examples(target):
        return example_scores(output, target, examples)
    output = main_output(output)
    if not isinstance(output, Tensor):
        raise TypeError(f"forward_func: its output is a {type(output).__name__}, not a tensor; wrap it to return one")
    scores = select_target(output, target)
    if scores.numel() != examples and scores.numel() != 1:
        raise ValueError(
            f"target: {target!r} leaves {tuple(scores.shape)} of the output {tuple(output.shape)}; "
            "name one score per example"
        )
    return scores.reshape(-1)


def _per_example(part: Tensor) -> Tensor:
    """[B, features] in at least float32."""
    wide = part.to(torch.promote_types(part.dtype, torch.float32))
    return wide.flatten(1) if wide.dim() > 1 else wide[:, None]


Result = TypeVar("Result")


AS_IT_IS = Step("model", False, "as it is: fastsal.prepare(model, inputs) makes one ready for many passes")


class Report(NamedTuple):
    """What :meth:`Attribution.plan` tells; ``str()`` of it is for people.

    Attributes:
        steps: preparations of the model, done or not.
        sweeps: of the last attribution.
    """

    steps: tuple[Step, ...]
    sweeps: tuple[Swept, ...]

    def __str__(self) -> str:
        return "\n".join(map(str, (*self.steps, *self.sweeps)))


class Attribution:
    """Base of the explainers: ``attribute`` of a forward function.

    Args:
        forward_func: module or callable whose output has the batch as dimension 0.
    """

    forward_func: Callable[..., Any]

    def __init__(self, forward_func: Callable[..., Any]) -> None:
        if not callable(forward_func):
            raise TypeError(f"forward_func: {type(forward_func).__name__} is not callable")
        self.forward_func = forward_func

    @property
    def multiplies_by_inputs(self) -> bool:
        """Whether the attribution is of the input's effect rather than of its sensitivity."""
        return False

    def has_convergence_delta(self) -> bool:
        """Whether ``attribute`` can return a convergence delta."""
        return False

    @classmethod
    def get_name(cls) -> str:
        """The method's name in words."""
        return "".join(f" {letter}" if letter.isupper() and i else letter for i, letter in enumerate(cls.__name__))

    def plan(self) -> Report:
        """How the model is run: what :func:`fastsal.prepare` did and why not, and the last attribution's batches."""
        prepared = next((module for module in modules_of(self.forward_func) if isinstance(module, Prepared)), None)
        steps = (AS_IT_IS,) if prepared is None else tuple(prepared.steps)
        incremental: Step | None = self.__dict__.get("_incremental")
        if incremental is not None:
            steps = (*steps, incremental)
        return Report(steps, self.__dict__.get("_sweeps", ()))

    def compute_convergence_delta(
        self,
        attributions: Inputs,
        start_point: Any,
        end_point: Inputs,
        target: Target = None,
        additional_forward_args: Any = None,
    ) -> Tensor:
        """Sum of the attributions minus the change of the output from start_point to end_point, [B].

        Zero where the attribution is complete (Sundararajan et al. 2017, proposition 1).
        """
        ends, _ = as_inputs(end_point, "end_point")
        points = baseline_inputs(start_point, ends)
        additional = as_arguments(additional_forward_args)
        with evaluation(self.forward_func), torch.no_grad():
            change = self._scores(ends, additional, target) - self._scores(points, additional, target)
        given, _ = as_inputs(attributions, "attributions")
        total = sum(_per_example(part).sum(1) for part in given)
        return total - change

    def _scores(self, inputs: tuple[Tensor, ...], additional: tuple[Any, ...], target: Target) -> Tensor:
        output = run(self.forward_func, tuple(map(scratch, inputs)), tuple(map(scratch, additional)))
        return one_score_each(output, target, inputs[0].shape[0])


class GradientAttribution(Attribution):
    """Base of the explainers made of the output's gradient."""


class PerturbationAttribution(Attribution):
    """Base of the explainers that change the input and watch the output."""

    @property
    def multiplies_by_inputs(self) -> bool:
        return True
