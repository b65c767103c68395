"""Blocks of kernels: from a table, the user's before the shipped one; measured ones change no result."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from fastsal import ops
from fastsal.ops import _tune
from fastsal.ops._backend import kernel_module
from tests.ops.harness import KERNEL_BACKEND

tuning = kernel_module("_tuning")
CPU = torch.device("cpu")
USUAL = {"block": 1024, "items": 16, "num_warps": 4}


@pytest.fixture
def kernels() -> Iterator[torch.device]:
    """Kernels that run, and the device of their tensors."""
    with ops.backend(KERNEL_BACKEND):
        yield torch.device("cuda" if KERNEL_BACKEND == "triton" else "cpu")


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file of the user's own table."""
    file = tmp_path / "folder" / "tuning.json"
    monkeypatch.setenv("FASTSAL_TUNING", str(file))
    tuning.forget()
    yield file
    tuning.forget()


def test_the_shipped_blocks_are_the_default(own: Path) -> None:
    assert tuning.setting("path.batch", 150_528, CPU) == USUAL
    with tuning.assumed("sm_75"):
        assert tuning.setting("path.batch", 150_528, CPU) == USUAL


def test_the_users_table_goes_first_by_the_nearest_size(own: Path) -> None:
    small, large = dict(USUAL, block=256), dict(USUAL, block=2048)
    found = [_tune.Tuned("path.batch", size, blocks, 1.0, 2.0) for size, blocks in ((10, small), (20, large))]
    assert ops.save_tuning(found, "sm_90") == own
    assert json.loads(own.read_text())["sm_90"]["path.batch"]["10"] == small
    with tuning.assumed("sm_90"):
        assert tuning.setting("path.batch", 2**10, CPU) == small
        assert tuning.setting("path.batch", 2**14, CPU) == small
        assert tuning.setting("path.batch", 2**17, CPU) == large
    with tuning.assumed("sm_80"):
        assert tuning.setting("path.batch", 2**10, CPU) == USUAL
    ops.save_tuning([_tune.Tuned("noise.batch", 10, {"bytes": 1024, "num_warps": 2}, 1.0, 2.0)], "sm_90")
    assert set(json.loads(own.read_text())["sm_90"]) == {"path.batch", "noise.batch"}


@pytest.mark.parametrize(
    "text", ["not json", "[]", '{"sm_90": {"path.batch": {"10": {"block": 0, "items": 16, "num_warps": 4}}}}',
             '{"sm_90": {"path.batch": {"10": {"block": 512}}}}']
)  # fmt: skip
def test_a_broken_table_is_not_used(own: Path, text: str) -> None:
    own.parent.mkdir()
    own.write_text(text)
    tuning.forget()
    with tuning.assumed("sm_90"):
        assert tuning.setting("path.batch", 2**10, CPU) == USUAL


@pytest.mark.parametrize(
    "kernel",
    # The interpreter takes four seconds for each of the masks'.
    [pytest.param(name, marks=pytest.mark.slow if name.startswith("masks") else ()) for name in _tune.CANDIDATES],
)
def test_kernel_results_do_not_depend_on_the_blocks(kernel: str, kernels: torch.device) -> None:
    """Every choice of one block with the shipped others."""
    x = torch.randn(1, 3, 9, 13).to(kernels)
    call = _tune._calls(x, 5)[kernel]
    usual = tuning._shipped()["any"][kernel]["*"]
    expected = call()
    for name, values in _tune.CANDIDATES[kernel].items():
        for value in values:
            with tuning.forced(kernel, {**usual, name: value}):
                assert torch.equal(call(), expected), (name, value)


def test_kernel_tuning_takes_the_fastest(kernels: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that likes blocks of 512."""
    monkeypatch.setitem(_tune.CANDIDATES, "path.batch", {"block": (256, 512, 1024), "items": (16,), "num_warps": (4,)})

    def clock(work: Callable[[], Any]) -> float:
        work()
        return 1.0 if tuning.setting("path.batch", 1, CPU)["block"] == 512 else 2.0

    told: list[_tune.Tuned] = []
    (found,) = ops.tune(kernels, only="path.batch", shapes=((1, 3, 8, 8),), rows=3, seconds_of=clock, told=told.append)
    assert found == _tune.Tuned("path.batch", 8, dict(USUAL, block=512), 1.0, 2.0)
    assert told == [found]


def test_without_a_gpu() -> None:
    if torch.cuda.is_available():
        pytest.skip("a CUDA device is here")
    with pytest.raises(RuntimeError, match="no CUDA device"):
        ops.tune()
