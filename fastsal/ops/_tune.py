"""Measuring the blocks of the kernels on this machine's GPU, for a table that later processes read."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastsal.ops import masks, noise, path, windows
from fastsal.ops._backend import kernel_module, without_triton
from fastsal.ops._timing import device_seconds

GAIN = 0.97
"""Blocks are taken over the shipped ones where they need less than this share of the time."""
SHAPES = ((1, 3, 64, 64), (1, 3, 224, 224), (1, 3, 448, 448), (8, 3, 224, 224))
ROWS = 64
"""Altered copies per call, as in a sweep."""
CANDIDATES: dict[str, dict[str, tuple[int, ...]]] = {
    "masks.batch": {"rows": (8, 16, 32), "tile": (1024, 2048, 4096), "items": (4, 8, 16), "num_warps": (4, 8)},
    "masks.batch heavy": {"rows": (8, 16, 32), "tile": (1024, 2048), "items": (4, 8, 16), "num_warps": (4, 8)},
    "noise.batch": {"bytes": (1024, 2048, 4096), "num_warps": (2, 4, 8)},
    "noise.fold": {"block": (128, 256, 512, 1024), "unroll": (2, 4, 8), "num_warps": (1, 2, 4)},
    "path.batch": {"block": (512, 1024, 2048), "items": (8, 16, 32), "num_warps": (2, 4, 8)},
    "path.fold": {"block": (128, 256, 512, 1024), "unroll": (2, 4, 8), "num_warps": (1, 2, 4)},
    "windows.batch": {"rows": (8, 16, 32), "tile": (1024, 2048, 4096), "items": (4, 8, 16), "num_warps": (4, 8)},
    "windows.batch heavy": {"rows": (8, 16, 32), "tile": (1024, 2048), "items": (4, 8, 16), "num_warps": (4, 8)},
}


class Tuned(NamedTuple):
    """What was found for a kernel and a size.

    Attributes:
        kernel: its name in the table.
        bucket: power of two of the input's elements.
        blocks: the fastest.
        seconds: of a call with them.
        usual_seconds: of a call with the shipped ones.
    """

    kernel: str
    bucket: int
    blocks: dict[str, int]
    seconds: float
    usual_seconds: float


def _calls(x: Tensor, rows: int) -> dict[str, Callable[[], Tensor]]:
    """A call of each kernel for an image, in the form that explainers make."""
    window = (x.shape[1], *(max(1, size // 8) for size in x.shape[2:]))
    geometry: dict[str, Any] = {"window": window, "stride": (x.shape[1], *(max(1, w // 2) for w in window[1:]))}
    steps = torch.linspace(0, 1, rows, device=x.device)
    stacked = x.repeat(rows, 1, 1, 1)
    return {
        "masks.batch": lambda: masks.batch(x, 0, rows),
        "masks.batch heavy": lambda: masks.batch(x, 0, rows, baseline=x),
        "noise.batch": lambda: noise.batch(x, 0, rows, std=0.1, seed=0),
        "noise.fold": lambda: noise.fold(stacked, rows),
        "path.batch": lambda: path.batch(x, steps),
        "path.fold": lambda: path.fold(stacked, steps),
        "windows.batch": lambda: windows.batch(x, 0, rows, **geometry),
        "windows.batch heavy": lambda: windows.batch(x, 0, rows, baseline=x, **geometry),
    }


def _candidates(kernel: str) -> Iterator[dict[str, int]]:
    choices = CANDIDATES[kernel]
    for values in itertools.product(*choices.values()):
        yield dict(zip(choices, values, strict=True))


def tune(
    device: torch.device | str = "cuda",
    *,
    only: str = "",
    shapes: tuple[tuple[int, ...], ...] = SHAPES,
    rows: int = ROWS,
    seconds_of: Callable[[Callable[[], Any]], float] = lambda work: device_seconds(work).seconds,
    told: Callable[[Tuned], None] = lambda tuned: None,
) -> list[Tuned]:
    """The fastest blocks of each kernel for each size, in float32; those with another result are left out.

    Args:
        device: a CUDA device.
        only: kernels whose name contains this text.
        shapes: of the images.
        rows: altered copies per call.
        seconds_of: how a call is timed.
        told: called with each finding.

    Raises:
        RuntimeError: without a GPU or Triton.
    """
    device = torch.device(device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("no CUDA device: kernels are tuned on the GPU that they run on")
    if reason := without_triton():
        raise RuntimeError(reason)
    tuning = kernel_module("_tuning")
    found = []
    for shape in shapes:
        x = torch.randn(shape, device=device, generator=torch.Generator(device).manual_seed(0))
        for kernel, call in _calls(x, rows).items():
            if only in kernel:
                found.append(_best(tuning, kernel, call, x, seconds_of))
                told(found[-1])
    return found


def _best(
    tuning: Any, kernel: str, call: Callable[[], Tensor], x: Tensor, seconds_of: Callable[[Callable[[], Any]], float]
) -> Tuned:
    usual = tuning._shipped()["any"][kernel]["*"]
    with tuning.forced(kernel, usual):
        expected, usual_seconds = call(), seconds_of(call)
    best, least = usual, usual_seconds
    for blocks in _candidates(kernel):
        if blocks == usual:
            continue
        with tuning.forced(kernel, blocks):
            try:
                same = torch.equal(call(), expected)
                seconds = seconds_of(call) if same else float("inf")
            except RuntimeError:  # too many registers or too much shared memory for this device
                continue
        if seconds < least and seconds < GAIN * usual_seconds:
            best, least = blocks, seconds
    return Tuned(kernel, tuning.bucket(x.numel()), best, least, usual_seconds)


def save(found: list[Tuned], architecture: str, file: Path | None = None) -> Path:
    """Write what was found to a table, beside what that holds of other kernels, sizes and architectures.

    Returns:
        Where: the file, or the user's own table, which this and later processes read.
    """
    tuning = kernel_module("_tuning")
    target = Path(tuning.own_table()) if file is None else file
    try:
        table = json.loads(target.read_text())
    except (OSError, ValueError):
        table = {}
    part = table.setdefault(architecture, {})
    for tuned in found:
        part.setdefault(tuned.kernel, {})[str(tuned.bucket)] = tuned.blocks
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(table, indent=1, sort_keys=True) + "\n")
    tuning.forget()
    return target
