"""Timing on the device: over copies that no cache holds, in a graph where that can be, on the host's clock off CUDA."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from fastsal import ops
from fastsal.ops import _timing


def test_off_cuda_it_is_the_hosts_clock() -> None:
    x = torch.ones(4)

    def work() -> Tensor:
        time.sleep(0.01)
        return x + 1

    found = ops.device_seconds(work, groups=3)
    assert found.how == "host"
    assert 0.01 <= found.least <= found.seconds < 0.1


def test_copies_are_of_the_tensors_in_it() -> None:
    x, pairs, factor = torch.ones(3, 4).T, [(torch.ones(2), "name")], 3

    def work() -> tuple[Tensor, Tensor]:
        return x * factor, pairs[0][0]

    copy = _timing._copied(work)
    (first, second), (own, other) = work(), copy()
    assert torch.equal(first, own)
    assert first.stride() == own.stride()
    assert second.data_ptr() != other.data_ptr()
    x.zero_()
    assert own.any()
    assert copy()[0].all()
    assert _timing._copied(torch.rand) is torch.rand


class Event:
    """One that is a millisecond after the last."""

    now = 0.0

    def __init__(self, enable_timing: bool) -> None:
        self.at = 0.0

    def record(self) -> None:
        Event.now += 1.0
        self.at = Event.now

    def elapsed_time(self, other: Event) -> float:
        return other.at - self.at


class Graph:
    """One that runs nothing."""

    replays = 0

    def replay(self) -> None:
        Graph.replays += 1


@pytest.mark.parametrize(("waits", "how"), [(False, "graph"), (True, "calls")])
def test_on_cuda(monkeypatch: pytest.MonkeyPatch, waits: bool, how: str) -> None:
    """With a stand-in for the device: a cache of 1,000 bytes, groups of a millisecond."""
    mode: list[Any] = [0]
    captured: list[tuple[Any, Any]] = []

    class capture:
        def __init__(self, graph: Graph, stream: Any) -> None:
            captured.append((graph, stream))

        def __enter__(self) -> None: ...

        def __exit__(self, *_error: object) -> None: ...

    stand_in = SimpleNamespace(
        Event=Event,
        CUDAGraph=Graph,
        Stream=lambda: "own",
        graph=capture,
        synchronize=lambda: None,
        current_device=lambda: 0,
        get_device_properties=lambda index: SimpleNamespace(L2_cache_size=1000),
        get_sync_debug_mode=lambda: mode[0],
        set_sync_debug_mode=lambda value: mode.__setitem__(0, value),
    )
    monkeypatch.setattr(_timing, "_on_cuda", lambda tensors: True)
    monkeypatch.setattr(_timing.torch, "cuda", stand_in)
    monkeypatch.setattr(_timing, "cuda_sleep", lambda cycles: None)
    calls = [0]
    x = torch.ones(15)

    def work() -> Tensor:
        calls[0] += 1
        if waits and mode[0] == "error":
            raise RuntimeError("called a synchronizing CUDA operation")
        return x + 1

    found = ops.device_seconds(work, groups=4)
    # 60 bytes in and 60 out: 25 copies are three caches.
    assert _timing._copies(120) == 25
    assert found.how == how
    assert found.seconds == pytest.approx(1e-3 / 25)
    assert mode == [0]
    assert [stream for _, stream in captured] == ([] if waits else ["own"])


@pytest.fixture
def big(cuda: torch.device) -> Callable[[], Tensor]:
    x = torch.rand(2**26, device=cuda)
    return lambda: x * 2


@pytest.mark.cuda
def test_a_card_moves_no_more_than_it_can(big: Callable[[], Tensor]) -> None:
    found = ops.device_seconds(big)
    assert found.how == "graph"
    assert 2e10 < 2 * 2**28 / found.seconds < 2e13


@pytest.mark.cuda
def test_a_call_that_waits_is_timed_too(cuda: torch.device) -> None:
    x = torch.rand(1000, device=cuda)
    assert ops.device_seconds(lambda: float(x.sum())).how == "calls"
    assert ops.device_seconds(lambda: x + 1).how == "graph"
