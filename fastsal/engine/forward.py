"""One call of the user's model: in evaluation mode, outside of inference mode, on tensors that it may overwrite."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

ForwardFunc = Callable[..., Any]


def owner(forward_func: ForwardFunc) -> nn.Module | None:
    """The module behind a forward function: itself, or the one that it is a method of."""
    if isinstance(forward_func, nn.Module):
        return forward_func
    bound = getattr(forward_func, "__self__", None)
    return bound if isinstance(bound, nn.Module) else None


@contextlib.contextmanager
def evaluation(forward_func: ForwardFunc) -> Iterator[None]:
    """The model in evaluation mode and inference mode left; every module's own flag is back afterwards.

    An explanation is one of the prediction: dropout would make it random, and batch normalisation in train mode would
    let a batch of altered inputs change the user's running statistics.
    """
    module = owner(forward_func)
    training = [part for part in module.modules() if part.training] if module is not None else []
    for part in training:
        part.training = False
    try:
        with torch.inference_mode(False):
            yield
    finally:
        for part in training:
            part.training = True


def scratch(value: Any) -> Any:
    """A copy that a model may write to and autograd may save; anything but a tensor as it is."""
    return value.detach().clone() if isinstance(value, Tensor) else value


def _accepts_arguments(forward_func: ForwardFunc) -> bool:
    if isinstance(forward_func, nn.Module):
        return True
    try:
        return len(inspect.signature(forward_func).parameters) > 0
    except (TypeError, ValueError):
        return True


def _mismatch(module: nn.Module, inputs: tuple[Any, ...]) -> str | None:
    """What differs between the inputs and the model's parameters, if anything does."""
    first = next((tensor for tensor in inputs if isinstance(tensor, Tensor) and tensor.is_floating_point()), None)
    weight = next((parameter for parameter in module.parameters() if parameter.is_floating_point()), None)
    if first is None or weight is None:
        return None
    if weight.is_inference():
        return "the model was made inside torch.inference_mode(), so no gradient can pass it: make it outside"
    if first.device != weight.device or first.dtype != weight.dtype:
        return (
            f"inputs: {first.dtype} on {first.device}, but the model's parameters are {weight.dtype} on "
            f"{weight.device}; pass inputs.to({str(weight.device)!r}, {weight.dtype})"
        )
    return None


def run(forward_func: ForwardFunc, inputs: tuple[Any, ...], additional: tuple[Any, ...] = ()) -> Any:
    """``forward_func(*inputs, *additional)``; a function without parameters is called without.

    Raises:
        ValueError: where the call fails and inputs and model differ in dtype or device, naming both.
    """
    if not _accepts_arguments(forward_func):
        return forward_func()
    try:
        return forward_func(*inputs, *additional)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        module = owner(forward_func)
        reason = None if module is None else _mismatch(module, inputs)
        if reason is None:
            raise
        raise ValueError(reason) from error
