"""What the native library has inside: the gate's signatures, and those of other usual sizes, dtypes and layers.

A process with Triton compiles what it meets; one without has what was compiled before.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch

from fastsal_gate.cases import DTYPES, cases_for, picture, repeat
from fastsal_kernels import cam, masks, noise, patches, path, windows
from fastsal_kernels._launch import Launch, recording
from fastsal_kernels._tuning import assumed

SIDES = (32, 64, 96)
"""Of images, as small as those that other blocks are for than for 224 and above."""
LAYERS = (4, 7, 10, 14, 20, 28)
"""Sides of layers, one for each block of up to 1024 positions."""
OUTPUTS = (1, 2, 4, 8, 16, 32)
"""One for each block of outputs."""
CHANNELS = (3, 16, 32, 64, 128, 256)


class Entry(NamedTuple):
    """A launch, and whether its own signature is worth its bytes beside the general one."""

    launch: Launch
    own: bool


@cache
def launches_for(architecture: int) -> list[Entry]:
    """Every launch that is compiled for an architecture."""
    found = [Entry(case.launch, True) for case in cases_for(architecture)]
    with assumed(f"sm_{architecture}"):
        for launched, own in ((_images, True), (_state, True), (_layers, False)):
            with recording() as launches:
                launched()
                found += [Entry(launch, own) for launch in launches]
    return found


def _images() -> None:
    for dtype in DTYPES.values():
        for side in (*SIDES, 224):
            x = picture(dtype, torch.contiguous_format, 1, 3, side, side)
            out = repeat(x, 16)
            window, stride = [3, side // 8, side // 8], [3, side // 16, side // 16]
            for baseline, fill in ((None, 0.0), (None, 0.5), (x, 0.0)):
                masks.batch(out, x, baseline, fill, 0, 0, 16, [7, 7], 0.5, True, None, None)
                windows.batch(out, x, baseline, fill, 0, 16, window, stride)
        for channels in CHANNELS:
            cached = picture(dtype, torch.channels_last, 1, channels, 56, 56)
            patch, result = (picture(dtype, torch.channels_last, 16, channels, side, side) for side in (10, 12))
            starts = torch.zeros(16, 2, dtype=torch.int64)
            patches.gather(result, cached, starts, [12, 12], patch, starts, 0.0)
            patches.gather(result, cached, starts, [12, 12], None, None, 0.0)
    for cells in (2, 12, 24):
        x = picture(torch.float32, torch.contiguous_format)
        masks.batch(repeat(x, 16), x, None, 0.0, 0, 0, 16, [cells, cells], 0.5, True, None, None)


def _state() -> None:
    """Folds, from nothing and onto earlier chunks."""
    alphas = torch.zeros(16)
    for dtype in DTYPES.values():
        x = picture(dtype, torch.contiguous_format)
        rows, total = repeat(x, 16), torch.empty(1, 3, 224, 224)
        for partial in (None, total):
            for baseline in (None, x):
                path.fold(torch.empty_like(x), rows, alphas, x, baseline, 0.5, partial)
            path.fold(total, rows, alphas, None, None, 0.0, partial)
            for second in (False, True):
                moments = torch.empty(1 + second, 1, 3, 224, 224)
                before = None if partial is None else moments
                noise.fold(moments, rows, 16, 0, before, second)
            for outputs in OUTPUTS:
                scores, state = torch.zeros(64, outputs, dtype=dtype), torch.empty(32 * 32, outputs, 49)
                before = None if partial is None else state
                masks.accumulate(state, scores, before, 0, 0, [224, 224], [7, 7], 0.5, None, None)
        for average in (False, True):
            differences, maps = torch.zeros(784, 7, dtype=dtype), torch.empty(7, 3, 224, 224)
            windows.fold(maps, differences, [3, 224, 224], [3, 15, 15], [3, 8, 8], average)


def _layers() -> None:
    for dtype in DTYPES.values():
        for side in LAYERS:
            a = picture(dtype, torch.contiguous_format, 1, 768, side, side)
            out = torch.empty(1, 224, 224, dtype=dtype)
            for relu, normalize in ((True, True), (True, False), (False, False)):
                cam.map(out, a, a, [224, 224], relu, normalize)
