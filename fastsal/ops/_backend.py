"""Which implementation runs an op: the Triton kernel, the same kernel interpreted on the CPU, or the reference.

``FASTSAL_BACKEND`` (or :func:`backend`) is one of

- ``auto``: kernels for CUDA tensors of float32, bfloat16 and float16 where Triton is installed, else the reference;
- ``triton``: kernels; an error where they cannot run;
- ``reference``: the reference everywhere;
- ``interpret``: kernels through Triton's interpreter on CPU tensors (slow; for tests).
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

NAMES = ("auto", "triton", "reference", "interpret")
KERNEL_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
INDEX_LIMIT = 2**31
"""Kernels index the elements of one input with 32 bits; larger inputs take the reference."""
OLDEST_TRITON = (3, 3)
"""The first that has what the kernels are written with (``tl.gather``)."""


def _checked(name: str) -> str:
    if name not in NAMES:
        raise ValueError(f"backend: {name!r} is not one of {', '.join(NAMES)} (FASTSAL_BACKEND sets the default)")
    return name


_selected = _checked(os.environ.get("FASTSAL_BACKEND", "auto"))


class Backend(NamedTuple):
    """A backend's name, whether it can run here, and why or why not."""

    name: str
    usable: bool
    reason: str


def current_backend() -> str:
    """Name of the selected backend."""
    return _selected


@contextlib.contextmanager
def backend(name: str) -> Iterator[None]:
    """Select a backend inside a ``with`` block, for the whole process.

    Raises:
        ValueError: for a name that is not a backend.
    """
    global _selected
    previous, _selected = _selected, _checked(name)
    try:
        yield
    finally:
        _selected = previous


@cache
def without_triton() -> str | None:
    """Why this process has no Triton that the kernels compile with, found without importing it; None where it has."""
    needed = f"pip install 'triton>={OLDEST_TRITON[0]}.{OLDEST_TRITON[1]}'"
    if importlib.util.find_spec("triton") is None:
        return f"Triton is not installed: {needed}"
    try:
        version = importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:  # a build under another name, as nightly ones have
        return None
    old = tuple(int(part) for part in version.split(".")[:2]) < OLDEST_TRITON
    return f"Triton {version} is too old for the kernels: {needed}" if old else None


def triton_installed() -> bool:
    """Whether a Triton that the kernels compile with can be imported, without importing it."""
    return without_triton() is None


@cache
def kernel_module(name: str) -> ModuleType:
    """The module of ``fastsal_kernels`` that holds an op's kernels."""
    if _selected == "interpret" and "triton" not in sys.modules:
        os.environ["TRITON_INTERPRET"] = "1"
    if importlib.util.find_spec("fastsal_kernels") is None:
        checkout = Path(__file__).resolve().parents[2] / "kernels"
        if (checkout / "fastsal_kernels").is_dir():
            sys.path.append(str(checkout))
    return importlib.import_module(f"fastsal_kernels.{name}")


@cache
def interpreting() -> bool:
    """Whether kernels of this process go through Triton's interpreter: TRITON_INTERPRET when Triton was imported."""
    return bool(kernel_module("_launch").INTERPRETED)


def why_reference(tensor: Tensor, supported: Callable[..., str | None], args: tuple[Any, ...]) -> str | None:
    """Why the reference runs for an op whose leading argument is ``tensor``; None where the kernel does.

    Args:
        tensor: its device and dtype choose.
        supported: the op's own reason, of its arguments.
        args: the arguments.

    Raises:
        RuntimeError: when the selected backend cannot run this tensor.
    """
    if _selected == "reference":
        return "the backend 'reference' is selected"
    if _selected == "auto" and not tensor.is_cuda:
        return "kernels run on CUDA tensors"
    if _selected == "auto" and torch.version.hip:
        return "kernels are for CUDA devices, and this is a ROCm build of PyTorch"
    if tensor.dtype not in KERNEL_DTYPES:
        return f"kernels are for float32, bfloat16 and float16, not for {tensor.dtype}"
    if not 0 < tensor.numel() < INDEX_LIMIT:
        return f"kernels index 1 to 2**31 - 1 elements, not {tensor.numel()}"
    reason = supported(*args)
    if reason is not None:
        return reason
    if _selected == "auto":
        return without_triton()
    if not triton_installed():
        raise RuntimeError(f"backend {_selected!r} needs Triton. {without_triton()}")
    if _selected == "triton" and not tensor.is_cuda:
        raise RuntimeError(f"backend 'triton' needs CUDA tensors, this one is on {tensor.device}: use 'auto'")
    if _selected == "interpret":
        if tensor.device.type != "cpu":
            raise RuntimeError(f"backend 'interpret' needs CPU tensors, this one is on {tensor.device}: use 'auto'")
        if not interpreting():
            raise RuntimeError(
                "backend 'interpret' needs TRITON_INTERPRET=1 in the environment before Triton is imported"
            )
    return None


def backends_report() -> list[Backend]:
    """Every backend with whether it can run on this machine, and why or why not."""
    cuda, missing = torch.cuda.is_available(), without_triton()
    installed = missing is None
    if missing is not None:
        kernels = missing
    elif not cuda:
        build = torch.version.cuda or torch.version.hip
        kernels = "no CUDA device is visible" if build else "this PyTorch is a CPU build"
    else:
        kernels = f"kernels run on {torch.cuda.get_device_name()}"
    return [
        Backend("triton", installed and cuda, kernels),
        Backend("reference", True, "plain PyTorch, on every device"),
        Backend(
            "interpret",
            installed,
            "Triton's interpreter on CPU tensors, for tests; needs TRITON_INTERPRET=1" if installed else kernels,
        ),
    ]


def device_guard(tensor: Tensor) -> Any:
    """Context that makes the tensor's CUDA device current, free of cost where it is or the tensor is on the CPU."""
    if tensor.is_cuda and tensor.device.index != torch.cuda.current_device():
        return torch.cuda.device(tensor.device)
    return contextlib.nullcontext()
