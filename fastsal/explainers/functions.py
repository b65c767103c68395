"""What relevance propagation knows of PyTorch's functions, by name, and the walk over their arguments."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastsal._torch import OpOverload, OpOverloadPacket


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Each result element is a copy of an input element, so the gradient itself carries relevance: the sum over the copies.
COPIES = _names(
    """reshape view view_as reshape_as flatten unflatten ravel squeeze unsqueeze transpose swapaxes swapdims movedim
    moveaxis permute t T mT H mH adjoint contiguous clone to type type_as float half double bfloat16 cpu cuda cat concat
    concatenate stack hstack vstack dstack column_stack split chunk tensor_split hsplit vsplit dsplit split_with_sizes
    unsafe_chunk unsafe_split unbind select narrow __getitem__ __setitem__ __iter__ index_select gather take_along_dim
    masked_select masked_fill where expand expand_as broadcast_to broadcast_tensors repeat repeat_interleave tile pad
    constant_pad_nd roll flip fliplr flipud rot90 unfold pixel_shuffle pixel_unshuffle channel_shuffle diagonal tril
    triu atleast_1d atleast_2d atleast_3d copy_ fill_ zero_ masked_fill_ squeeze_ unsqueeze_ transpose_ requires_grad_
    max amax min amin maximum minimum topk sort max_unpool1d max_unpool2d max_unpool3d
    max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices
    adaptive_max_pool1d_with_indices adaptive_max_pool2d_with_indices adaptive_max_pool3d_with_indices
    alias lift_fresh unsafe_view _unsafe_view _to_copy"""
)

# Elementwise functions of one input, whose relevance is their result's.
ELEMENTWISE = _names(
    """relu relu6 leaky_relu prelu rrelu elu celu selu gelu silu mish hardswish hardsigmoid hardtanh tanh sigmoid
    log_sigmoid logsigmoid softplus softsign tanhshrink hardshrink softshrink threshold _threshold clamp clamp_min
    clamp_max clip dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout feature_dropout"""
)

# Linear in the inputs that carry relevance, without weights.
SUMS = _names(
    """add sub subtract rsub __rsub__ neg negative mean sum cumsum avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d
    adaptive_avg_pool2d adaptive_avg_pool3d interpolate upsample upsample_nearest upsample_bilinear fold"""
)
MAX_POOLING = _names(
    "max_pool1d max_pool2d max_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d fractional_max_pool2d"
)
# Linear where the other operand carries none; of a quotient, the denominator.
SCALINGS = _names("mul multiply div divide true_divide")


PRODUCTS = _names("matmul __matmul__ __rmatmul__ mm bmm addmm baddbmm")
# (input, weight, bias, ...) -> (the weight's dimension of output channels, dimensions of space).
WEIGHTED = (
    {"linear": (0, 0)} | {f"conv{n}d": (0, n) for n in (1, 2, 3)} | {f"conv_transpose{n}d": (1, n) for n in (1, 2, 3)}
)

KNOWN = COPIES | ELEMENTWISE | SUMS | MAX_POOLING | SCALINGS | PRODUCTS | frozenset([*WEIGHTED, "batch_norm"])
IN_PLACE_OPERATORS = _names("__iadd__ __isub__ __imul__ __itruediv__ __idiv__")


def function_name(func: Any) -> str:
    """``relu_`` of torch.relu_, Tensor.relu_ and torch.ops.aten.relu_ alike; ``T`` of the attribute."""
    if isinstance(func, OpOverload):
        space, name = func._schema.name.split("::")
        return name if space == "aten" else func._schema.name
    if isinstance(func, OpOverloadPacket):
        space, _, name = str(func).rpartition(".")
        return name if space == "aten" else str(func)
    name = getattr(func, "__name__", repr(func))
    if name in ("__get__", "__set__"):
        name = getattr(getattr(func, "__self__", None), "__name__", name)
    return str(name)


def plain_name(name: str) -> str:
    """The function that works out of place: ``add`` of ``add_`` and ``__iadd__``, ``__radd__`` of itself."""
    if name in KNOWN:
        return name
    if name in IN_PLACE_OPERATORS:
        name = name[3:-2]
        return "div" if name in ("truediv", "idiv") else name
    if name.endswith("_") and not name.endswith("__"):
        return name[:-1]
    return name


@functools.cache
def _inplace_position(func: Any) -> int | None:
    """Where torch.nn.functional's functions take the argument ``inplace``."""
    if not isinstance(func, types.FunctionType):
        return None
    names = list(inspect.signature(func, follow_wrapped=False).parameters)
    return names.index("inplace") if "inplace" in names else None


def works_in_place(func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a call overwrites its first argument."""
    if name in IN_PLACE_OPERATORS or name in ("__setitem__", "copy_"):
        return True
    if name.endswith("_") and not name.endswith("__"):
        return True
    position = _inplace_position(func)
    return position is not None and bool(args[position] if len(args) > position else kwargs.get("inplace", False))


def carriers(value: Any) -> list[Tensor]:
    """The tensors in arguments that depend on the model's inputs, once for each place.

    Everything else runs without autograd, so these are the ones that a function made.
    """
    if isinstance(value, Tensor):
        return [value] if value.grad_fn is not None else []
    if isinstance(value, (tuple, list)):
        return [tensor for item in value for tensor in carriers(item)]
    if isinstance(value, dict):
        return [tensor for item in value.values() for tensor in carriers(item)]
    return []


def requires_gradient(value: Any) -> bool:
    """Whether there is a tensor in the arguments of which autograd would keep a graph."""
    if isinstance(value, dict):
        return any(map(requires_gradient, value.values()))
    if isinstance(value, Tensor):
        return value.requires_grad
    return isinstance(value, (tuple, list)) and any(map(requires_gradient, value))


def replaced(value: Any, change: Callable[[Any], Any]) -> Any:
    """The arguments with ``change`` applied to each leaf."""
    if isinstance(value, dict):
        return {key: replaced(item, change) for key, item in value.items()}
    if isinstance(value, (tuple, list)) and not isinstance(value, torch.Size):
        items = [replaced(item, change) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return change(value)


@dataclass(frozen=True)
class Slot:
    """Stands for an argument that changes, so that what is kept of a call holds no part of the graph."""

    index: int


class FunctionCall:
    """A function with its arguments, to run again with other tensors in the places of given ones."""

    def __init__(self, func: Any, args: Any, kwargs: Any, changing: tuple[Tensor | None, ...]) -> None:
        places = {id(tensor): Slot(i) for i, tensor in enumerate(changing) if tensor is not None}

        def kept(leaf: Any) -> Any:
            if id(leaf) in places:
                return places[id(leaf)]
            # A parameter would make autograd save what its gradient needs.
            return leaf.detach() if isinstance(leaf, Tensor) else leaf

        self._func = func
        self._args, self._kwargs = replaced(tuple(args), kept), replaced(dict(kwargs), kept)

    def __call__(self, *tensors: Tensor | None) -> Any:
        def filled(leaf: Any) -> Any:
            return tensors[leaf.index] if isinstance(leaf, Slot) else leaf

        return self._func(*replaced(self._args, filled), **replaced(self._kwargs, filled))


def nodes_behind(tensors: list[Tensor]) -> Iterator[Any]:
    """Autograd's nodes from the tensors back to the inputs, each once."""
    pending: list[Any] = [tensor.grad_fn for tensor in tensors]
    seen = set(pending)
    while pending:
        node = pending.pop()
        yield node
        following = {after for after, _ in node.next_functions if after is not None} - seen
        seen |= following
        pending += following
