"""CUDA graphs without a GPU: what a pass may not do, what stays alive, and the order of calls to the device."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from fastsal.engine.run import Capturable, Graph, NotCapturable, graphs, host_may_wait


class Device:
    """Stands for ``torch.cuda``: notes what it is asked, and replays a graph by running the function again."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.streams = 0
        self.current = "caller"
        self.fails = False
        device = self

        class Stream:
            def __init__(self) -> None:
                device.streams += 1
                self.name = f"stream {device.streams}"

            def wait_stream(self, other: Any) -> None:
                device.calls.append(f"{self.name} waits for {other.name}")

            def wait_event(self, event: Any) -> None:
                device.calls.append(f"{self.name} waits for the event of {event.stream}")

        class Event:
            stream = ""

            def record(self, stream: Any) -> None:
                self.stream = stream.name

        class CUDAGraph:
            def capture_begin(self, **options: Any) -> None:
                device.calls.append(f"begin on {device.current}")

            def capture_end(self) -> None:
                device.calls.append(f"end on {device.current}")

            def replay(self) -> None:
                device.calls.append("replay")

        self.Stream, self.Event, self.CUDAGraph = Stream, Event, CUDAGraph

    def current_stream(self, device: Any = None) -> Any:
        stream = self.Stream.__new__(self.Stream)
        stream.name = self.current
        return stream

    @contextlib.contextmanager
    def stream(self, stream: Any) -> Iterator[None]:
        before, self.current = self.current, stream.name
        try:
            yield
        finally:
            self.current = before

    def device(self, device: Any) -> Any:
        return contextlib.nullcontext()

    def graph_pool_handle(self) -> tuple[int, int]:
        return 0, 1

    def synchronize(self) -> None:
        self.calls.append("synchronize")

    def empty_cache(self) -> None:
        self.calls.append("empty_cache")


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    device = Device()
    monkeypatch.setattr(graphs, "cuda", device)
    return device


A_WAIT: dict[str, Callable[[Tensor], Any]] = {
    "a number": lambda x: x.sum().item(),
    "a truth": lambda x: bool((x > 0).any()),
    "a comparison": lambda x: torch.equal(x, x.clone()),
    "a count": lambda x: x.nonzero(),
    "a mask": lambda x: x[x > 0],
    "a mask that is written": lambda x: x.clone().index_put_((x >= 0,), torch.ones(2, device=x.device)),
    "distinct values": lambda x: x.unique(),
    "repeats": lambda x: x.repeat_interleave(torch.ones(3, dtype=torch.int64, device=x.device)),
    "eigenvectors": lambda x: torch.linalg.eigh(x[:, None] @ x[None]),
    "singular values": lambda x: torch.linalg.svdvals(x[:, None] @ x[None]),
    "a constant": lambda x: x + torch.ones(3).to(x.device),
    "a literal": lambda x: torch.ops.aten.lift_fresh(x),  # what torch.tensor(..., device=) ends in on a GPU
    "a copy": lambda x: x.clone().copy_(torch.ones(3)),
    "to the host": lambda x: x.to("cpu"),
}
NO_WAIT: dict[str, Callable[[Tensor], Any]] = {
    "arithmetic": lambda x: (x * 2 + x.square().sum()).relu(),
    "a number of the host": lambda x: x * torch.tensor(2.0),
    "an index": lambda x: x[torch.zeros(2, dtype=torch.int64, device=x.device)],
    "a choice": lambda x: torch.where(x > 0, x, 0),
    "a mask that is filled": lambda x: x.clone().index_put_((x > 0,), torch.zeros((), device=x.device)),
    "norms": lambda x: torch.linalg.vector_norm(x) + torch.linalg.cross(x, x).sum(),
    "draws": lambda x: x + torch.rand_like(x),
    "gradients": lambda x: torch.autograd.grad((leaf := x.detach().requires_grad_()).square().sum(), leaf)[0],
}


@pytest.mark.parametrize("name", A_WAIT)
def test_what_waits_is_refused(name: str) -> None:
    """The meta device stands for a GPU: it has no values either."""
    A_WAIT[name](torch.linspace(-1, 1, 3))
    with pytest.raises(NotCapturable), Capturable():
        A_WAIT[name](torch.zeros(3, device="meta"))


@pytest.mark.parametrize("name", NO_WAIT)
def test_what_does_not_wait_is_taken(name: str) -> None:
    for where in ("cpu", "meta"):
        with Capturable():
            NO_WAIT[name](torch.zeros(3, device=where))


def test_a_failing_capture_is_never_begun(device: Device) -> None:
    runs = iter(range(9))

    def function(x: Tensor) -> Tensor:  # the meta device cannot do so where nobody refuses it
        return x * float(x.sum()) if next(runs) == 2 else x

    with pytest.raises(NotCapturable, match="_local_scalar_dense"):
        Graph(function, (torch.zeros(3, device="meta"),))
    assert not any(call.startswith("begin") for call in device.calls)
    assert device.current == "caller"
    assert host_may_wait()


def test_a_capture_that_fails_is_ended(device: Device) -> None:
    def function(x: Tensor) -> Tensor:
        if any(call.startswith("begin") for call in device.calls):
            raise RuntimeError("only while it is captured")
        return x

    with pytest.raises(RuntimeError, match="only while it is captured"):
        Graph(function, (torch.zeros(3),))
    assert [call for call in device.calls if call.startswith(("begin", "end"))] == [
        "begin on stream 1",
        "end on stream 1",
    ]
    assert device.current == "caller"


def test_what_it_reads_lives_as_long_as_the_graph(device: Device) -> None:
    """A constant of a cache, a weight that is replaced and a buffer that a view is read of."""
    cache = {"rule": torch.arange(3.0)}
    model = torch.nn.Linear(3, 3)
    hidden = [torch.zeros(8)]

    def function(x: Tensor) -> Tensor:
        made = x * 2
        return model(x * cache["rule"]) + hidden[0][2:5] + made

    graph = Graph(function, (torch.ones(3),), model.parameters())
    storages = [tensor.untyped_storage().data_ptr() for tensor in (cache["rule"], model.weight, model.bias, hidden[0])]
    kept = {tensor.untyped_storage().data_ptr() for tensor in graph._kept}
    assert set(storages) <= kept
    made = len(kept) - len(storages)
    assert made == 1  # its own argument, and nothing that the pass made
    cache.clear()
    model.weight = torch.nn.Parameter(torch.zeros(3, 3))
    hidden.clear()
    gc.collect()
    assert {tensor.untyped_storage().data_ptr() for tensor in graph._kept} == kept


def test_a_constant_that_is_made_anew_in_the_capture_lives_too(device: Device) -> None:
    made: list[Tensor] = []

    def function(x: Tensor) -> Tensor:
        made.append(torch.arange(3.0))  # as a cache does that was emptied by another thread
        return x * constant(len(made) - 1)

    outside = [torch.arange(3.0) for _ in range(8)]

    def constant(index: int) -> Tensor:
        return outside[index]

    graph = Graph(function, (torch.ones(3),))
    kept = {tensor.untyped_storage().data_ptr() for tensor in graph._kept}
    assert {outside[len(made) - 1].data_ptr(), outside[len(made) - 2].data_ptr()} <= kept


def test_it_is_captured_on_a_stream_of_its_own(device: Device) -> None:
    for number in (1, 2):
        device.calls.clear()
        Graph(lambda x: x + 1, (torch.zeros(3),))
        assert f"begin on stream {number}" in device.calls
        assert f"end on stream {number}" in device.calls


def test_a_call_waits_for_the_one_before(device: Device) -> None:
    """Two threads with streams of their own share the graph's places for inputs and results."""
    graph = Graph(lambda x: x + 1, (torch.zeros(3),))
    device.calls.clear()
    for device.current in ("a", "b", "b"):
        graph(torch.ones(3))
    assert device.calls == [
        "replay",
        "b waits for the event of a",
        "replay",
        "b waits for the event of b",
        "replay",
    ]
