"""What explainers read of attention A = softmax(scale q kᵀ + mask), without the matrix queries × keys.

The gradient by A is ∂s/∂A_ij = g_i · v_j, with g the gradient by the output A v. Sums over queries i, weighted by w_i:

- LeGrad's w_i relu(g_i · v_j): Bousselham et al., "LeGrad" (2024), equation 5;
- w_i A_ij, a row carried through the product of layers: Abnar, Zuidema, "Quantifying Attention Flow in Transformers"
  (ACL 2020), equation 1;
- w_i max_h A_ij and w_i min_h A_ij, with the sums of these rows: the same with other ways to fuse heads;
- w_i relu(A_ij g_i · v_j): Chefer, Gur, Wolf, "Generic Attention-model Explainability" (ICCV 2021), equation 5.

Queries are taken in tiles of ``ROWS``, which a derivative of any order computes again, so that memory grows with the
number of keys. Pairs that the mask forbids count for nothing; a query without any key has zeros for its row of A.

NaN: in a query's row it is in all sums over queries; one of a key, value or mask is in its own head's too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastsal.reference._numerics import accumulation_dtype

ROWS = 64
"""Queries at a time."""


class _Recomputed(torch.autograd.Function):
    """A function of tensors that keeps these alone: its derivatives run it again."""

    generate_vmap_rule = True

    @staticmethod
    def forward(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
        result: Tensor = function(*tensors)
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.function = inputs[0]
        ctx.save_for_backward(*inputs[1:])
        ctx.save_for_forward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        function, tensors, needed = ctx.function, ctx.saved_tensors, ctx.needs_input_grad[1:]

        def pulled(where: int) -> Callable[..., Tensor]:
            def pull(*values: Tensor) -> Tensor:
                *full, gradient = values

                def of_one(value: Tensor) -> Tensor:
                    made: Tensor = function(*full[:where], value, *full[where + 1 :])
                    return made

                result: Any = torch.func.vjp(of_one, full[where])
                found: Tensor = result[1](gradient)[0]
                return found

            return pull

        found = [
            recomputed(pulled(where), *tensors, gradients[0]) if need else None for where, need in enumerate(needed)
        ]
        return (None, *found)

    @staticmethod
    def jvp(ctx: Any, _: None, *tangents: Tensor | None) -> Tensor:
        tensors = ctx.saved_tensors
        where = [place for place, tensor in enumerate(tensors) if tensor.is_floating_point()]
        primals = [tensors[place] for place in where]
        directions = [
            torch.zeros_like(primal) if tangents[place] is None else tangents[place]
            for place, primal in zip(where, primals, strict=True)
        ]

        def of_numbers(*values: Tensor) -> Tensor:
            full = list(tensors)
            for place, value in zip(where, values, strict=True):
                full[place] = value
            result: Tensor = ctx.function(*full)
            return result

        # The pull-back of the pull-back pushes forward, as for the ops themselves.
        pulled: Any = torch.func.vjp(of_numbers, *primals)
        pushed: Any = torch.func.vjp(pulled[1], torch.zeros_like(pulled[0]))
        tangent: Tensor = pushed[1](tuple(directions))[0]
        return tangent


def recomputed(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """The function's value; nothing that it makes on the way is kept for a derivative."""
    result: Tensor = _Recomputed.apply(function, *tensors)  # type: ignore[no-untyped-call]
    return result


def grouped(tensor: Tensor, heads: int) -> Tensor:
    """Keys or values [B, key heads, N, D] for every query head, as a view where there are as many."""
    own = tensor.shape[1]
    return tensor if own == heads else tensor.repeat_interleave(heads // own, 1)


def allowed(
    mask: Tensor | None, causal: bool, start: int, stop: int, keys: int, device: torch.device
) -> tuple[Tensor | None, Tensor | None]:
    """(pairs that take part, what is added) of rows start to stop; None for all pairs, and for nothing."""
    part, added = None, None
    if mask is not None:
        rows = mask[:, :, start:stop] if mask.shape[2] > 1 else mask
        part, added = (rows, None) if rows.dtype == torch.bool else (rows != float("-inf"), rows)
    if causal:
        row = torch.arange(start, stop, device=device)[:, None]
        below = torch.arange(keys, device=device) <= row
        part = below if part is None else part & below
    return part, added


def logits(
    query: Tensor, key: Tensor, mask: Tensor | None, causal: bool, scale: float, start: int, stop: int
) -> Tensor:
    """scale q kᵀ + mask of rows start to stop, which ``query`` holds; -inf where a pair takes no part."""
    part, added = allowed(mask, causal, start, stop, key.shape[2], key.device)
    found = query @ key.mT * scale
    if added is not None:
        found = found + torch.where(added == float("-inf"), 0.0, added.to(found.dtype))
    return found if part is None else found.masked_fill(~part, float("-inf"))


def probabilities(scores: Tensor, lse: Tensor) -> Tensor:
    """exp(logits - lse); zeros where a query has no key."""
    return (scores - lse.masked_fill(lse == float("-inf"), 0.0)[..., None]).exp()


def logsumexp(query: Tensor, key: Tensor, mask: Tensor | None, causal: bool, scale: float) -> Tensor:
    """Natural log-sum-exp [B, H, N] of each query's logits; -inf where it has no key."""
    dtype, count = accumulation_dtype(query.dtype), query.shape[2]
    given = [query.to(dtype), grouped(key, query.shape[1]).to(dtype), *([] if mask is None else [mask])]

    def tile(start: int) -> Tensor:
        stop = min(start + ROWS, count)

        def work(q: Tensor, k: Tensor, *m: Tensor) -> Tensor:
            scores = logits(q[:, :, start:stop], k, m[0] if m else None, causal, scale, start, stop)
            top = scores.detach().amax(-1)
            top = torch.where(top == float("-inf"), 0.0, top)
            total = (scores - top[..., None]).exp().sum(-1)
            empty = total == 0
            return (top + torch.where(empty, 1.0, total).log()).masked_fill(empty, float("-inf"))

        return recomputed(work, *given)

    return torch.cat([tile(start) for start in range(0, count, ROWS)], 2)


def received(
    query: Tensor, key: Tensor, weights: Tensor, lse: Tensor, mask: Tensor | None, causal: bool, scale: float
) -> Tensor:
    """Sum over queries i of weights[i] A_ij, [B, H, keys], in the accumulation dtype."""
    dtype, count = accumulation_dtype(query.dtype), query.shape[2]
    given = [query.to(dtype), grouped(key, query.shape[1]).to(dtype), weights.to(dtype), lse.to(dtype)]
    given += [] if mask is None else [mask]

    def tile(start: int) -> Tensor:
        stop = min(start + ROWS, count)

        def work(q: Tensor, k: Tensor, w: Tensor, e: Tensor, *m: Tensor) -> Tensor:
            scores = logits(q[:, :, start:stop], k, m[0] if m else None, causal, scale, start, stop)
            return (w[:, :, start:stop, None] * probabilities(scores, e[:, :, start:stop])).sum(2)

        return recomputed(work, *given)

    return _total(tile, count)


def gradient_received(gradient: Tensor, value: Tensor, weights: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    """Sum over queries i of weights[i] relu(g_i · v_j), [B, H, keys], in the accumulation dtype."""
    dtype, count = accumulation_dtype(gradient.dtype), gradient.shape[2]
    given = [gradient.to(dtype), grouped(value, gradient.shape[1]).to(dtype), weights.to(dtype)]

    def tile(start: int) -> Tensor:
        stop = min(start + ROWS, count)
        part, _ = allowed(mask, causal, start, stop, value.shape[2], value.device)

        def work(g: Tensor, v: Tensor, w: Tensor, *p: Tensor) -> Tensor:
            found = (g[:, :, start:stop] @ v.mT).relu()
            found = found.masked_fill(~p[0], 0.0) if p else found
            return (w[:, :, start:stop, None] * found).sum(2)

        return recomputed(work, *given, *([] if part is None else [part]))

    return _total(tile, count)


def relevance(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    gradient: Tensor,
    weights: Tensor,
    lse: Tensor,
    mask: Tensor | None,
    causal: bool,
    scale: float,
) -> Tensor:
    """Sum over queries i of weights[i] relu(A_ij g_i · v_j), [B, H, keys], in the accumulation dtype."""
    dtype, count, heads = accumulation_dtype(query.dtype), query.shape[2], query.shape[1]
    given = [query.to(dtype), grouped(key, heads).to(dtype), grouped(value, heads).to(dtype), gradient.to(dtype)]
    given += [weights.to(dtype), lse.to(dtype), *([] if mask is None else [mask])]

    def tile(start: int) -> Tensor:
        stop = min(start + ROWS, count)

        def work(q: Tensor, k: Tensor, v: Tensor, g: Tensor, w: Tensor, e: Tensor, *m: Tensor) -> Tensor:
            scores = logits(q[:, :, start:stop], k, m[0] if m else None, causal, scale, start, stop)
            found = probabilities(scores, e[:, :, start:stop]) * (g[:, :, start:stop] @ v.mT)
            return (w[:, :, start:stop, None] * found.relu()).sum(2)

        return recomputed(work, *given)

    return _total(tile, count)


def _total(tile: Callable[[int], Tensor], count: int) -> Tensor:
    total = tile(0)
    for start in range(ROWS, count, ROWS):
        total = total + tile(start)
    return total


def extreme(
    query: Tensor,
    key: Tensor,
    weights: Tensor | None,
    lse: Tensor,
    mask: Tensor | None,
    causal: bool,
    scale: float,
    largest: bool,
) -> Tensor:
    """Of F = max or min over heads of A: the sum over queries i of weights[i] F_ij, [B, keys]; sums of rows [B, N].

    Heads that are alike share the derivative.
    """
    dtype, count = accumulation_dtype(query.dtype), query.shape[2]
    given = [query.to(dtype), grouped(key, query.shape[1]).to(dtype), lse.to(dtype)]
    given += [weights.to(dtype)] if weights is not None else []
    given += [] if mask is None else [mask]

    def tile(start: int) -> Tensor:
        stop = min(start + ROWS, count)

        def work(q: Tensor, k: Tensor, e: Tensor, *others: Tensor) -> Tensor:
            m = None if mask is None else others[-1]
            scores = logits(q[:, :, start:stop], k, m, causal, scale, start, stop)
            found = probabilities(scores, e[:, :, start:stop])
            fused = found.amax(1) if largest else found.amin(1)
            return fused.sum(2) if weights is None else (others[0][:, start:stop, None] * fused).sum(1)

        return recomputed(work, *given)

    if weights is None:
        return torch.cat([tile(start) for start in range(0, count, ROWS)], 1)
    return _total(tile, count)
