"""Rules of matrix products, attention, normalisations and lookups."""

from __future__ import annotations

from dataclasses import replace

from fastsal.engine.reading.geometry.layout import Cells, Dim, Joined, Layout, Unknown, merged, plain, size_of, without
from fastsal.engine.reading.geometry.rule import Operation, rule


def _mixed(layout: Layout) -> Layout:
    """Cells that others came into."""
    return tuple(_mixed_dim(dim) for dim in layout)


def _mixed_dim(dim: Dim) -> Dim:
    return tuple(
        replace(factor, mixed=True)
        if isinstance(factor, Cells)
        else Joined(tuple(map(_mixed_dim, factor.parts)))
        if isinstance(factor, Joined)
        else factor
        for factor in dim
    )


def _product(call: Operation, left: object, right: object) -> Layout:
    """[..., n, k] times [..., k, m]."""
    one, other = call.known(left), call.known(right)
    if other is None:  # a linear map
        assert one is not None
        call.contracted(one, len(one) - 1)
        return (*without(one, [len(one) - 1]), plain(call.shape[-1]))
    if one is None:
        call.contracted(other, len(other) - 2)
        rest = without(other, [len(other) - 2])
        return (*rest[:-1], plain(call.shape[-2]), rest[-1])
    batch = merged(one[:-2], other[:-2])
    rows, columns = one[-2], other[-1]
    if not _axes_of(one[-1]) & (_axes_of(rows) | _axes_of(columns)):
        rows = without(one, [len(one) - 1])[-1]
        columns = without(other, [len(other) - 2])[-1]
    return _mixed((*batch, rows, columns))  # attention's rows look where the query does, whatever is summed over


def _axes_of(dim: Dim) -> set[tuple[int, int]]:
    """The axes of inputs that a dimension follows."""
    found: set[tuple[int, int]] = set()
    for factor in dim:
        if isinstance(factor, Cells):
            found |= {(look.input, look.axis) for look in factor.looks}
        elif isinstance(factor, Joined):
            found = found.union(*map(_axes_of, factor.parts))
    return found


@rule("mm", "bmm")
def _mm(call: Operation) -> Layout:
    return _product(call, call.at(0), call.at(1))


@rule("matmul")
def _matmul(call: Operation) -> Layout:
    left, right = call.at(0), call.at(1)
    if left.dim() < 2 or right.dim() < 2:
        raise Unknown
    return _product(call, left, right)


@rule("addmm", "baddbmm")
def _addmm(call: Operation) -> Layout:
    added = call.known(call.at(0))
    product = tuple(map(plain, call.shape))
    if call.known(call.at(1)) is not None or call.known(call.at(2)) is not None:
        product = _product(call, call.at(1), call.at(2))
    return product if added is None else merged(product, added)


@rule("linear", "_weight_int8pack_mm", "mkldnn_linear")
def _linear(call: Operation) -> Layout:
    layout = call.first
    call.contracted(layout, len(layout) - 1)
    return (*without(layout, [len(layout) - 1]), plain(call.shape[-1]))


@rule("mv", "dot")
def _mv(call: Operation) -> Layout:
    return without(call.first, [len(call.first) - 1])


@rule(
    "scaled_dot_product_attention", "_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_flash_attention"
)
@rule(
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_attention_math",
)
@rule("_scaled_dot_product_attention_math_for_mps", "_scaled_dot_product_fused_attention_overrideable")
def _attention(call: Operation) -> Layout:
    query = call.layout(call.at(0))
    others = [known for index in (1, 2) if (known := call.known(call.at(index))) is not None]
    batch = query[:-2]
    for other in others:
        batch = merged(batch, other[:-2])
    return (*batch, _mixed_dim(query[-2]), plain(call.shape[-1]))


@rule("_transformer_encoder_layer_fwd")
def _encoder_layer(call: Operation) -> Layout:
    layout = call.first
    call.contracted(layout, len(layout) - 1)
    return (*layout[:-1], plain(call.shape[-1]))


@rule("_native_multi_head_attention")
def _multi_head_attention(call: Operation) -> Layout:
    layout = call.first
    call.contracted(layout, len(layout) - 1)
    return (*_mixed(layout[:-1]), plain(call.shape[-1]))


@rule(
    "native_layer_norm", "layer_norm", "native_group_norm", "group_norm", "native_batch_norm", "batch_norm", "rms_norm"
)
@rule(
    "_native_batch_norm_legit",
    "_native_batch_norm_legit_no_training",
    "cudnn_batch_norm",
    "instance_norm",
    "_fused_rms_norm",
)
@rule("_batch_norm_with_update", "_batch_norm_no_update", "_batch_norm_impl_index", "miopen_batch_norm", "_weight_norm")
@rule(
    "_softmax", "softmax", "_log_softmax", "log_softmax", "_safe_softmax", "cumsum", "cumprod", "logcumsumexp", "renorm"
)
@rule("clone", "detach", "detach_", "alias", "lift_fresh", "lift_fresh_copy", "_to_copy", "to", "contiguous", "type_as")
@rule(
    "dropout",
    "native_dropout",
    "feature_dropout",
    "alpha_dropout",
    "_to_dense",
    "view_dtype",
    "fill_diagonal",
    "tril",
    "triu",
)
@rule(
    "quantize_per_tensor",
    "quantize_per_tensor_dynamic",
    "dequantize",
    "_autocast_to_reduced_precision",
    "local_response_norm",
)
@rule(
    "fake_quantize_per_tensor_affine",
    "_make_per_tensor_quantized_tensor",
    "contiguous_",
    "_conj",
    "resolve_conj",
    "resolve_neg",
)
def _same(call: Operation) -> Layout:
    return call.first


@rule("embedding")
def _embedding(call: Operation) -> Layout:
    return (*call.layout(call.at(1)), plain(call.shape[-1]))


@rule("copy_", "copy")
def _copy(call: Operation) -> Layout:
    source = call.known(call.at(1))
    return tuple(map(plain, call.shape)) if source is None else _over(source, call.shape)


def _over(layout: Layout, shape: tuple[int, ...]) -> Layout:
    padded = ((),) * (len(shape) - len(layout)) + layout
    return tuple(dim if size_of(dim) == size else plain(size) for dim, size in zip(padded, shape, strict=True))
