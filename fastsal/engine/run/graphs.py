"""A function of fixed shapes as one CUDA graph, and the rule that makes that possible: the host never waits."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from fastsal._torch import tree_flatten, tree_unflatten

_WARM_UPS = 3
"""Calls before a capture: libraries choose their algorithms, kernels are compiled and memory is laid out in them."""
_may_wait: contextvars.ContextVar[bool] = contextvars.ContextVar("fastsal host may wait", default=True)


def host_may_wait() -> bool:
    """Whether a check may read a value from the device, which makes the host wait for all of its work."""
    return _may_wait.get()


@contextlib.contextmanager
def without_waiting() -> Iterator[None]:
    """Inside, values on the device are not read: what they say wrong is seen in the result, as NaN."""
    token = _may_wait.set(False)
    try:
        yield
    finally:
        _may_wait.reset(token)


class Graph:
    """Replays a function of tensors as one CUDA graph.

    The function runs a few times on a stream of its own, and is then captured. A call copies its arguments into the
    captured ones, replays, and returns copies of the results, all on the caller's stream and without waiting.

    Args:
        function: of tensors of fixed shapes on one CUDA device; returns a tree with tensors.
        arguments: of its first call.

    Raises:
        RuntimeError: for a function that waits for the device or uses it in ways that a graph cannot hold.
    """

    def __init__(self, function: Callable[..., Any], arguments: tuple[Tensor, ...]) -> None:
        device = arguments[0].device
        self._arguments = tuple(argument.detach().clone() for argument in arguments)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(device), without_waiting():
            caller, own = torch.cuda.current_stream(), torch.cuda.Stream()
            own.wait_stream(caller)
            with torch.cuda.stream(own):
                for _ in range(_WARM_UPS):
                    function(*self._arguments)
            caller.wait_stream(own)
            # Other threads may go on using the device.
            with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
                result = function(*self._arguments)
        self._leaves, self._form = tree_flatten(result)

    def __call__(self, *arguments: Tensor) -> Any:
        for place, argument in zip(self._arguments, arguments, strict=True):
            place.copy_(argument, non_blocking=True)
        self._graph.replay()
        leaves = [leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in self._leaves]
        return tree_unflatten(leaves, self._form)
