"""Softmax and its relatives: the exact change of a softmax as a symmetric matrix times the change of its input.

With y the softmax of x, delta(log y_i) = delta(x_i) - delta(L) where L is the log of the sum of exponentials, and
delta(y_i) = l_i delta(log y_i) where l_i is the logarithmic mean of both ends of y_i, between them. The y sum to 1, so
sum l_i (delta(x_i) - delta(L)) = 0, hence delta(L) = sum p_j delta(x_j) with p = l / sum(l), and delta(y) = (diag(l) -
l l^T / sum(l)) delta(x): the gradient's matrix with l in the place of y. Nothing is divided by a difference of inputs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from fastsal.explainers.gradient.multipliers.rule import Back, Ends, Gradients, summed, wide


def _dimensions(ends: Ends) -> list[int]:
    dim = ends.arguments["dim"]
    rank = ends.arguments["self"].dim()
    given = [dim] if isinstance(dim, int) else list(dim)
    return [each % rank if rank else 0 for each in given] or list(range(rank))


def _log_softmax(x: Tensor, dims: list[int]) -> Tensor:
    return x.log_softmax(dims[0]) if len(dims) == 1 else x - x.logsumexp(dims, keepdim=True)


def means(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """(arithmetic, logarithmic mean) of exp(first) and exp(second); 0 where that is.

    The logarithmic one is (exp(first) - exp(second)) / (first - second). In few passes over memory and two functions of
    each element, since they take much of the time of attention's rule: with d <= 0 the difference from the larger one
    and e = exp(d) - 1 they are the larger exponential times 1 + e / 2 and times e / d.
    """
    larger = torch.maximum(first, second)
    below = torch.minimum(first, second).sub_(larger).clamp_(max=-torch.finfo(first.dtype).tiny)
    larger.exp_()
    less = torch.expm1(below)
    # Of two zeros, and where a softmax has nothing to choose from, these are no numbers.
    logarithmic = below.reciprocal_().mul_(less).mul_(larger).nan_to_num_(0.0)
    return larger.addcmul_(larger, less, value=0.5).nan_to_num_(0.0), logarithmic


def _means(end: Tensor, start: Tensor, dims: list[int]) -> tuple[Tensor, Tensor]:
    """l, and its sum."""
    _, found = means(_log_softmax(end, dims), _log_softmax(start, dims))
    total = found.sum(dims, keepdim=True)
    return found, torch.where(total > 0, total, 1)


def softmax(ends: Ends) -> Back:
    """Of one dimension."""
    dims = _dimensions(ends)
    found, total = _means(*ends.both("self"), dims)

    def back(gradients: Gradients, plain: Mapping[str, Tensor]) -> dict[str, Tensor]:
        (given,) = gradients
        assert given is not None
        weighed = given * found
        return {"self": weighed - found * (weighed.sum(dims, keepdim=True) / total)}

    return back


def last_softmax(ends: Ends) -> Back:
    """Of a softmax that nothing follows, as Captum 0.9.0 has it: the Rescale rule less its mean over the classes.

    Only differences between the classes count (section 3.6 of the paper); this one does not add up.
    """
    (dim,) = _dimensions(ends)
    end, start = ends.both("self")
    delta = end - start
    small = delta.abs() < ends.eps
    ratio = (end.softmax(dim) - start.softmax(dim)) / delta

    def back(gradients: Gradients, plain: Mapping[str, Tensor]) -> dict[str, Tensor]:
        (given,) = gradients
        assert given is not None
        found = torch.where(small, plain["self"], given * ratio)
        return {"self": found - found.mean(dim, keepdim=True)}

    return back


def log_softmax(ends: Ends) -> Back:
    """Of one dimension."""
    dims = _dimensions(ends)
    found, total = _means(*ends.both("self"), dims)
    share = found / total

    def back(gradients: Gradients, plain: Mapping[str, Tensor]) -> dict[str, Tensor]:
        (given,) = gradients
        assert given is not None
        return {"self": given - share * given.sum(dims, keepdim=True)}

    return back


def logsumexp(ends: Ends) -> Back:
    """Over one dimension or several."""
    dims = _dimensions(ends)
    found, total = _means(*ends.both("self"), dims)
    share, keeps = found / total, ends.arguments["keepdim"]

    def back(gradients: Gradients, plain: Mapping[str, Tensor]) -> dict[str, Tensor]:
        (given,) = gradients
        assert given is not None
        for dim in sorted(dims) if not keeps else ():
            given = given.unsqueeze(dim)
        return {"self": share * given}

    return back


def attention(ends: Ends) -> Back:
    """Fused scaled dot product attention: two products and a softmax, whose matrices are made once more, going back."""
    mask = ends.arguments.get("attn_mask", ends.arguments.get("attn_bias"))
    given_scale, causal = ends.arguments.get("scale"), ends.arguments.get("is_causal", False)
    pairs = {name: ends.both(name) for name in ("query", "key", "value")}
    biases = None if mask is None else ends.both("attn_mask" if "attn_mask" in ends.arguments else "attn_bias")
    queries, keys = pairs["query"][0], pairs["key"][0]
    scale = 1 / math.sqrt(queries.shape[-1]) if given_scale is None else float(given_scale)
    groups = queries.shape[-3] // keys.shape[-3] if queries.dim() > 2 else 1

    def spread(value: Tensor) -> Tensor:
        return value if groups == 1 else value.repeat_interleave(groups, -3)

    def gathered(value: Tensor) -> Tensor:
        return value if groups == 1 else value.unflatten(-3, (-1, groups)).sum(-3)

    def logits(place: int) -> Tensor:
        scores = (pairs["query"][place] * scale) @ spread(pairs["key"][place]).mT
        if biases is not None:
            bias = biases[place]
            if mask is not None and mask.dtype == torch.bool:
                scores = scores.masked_fill(~mask, -torch.inf)
            else:
                scores = scores + bias
        if causal:
            allowed = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
            scores = scores.masked_fill(~allowed, -torch.inf)
        return scores

    def back(gradients: Gradients, plain: Mapping[str, Tensor]) -> dict[str, Tensor]:
        given = gradients[0]
        assert given is not None
        weights, found = means(*(logits(place).log_softmax(-1) for place in (0, 1)))
        total = found.sum(-1, keepdim=True)
        query, key, value = ((end + start) / 2 for end, start in pairs.values())
        given = wide(given)
        weighed = (given @ spread(value).mT).mul_(found)
        share = weighed.sum(-1, keepdim=True) / torch.where(total > 0, total, 1)
        scores = weighed.sub_(found.mul_(share))
        result = {
            "query": scores @ spread(key) * scale,
            "key": gathered(scores.mT @ query) * scale,
            "value": gathered(weights.mT @ given),
        }
        for name in ("attn_mask", "attn_bias"):
            if name in plain:
                result[name] = summed(scores, plain[name])
        return result

    return back
