"""Rules of convolutions, pools and resizing: cells that are made of their neighbourhoods."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from fastsal.engine.reading.geometry.layout import (
    Cells,
    Dim,
    Factor,
    Layout,
    Plain,
    alone,
    lost,
    plain,
    size_of,
    spaced,
    tidy,
    without,
)
from fastsal.engine.reading.geometry.rule import Operation, each_dimension, rule


def _windowed(dim: Dim, extent: int, step: float, start: float) -> Dim:
    """Windows over a dimension; lost where it is no row of cells.

    Windows that leave as many as there were, one step apart, leave a list of cells in its order.
    """
    if extent == size_of(dim) and step == 1 and start == 0:
        return dim
    cells = alone(dim)
    if cells is None or cells.roll:
        known = all(isinstance(factor, Plain) and not factor.lost for factor in dim)
        return plain(extent) if known else lost(extent)
    return spaced(cells, extent, step, start)


@rule("convolution", "conv1d", "conv2d", "conv3d", "_convolution", "cudnn_convolution", "mkldnn_convolution")
@rule(
    "convolution_overrideable",
    "slow_conv2d_forward",
    "thnn_conv2d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
)
@rule("_slow_conv2d_forward", "slow_conv3d", "slow_conv3d_forward", "_conv_depthwise2d", "conv_depthwise3d")
def _convolution(call: Operation) -> Layout:
    names = {argument.name for argument in call.func._schema.arguments}
    weight, layout, shape = call.at(1), call.first, call.shape
    if call.known(weight) is not None:  # a filter that the model makes of its input
        return (layout[0], plain(shape[1]), *map(lost, shape[2:]))
    count = len(shape) - 2
    transposed = bool(call["transposed"]) if "transposed" in names else "transpose" in call.func._schema.name
    stride = each_dimension(call["stride"], count)
    padding = call["padding"]
    dilation = each_dimension(call["dilation"], count) if "dilation" in names else [1] * count
    kernel = list(weight.shape[2:])
    if isinstance(padding, str):
        padding = [d * (k - 1) // 2 if padding == "same" else 0 for d, k in zip(dilation, kernel, strict=True)]
    padding = each_dimension(padding, count)
    channels = shape[1]
    groups = call["groups"] if "groups" in names else 1
    depthwise = groups > 1 and groups == size_of(layout[1]) == channels
    if not depthwise:
        call.contracted(layout, 1)
        layout = without(layout, [1], keep=True)
    found: list[Dim] = []
    for axis in range(count):
        k, s, p, d = kernel[axis], stride[axis], padding[axis], dilation[axis]
        dim = layout[2 + axis]
        if k == 1 and s == 1 and p == 0:
            found.append(dim)
        elif transposed:
            found.append(_windowed(dim, shape[2 + axis], 1 / s, (p - d * (k - 1) / 2) / s))
        else:
            found.append(_windowed(dim, shape[2 + axis], s, d * (k - 1) / 2 - p))
    return (layout[0], layout[1] if depthwise else plain(channels), *found)


@rule("max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d", "max_pool2d_with_indices")
@rule("max_pool3d_with_indices", "max_pool1d_with_indices", "mkldnn_max_pool2d", "mkldnn_max_pool3d", "lp_pool2d")
def _pool(call: Operation) -> Layout:
    names = {argument.name for argument in call.func._schema.arguments}
    layout, shape = call.first, call.shape
    kernel = call["kernel_size"]
    count = len(kernel) if isinstance(kernel, Sequence) and len(kernel) > 1 else int(_pooled_dimensions(call))
    kernel = each_dimension(kernel, count)
    stride = each_dimension(call["stride"], count) if call["stride"] else kernel
    padding = each_dimension(call["padding"], count)
    dilation = each_dimension(call["dilation"], count) if "dilation" in names else [1] * count
    lead = len(shape) - count
    found = [
        _windowed(
            layout[lead + axis],
            shape[lead + axis],
            stride[axis],
            dilation[axis] * (kernel[axis] - 1) / 2 - padding[axis],
        )
        for axis in range(count)
    ]
    return (*layout[:lead], *found)


def _pooled_dimensions(call: Operation) -> str:
    return next(letter for letter in call.func._schema.name if letter in "123")


@rule(
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "_adaptive_avg_pool2d", "_adaptive_avg_pool3d"
)
@rule("adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d", "mkldnn_adaptive_avg_pool2d")
@rule(
    "upsample_nearest1d",
    "upsample_nearest2d",
    "upsample_nearest3d",
    "_upsample_nearest_exact1d",
    "_upsample_nearest_exact2d",
)
@rule(
    "_upsample_nearest_exact3d",
    "upsample_linear1d",
    "upsample_bilinear2d",
    "upsample_bicubic2d",
    "upsample_trilinear3d",
)
@rule("_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa", "area")
def _resize(call: Operation) -> Layout:
    names = {argument.name for argument in call.func._schema.arguments}
    layout, shape = list(call.first), call.shape
    corners = bool(call["align_corners"]) if "align_corners" in names else False
    count = int(_pooled_dimensions(call))
    for dim in range(len(shape) - count, len(shape)):
        before, now = size_of(layout[dim]), shape[dim]
        if before == now:
            continue
        cells = alone(layout[dim])
        if cells is None or cells.roll:
            layout[dim] = _windowed(layout[dim], now, before / now, 0)
        elif corners and now > 1:
            layout[dim] = spaced(cells, now, (before - 1) / (now - 1), 0, resampled=True)
        else:
            ratio = before / now
            layout[dim] = spaced(cells, now, ratio, (ratio - 1) / 2, resampled=True)
    return tuple(layout)


@rule("im2col")
def _im2col(call: Operation) -> Layout:
    layout = call.first
    value: Tensor = call.at(0)
    lead = () if value.dim() == 3 else (layout[0],)
    kernel, dilation, padding, stride = (
        each_dimension(call[name], 2) for name in ("kernel_size", "dilation", "padding", "stride")
    )
    found: list[Factor] = []
    count = 1
    for axis in range(2):
        extent = value.shape[-2 + axis]
        windows = (extent + 2 * padding[axis] - dilation[axis] * (kernel[axis] - 1) - 1) // stride[axis] + 1
        count *= windows
        dim = layout[len(layout) - 2 + axis]
        found += _windowed(dim, windows, stride[axis], dilation[axis] * (kernel[axis] - 1) / 2 - padding[axis])
    return (*lead, plain(call.shape[-2]), tidy(found) if size_of(tuple(found)) == count else lost(count))


@rule("col2im")
def _col2im(call: Operation) -> Layout:
    layout, shape = call.first, call.shape
    lead = () if len(shape) == 3 else (layout[0],)
    kernel, dilation, padding, stride = (
        each_dimension(call[name], 2) for name in ("kernel_size", "dilation", "padding", "stride")
    )
    spots = layout[-1]
    if len(spots) != 2 or not all(isinstance(factor, Cells) for factor in spots):
        return (*lead, plain(shape[-3]), *map(lost, shape[-2:]))
    found = []
    for axis in range(2):
        half = dilation[axis] * (kernel[axis] - 1) / 2 - padding[axis]
        found.append(_windowed((spots[axis],), shape[-2 + axis], 1 / stride[axis], -half / stride[axis]))
    return (*lead, plain(shape[-3]), *found)


@rule("pixel_shuffle")
def _pixel_shuffle(call: Operation) -> Layout:
    layout, shape, factor = call.first, call.shape, call.at(1)
    spots = [_windowed(layout[dim], shape[dim], 1 / factor, (1 / factor - 1) / 2) for dim in (-2, -1)]
    return (*layout[:-3], plain(shape[-3]), *spots)


@rule("pixel_unshuffle")
def _pixel_unshuffle(call: Operation) -> Layout:
    layout, shape, factor = call.first, call.shape, call.at(1)
    spots = [_windowed(layout[dim], shape[dim], factor, (factor - 1) / 2) for dim in (-2, -1)]
    return (*layout[:-3], plain(shape[-3]), *spots)


@rule("channel_shuffle", "native_channel_shuffle")
def _channel_shuffle(call: Operation) -> Layout:
    layout = call.first
    return (layout[0], plain(call.shape[1]), *layout[2:])


@rule("glu")
def _glu(call: Operation) -> Layout:
    layout = list(call.first)
    dim = call["dim"] % len(layout)
    layout[dim] = plain(call.shape[dim])
    return tuple(layout)
