"""Launches through Triton's own front end with a driver that does nothing: which kernel each one takes.

Run as a script in a process without Triton's interpreter; prints JSON.
"""

from __future__ import annotations

import json
from typing import Any

import torch
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget

from fastsal_kernels import _launch

LAUNCHED: list[tuple[Any, ...]] = []


class _Utils:
    def load_binary(self, name: str, *_: Any) -> tuple[Any, ...]:
        return object(), object(), 32, 0, 1024

    def get_device_properties(self, _device: int) -> dict[str, int]:
        return {"max_shared_mem": 232448, "multiprocessor_count": 132}


class _Launcher:
    def __init__(self, *_: Any) -> None:
        pass

    def __call__(self, *args: Any) -> None:
        LAUNCHED.append(args)


class _Driver:
    """One of two devices is current."""

    utils, launcher_cls, current = _Utils(), _Launcher, 0

    def get_current_device(self) -> int:
        return self.current

    def get_current_stream(self, _device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")


@triton.jit
def _kernel(out, count, scale, BLOCK: tl.constexpr, EXACT: tl.constexpr = False):
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + index, index * scale, mask=index < count)


def main() -> None:
    driver = _Driver()
    triton.runtime.driver.set_active(driver)
    memory = torch.zeros(64)
    cases: dict[str, tuple[Any, ...]] = {
        "first": (memory, 16, 0.5),
        "another number": (memory, 32, 0.25),
        "no multiple of 16": (memory, 17, 0.5),
        "one": (memory, 1, 0.5),
        "beyond 32 bits": (memory, 2**31, 0.5),
        "misaligned": (memory[1:], 16, 0.5),
        "half precision": (memory.half(), 16, 0.5),
    }
    taken: dict[str, Any] = {}
    for turn in range(2):
        for name, args in cases.items():
            _launch.launch(_kernel, (2,), *args, BLOCK=16)
            taken[f"{name} {turn}"] = id(LAUNCHED[-1][4])
    _launch.launch(_kernel, (2,), *cases["first"], BLOCK=32)
    taken["block"] = id(LAUNCHED[-1][4])
    _launch.launch(_kernel, (2,), *cases["first"], BLOCK=16, num_warps=8)
    taken["warps"] = id(LAUNCHED[-1][4])
    driver.current = 1
    for turn in range(2):
        _launch.launch(_kernel, (2,), *cases["first"], BLOCK=16)
        taken[f"device {turn}"] = id(LAUNCHED[-1][4])
    driver.current = 0
    launches = []
    for kernel, grid, given in ((_kernel, (3, 2), cases["another number"]), (_kernel, (2,), cases["misaligned"])):
        _launch.launch(kernel, grid, *given, BLOCK=16, EXACT=True)  # compiles
        _launch.launch(kernel, grid, *given, BLOCK=16, EXACT=True)  # remembers
        kernel[grid](*given, BLOCK=16, EXACT=True, num_warps=4)
        launches.append([[*map(_told, launched)] for launched in LAUNCHED[-2:]])
    print(json.dumps({"taken": taken, "launches": launches}))


def _told(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return str(value.data_ptr() % 64)
    return type(value).__name__ if type(value).__module__.startswith("triton") else str(value)


if __name__ == "__main__":
    main()
