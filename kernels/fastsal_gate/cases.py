"""The launches that the kernel gate compiles: every kernel at the signatures that explainers really give it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from fastsal_gate.signatures import signature_of
from fastsal_kernels import _heads, attention, cam, masks, noise, patches, path, ranks, windows
from fastsal_kernels._launch import Launch, recording
from fastsal_kernels._tuning import assumed

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
LAYOUTS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}


class Case(NamedTuple):
    """A named launch; ``wide`` where it writes a batch whose rows are aligned, so that 128-bit stores are due."""

    name: str
    launch: Launch
    wide: bool


def picture(dtype: torch.dtype, layout: torch.memory_format, *shape: int) -> Tensor:
    """An input, of one picture of 224 x 224 unless told otherwise."""
    return torch.zeros(shape or (1, 3, 224, 224), dtype=dtype).contiguous(memory_format=layout)


def repeat(x: Tensor, count: int) -> Tensor:
    """Memory for copies of an input."""
    return torch.empty((count * x.shape[0], *x.shape[1:]), dtype=x.dtype).contiguous(
        memory_format=torch.contiguous_format if x.is_contiguous() else torch.channels_last
    )


def _masks() -> Iterator[tuple[str, bool]]:
    for dtype_name, dtype in DTYPES.items():
        for layout_name, layout in LAYOUTS.items():
            x = picture(dtype, layout)
            for baseline in ("none", "number", "tensor"):
                if dtype_name == "fp16" and baseline != "none":
                    continue
                tensor = x if baseline == "tensor" else None
                fill = 0.5 if baseline == "number" else 0.0
                masks.batch(repeat(x, 16), x, tensor, fill, 0, 0, 16, [7, 7], 0.5, True, None, None)
                yield f"batch {dtype_name} {layout_name} baseline={baseline}", True
    x = picture(torch.bfloat16, torch.contiguous_format)
    masks.batch(repeat(x, 16), x, None, 0.0, 0, 0, 16, [8, 8], 0.5, False, None, None)
    yield "batch bf16 nchw clamp", True
    x = picture(torch.float32, torch.contiguous_format, 1, 3, 299, 299)
    masks.batch(repeat(x, 16), x, None, 0.0, 0, 0, 16, [7, 7], 0.5, True, None, None)
    yield "batch fp32 299x299", False
    x = picture(torch.bfloat16, torch.contiguous_format, 1, 1, 96, 96, 96)
    masks.batch(repeat(x, 8), x, None, 0.0, 0, 0, 8, [7, 7, 7], 0.5, True, None, None)
    yield "batch bf16 volume", True
    x = picture(torch.float32, torch.contiguous_format, 1, 12, 4096)
    masks.batch(repeat(x, 8), x, None, 0.0, 0, 0, 8, [7], 0.5, True, None, None)
    yield "batch fp32 series", True
    x = picture(torch.float32, torch.contiguous_format, 1, 1, 5)
    masks.batch(repeat(x, 1), x, x, 0.0, 0, 0, 1, [7], 0.5, True, None, None)
    yield "batch fp32 tiny", False
    for outputs in (1, 1000):
        scores = torch.zeros(64, outputs)
        state = torch.empty(32 * 32, outputs, 49)
        masks.accumulate(state, scores, None, 0, 0, [224, 224], [7, 7], 0.5, None, None)
        yield f"accumulate K={outputs}", False
        masks.accumulate(state, scores, state, 0, 64, [224, 224], [7, 7], 0.5, None, None)
        yield f"accumulate K={outputs} streamed", False


def _windows() -> Iterator[tuple[str, bool]]:
    for dtype_name, dtype in DTYPES.items():
        for layout_name, layout in LAYOUTS.items():
            x = picture(dtype, layout)
            for baseline in ("number", "tensor"):
                if dtype_name == "fp16" and baseline == "tensor":
                    continue
                tensor = x if baseline == "tensor" else None
                windows.batch(repeat(x, 16), x, tensor, 0.0, 0, 16, [3, 15, 15], [3, 8, 8])
                yield f"batch {dtype_name} {layout_name} baseline={baseline}", True
    x = picture(torch.float32, torch.contiguous_format, 1, 5)
    windows.batch(repeat(x, 1), x, None, 0.0, 0, 1, [1], [1])
    windows.fold(torch.empty(1, 5), torch.zeros(5, 1), [5], [1], [1], False)
    yield "table", False
    windows.fold(torch.empty(1, 3, 224, 224), torch.zeros(784, 1), [3, 224, 224], [3, 15, 15], [3, 8, 8], True)
    yield "fold image", False
    windows.fold(torch.empty(1, 1, 96, 96, 96), torch.zeros(1728, 1), [1, 96, 96, 96], [1, 8, 8, 8], [1, 8, 8, 8], True)
    yield "fold volume", False


def _path() -> Iterator[tuple[str, bool]]:
    alphas = torch.zeros(16)
    x = picture(torch.float32, torch.contiguous_format, 1, 1)
    path.batch(repeat(x, 1), x, alphas[:1], None, 0.0)
    path.fold(torch.empty_like(x), repeat(x, 1), alphas[:1], x, None, 0.5, None)
    yield "one element", False
    for dtype_name, dtype in DTYPES.items():
        x = picture(dtype, torch.contiguous_format)
        for baseline in ("number", "tensor"):
            tensor = x if baseline == "tensor" else None
            path.batch(repeat(x, 16), x, alphas, tensor, 0.0)
            yield f"batch {dtype_name} baseline={baseline}", True
        gradients = repeat(x, 16)
        total = torch.empty(1, 3, 224, 224)
        path.fold(torch.empty_like(x), gradients, alphas, x, x, 0.0, None)
        yield f"fold {dtype_name} to the attribution", True
        path.fold(total, gradients, alphas, None, None, 0.0, total)
        yield f"fold {dtype_name} streamed", True


def _patches() -> Iterator[tuple[str, bool]]:
    starts = torch.zeros(16, 2, dtype=torch.int64)
    for dtype_name, dtype in DTYPES.items():
        cached = picture(dtype, torch.channels_last, 1, 64, 56, 56)
        patch, out = (picture(dtype, torch.channels_last, 16, 64, side, side) for side in (10, 12))
        patches.gather(out, cached, starts, [12, 12], patch, starts, 0.0)
        yield f"gather {dtype_name} pasted", True
        patches.gather(out, cached, starts, [12, 12], None, None, 0.0)
        yield f"gather {dtype_name} of the map", True
    cached = picture(torch.float32, torch.channels_last, 1, 3, 224, 224)
    patches.gather(
        picture(torch.float32, torch.channels_last, 16, 3, 21, 21), cached, starts, [21, 21], None, None, 0.0
    )
    yield "gather fp32 of an image", False


def _ranks() -> Iterator[tuple[str, bool]]:
    places, counts = torch.zeros(1, 224, 224, dtype=torch.int64), torch.zeros(16, dtype=torch.int64)
    for dtype_name, dtype in DTYPES.items():
        for layout_name, layout in LAYOUTS.items():
            x = picture(dtype, layout)
            ranks.batch(repeat(x, 16), x, x, places, counts)
            yield f"batch {dtype_name} {layout_name}", True
    x = picture(torch.float32, torch.contiguous_format, 1, 1, 1)
    ranks.batch(repeat(x, 1), x, x, torch.zeros(1, 1, dtype=torch.int64), counts[:1])
    yield "batch fp32 one element", False


def _noise() -> Iterator[tuple[str, bool]]:
    for dtype_name, dtype in DTYPES.items():
        for layout_name, layout in LAYOUTS.items():
            x = picture(dtype, layout)
            for std in (None, x):
                noise.batch(repeat(x, 16), x, std, 0.1, 1, 0, 16)
                yield f"batch {dtype_name} {layout_name} std={'number' if std is None else 'tensor'}", True
        for second in (False, True):
            total = torch.empty(1 + second, 1, 3, 224, 224)
            noise.fold(total, repeat(x, 16), 16, 16, total, second)
            yield f"fold {dtype_name} {'two moments' if second else 'mean'}", True


def _cam() -> Iterator[tuple[str, bool]]:
    image = torch.zeros(1, 224, 224, 3, dtype=torch.uint8)
    colormap = torch.zeros(256, 3, dtype=torch.uint8)
    for dtype_name, dtype in DTYPES.items():
        for layout_name, layout in LAYOUTS.items():
            a = picture(dtype, layout, 1, 2048, 7, 7)
            cam.map(torch.empty(1, 224, 224, dtype=dtype), a, a, [224, 224], True, True)
            yield f"map {dtype_name} {layout_name} 2048x7x7", False
        a = picture(dtype, torch.contiguous_format, 1, 512, 14, 14)
        cam.map(torch.empty(1, 224, 224, dtype=dtype), a, a, [224, 224], True, True)
        yield f"map {dtype_name} 512x14x14", False
    a = picture(torch.float32, torch.contiguous_format, 264, 2048, 7, 7)
    cam.map(torch.empty(264, 224, 224), a, a, [224, 224], True, True)
    yield "map fp32 264 images 2048x7x7", False
    a = picture(torch.float32, torch.contiguous_format, 1, 2048, 28, 28)
    cam.map(torch.empty(1, 224, 224), a, a, [224, 224], True, True)
    yield "map fp32 2048x28x28", False
    a = picture(torch.float32, torch.contiguous_format, 1, 1024, 56, 56)
    cam.map(torch.empty(1, 224, 224), a, a, [224, 224], True, True)
    yield "map fp32 1024x56x56", False
    a = picture(torch.float32, torch.contiguous_format, 1, 64, 64, 64)
    cam.map(torch.empty(1, 256, 256), a, a, [256, 256], True, True)
    yield "map fp32 64x64x64", False
    a = picture(torch.float32, torch.contiguous_format, 1, 1, 1, 1)
    cam.map(torch.empty(1, 1, 1), a, a, [1, 1], True, True)
    yield "map fp32 one element", False
    a = picture(torch.float32, torch.contiguous_format, 1, 8192, 16, 1)
    cam.map(torch.empty(1, 16, 1), a, a, [16, 1], True, True)
    yield "map fp32 8192x16x1", False
    a = picture(torch.bfloat16, torch.contiguous_format, 1, 2048, 7, 7)
    cam.map(torch.empty(1, 7, 7, dtype=torch.bfloat16), a, a, [7, 7], False, False)
    yield "map bf16 raw", False
    cam.overlay(torch.empty_like(image), a, a, image, colormap, 0.5)
    yield "overlay bf16 2048x7x7", False


def _attention() -> Iterator[tuple[str, bool]]:
    """ViT-B at 197 tokens with masks of both kinds, grouped and causal heads of 128 channels, heads of 256."""
    shapes = {"ViT": (12, 12, 197, 64), "decoder": (8, 2, 1024, 128), "256": (8, 4, 512, 256)}
    for dtype_name, dtype in DTYPES.items():
        for name, (heads, key_heads, count, width) in shapes.items():
            if dtype_name == "fp16" and name != "ViT":
                continue
            q, k = (torch.zeros(1, each, count, width, dtype=dtype) for each in (heads, key_heads))
            row = torch.zeros(1, heads, count)
            masks: dict[str, Tensor | None] = {"": None}
            if name == "ViT" and dtype_name != "fp16":
                masks[" flags"] = torch.ones(1, 1, 1, count, dtype=torch.bool)
                masks[" numbers"] = torch.zeros(1, 1, count, count, dtype=dtype)
            causal = name == "decoder"
            for label, mask in masks.items():
                attention.logsumexp(row, q, k, mask, causal, 0.125)
                yield f"{dtype_name} {name}{label}", False
                attention.received(row, q, k, row, row, mask, causal, 0.125)
                yield f"{dtype_name} {name}{label} received", False
                attention.relevance(row, q, k, k, q, row, row, mask, causal, 0.125)
                yield f"{dtype_name} {name}{label} relevance", False
            attention.gradient_received(row, q, k, row, None, False)
            yield f"{dtype_name} {name} gradient", False
            _heads.extreme(row[:, 0], q, k, None, row, None, causal, 0.125, True)
            yield f"{dtype_name} {name} rows", False
            _heads.extreme(row[:, 0], q, k, row[:, 0], row, None, causal, 0.125, True)
            yield f"{dtype_name} {name} columns", False


def cases() -> list[Case]:
    """Every case, without running a kernel."""
    found = []
    for module, generator in (
        ("masks", _masks),
        ("windows", _windows),
        ("path", _path),
        ("noise", _noise),
        ("patches", _patches),
        ("ranks", _ranks),
        ("cam", _cam),
        ("attention", _attention),
    ):
        with recording() as launches:
            for label, wide in generator():
                for launch in launches:
                    kernel = launch.kernel.__name__.removesuffix("_kernel")
                    found.append(
                        Case(f"{module}.{kernel}: {label}", launch, wide and kernel in ("batch", "fold", "gather"))
                    )
                launches.clear()
    return found


_found: dict[int | None, list[Case]] = {}


def cases_for(architecture: int | None = None) -> list[Case]:
    """Cases of different signatures, with the blocks that an architecture has in the shipped tuning table."""
    if architecture not in _found:
        if architecture is not None:
            names = {case.name for case in cases_for()}
            with assumed(f"sm_{architecture}"):
                _found[architecture] = [case for case in cases() if case.name in names]
            return _found[architecture]
        found: dict[tuple[str, ...], Case] = {}
        for case in cases():
            kernel = case.launch.kernel
            found.setdefault((kernel.__module__, kernel.__name__, signature_of(case.launch).key()), case)
        _found[None] = list(found.values())
    return _found[architecture]
