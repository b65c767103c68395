"""What explainers read of attention, without the matrix queries × keys. Meaning: :mod:`fastsal.reference.attention`.

Bytes: each tensor of the arguments is read once where the tiles of one head fit the cache, [B, H, keys] or [B, H, N] in
float32 is written. Products of N × N × D: one for ``logsumexp``, ``received``, ``extreme`` and ``gradient_received``,
two for ``relevance``; where ``lse`` is not given, one more for it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastsal.ops._define import Op
from fastsal.ops._vmap import to_front
from fastsal.reference import attention as reference
from fastsal.reference._numerics import accumulation_dtype

WIDEST = 256
"""Head width that the kernels have tiles for."""


def _empty_rows(query: Tensor, *rest: Any) -> Tensor:
    return torch.empty(query.shape[:3], dtype=accumulation_dtype(query.dtype), device=query.device)


def _empty_columns(query: Tensor, key: Tensor, *rest: Any) -> Tensor:
    shape = (*query.shape[:2], key.shape[2])
    return torch.empty(shape, dtype=accumulation_dtype(query.dtype), device=query.device)


def _empty_extreme(query: Tensor, key: Tensor, weights: Tensor | None, *rest: Any) -> Tensor:
    shape = (query.shape[0], query.shape[2] if weights is None else key.shape[2])
    return torch.empty(shape, dtype=accumulation_dtype(query.dtype), device=query.device)


def _supported(*args: Any) -> str | None:
    tensors = [arg for arg in args if isinstance(arg, Tensor)]
    width = max(tensor.shape[3] for tensor in tensors[:2])
    if width > WIDEST:
        return f"the kernels are for heads of up to {WIDEST} channels, not {width}"
    if any(tensor.numel() == 0 for tensor in tensors):
        return "an argument is empty"
    return None


def _supported_relevance(query: Tensor, key: Tensor, value: Tensor, gradient: Tensor, *rest: Any) -> str | None:
    return _supported(query, key, *rest) or _supported(gradient, value, *rest)


def _vmap(op: str) -> Any:
    def rule(info: Any, dims: tuple[Any, ...], *args: Any) -> Any:
        size = info.batch_size
        batch = args[0].shape[0 if dims[0] is None else 1]
        merged = []
        for arg, dim in zip(args, dims, strict=True):
            front = to_front(arg, dim, size) if isinstance(arg, Tensor) else None
            # A mask may have one row for all examples.
            merged.append(arg if front is None else front.expand(size, batch, *front.shape[2:]).flatten(0, 1))
        result = _OPS[op].overload(*merged)
        return result.unflatten(0, (size, result.shape[0] // size)), 0

    return rule


_OPS = {
    "logsumexp": Op(
        "attention_logsumexp(Tensor query, Tensor key, Tensor? mask, bool causal, float scale) -> Tensor",
        reference=reference.logsumexp,
        kernel="attention.logsumexp",
        empty=_empty_rows,
        vmap=_vmap("logsumexp"),
        supported=_supported,
    ),
    "received": Op(
        "attention_received(Tensor query, Tensor key, Tensor weights, Tensor lse, Tensor? mask, bool causal, "
        "float scale) -> Tensor",
        reference=reference.received,
        kernel="attention.received",
        empty=_empty_columns,
        vmap=_vmap("received"),
        supported=_supported,
    ),
    "gradient_received": Op(
        "attention_gradient_received(Tensor gradient, Tensor value, Tensor weights, Tensor? mask, bool causal) "
        "-> Tensor",
        reference=reference.gradient_received,
        kernel="attention.gradient_received",
        empty=_empty_columns,
        vmap=_vmap("gradient_received"),
        supported=_supported,
    ),
    "relevance": Op(
        "attention_relevance(Tensor query, Tensor key, Tensor value, Tensor gradient, Tensor weights, Tensor lse, "
        "Tensor? mask, bool causal, float scale) -> Tensor",
        reference=reference.relevance,
        kernel="attention.relevance",
        empty=_empty_columns,
        vmap=_vmap("relevance"),
        supported=_supported_relevance,
    ),
    "extreme": Op(
        "attention_extreme(Tensor query, Tensor key, Tensor? weights, Tensor lse, Tensor? mask, bool causal, "
        "float scale, bool largest) -> Tensor",
        reference=reference.extreme,
        kernel="_heads.extreme",
        empty=_empty_extreme,
        vmap=_vmap("extreme"),
        supported=_supported,
    ),
}


def _pair(names: tuple[str, str], first: Tensor, second: Tensor, width: bool = True) -> None:
    """Queries or gradients [B, H, N, D], and keys or values of heads that divide them."""
    for name, tensor in zip(names, (first, second), strict=True):
        if tensor.dim() != 4 or not tensor.is_floating_point():
            given = f"{tensor.dtype} of shape {tuple(tensor.shape)}"
            raise ValueError(f"{name}: {given} is not floating point of shape [B, heads, N, D]")
    (batch, heads, _, channels), other = first.shape, second.shape
    if other[0] != batch or other[1] < 1 or heads % other[1] or (width and other[3] != channels):
        raise ValueError(
            f"{names[1]}: shape {tuple(other)} does not go with the {names[0]}'s {tuple(first.shape)}; "
            "as many examples and channels, and heads that divide its heads, would"
        )
    if second.dtype != first.dtype or second.device != first.device:
        given = f"{second.dtype} on {second.device}"
        raise ValueError(f"{names[1]}: {given} is not {first.dtype} on {first.device}, as the {names[0]}")


def _masked(mask: Tensor | None, query: Tensor, keys: int) -> Tensor | None:
    """With four dimensions, each that of [B, H, N, keys] or 1."""
    if mask is None:
        return None
    shape = (*query.shape[:3], keys)
    if mask.dtype != torch.bool and not mask.is_floating_point():
        raise TypeError(f"mask: {mask.dtype} is neither bool, True where a pair takes part, nor floating point")
    given = (1,) * (4 - mask.dim()) + tuple(mask.shape)
    if len(given) > 4 or any(size not in (1, full) for size, full in zip(given, shape, strict=True)):
        raise ValueError(f"mask: shape {tuple(mask.shape)} does not broadcast to {shape}")
    return mask.view(given)


def _weighed(weights: Tensor | None, query: Tensor) -> Tensor:
    """Expanded to [B, H, N], as a view; the mean where none are given."""
    dtype, shape = accumulation_dtype(query.dtype), tuple(query.shape[:3])
    if weights is None:
        return torch.full((), 1 / max(shape[2], 1), dtype=dtype, device=query.device).expand(shape)
    given = weights[:, None] if weights.dim() == 2 else weights
    try:
        return given.to(device=query.device, dtype=dtype).expand(shape)
    except RuntimeError:
        needed = f"{(shape[0], shape[2])} or {shape}"
        raise ValueError(f"weights: shape {tuple(weights.shape)} does not broadcast to {needed}") from None


def _scale(scale: float | None, query: Tensor) -> float:
    return float(query.shape[3]) ** -0.5 if scale is None else float(scale)


def logsumexp(
    query: Tensor, key: Tensor, *, mask: Tensor | None = None, causal: bool = False, scale: float | None = None
) -> Tensor:
    """Natural log-sum-exp of each query's logits, scale q kᵀ + mask; -inf where the mask leaves it no key.

    Args:
        query: [B, heads, N, D], floating point.
        key: [B, key heads, keys, D] of the same dtype; key heads divide the heads.
        mask: broadcasts to [B, heads, N, keys]: True where a pair takes part, or numbers that are added.
        causal: query i sees the keys up to i, as ``scaled_dot_product_attention`` aligns them.
        scale: of the products; None takes 1 / sqrt(D).

    Returns:
        [B, heads, N] in float32, in float64 for float64.

    Raises:
        TypeError, ValueError: for arguments outside of the above.
    """
    _pair(("query", "key"), query, key)
    return _OPS["logsumexp"](query, key, _masked(mask, query, key.shape[2]), causal, _scale(scale, query))


def received(
    query: Tensor,
    key: Tensor,
    weights: Tensor | None = None,
    *,
    lse: Tensor | None = None,
    mask: Tensor | None = None,
    causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """What each key receives of attention: the sum over queries of weights[i] A_ij.

    Args:
        query, key, mask, causal, scale: as in :func:`logsumexp`.
        weights: [B, N] or [B, heads, N]: of the queries; None takes their mean.
        lse: what :func:`logsumexp` gives for these arguments; None computes it.

    Returns:
        [B, heads, keys] in float32, in float64 for float64.

    Raises:
        TypeError, ValueError: for arguments outside of the above.
    """
    lse = _log(query, key, lse, mask, causal, scale)
    given = _masked(mask, query, key.shape[2])
    return _OPS["received"](query, key, _weighed(weights, query), lse, given, causal, _scale(scale, query))


def gradient_received(
    gradient: Tensor,
    value: Tensor,
    weights: Tensor | None = None,
    *,
    mask: Tensor | None = None,
    causal: bool = False,
) -> Tensor:
    """LeGrad's sum over queries of weights[i] relu(∂s/∂A_ij), with ∂s/∂A_ij = g_i · v_j: neither queries nor keys.

    Args:
        gradient: [B, heads, N, D] of the score by the attention's output A v.
        value: [B, value heads, keys, D] of the same dtype.
        weights: as in :func:`received`.
        mask, causal: leave out pairs; without them a pair that attention does not see counts too, as it does in the
            gradient by a stored matrix.

    Returns:
        [B, heads, keys] in float32, in float64 for float64.

    Raises:
        TypeError, ValueError: for arguments outside of the above.
    """
    _pair(("gradient", "value"), gradient, value)
    given = _masked(mask, gradient, value.shape[2])
    return _OPS["gradient_received"](gradient, value, _weighed(weights, gradient), given, causal)


def relevance(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    gradient: Tensor,
    weights: Tensor | None = None,
    *,
    lse: Tensor | None = None,
    mask: Tensor | None = None,
    causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """The sum over queries of weights[i] relu(A_ij ∂s/∂A_ij), with ∂s/∂A_ij = g_i · v_j.

    Args:
        query, key, weights, lse, mask, causal, scale: as in :func:`received`.
        value, gradient: as in :func:`gradient_received`.

    Returns:
        [B, heads, keys] in float32, in float64 for float64.

    Raises:
        TypeError, ValueError: for arguments outside of the above.
    """
    lse = _log(query, key, lse, mask, causal, scale)
    _pair(("query", "gradient"), query, gradient, width=False)
    _pair(("gradient", "value"), gradient, value)
    if gradient.shape[:3] != query.shape[:3] or value.shape[2] != key.shape[2]:
        given = f"{tuple(gradient.shape)} and {tuple(value.shape)}"
        raise ValueError(
            f"gradient, value: shapes {given} do not go with {query.shape[2]} queries and {key.shape[2]} keys of "
            f"{query.shape[1]} heads"
        )
    given_mask = _masked(mask, query, key.shape[2])
    weighed = _weighed(weights, query)
    return _OPS["relevance"](query, key, value, gradient, weighed, lse, given_mask, causal, _scale(scale, query))


def extreme(
    query: Tensor,
    key: Tensor,
    weights: Tensor | None = None,
    *,
    largest: bool = True,
    lse: Tensor | None = None,
    mask: Tensor | None = None,
    causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """Of F = max over heads of A: the sum over queries of weights[i] F_ij, or the sums of its rows.

    Args:
        query, key, lse, mask, causal, scale: as in :func:`received`.
        weights: [B, N], of the queries; None gives the sums of the rows, by which they are made to sum to 1.
        largest: False takes the least over heads.

    Returns:
        [B, keys], or [B, N] without weights, in float32, in float64 for float64.

    Raises:
        TypeError, ValueError: for arguments outside of the above.
    """
    lse = _log(query, key, lse, mask, causal, scale)
    given = _masked(mask, query, key.shape[2])
    if weights is not None:
        if tuple(weights.shape) != (query.shape[0], query.shape[2]):
            raise ValueError(f"weights: shape {tuple(weights.shape)} is not {(query.shape[0], query.shape[2])}")
        weights = weights.to(device=query.device, dtype=accumulation_dtype(query.dtype))
    return _OPS["extreme"](query, key, weights, lse, given, causal, _scale(scale, query), bool(largest))


def _log(
    query: Tensor, key: Tensor, lse: Tensor | None, mask: Tensor | None, causal: bool, scale: float | None
) -> Tensor:
    if lse is None:
        return logsumexp(query, key, mask=mask, causal=causal, scale=scale)
    _pair(("query", "key"), query, key)
    if lse.shape != query.shape[:3]:
        raise ValueError(f"lse: shape {tuple(lse.shape)} is not {tuple(query.shape[:3])}, a number for each query")
    return lse.to(accumulation_dtype(query.dtype))


def rows(
    query: Tensor,
    key: Tensor,
    index: Tensor,
    *,
    mask: Tensor | None = None,
    causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """Rows of A of chosen queries, from these queries alone; ``topk`` of it gives their strongest keys.

    Args:
        query, key, mask, causal, scale: as in :func:`logsumexp`.
        index: int64 [R], of queries.

    Returns:
        [B, heads, R, keys] in float32, in float64 for float64; zeros where the mask leaves a query no key.

    Raises:
        TypeError, ValueError: for arguments outside of the above.
    """
    _pair(("query", "key"), query, key)
    if index.dim() != 1 or index.dtype != torch.int64:
        raise ValueError(f"index: {index.dtype} of shape {tuple(index.shape)} is not int64 of shape [R]")
    dtype, keys = accumulation_dtype(query.dtype), key.shape[2]
    given = _masked(mask, query, keys)
    if given is not None and given.shape[2] > 1:
        given = given[:, :, index]
    if causal:
        below = torch.arange(keys, device=key.device) <= index[:, None]
        if given is None or given.dtype == torch.bool:
            given = below[None, None] if given is None else given & below
        else:
            given = torch.where(below, given, float("-inf"))
    chosen, wide = query[:, :, index].to(dtype), reference.grouped(key, query.shape[1]).to(dtype)
    count = index.shape[0]
    scores = reference.logits(chosen, wide, given, False, _scale(scale, query), 0, count)
    found = scores.softmax(-1)
    return found if given is None else torch.where((scores == float("-inf")).all(-1, keepdim=True), 0.0, found)
