"""Grad-CAM's epilogue: channel weights, weighted sum, ReLU, bilinear resize, min-max, overlay; one or two launches."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastsal_kernels._launch import block_size, cdiv, launch
from fastsal_kernels._numerics import source

EPSILON = tl.constexpr(1e-8)
PROGRAMS = 132
"""Of a first launch that sums channels, for all images together: an H100 has as many multiprocessors."""
ONE_LAUNCH_IMAGES = 2 * PROGRAMS
"""From so many images on, a program for each fills the device, and one launch does all."""
ONE_LAUNCH_ELEMENTS = 2**14
"""So does it where one image's activations are a few steps of a program."""
SPLIT_ELEMENTS = 2**16
"""Most activations for a program of the first launch, as far as there are channels."""


@triton.jit
def _channel_sum(
    a_ptr, g_ptr, low, high, step_ac, step_ap, step_gc, step_gp, positions, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr
):
    """sum over channels low to high of mean(gradient) * activation, [BLOCK_P]."""
    p = tl.arange(0, BLOCK_P)
    total = tl.zeros([BLOCK_C, BLOCK_P], tl.float32)
    for c0 in range(low, high, BLOCK_C):
        c = c0 + tl.arange(0, BLOCK_C)
        valid = (c < high)[:, None] & (p < positions)[None, :]
        a = tl.load(a_ptr + c[:, None] * step_ac + p[None, :] * step_ap, mask=valid, other=0.0).to(tl.float32)
        g = tl.load(g_ptr + c[:, None] * step_gc + p[None, :] * step_gp, mask=valid, other=0.0).to(tl.float32)
        weight = tl.sum(g, axis=1) / positions
        total += weight[:, None] * a
    return tl.sum(total, axis=0)


@triton.jit
def _bilinear(cam, y, x, height, width, scale_h, scale_w, BLOCK_Y: tl.constexpr, BLOCK_X: tl.constexpr):
    """Samples [BLOCK_Y, BLOCK_X] of the map in registers at output rows y and columns x."""
    cy = source(y, scale_h, tl.cast(height - 1, tl.float32), False)
    cx = source(x, scale_w, tl.cast(width - 1, tl.float32), False)
    y0 = cy.to(tl.int32)
    x0 = cx.to(tl.int32)
    y1 = tl.minimum(y0 + 1, height - 1)
    x1 = tl.minimum(x0 + 1, width - 1)
    wy = (cy - y0.to(tl.float32))[:, None]
    wx = (cx - x0.to(tl.float32))[None, :]
    flat: tl.constexpr = BLOCK_Y * BLOCK_X
    shape: tl.constexpr = [BLOCK_Y, BLOCK_X]
    v00 = tl.reshape(tl.gather(cam, tl.reshape(y0[:, None] * width + x0[None, :], [flat]), 0), shape)
    v01 = tl.reshape(tl.gather(cam, tl.reshape(y0[:, None] * width + x1[None, :], [flat]), 0), shape)
    v10 = tl.reshape(tl.gather(cam, tl.reshape(y1[:, None] * width + x0[None, :], [flat]), 0), shape)
    v11 = tl.reshape(tl.gather(cam, tl.reshape(y1[:, None] * width + x1[None, :], [flat]), 0), shape)
    left = v00 + wy * (v10 - v00)
    right = v01 + wy * (v11 - v01)
    return left + wx * (right - left)


@triton.jit
def _candidate(i, size, scale):
    """The i-th output sample at which a linear resize can have an extreme: first or last of a source interval.

    Between two source samples the resized map is monotone along a dimension, so its extremes lie at the outermost
    output samples of an interval. Rounding of an interval's end can only add a sample that the map has anyway, and
    the two neighbours taken beside each end cover it.
    """
    start = ((i // 4).to(tl.float32) - 0.5) / scale - 0.5
    sample = tl.ceil(start).to(tl.int32) - 2 + i % 4
    return tl.minimum(tl.maximum(sample, 0), size - 1)


@triton.jit
def _extremes(cam, height, width, size_h, size_w, scale_h, scale_w, BLOCK_Y: tl.constexpr, BLOCK_X: tl.constexpr):
    """Smallest and largest finite-or-infinite value of the resized map; NaN is passed over."""
    low = tl.full([BLOCK_Y, BLOCK_X], float("inf"), tl.float32)
    high = tl.full([BLOCK_Y, BLOCK_X], float("-inf"), tl.float32)
    for i0 in range(0, 4 * height + 4, BLOCK_Y):
        y = _candidate(i0 + tl.arange(0, BLOCK_Y), size_h, scale_h)
        for j0 in range(0, 4 * width + 4, BLOCK_X):
            x = _candidate(j0 + tl.arange(0, BLOCK_X), size_w, scale_w)
            v = _bilinear(cam, y, x, height, width, scale_h, scale_w, BLOCK_Y, BLOCK_X)
            low = tl.minimum(low, tl.where(v == v, v, float("inf")))
            high = tl.maximum(high, tl.where(v == v, v, float("-inf")))
    return tl.min(tl.min(low, axis=1), axis=0), tl.max(tl.max(high, axis=1), axis=0)


@triton.jit
def _write(
    cam,
    low,
    high,
    out_ptr,
    image_ptr,
    colormap_ptr,
    b,
    y,
    x,
    height,
    width,
    size_h,
    size_w,
    scale_h,
    scale_w,
    alpha,
    NORMALIZE: tl.constexpr,
    OVERLAY: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
):
    """Resize, normalise and store one tile, as a map or blended over the image."""
    v = _bilinear(cam, y, x, height, width, scale_h, scale_w, BLOCK_Y, BLOCK_X)
    if NORMALIZE:
        v = (v - low) / (high - low + EPSILON)
        v = tl.maximum(v, 0.0, propagate_nan=tl.PropagateNan.ALL)
        v = tl.minimum(v, 1.0, propagate_nan=tl.PropagateNan.ALL)
    valid = (y < size_h)[:, None] & (x < size_w)[None, :]
    pixel = (b * size_h + y[:, None]) * size_w + x[None, :]
    if OVERLAY:
        known = v == v
        level = (tl.where(known, v, 0.0) * 255.0 + 0.5).to(tl.int32)
        for channel in tl.static_range(3):
            base = tl.load(image_ptr + pixel * 3 + channel, mask=valid, other=0)
            shade = base.to(tl.float32)
            colour = tl.load(colormap_ptr + level * 3 + channel).to(tl.float32)
            blended = (shade + alpha * (colour - shade) + 0.5).to(tl.int32).to(tl.uint8)
            tl.store(out_ptr + pixel * 3 + channel, tl.where(known, blended, base), mask=valid)
    else:
        tl.store(out_ptr + pixel, v.to(out_ptr.dtype.element_ty), mask=valid)


@triton.jit(do_not_specialize=["channels_per_split", "channels", "positions"])
def partial_kernel(
    part_ptr,
    a_ptr,
    g_ptr,
    channels,
    channels_per_split,
    positions,
    step_ab,
    step_ac,
    step_ap,
    step_gb,
    step_gc,
    step_gp,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """part[b, split] = channel sum over the channels of one split. Bytes: activations and gradients once."""
    b = tl.cast(tl.program_id(0), tl.int64)
    low = tl.program_id(1) * channels_per_split
    high = tl.minimum(low + channels_per_split, channels)
    total = _channel_sum(
        a_ptr + b * step_ab,
        g_ptr + b * step_gb,
        low,
        high,
        step_ac,
        step_ap,
        step_gc,
        step_gp,
        positions,
        BLOCK_C,
        BLOCK_P,
    )
    p = tl.arange(0, BLOCK_P)
    tl.store(part_ptr + (b * tl.num_programs(1) + tl.program_id(1)) * BLOCK_P + p, total)


@triton.jit(do_not_specialize=["splits", "height", "width", "size_h", "alpha"])
def finish_kernel(
    out_ptr,
    part_ptr,
    image_ptr,
    colormap_ptr,
    splits,
    height,
    width,
    size_h,
    size_w,
    scale_h,
    scale_w,
    alpha,
    RELU: tl.constexpr,
    NORMALIZE: tl.constexpr,
    OVERLAY: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
):
    """Splits summed in a fixed order, then one tile of the result. Bytes: the parts per tile, and the result."""
    b = tl.cast(tl.program_id(0), tl.int64)
    p = tl.arange(0, BLOCK_P)
    cam = tl.zeros([BLOCK_P], tl.float32)
    for split in range(0, splits):
        cam += tl.load(part_ptr + (b * splits + split) * BLOCK_P + p)
    if RELU:
        cam = tl.maximum(cam, 0.0, propagate_nan=tl.PropagateNan.ALL)
    low = 0.0
    high = 1.0
    if NORMALIZE:
        low, high = _extremes(cam, height, width, size_h, size_w, scale_h, scale_w, BLOCK_Y, BLOCK_X)
    y = tl.program_id(1) * BLOCK_Y + tl.arange(0, BLOCK_Y)
    x = tl.program_id(2) * BLOCK_X + tl.arange(0, BLOCK_X)
    _write(
        cam,
        low,
        high,
        out_ptr,
        image_ptr,
        colormap_ptr,
        b,
        y,
        x,
        height,
        width,
        size_h,
        size_w,
        scale_h,
        scale_w,
        alpha,
        NORMALIZE,
        OVERLAY,
        BLOCK_Y,
        BLOCK_X,
    )


@triton.jit(do_not_specialize=["channels", "height", "width", "size_h", "alpha"])
def fused_kernel(
    out_ptr,
    a_ptr,
    g_ptr,
    image_ptr,
    colormap_ptr,
    channels,
    step_ab,
    step_ac,
    step_ap,
    step_gb,
    step_gc,
    step_gp,
    height,
    width,
    size_h,
    size_w,
    scale_h,
    scale_w,
    alpha,
    RELU: tl.constexpr,
    NORMALIZE: tl.constexpr,
    OVERLAY: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
):
    """The whole epilogue of one image in one program. Bytes: activations, gradients and the result once."""
    b = tl.cast(tl.program_id(0), tl.int64)
    cam = _channel_sum(
        a_ptr + b * step_ab,
        g_ptr + b * step_gb,
        0,
        channels,
        step_ac,
        step_ap,
        step_gc,
        step_gp,
        height * width,
        BLOCK_C,
        BLOCK_P,
    )
    if RELU:
        cam = tl.maximum(cam, 0.0, propagate_nan=tl.PropagateNan.ALL)
    low = 0.0
    high = 1.0
    if NORMALIZE:
        low, high = _extremes(cam, height, width, size_h, size_w, scale_h, scale_w, BLOCK_Y, BLOCK_X)
    for y0 in range(0, size_h, BLOCK_Y):
        y = y0 + tl.arange(0, BLOCK_Y)
        for x0 in range(0, size_w, BLOCK_X):
            x = x0 + tl.arange(0, BLOCK_X)
            _write(
                cam,
                low,
                high,
                out_ptr,
                image_ptr,
                colormap_ptr,
                b,
                y,
                x,
                height,
                width,
                size_h,
                size_w,
                scale_h,
                scale_w,
                alpha,
                NORMALIZE,
                OVERLAY,
                BLOCK_Y,
                BLOCK_X,
            )


def _steps(tensor: Tensor) -> tuple[Tensor, list[int]]:
    """Strides over batch, channel and flattened position; a copy where positions have no common stride."""
    if tensor.stride(2) != tensor.shape[3] * tensor.stride(3) and tensor.shape[2] > 1:
        tensor = tensor.contiguous()
    return tensor, [tensor.stride(0), tensor.stride(1), tensor.stride(3) if tensor.shape[3] > 1 else tensor.stride(2)]


def _epilogue(
    out: Tensor,
    activations: Tensor,
    gradients: Tensor,
    size: Sequence[int],
    relu: bool,
    normalize: bool,
    image: Tensor | None = None,
    colormap: Tensor | None = None,
    alpha: float = 0.0,
) -> None:
    if activations.dim() == 3:
        activations, gradients, size = activations[:, :, None], gradients[:, :, None], [1, *size]
    batch, channels, height, width = activations.shape
    activations, steps_a = _steps(activations)
    gradients, steps_g = _steps(gradients)
    positions = height * width
    block_p = block_size(positions, positions * 2)
    block_c = block_size(channels, max(1, 4096 // block_p))
    tile = {"BLOCK_Y": block_size(size[0], 16), "BLOCK_X": block_size(size[1], 64)}
    modes = {"RELU": relu, "NORMALIZE": normalize, "OVERLAY": image is not None}
    ends = (height, width, *size, height / size[0], width / size[1], alpha)
    pictures = (out if image is None else image.contiguous(), out if colormap is None else colormap.contiguous())
    if batch >= ONE_LAUNCH_IMAGES or channels * positions <= ONE_LAUNCH_ELEMENTS:
        launch(
            fused_kernel,
            (batch,),
            out,
            activations,
            gradients,
            *pictures,
            channels,
            *steps_a,
            *steps_g,
            *ends,
            **modes,
            BLOCK_C=block_c,
            BLOCK_P=block_p,
            **tile,
            num_warps=8,
        )
        return
    wanted = max(cdiv(PROGRAMS, batch), cdiv(channels * positions, SPLIT_ELEMENTS))
    splits = min(wanted, cdiv(channels, block_c))
    share = cdiv(cdiv(channels, splits), block_c) * block_c
    splits = cdiv(channels, share)
    parts = torch.empty((batch, splits, block_p), dtype=torch.float32, device=out.device)
    launch(
        partial_kernel,
        (batch, splits),
        parts,
        activations,
        gradients,
        channels,
        share,
        positions,
        *steps_a,
        *steps_g,
        BLOCK_C=block_c,
        BLOCK_P=block_p,
        num_warps=8,
    )
    launch(
        finish_kernel,
        (batch, cdiv(size[0], tile["BLOCK_Y"]), cdiv(size[1], tile["BLOCK_X"])),
        out,
        parts,
        *pictures,
        splits,
        *ends,
        **modes,
        BLOCK_P=block_p,
        **tile,
        num_warps=8,
    )


def map(out: Tensor, activations: Tensor, gradients: Tensor, size: Sequence[int], relu: bool, normalize: bool) -> None:
    """Launch ``fastsal::cam_map``."""
    _epilogue(out, activations, gradients, size, relu, normalize)


def overlay(out: Tensor, activations: Tensor, gradients: Tensor, image: Tensor, colormap: Tensor, alpha: float) -> None:
    """Launch ``fastsal::cam_overlay``."""
    _epilogue(out, activations, gradients, image.shape[1:3], True, True, image, colormap, alpha)
