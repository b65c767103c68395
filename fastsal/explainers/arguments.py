"""What a caller passes, read: inputs in their forms, baselines, extra arguments, counts.

The forms are Captum's (0.9.0), so that its users change an import and nothing else; a mapping of inputs is ours.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastsal.engine.run import calling

Inputs = Any
"""A tensor, a tuple of tensors, or a mapping of names to values that the model takes by name."""
Baselines = Any


class Given:
    """Inputs as they were passed: the tensors that are explained, what else the model gets, and the form of a result.

    Of a mapping the floating point tensors are explained (all tensors where none is), and the model gets everything by
    name; what is no tensor, or no floating point, is passed on as it is.

    Args:
        inputs: tensor, tuple of tensors, or mapping.
        tensors_only: refuse anything else; otherwise the model gets it whole, and nothing of it is explained.

    Attributes:
        tensors: that are explained.
        others: the mapping's other values, which come after the tensors in :meth:`callable_with`.

    Raises:
        TypeError: for inputs of another form.
        ValueError: for tensors without a batch dimension, or none.
    """

    def __init__(self, inputs: Any, tensors_only: bool = True) -> None:
        self.names: tuple[str, ...] | None = None
        self.others: tuple[Any, ...] = ()
        self.is_tuple = isinstance(inputs, tuple)
        if isinstance(inputs, Mapping):
            chosen = [name for name, value in inputs.items() if isinstance(value, Tensor) and value.is_floating_point()]
            chosen = chosen or [name for name, value in inputs.items() if isinstance(value, Tensor)]
            if not chosen and tensors_only:
                raise TypeError(f"inputs: of {', '.join(map(repr, inputs)) or 'nothing'} none is a tensor to explain")
            rest = [name for name in inputs if name not in chosen]
            self.names, self._explained = (*chosen, *rest), tuple(chosen)
            self.others = tuple(inputs[name] for name in rest)
            self.tensors = tuple(inputs[name] for name in chosen)
            if chosen:
                as_inputs(self.tensors)
        elif tensors_only or isinstance(inputs, Tensor):
            self.tensors, _ = as_inputs(inputs)
        else:
            self.tensors, self.others = (), inputs if self.is_tuple else (inputs,)

    def callable_with(self, forward_func: Callable[..., Any]) -> Callable[..., Any]:
        """The model as a function of (*tensors, *others, *additional)."""
        names = self.names
        if names is None:
            return forward_func

        @calling(forward_func)
        def by_name(*arguments: Any) -> Any:
            return forward_func(*arguments[len(names) :], **dict(zip(names, arguments, strict=False)))

        return by_name

    def result(self, results: Sequence[Any]) -> Any:
        """One result for each explained tensor, in the form of the inputs."""
        if self.names is not None:
            return dict(zip(self._explained, results, strict=True))
        return as_result(results, self.is_tuple)

    def form(self, tensors: Sequence[Tensor], others: Sequence[Any]) -> Any:
        """Other tensors in the form of the inputs."""
        if self.names is not None:
            return dict(zip(self.names, (*tensors, *others), strict=True))
        return as_result(tensors, self.is_tuple)

    def called(self, place: int) -> str:
        """How an error calls one of the tensors."""
        if self.names is not None:
            return f"inputs[{self._explained[place]!r}]"
        return f"inputs[{place}]" if len(self.tensors) > 1 else "inputs"

    def parts(self, result: Any) -> tuple[Any, ...]:
        """The results in what :meth:`result` returned."""
        if self.names is not None:
            return tuple(result.values())
        return result if self.is_tuple else (result,)

    def each(self, values: Any) -> Any:
        """What is given for each input (baselines, masks, windows): of a mapping a tuple in the tensors' order."""
        if self.names is None or not isinstance(values, Mapping):
            return values
        unknown = [name for name in values if name not in self._explained]
        if unknown:
            raise ValueError(f"{unknown[0]!r}: is none of the inputs that are explained, {', '.join(self._explained)}")
        return tuple(values.get(name) for name in self._explained)


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
        elif not isinstance(baseline, (int, float, np.integer, np.floating)):
            raise TypeError(f"baselines: {type(baseline).__name__} is neither a number nor a tensor")
        _fits(baseline, tensor.dtype)
    return tuple(_number(b, tensor.dtype) for b, tensor in zip(given, inputs, strict=True))


def _number(baseline: Any, dtype: torch.dtype) -> Any:
    """A baseline with numbers as Python has them: a bool is 0 or 1, but of an input of bool."""
    if isinstance(baseline, bool):
        return baseline if dtype == torch.bool else int(baseline)
    return baseline.item() if isinstance(baseline, np.generic) else baseline


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


def with_room(baselines: Baselines, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Inputs, integers among them as floating point where their baseline is a fraction."""
    given = baselines if isinstance(baselines, tuple) else (baselines,)
    if len(given) != len(inputs):
        return inputs
    return tuple(
        tensor.to(torch.get_default_dtype()) if _is_whole(tensor) and _has_fractions(baseline) else tensor
        for baseline, tensor in zip(given, inputs, strict=True)
    )


def _is_whole(tensor: Tensor) -> bool:
    return not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool)


def _has_fractions(baseline: Any) -> bool:
    if isinstance(baseline, Tensor):
        return baseline.is_floating_point() and not torch.equal(baseline, baseline.round())
    return isinstance(baseline, (float, np.floating)) and not float(baseline).is_integer()


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
