"""The library called as Python's launches call Triton: each finds its kernel, and blocks are those of Python.

    python test_launches.py LIBFASTSAL_KERNELS

The stand-in driver counts the launches; FASTSAL_CUDA_DRIVER names it, STAND_IN_ARCHITECTURE the device.
"""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Any

import torch
from torch import Tensor

from fastsal.cli.native import native_report
from fastsal_gate.embed import name_of
from fastsal_gate.library import launches_for
from fastsal_kernels import _tuning
from fastsal_kernels._launch import Launch

ARCHITECTURE = int(os.environ["STAND_IN_ARCHITECTURE"])
POINTER, INTEGER, NUMBER, CONSTANT = range(4)
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.uint8, torch.int32, torch.int64)
NO_KERNEL = 3


class Value(ctypes.Union):
    _fields_ = (("pointer", ctypes.c_void_p), ("integer", ctypes.c_int64), ("number", ctypes.c_double))


class Argument(ctypes.Structure):
    _fields_ = (("kind", ctypes.c_int), ("dtype", ctypes.c_int), ("value", Value))


LIBRARY = ctypes.CDLL(sys.argv[1])
LIBRARY.fastsal_error.restype = ctypes.c_char_p
LIBRARY.fastsal_setting.restype = ctypes.c_int64
LIBRARY.fastsal_setting.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_uint64)
LIBRARY.fastsal_launch.argtypes = (
    ctypes.c_char_p,
    ctypes.POINTER(ctypes.c_uint32),
    ctypes.POINTER(Argument),
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_void_p,
)


def argument(value: Any, constant: bool) -> Argument:
    """As fastsal/kernels.h describes one."""
    if constant:
        return Argument(CONSTANT, 0, Value(integer=int(value)))
    if isinstance(value, Tensor):
        return Argument(POINTER, DTYPES.index(value.dtype), Value(pointer=value.data_ptr()))
    if isinstance(value, float):
        return Argument(NUMBER, 0, Value(number=value))
    return Argument(INTEGER, 0, Value(integer=int(value)))


def status_of(launch: Launch, num_warps: int) -> int:
    """The library's answer to a launch."""
    values = iter(launch.args)
    arguments = [
        argument(launch.constexprs[parameter.name] if parameter.is_constexpr else next(values), parameter.is_constexpr)
        for parameter in launch.kernel.params
    ]
    grid = (ctypes.c_uint32 * 3)(*[*launch.grid, 1, 1][:3])
    given = (Argument * len(arguments))(*arguments)
    name = name_of(launch.kernel).encode()
    return int(LIBRARY.fastsal_launch(name, grid, given, len(arguments), num_warps, None))


def main() -> None:
    driver = ctypes.CDLL(os.environ["FASTSAL_CUDA_DRIVER"])
    seen = ctypes.c_ulong.in_dll(driver, "stand_in_launches")
    grid = (ctypes.c_uint * 3).in_dll(driver, "stand_in_grid")
    inside = {cubin["kernel"] for cubin in native_report(sys.argv[1])["cubins"]}  # FASTSAL_KERNEL_MODULES may lack some
    launched = 0
    for entry in launches_for(ARCHITECTURE):
        name = name_of(entry.launch.kernel)
        if name not in inside:
            continue
        status = status_of(entry.launch, entry.launch.num_warps)
        assert status == 0, (name, LIBRARY.fastsal_error().decode())
        assert list(grid) == [*entry.launch.grid, 1, 1][:3], (name, list(grid))
        launched += 1
        last = entry.launch
    assert seen.value == launched > 0, (seen.value, launched)

    assert status_of(last, 32) == NO_KERNEL
    words = LIBRARY.fastsal_error().decode()
    assert "not compiled for" in words, words
    assert "kernels/fastsal_gate/library.py" in words, words

    for kernel in _tuning._shipped()["any"]:
        for elements in (0, 1, 3 * 32 * 32, 3 * 224 * 224, 2**27):
            with _tuning.assumed(f"sm_{ARCHITECTURE}"):
                blocks = _tuning.setting(kernel, elements, torch.device("cpu"))
            for name, value in blocks.items():
                found = LIBRARY.fastsal_setting(kernel.encode(), name.encode(), elements)
                assert found == value, (kernel, name, elements, found, value)
    assert LIBRARY.fastsal_setting(b"path.batch", b"none", 1) == 0
    print(f"{launched} launches, each with a kernel")


if __name__ == "__main__":
    main()
