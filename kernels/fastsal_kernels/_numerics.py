"""Device functions that several kernels share."""

import triton
import triton.language as tl


@triton.jit
def border(position, last, MIRROR: tl.constexpr):
    """Bring a source coordinate into [0, last]: mirrored without repeating the edge, or clamped."""
    if MIRROR:
        return tl.maximum(last - tl.abs(last - tl.abs(position)), 0.0)
    else:
        return tl.minimum(tl.maximum(position, 0.0), last)


@triton.jit
def source(index, scale, last, MIRROR: tl.constexpr):
    """Source coordinate of an output sample, half-pixel centres."""
    return border((index.to(tl.float32) + 0.5) * scale - 0.5, last, MIRROR)


@triton.jit
def bit(word):
    """1.0 where a word is not 0: a compare and select, since an integer conversion runs at a quarter of the rate."""
    return tl.where(word != 0, 1.0, 0.0)


@triton.jit
def fill_like(x, value):
    """A block of ``value`` in the shape and dtype of x."""
    return (tl.zeros(x.shape, tl.float32) + value).to(x.dtype)
