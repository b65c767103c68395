"""The calls that the stage of op times makes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor

from fastsal.ops import attention, cam, masks, noise, patches, path, ranks, windows
from fastsal.ops._backend import kernel_module

FLOAT, HALF = torch.float32, torch.bfloat16
LAYOUTS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}
LAYERS = ((2048, 7, 7), (512, 14, 14), (2048, 28, 28), (768, 14, 14))
"""The last of ResNet-50, of VGG-16, of a ResNet-50 on four times the side, and ViT-B's tokens."""

HEADS = ((1, 12, 197, 64), (32, 12, 197, 64), (1, 16, 1024, 64), (32, 16, 1024, 64))
"""Of one attention of ViT-B at 224 x 224, and of ViT-L at 512 x 512: examples, heads, tokens, channels of a head."""


class Case(NamedTuple):
    """One call of an op.

    Attributes:
        op: module and name in ``fastsal.ops``.
        name: what of it.
        dtype, layout: of its large tensors.
        rows: altered copies, or images.
        floor_bytes: the fewest that it must move.
        make: the call on a device, over tensors of its own.
        variant: what is other than a user gets; empty for what a user gets.
        under: makers of contexts that the variant needs.
        host: whether the host's seconds are measured too.
    """

    op: str
    name: str
    dtype: torch.dtype
    layout: str
    rows: int
    floor_bytes: int
    make: Callable[[str], Callable[[], Any]]
    variant: str = ""
    under: tuple[Callable[[], AbstractContextManager[Any]], ...] = ()
    host: bool = False


def cases(tiny: bool) -> Iterator[Case]:
    """All cases, those of most interest first; tiny ones for a rehearsal on the CPU."""
    side, counts = (16, (2, 4)) if tiny else (224, (64, 256, 32))
    layers, images = (((8, 7, 7),), (1, 2)) if tiny else (LAYERS, (1, 8, 64, 256))
    for dtype in (FLOAT, HALF):
        for layout in LAYOUTS:
            for count in counts:
                yield from _sweeps(dtype, layout, count, side)
            if layout == "nchw":
                for layer in layers:
                    for number in images:
                        yield _map(dtype, layer, number, side)
    for heads in ((1, 2, 9, 16),) if tiny else HEADS:
        for dtype in (HALF, FLOAT):
            yield from _attended(dtype, heads)
    for count in counts:
        yield _accumulated(count, side)
    yield _windows_folded(side)
    if not tiny:
        yield from _variants(layers)


def _image(dtype: torch.dtype, layout: str, side: int, device: str, rows: int = 1) -> Tensor:
    drawn = torch.randn(rows, 3, side, side, device=device)
    return drawn.to(dtype).contiguous(memory_format=LAYOUTS[layout])


def _sweeps(dtype: torch.dtype, layout: str, count: int, side: int) -> Iterator[Case]:
    """What makes ``count`` altered copies of an image, and what folds as many gradients or values."""
    one = 3 * side * side * dtype.itemsize
    image = partial(_image, dtype, layout, side)

    def windows_batch(device: str) -> Callable[[], Any]:
        x, window, stride = image(device), (3, side // 14, side // 14), (3, side // 28 or 1, side // 28 or 1)
        return lambda: windows.batch(x, 0, count, window=window, stride=stride)

    def masks_batch(device: str) -> Callable[[], Any]:
        x = image(device)
        return lambda: masks.batch(x, 0, count)

    def path_batch(device: str) -> Callable[[], Any]:
        x, alphas = image(device), torch.linspace(0, 1, count, device=device)
        return lambda: path.batch(x, alphas)

    def path_fold(device: str) -> Callable[[], Any]:
        gradients, weights = image(device, count), torch.rand(count, device=device)
        return lambda: path.fold(gradients, weights)

    def noise_batch(device: str) -> Callable[[], Any]:
        x = image(device)
        return lambda: noise.batch(x, 0, count, std=0.1, seed=0)

    def noise_fold(device: str) -> Callable[[], Any]:
        values = image(device, count)
        return lambda: noise.fold(values, count)

    def ranks_batch(device: str) -> Callable[[], Any]:
        x, other = image(device), image(device)
        ranking = torch.randperm(side * side, device=device).view(1, side, side)
        numbers = torch.linspace(0, side * side, count, device=device).long()
        return lambda: ranks.batch(x, other, ranking, numbers)

    def patches_gather(device: str) -> Callable[[], Any]:
        cached = torch.randn(1, 64, side // 4, side // 4, device=device).to(dtype)
        cached = cached.contiguous(memory_format=LAYOUTS[layout])
        starts = torch.randint(0, max(1, side // 4 - 12), (count, 2), device=device)
        return lambda: patches.gather(cached, starts, (12, 12))

    written = (count + 1) * one
    makers: dict[str, tuple[Callable[[str], Callable[[], Any]], int]] = {
        "masks.batch": (masks_batch, written),
        "windows.batch": (windows_batch, written),
        "path.batch": (path_batch, written),
        "path.fold": (path_fold, written),
        "noise.batch": (noise_batch, written),
        "noise.fold": (noise_fold, written),
        "ranks.batch": (ranks_batch, written + one + 8 * side * side),
        "patches.gather": (patches_gather, 2 * count * 64 * 144 * dtype.itemsize),
    }
    for op, (make, floor) in makers.items():
        # The host does the same whatever the size.
        host = (dtype, layout) == (FLOAT, "nchw") and count in (2, 64)
        yield Case(op, f"{count} rows", dtype, layout, count, floor, make, host=host)


def _map(dtype: torch.dtype, layer: tuple[int, ...], images: int, side: int) -> Case:
    shape = (images, *layer)

    def make(device: str) -> Callable[[], Any]:
        activations, gradients = (torch.randn(shape, device=device).to(dtype) for _ in range(2))
        return lambda: cam.map(activations, gradients, (side, side))

    elements = 2 * shape[0] * shape[1] * shape[2] * shape[3] + images * side * side
    name = "x".join(map(str, layer))
    host = dtype == FLOAT and images == 1 and layer in (LAYERS[0], (8, 7, 7))
    return Case("cam.map", name, dtype, "nchw", images, elements * dtype.itemsize, make, host=host)


def _attended(dtype: torch.dtype, shape: tuple[int, int, int, int]) -> Iterator[Case]:
    """What is read of one attention; without a log-sum-exp at hand it is a launch more."""
    tensor, numbers = shape[0] * shape[1] * shape[2] * shape[3] * dtype.itemsize, 4 * shape[0] * shape[1] * shape[2]

    def made(device: str, count: int) -> list[Tensor]:
        return [torch.randn(shape, device=device).to(dtype) for _ in range(count)]

    def gradient_received(device: str) -> Callable[[], Any]:
        g, v = made(device, 2)
        return lambda: attention.gradient_received(g, v)

    def received(device: str) -> Callable[[], Any]:
        q, k = made(device, 2)
        return lambda: attention.received(q, k)

    def relevance(device: str) -> Callable[[], Any]:
        q, k, v, g = made(device, 4)
        return lambda: attention.relevance(q, k, v, g)

    name = "x".join(map(str, shape))
    for op, make, floor in (
        ("attention.gradient_received", gradient_received, 2 * tensor + numbers),
        ("attention.received", received, 4 * tensor + 3 * numbers),
        ("attention.relevance", relevance, 6 * tensor + 3 * numbers),
    ):
        yield Case(op, name, dtype, "", shape[0], floor, make, host=shape[0] == 1 and dtype == FLOAT)


def _accumulated(count: int, side: int) -> Case:
    def make(device: str) -> Callable[[], Any]:
        scores = torch.rand(count, 1, device=device)
        return lambda: masks.accumulate(scores, 0, (side, side))

    cell = -(-side // 7)
    floor = 4 * (count + 49 * cell * cell)
    return Case("masks.accumulate", f"{count} rows", FLOAT, "", count, floor, make, host=count in (2, 64))


def _windows_folded(side: int) -> Case:
    window, stride = (3, side // 14, side // 14), (3, side // 28 or 1, side // 28 or 1)
    count = windows.counts((3, side, side), window, stride)
    number = count[0] * count[1] * count[2]

    def make(device: str) -> Callable[[], Any]:
        differences = torch.randn(number, 1, device=device)
        return lambda: windows.fold(differences, (3, side, side), window=window, stride=stride)

    floor = 4 * (number + 3 * side * side)
    return Case("windows.fold", f"{number} windows", FLOAT, "", number, floor, make, host=True)


def _variants(layers: tuple[tuple[int, ...], ...]) -> Iterator[Case]:
    """Other blocks than the shipped ones, and cam.map always in two launches."""
    tuning, device = kernel_module("_tuning"), torch.device("cuda" if torch.cuda.is_available() else "cpu")
    trials = (
        ("path.fold", FLOAT, {"block": 128, "unroll": 8}),
        ("path.fold", HALF, {"block": 128, "unroll": 16}),
        ("noise.fold", FLOAT, {"block": 128, "unroll": 8}),
        ("noise.fold", HALF, {"block": 128, "unroll": 16}),
        ("masks.batch", FLOAT, {"items": 4}),
        ("masks.batch", FLOAT, {"rows": 16}),
        ("path.batch", FLOAT, {"items": 8}),
    )
    for op, dtype, blocks in trials:
        usual = tuning.setting(op, 3 * 224 * 224, device)
        for count in (64, 256):
            case = next(case for case in _sweeps(dtype, "nchw", count, 224) if case.op == op)
            text = " ".join(f"{name}={value}" for name, value in blocks.items())
            yield case._replace(variant=text, under=(partial(tuning.forced, op, {**usual, **blocks}),), host=False)
    for layer in layers:
        for images in (1, 8):
            case = _map(FLOAT, layer, images, 224)
            for text, sizes in (
                ("64 splits", {"ONE_LAUNCH_ELEMENTS": 0, "SPLIT_ELEMENTS": layer[0] * layer[1] * layer[2] // 64}),
                ("one launch", {"ONE_LAUNCH_IMAGES": 1}),
            ):
                planned = partial(mock.patch.multiple, kernel_module("cam"), **sizes)
                yield case._replace(variant=text, under=(planned,), host=False)
