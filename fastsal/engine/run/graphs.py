"""A function of fixed shapes as one CUDA graph, and the rule that makes that possible: the host never waits."""

from __future__ import annotations

import contextlib
import contextvars
import gc
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from fastsal._torch import abandon_capture, tree_flatten, tree_unflatten
from fastsal.engine.run.capturable import Capturable
from fastsal.engine.run.own import Undone

cuda: Any = torch.cuda

_WARM_UPS = 3
"""Calls before a capture: libraries choose their algorithms, kernels are compiled and memory is laid out in them."""
_may_wait: contextvars.ContextVar[bool] = contextvars.ContextVar("fastsal host may wait", default=True)


def host_may_wait() -> bool:
    """Whether a check may read a value from the device, which makes the host wait for all of its work."""
    return _may_wait.get()


@contextlib.contextmanager
def without_waiting() -> Iterator[None]:
    """Inside, values on the device are not read: what they say wrong is seen in the result, as NaN."""
    with Undone() as undone:
        undone.set(_may_wait, False)
        yield


_one_at_a_time = threading.Lock()
"""The allocator's state is the process's: of two captures at a time either may fail for the other's sake."""


class Graph:
    """Replays a function of tensors as one CUDA graph.

    The function runs a few times on a stream of its own, the last time under :class:`Capturable`, and is then captured
    there. A call copies its arguments into the captured ones, replays, and returns copies of the results, all on the
    caller's stream and without waiting; a call on another stream waits on the device for the one before. What the
    function read stays alive as long as the graph.

    Args:
        function: of tensors of fixed shapes on one CUDA device; returns a tree with tensors.
        arguments: of its first call.
        kept: further tensors that it may read, such as a model's weights.

    Raises:
        NotCapturable: for a function that waits for the device or uses it in ways that a graph cannot hold, before a
            capture begins.
        RuntimeError: for a capture that fails.
    """

    def __init__(
        self, function: Callable[..., Any], arguments: tuple[Tensor, ...], kept: Iterable[Tensor] = ()
    ) -> None:
        device = arguments[0].device
        self._device = device
        self._arguments = tuple(argument.detach().clone() for argument in arguments)
        self._graph = cuda.CUDAGraph()
        self._done: Any = None
        with _one_at_a_time, cuda.device(device), without_waiting():
            caller, own = cuda.current_stream(), cuda.Stream()
            own.wait_stream(caller)
            seen = Capturable()
            with cuda.stream(own):
                for _ in range(_WARM_UPS - 1):
                    function(*self._arguments)
                with seen:
                    function(*self._arguments)
            caller.wait_stream(own)
            # What gives memory back would end a capture, and what is cached for others is no use to it.
            cuda.synchronize()
            gc.collect()
            cuda.empty_cache()
            with cuda.stream(own):
                result = self._capture(lambda: function(*self._arguments), seen)
            caller.wait_stream(own)
        self._kept = [*(tensor.detach() for tensor in kept), *seen.kept]
        self._leaves, self._form = tree_flatten(result)

    def _capture(self, work: Callable[[], Any], seen: Capturable) -> Any:
        pool = cuda.graph_pool_handle()
        # Other threads may go on using the device.
        self._graph.capture_begin(pool=pool, capture_error_mode="thread_local")
        try:
            with seen:  # a cache may hand out another constant than in the dry run
                result = work()
            self._graph.capture_end()
        except BaseException:
            abandon_capture(self._graph, pool)
            raise
        return result

    def __call__(self, *arguments: Tensor) -> Any:
        stream = cuda.current_stream(self._device)
        if self._done is None:
            self._done = cuda.Event()
        else:
            stream.wait_event(self._done)
        for place, argument in zip(self._arguments, arguments, strict=True):
            place.copy_(argument, non_blocking=True)
        self._graph.replay()
        leaves = [leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in self._leaves]
        self._done.record(stream)
        return tree_unflatten(leaves, self._form)
