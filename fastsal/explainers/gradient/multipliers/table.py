"""Which function has which rule: a record for each overload, of ATen's elementwise functions one in common."""

from __future__ import annotations

import functools

import torch

from fastsal._torch import OpOverload
from fastsal.explainers.gradient.multipliers import extremes, norms, pointwise, products, softmax
from fastsal.explainers.gradient.multipliers.rule import Ends, Rule, all_vary, functional, names

aten = torch.ops.aten


_SOFTMAX, _LOG_SOFTMAX = Rule(softmax.softmax), Rule(softmax.log_softmax)
_ATTENTION = Rule(softmax.attention)
_BATCH_NORM = Rule(norms.batch_norm, norms.trains)
_POOL_2D, _POOL_3D = Rule(extremes.pooled(2)), Rule(extremes.pooled(3))
_MAX, _MIN = Rule(extremes.reduced(False)), Rule(extremes.reduced(True))
_LARGER, _SMALLER = Rule(extremes.of_two(False)), Rule(extremes.of_two(True))
_QUOTIENT = Rule(products.quotient, all_vary("other"))
_ADDCMUL = Rule(products.bilinear("tensor1", "tensor2"), all_vary("tensor1", "tensor2"))


def _bilinear(first: str, second: str) -> Rule:
    return Rule(products.bilinear(first, second), all_vary(first, second))


def _matrices(first: str, second: str) -> Rule:
    return Rule(products.matrices(first, second), all_vary(first, second))


def _none(ends: Ends) -> None:
    """No rule: the gradient is kept."""


_PLACES = Rule(_none, all_vary("grid"))

# By name of the function that writes to nothing; where overloads differ, by name and overload.
RULES = {
    "mul": Rule(products.product, all_vary("self", "other")),
    "div.Tensor": _QUOTIENT,
    "true_divide.Tensor": _QUOTIENT,
    "mm": _matrices("self", "mat2"),
    "bmm": _matrices("self", "mat2"),
    "addmm": _matrices("mat1", "mat2"),
    "baddbmm": _matrices("batch1", "batch2"),
    "addbmm": _bilinear("batch1", "batch2"),
    "mv": _bilinear("self", "vec"),
    "addmv": _bilinear("mat", "vec"),
    "dot": _bilinear("self", "tensor"),
    "addr": _bilinear("vec1", "vec2"),
    "linear": _bilinear("input", "weight"),
    "convolution": _bilinear("input", "weight"),
    "linalg_cross": _bilinear("self", "other"),
    "addcmul": _ADDCMUL,
    "lerp.Tensor": Rule(pointwise.rescaled, all_vary("weight")),
    "glu": Rule(pointwise.gated),
    "_softmax": _SOFTMAX,
    "_safe_softmax": _SOFTMAX,
    "_log_softmax": _LOG_SOFTMAX,
    "logsumexp": Rule(softmax.logsumexp),
    "_scaled_dot_product_flash_attention_for_cpu": _ATTENTION,
    "_scaled_dot_product_flash_attention": _ATTENTION,
    "_scaled_dot_product_efficient_attention": _ATTENTION,
    "_scaled_dot_product_cudnn_attention": _ATTENTION,
    "_scaled_dot_product_fused_attention_overrideable": _ATTENTION,
    "native_layer_norm": Rule(norms.layer_norm),
    "_fused_rms_norm": Rule(norms.rms_norm),
    "native_group_norm": Rule(norms.group_norm),
    "native_batch_norm": _BATCH_NORM,
    "cudnn_batch_norm": _BATCH_NORM,
    "miopen_batch_norm": _BATCH_NORM,
    "_native_batch_norm_legit.no_stats": _BATCH_NORM,
    "var.correction": Rule(norms.variance(root=False, mean=False)),
    "std.correction": Rule(norms.variance(root=True, mean=False)),
    "var_mean.correction": Rule(norms.variance(root=False, mean=True)),
    "std_mean.correction": Rule(norms.variance(root=True, mean=True)),
    "grid_sampler_2d": _PLACES,
    "grid_sampler_3d": _PLACES,
    "cudnn_grid_sampler": _PLACES,
    "linalg_vector_norm": Rule(norms.vector_norm),
    "max.dim": _MAX,
    "max": _MAX,
    "amax": _MAX,
    "min.dim": _MIN,
    "min": _MIN,
    "amin": _MIN,
    "maximum": _LARGER,
    "fmax": _LARGER,
    "minimum": _SMALLER,
    "fmin": _SMALLER,
    "max_pool2d_with_indices": _POOL_2D,
    "max_pool3d_with_indices": _POOL_3D,
    "adaptive_max_pool2d": _POOL_2D,
    "adaptive_max_pool3d": _POOL_3D,
    "fractional_max_pool2d": _POOL_2D,
    "fractional_max_pool3d": _POOL_3D,
}

ELEMENTWISE = Rule(pointwise.rescaled)
"""Of whatever ATen says is elementwise, but for the two sets below."""

UNTAGGED = names("hardswish log_sigmoid_forward _prelu_kernel rrelu_with_noise")
"""Elementwise, without ATen's saying so."""

LINEAR = names(
    """add sub rsub neg negative positive lerp deg2rad rad2deg clone copy contiguous lift_fresh nan_to_num real imag
    _to_copy _conj _conj_physical conj_physical complex view_as_real view_as_complex expand repeat repeat_interleave cat
    stack sum mean nansum cumsum trace roll flip rot90 tril triu constant_pad_nd reflection_pad1d reflection_pad2d
    reflection_pad3d replication_pad1d replication_pad2d replication_pad3d pixel_shuffle pixel_unshuffle channel_shuffle
    upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d _upsample_nearest_exact2d
    _upsample_nearest_exact3d upsample_linear1d upsample_bilinear2d upsample_trilinear3d upsample_bicubic2d
    _upsample_bilinear2d_aa _upsample_bicubic2d_aa avg_pool2d avg_pool3d _adaptive_avg_pool2d _adaptive_avg_pool3d
    im2col col2im native_dropout diag_embed block_diag where masked_fill masked_select masked_scatter index
    _unsafe_index index_select gather take index_put _unsafe_index_put _index_put_impl index_add index_copy index_fill
    scatter scatter_add slice_scatter select_scatter diagonal_scatter as_strided_scatter embedding
    max_unpool2d max_unpool3d unfold_copy unsafe_split unsafe_split_with_sizes split_with_sizes_copy _unsafe_view
    _reshape_alias _fft_r2c _fft_c2r _fft_c2c mul div true_divide fill zero _sparse_mm _pack_padded_sequence
    _batch_norm_with_update _native_batch_norm_legit_no_training _native_batch_norm_legit mkldnn_convolution
    max_pool2d_with_indices """
)
"""Linear in each argument that may vary, so that the gradient is exact where one of them does."""

BROKEN = names("sign sgn round floor ceil trunc frac fmod remainder heaviside floor_divide copysign nextafter angle")
"""Functions that jump: they keep their gradient, since a quotient by a difference across the jump has no bound."""

TESTS = names(
    """eq ne lt le gt ge isnan isinf isfinite isposinf isneginf signbit gcd lcm logical_and logical_not logical_or
    logical_xor bitwise_and bitwise_not bitwise_or bitwise_xor bitwise_left_shift bitwise_right_shift"""
)
"""Whose results carry no gradient."""


def name_of(func: OpOverload) -> str:
    """Of the function that writes to nothing."""
    return functional(func)._schema.name.split("::")[1]


@functools.cache
def rule_of(func: OpOverload) -> Rule | None:
    """The rule of an overload."""
    if func.namespace != "aten":
        return None
    base = functional(func)
    name = name_of(func)
    found = RULES.get(f"{name}.{base._overloadname}", RULES.get(name))
    alike = (torch.Tag.pointwise in base.tags and "backward" not in name) or name in UNTAGGED
    return ELEMENTWISE if found is None and alike and name not in LINEAR | BROKEN | TESTS else found


@functools.cache
def is_linear(func: OpOverload) -> bool:
    """Whether the gradient of an overload without a rule is exact: a view, or one of :data:`LINEAR`."""
    returned = [result.alias_info for result in func._schema.returns]
    view = any(info is not None and not info.is_write for info in returned)
    return view or name_of(func) in LINEAR or rule_of(func) is not None
