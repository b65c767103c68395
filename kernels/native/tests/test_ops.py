"""The ops in C++ beside those in Python: the same schemas, the same results, the same launches.

    python test_ops.py LIBFASTSAL_OPS LIBRECORDER

Without a GPU no kernel runs; every launch is written down instead, kernel, grid and arguments, by a library that stands
in front of the kernels' own, and compared with what Python gives Triton.
"""

from __future__ import annotations

import ctypes
import json
import math
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

RECORDER = ctypes.CDLL(sys.argv[2], mode=ctypes.RTLD_GLOBAL)
RECORDER.recorded.restype = ctypes.c_char_p
torch.ops.load_library(sys.argv[1])

import fastsal  # noqa: E402
from fastsal import ops  # noqa: E402
from fastsal.ops import _backend  # noqa: E402
from fastsal.ops._define import OPS, Op  # noqa: E402
from fastsal_gate.embed import name_of  # noqa: E402
from fastsal_kernels._launch import recording  # noqa: E402

NAMES = {op._name: op for op in OPS}
CODES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2, torch.uint8: 3, torch.int32: 4, torch.int64: 5}
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
LAYOUTS = (torch.contiguous_format, torch.channels_last)


def random(*shape: int, dtype: torch.dtype = torch.float32, layout: torch.memory_format = LAYOUTS[0]) -> Tensor:
    return torch.randn(*shape, device="cpu", dtype=torch.float64).to(dtype).contiguous(memory_format=layout)


def images() -> Iterator[Tensor]:
    for dtype in DTYPES:
        for layout in LAYOUTS:
            yield random(2, 3, 33, 40, dtype=dtype, layout=layout)
    yield random(1, 3, 224, 224)
    yield random(1, 3, 1, 1)


def _masks() -> Iterator[tuple[str, tuple[Any, ...]]]:
    words = torch.randint(0, 2**7, (4, 7), dtype=torch.int32, device="cpu")
    offsets = torch.randint(0, 5, (4, 3), dtype=torch.int32, device="cpu") * torch.tensor([0, 1, 1], dtype=torch.int32)
    for x in images():
        spatial = min(7, x.shape[-1])
        grid = [spatial, spatial]
        for baseline, fill in ((None, 0.0), (None, 0.5), (torch.randn_like(x), 0.0)):
            yield "masks_batch", (x, baseline, fill, 5, 2**33 + 3, 2**33 + 9, grid, 0.4, fill == 0.0, None, None)
        if spatial == 7 and x.shape[-1] == 40:
            yield "masks_batch", (x, None, 0.0, 0, 0, 4, grid, 0.5, True, words, offsets.clamp(max=4))
    yield "masks_batch", (random(2, 1, 12, 20, 9), None, 0.0, -7, 0, 5, [3, 4, 2], 0.5, True, None, None)
    yield "masks_batch", (random(2, 4, 50), None, 1.0, 2**63 - 1, 1, 5, [6], 0.25, False, None, None)
    for scores in (random(6, 1), random(6, 10, dtype=torch.float16), random(6, 3, dtype=torch.float64)):
        yield "masks_accumulate", (scores, None, 5, 2, [30, 44], [7, 5], 0.5, None, None)
        state = random(
            5 * 9, scores.shape[1], 35, dtype=torch.float64 if scores.dtype == torch.float64 else torch.float32
        )
        yield "masks_accumulate", (scores, state, 5, 8, [30, 44], [7, 5], 0.5, None, None)
    yield "masks_accumulate", (random(4, 2), None, 0, 0, [33, 40], [7, 7], 0.5, words, offsets)


def _windows() -> Iterator[tuple[str, tuple[Any, ...]]]:
    for x in images():
        height, width = x.shape[2:]
        window, stride = [3, min(9, height), min(5, width)], [3, 4, 3]
        count = math.prod(ops.windows.counts(x.shape[1:], window, stride))
        for baseline in (None, torch.randn_like(x)):
            yield "windows_batch", (x, baseline, 0.25, count // 3, min(count, count // 3 + 7), window, stride)
    yield "windows_batch", (random(2, 9), None, 0.0, 0, 4, [3], [2])
    yield "windows_batch", (random(1, 2, 6, 7, 8), None, 0.0, 5, 20, [1, 2, 3, 3], [1, 2, 2, 3])
    yield "windows_batch", (random(1, 2, 3, 4, 5, 6), None, 0.0, 5, 9, [1, 1, 2, 2, 2], [1, 2, 2, 2, 2])
    for dtype in DTYPES:
        for average in (False, True):
            yield "windows_fold", (random(25, 2, dtype=dtype), [3, 20, 21], [3, 5, 6], [3, 4, 4], average)
    yield "windows_fold", (random(4, 3), [9], [3], [2], True)


def _path() -> Iterator[tuple[str, tuple[Any, ...]]]:
    for x in images():
        alphas = torch.tensor([0.0, 0.3, 0.5, 1.0], dtype=torch.float32, device="cpu")
        gradients = random(4 * len(x), *x.shape[1:], dtype=x.dtype)
        partial = random(*x.shape, dtype=torch.float64 if x.dtype == torch.float64 else torch.float32)
        for baseline, fill in ((None, 0.5), (torch.randn_like(x), 0.0)):
            yield "path_batch", (x, alphas, baseline, fill)
            yield "path_fold", (gradients, alphas, x, baseline, fill, partial)
        yield "path_fold", (gradients, alphas, None, None, 0.0, None)


def _noise() -> Iterator[tuple[str, tuple[Any, ...]]]:
    for x in images():
        for std in (None, torch.rand_like(x)):
            yield "noise_batch", (x, std, 0.5, 7, 3, 13)
        values = random(5 * len(x), *x.shape[1:], dtype=x.dtype)
        wide = torch.float64 if x.dtype == torch.float64 else torch.float32
        for second in (False, True):
            yield "noise_fold", (values, 5, 0, None, second)
            yield "noise_fold", (values, 5, 3, random(1 + second, *x.shape, dtype=wide).abs(), second)


def _patches() -> Iterator[tuple[str, tuple[Any, ...]]]:
    starts = torch.tensor([[-2, 0], [3, 5], [10, 12]], device="cpu")
    for dtype in DTYPES:
        for channels in (3, 64):
            cached = random(1, channels, 15, 16, dtype=dtype, layout=torch.channels_last)
            patch = random(3, channels, 4, 5, dtype=dtype)
            yield "patches_gather", (cached, starts, [7, 6], None, None, 0.5)
            yield "patches_gather", (cached.contiguous(), starts, [7, 6], patch, starts + 2, 0.0)


def _ranks() -> Iterator[tuple[str, tuple[Any, ...]]]:
    for x in images():
        positions = x[0, 0].numel()
        places = torch.stack([torch.randperm(positions, device="cpu") for _ in x]).view(len(x), *x.shape[2:])
        counts = torch.tensor([0, positions // 2, positions], device="cpu")
        yield "ranks_batch", (x, torch.randn_like(x), places, counts)


def _cam() -> Iterator[tuple[str, tuple[Any, ...]]]:
    image = torch.randint(0, 256, (2, 20, 24, 3), dtype=torch.uint8, device="cpu")
    colormap = torch.randint(0, 256, (256, 3), dtype=torch.uint8, device="cpu")
    for dtype in DTYPES:
        for layout in LAYOUTS:
            a, g = (random(2, 16, 7, 5, dtype=dtype, layout=layout) for _ in range(2))
            for relu, normalize in ((True, True), (False, False)):
                yield "cam_map", (a, g, [31, 40], relu, normalize)
            yield "cam_overlay", (a, g, image, colormap, 0.5)
    yield "cam_map", (random(1, 8, 9)[:, :, ::2], random(1, 8, 5), [12], True, True)
    yield "cam_map", (random(1, 2049, 28, 28), random(1, 2049, 28, 28), [56, 56], True, True)
    yield "cam_map", (random(1, 3, 4, 4, 4), random(1, 3, 4, 4, 4), [8, 8, 8], True, True)


def cases() -> Iterator[tuple[str, tuple[Any, ...]]]:
    for generator in (_masks, _windows, _path, _noise, _patches, _ranks, _cam):
        yield from generator()


def tolerance(dtype: torch.dtype, name: str) -> float:
    if dtype == torch.uint8:
        return 1.0  # a level that lies on an edge
    if name == "noise_batch" and dtype == torch.float64:
        return 1e-5  # the normals themselves are float32
    return {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}[dtype]


def form(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.dtype, tensor.shape, tensor.is_contiguous()


def same_result(name: str, op: Op, args: tuple[Any, ...]) -> None:
    native = getattr(torch.ops.fastsal_native, name)(*args)
    expected = op.reference(*args)
    assert form(native) == form(expected), (name, form(native), form(expected))
    difference = (native.double() - expected.double()).abs().max().item()
    size = max(1.0, expected.double().abs().max().item())
    assert difference <= tolerance(native.dtype, name) * size, (name, native.dtype, difference)


def python_launches(op: Op, args: tuple[Any, ...]) -> tuple[Tensor, list[dict[str, Any]]]:
    out = op._empty(*args)
    with recording() as launches:
        getattr(_backend.kernel_module(op._module), op._function)(out, *args)
    found = []
    for launch in launches:
        values = iter(launch.args)
        arguments: list[list[Any]] = []
        for parameter in launch.kernel.params:
            value = launch.constexprs[parameter.name] if parameter.is_constexpr else next(values)
            if parameter.is_constexpr:
                arguments.append([3, int(value)])
            elif isinstance(value, Tensor):
                arguments.append([0, [CODES[value.dtype], value.data_ptr()]])
            else:
                arguments.append([2, value] if isinstance(value, float) else [1, int(value)])
        grid = [*launch.grid, 1, 1][:3]
        found.append(
            {"kernel": name_of(launch.kernel), "grid": grid, "warps": launch.num_warps, "arguments": arguments}
        )
    return out, found


def same_launches(name: str, op: Op, args: tuple[Any, ...]) -> int:
    """How many; none where the kernels do not cover the arguments."""
    lead = args[0]
    if lead.dtype not in _backend.KERNEL_DTYPES or not op._supported(*args):
        return 0
    RECORDER.recorded()
    keys = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)
    result = getattr(torch.ops.fastsal_native, name).default.redispatch(keys, *args)
    native = [json.loads(line) for line in RECORDER.recorded().decode().splitlines()]
    out, expected = python_launches(op, args)
    assert len(native) == len(expected) > 0, (name, len(native), len(expected))
    assert form(result) == form(out), (name, form(result), form(out))
    # Copies and scratch have addresses of their own; what is the result or an argument must be the same one.
    known = {tensor.data_ptr(): index for index, tensor in enumerate(args) if isinstance(tensor, Tensor)}
    for ours, theirs in zip(native, expected, strict=True):
        for mine, pythons in ((ours, result), (theirs, out)):
            for kind, value in mine["arguments"]:
                if kind == 0:
                    value[1] = -1 if value[1] == pythons.data_ptr() else known.get(value[1], -2)
        assert ours == theirs, f"{name}:\n{ours}\n{theirs}"
    return len(native)


def main() -> None:
    torch.manual_seed(0)
    seen, launches = set(), 0
    for name, args in cases():
        same_result(name, NAMES[name], args)
        launches += same_launches(name, NAMES[name], args)
        seen.add(name)
    assert seen == set(NAMES), set(NAMES) - seen
    for name, op in NAMES.items():
        schema = str(getattr(torch.ops.fastsal_native, name).default._schema)
        assert schema.replace("fastsal_native::", "fastsal::") == str(op.overload._schema), schema
    refused()
    backend()
    print(f"{len(seen)} ops, {launches} launches as Python's")


def refused() -> None:
    """One clear line each for what does not fit."""
    x = random(1, 3, 8, 8)
    for name, *args in (
        ("path_batch", x, random(2, 2), None, 0.0),
        ("path_batch", x, random(2), random(1, 3, 8, 7), 0.0),
        ("path_fold", random(5, 3), random(2), None, None, 0.0, None),
        ("windows_batch", x, None, 0.0, 0, 99, [3, 4, 4], [3, 4, 4]),
        ("windows_batch", x, None, 0.0, 0, 1, [3, 9, 4], [3, 4, 4]),
        ("windows_fold", random(3, 1), [3, 8, 8], [3, 4, 4], [3, 4, 4], True),
        ("masks_batch", x, None, 0.0, 0, 0, 1, [32, 4], 0.5, True, None, None),
        ("masks_batch", x, None, 0.0, 0, 3, 1, [4, 4], 0.5, True, None, None),
        ("masks_accumulate", random(3), None, 0, 0, [8, 8], [4, 4], 0.5, None, None),
        ("noise_fold", x, 2, 0, None, False),
        ("ranks_batch", x, x, torch.zeros(1, 8, 8), torch.zeros(1)),
        ("patches_gather", x, torch.zeros(1, 2), [2, 2], None, None, 0.0),
        ("cam_map", x, x, [8], True, True),
        ("cam_overlay", x, x, torch.zeros(1, 8, 8, 3), torch.zeros(256, 3), 0.5),
    ):
        try:
            getattr(torch.ops.fastsal_native, name)(*args)
        except ValueError as error:
            if ": " not in str(error).splitlines()[0]:
                raise
        else:
            raise AssertionError(f"{name}: nothing was refused")


def backend() -> None:
    """fastsal itself on these ops, where they are chosen."""
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.LazyLinear(5)).eval()
    x = random(1, 3, 16, 16)
    model(x)
    for explainer, options in (
        (fastsal.RISE(model), {"n_masks": 32}),
        (fastsal.IntegratedGradients(model), {"n_steps": 8}),
        (fastsal.Occlusion(model), {"sliding_window_shapes": (3, 4, 4), "strides": (3, 2, 2)}),
    ):
        expected = explainer.attribute(x, target=1, **options)
        with ops.backend("native"):
            found = explainer.attribute(x, target=1, **options)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


if __name__ == "__main__":
    main()
