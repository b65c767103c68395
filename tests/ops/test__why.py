"""Which backend takes an op, and why: told for a call, for all ops, and in the log."""

from __future__ import annotations

import logging
from unittest.mock import Mock

import pytest
import torch
from torch import nn

import fastsal
from fastsal import ops
from fastsal.ops import cam, windows
from fastsal.ops._backend import why_reference
from fastsal.ops._define import OPS, Op
from fastsal.ops._why import small_calls
from tests.ops.harness import KERNEL_BACKEND, KERNEL_DEVICE

CPU = "kernels run on CUDA tensors"


def test_every_op_has_a_small_call() -> None:
    assert sorted(small_calls("cpu")) == sorted(op.name for op in OPS)
    for name, call in small_calls("cpu").items():
        assert [choice.op for choice in ops.why(call)] == [name]


def test_choices_name_every_op_and_why() -> None:
    with ops.backend("reference"):
        found = ops.choices()
    assert len(found) == len(OPS)
    assert {each[1:] for each in found} == {("reference", "the backend 'reference' is selected")}


def test_a_call_that_fails_is_told() -> None:
    with ops.backend("interpret" if KERNEL_DEVICE == "cuda" else "triton"):
        found = ops.choices()
    assert {each.backend for each in found} == {"none"}
    assert all("RuntimeError: backend" in each.reason for each in found)


@pytest.mark.parametrize(
    ("shape", "dtype", "reason"),
    [
        ((1, 2, 3, 4), torch.float64, "kernels are for float32, bfloat16 and float16, not for torch.float64"),
        ((1, 2, 100, 100), torch.float32, "the kernel holds 4096 positions, not 10000"),
        ((1, 2, 3, 4, 5), torch.float32, "the kernel takes layers of 1 or 2 dimensions, not of 3"),
    ],
)
def test_kernel_that_does_not_run_says_why(shape: tuple[int, ...], dtype: torch.dtype, reason: str) -> None:
    x = torch.ones(shape, dtype=dtype, device=KERNEL_DEVICE)
    with ops.backend(KERNEL_BACKEND):
        assert ops.why(cam.map, x, x) == [ops.Choice("cam.map", "reference", reason)]


def test_kernel_of_many_dimensions() -> None:
    x = torch.ones(1, 2, 2, 2, 2, 2, device=KERNEL_DEVICE)
    reason = "the kernel takes 1 to 4 dimensions beside the batch, not 5"
    with ops.backend(KERNEL_BACKEND):
        found = ops.why(windows.batch, x, 0, 1, window=1, stride=1)
        assert found == [ops.Choice("windows.batch", "reference", reason)]
        assert ops.why(windows.batch, x[0], 0, 1, window=1, stride=1)[0].backend == KERNEL_BACKEND


def test_the_ops_of_an_explanation() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).eval()
    x = torch.randn(1, 3, 8, 8)
    found = ops.why(fastsal.GradCAM(model, "0").attribute, x, 1)
    assert found == [ops.Choice("cam.map", "reference", CPU)]
    found = ops.why(fastsal.Occlusion(model).attribute, x, (3, 4, 4), 4, target=1, incremental=False)
    assert [each.op for each in found] == ["windows.batch", "windows.fold"]


def test_a_fallback_of_a_cuda_tensor_is_logged(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an op whose leading argument says that it is on a GPU, as far as the choice of a backend looks."""
    x = torch.ones(1, 2, 3, 4, dtype=torch.float64)

    class Leading:
        is_meta, is_cuda, dtype, device = False, True, torch.float64, torch.device("cuda")

    (op,) = (each for each in OPS if each.name == "cam.map")
    monkeypatch.setattr(op, "reference", lambda lead, *rest: x)
    with caplog.at_level(logging.DEBUG, logger="fastsal.ops"):
        assert Op._run(op, Leading(), x, [3, 4], True, True) is x
    assert caplog.messages == [
        "cam.map: the reference runs, since kernels are for float32, bfloat16 and float16, not for torch.float64"
    ]


def test_a_rocm_build_takes_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its tensors say that they are on CUDA, but the kernels hold PTX."""

    class There(Mock):
        is_cuda, dtype = True, torch.float32

    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert (
        why_reference(There(), lambda: None, ()) == "kernels are for CUDA devices, and this is a ROCm build of PyTorch"
    )
