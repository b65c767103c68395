"""One call of the user's model: in evaluation mode, outside of inference mode, on tensors that it may overwrite."""

from __future__ import annotations

import inspect
import types
from typing import Any

import torch
from torch import Tensor, nn

from fastsal._torch import tree_map
from fastsal.engine.run.modules import ForwardFunc, behind, module_of, modules_of
from fastsal.engine.run.session import Session, current


def evaluation(forward_func: ForwardFunc, *, eager: bool = False) -> Session:
    """Context: the model in evaluation mode and inference mode left; every module's own flag is back afterwards.

    Modules that are not known to be behind the callable are found, and switched, as :func:`run` comes to them. A
    prepared model takes over what has changed in the user's.

    An explanation is one of the prediction: dropout would make it random, and batch normalisation in train mode would
    let a batch of altered inputs change the user's running statistics. ``eager`` runs what ``torch.compile`` made as
    plain PyTorch, since compiled code was traced without the hooks and modes that a tap needs.
    """
    return Session(forward_func, eager)


def find(forward_func: ForwardFunc, inputs: tuple[Any, ...], additional: tuple[Any, ...] = ()) -> list[nn.Module]:
    """The modules behind a callable; where they are not known, from a run of it on one example."""
    if behind(forward_func) is None:
        with evaluation(forward_func), torch.no_grad():
            run(forward_func, *one_example(inputs, additional))
            return modules_of(forward_func)
    return modules_of(forward_func)


def one_example(inputs: tuple[Any, ...], additional: tuple[Any, ...]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Copies of both for the first example alone.

    All examples where an extra argument has as many entries, since that may be one for each or not.
    """
    tensors = (value for value in inputs if isinstance(value, Tensor) and value.dim())
    count = next((value.shape[0] for value in tensors), -1)

    def of_all(value: Any) -> bool:
        return isinstance(value, Tensor) and value.dim() > 0 and value.shape[0] == count

    if not any(map(of_all, additional)):
        inputs = tuple(value[:1] if of_all(value) else value for value in inputs)
    return tuple(map(scratch, inputs)), tuple(map(scratch, additional))


def scratch(value: Any) -> Any:
    """A copy that a model may write to and autograd may save; anything but a tensor as it is."""
    return value.detach().clone() if isinstance(value, Tensor) else value


def detached(output: Any) -> Any:
    """An output, in whatever its tensors are nested, without its graph."""
    if isinstance(output, Tensor):
        return output.detach()
    return tree_map(lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf, output)


def _accepts_arguments(forward_func: ForwardFunc) -> bool:
    while isinstance(forward_func, types.FunctionType) and "__wrapped__" in forward_func.__dict__:
        forward_func = forward_func.__dict__["__wrapped__"]  # as signature() does, which takes a while
    if isinstance(forward_func, nn.Module):
        return True
    if isinstance(forward_func, types.FunctionType) and forward_func.__code__.co_argcount:
        return True  # what signature() takes longer to say
    try:
        return len(inspect.signature(forward_func).parameters) > 0
    except (TypeError, ValueError):
        return True


def _mismatch(module: nn.Module, inputs: tuple[Any, ...], error: RuntimeError) -> str | None:
    """What differs between the inputs and the model's parameters, if anything does."""
    if "Inference tensors cannot be saved" in str(error):
        return "the model was made inside torch.inference_mode(), so no gradient can pass it: make it outside"
    first = next((tensor for tensor in inputs if isinstance(tensor, Tensor) and tensor.is_floating_point()), None)
    weight = next((parameter for parameter in module.parameters() if parameter.is_floating_point()), None)
    if first is None or weight is None:
        return None
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
    arguments = (*inputs, *additional) if _accepts_arguments(forward_func) else ()
    session = current()
    try:
        return forward_func(*arguments) if session is None else session.run(forward_func, arguments)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        module = module_of(forward_func) or (None if session is None else session.module())
        reason = None if module is None else _mismatch(module, inputs, error)
        if reason is None:
            raise
        raise ValueError(reason) from error
