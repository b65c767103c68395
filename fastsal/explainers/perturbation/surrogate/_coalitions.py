"""Which coalitions LIME and Kernel SHAP score: whole sizes or all as far as they go, and pairs of complements."""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import torch
from torch import Tensor


class Design(NamedTuple):
    """Coalitions to be scored.

    Attributes:
        present: [n, M], bool, on the CPU: that of all features, the empty one, those of complete sizes, drawn ones.
        fixed: how many of them are not drawn.
        mass: in the Shapley kernel, of each of complete sizes, [fixed - 2].
        rest: of the sizes that are drawn from together.
    """

    present: Tensor
    fixed: int
    mass: Tensor
    rest: float

    def weights(self, count: int) -> Tensor:
        """Of the coalitions but the ends, [count - 2], after so many."""
        drawn = max(0, count - self.fixed)
        return torch.cat([self.mass, self.mass.new_full((drawn,), self.rest / max(1, drawn))])[: count - 2]


def design(n_samples: int, total: int, random: torch.Generator) -> Design:
    """Coalitions of a number, with the two ends, for a number of features; all of them from 2^M - 2 on.

    Sizes k and M - k are scored completely, the outermost first, while their share of what is left is as many as there
    are: a coalition of size k has the weight (M - 1) / (C(M, k) k (M - k)). The rest is drawn by these weights, each
    coalition beside its complement: Covert, Lee, "Improving KernelSHAP: Practical Shapley Value Estimation via Linear
    Regression" (AISTATS 2021), section 4.2; whole sizes as in the shap package. No pair is drawn twice.
    """
    ends = torch.tensor([[True], [False]], device="cpu").expand(2, total)
    mass = {size: (total - 1) / (size * (total - size)) for size in range(1, total)}
    every = total < 63 and n_samples >= 2**total - 2
    left = n_samples if every else n_samples - 2
    rows, masses = [ends], []
    outer = 0
    for size in range(1, total // 2 + 1):
        sizes = {size, total - size}
        count = sum(math.comb(total, each) for each in sizes)
        open_mass = sum(mass[each] for each in range(size, total - size + 1))
        if not every and left * sum(mass[each] for each in sizes) < count * open_mass:
            break
        for each in sorted(sizes):
            members = torch.tensor(list(itertools.combinations(range(total), each)), device="cpu")
            rows.append(torch.zeros((len(members), total), dtype=torch.bool, device="cpu").scatter_(1, members, True))
            masses.append(torch.full((len(members),), mass[each] / len(members), dtype=torch.float64, device="cpu"))
        left -= count
        outer = size
    inner = range(outer + 1, total - outer)
    fixed = sum(map(len, rows))
    drawn = n_samples - fixed if len(inner) else 0
    if drawn > 0:
        chances = torch.tensor([mass[size] for size in inner], dtype=torch.float64, device="cpu")
        rows.append(_pairs(drawn, list(inner), chances, total, random, distinct=True))
    flat = torch.cat(masses) if masses else torch.zeros(0, dtype=torch.float64, device="cpu")
    return Design(torch.cat(rows), fixed, flat, sum(mass[size] for size in inner))


def balanced(n_samples: int, total: int, random: torch.Generator) -> Tensor:
    """Coalitions [n, M] in which each feature is present with probability 1/2: LIME's, spread evenly, on the CPU.

    From 2^M on all of them, as often as they go into the number, and nothing is drawn. Below, each coalition stands
    beside its complement, so that every feature is present in half of them, and the sizes are those of the binomial
    distribution, one from each of as many equal parts of it as there are pairs.
    """
    if times := n_samples >> total:
        every = torch.arange(2**total, device="cpu")[:, None] >> torch.arange(total, device="cpu")
        return (every % 2).bool().repeat(times, 1)
    sizes = list(range(total + 1))
    logs = [-math.lgamma(size + 1) - math.lgamma(total - size + 1) for size in sizes]
    chances = torch.tensor([math.exp(each - max(logs)) for each in logs], dtype=torch.float64, device="cpu")
    return _pairs(n_samples, sizes, chances, total, random)


def _pairs(
    count: int, sizes: list[int], chances: Tensor, total: int, random: torch.Generator, distinct: bool = False
) -> Tensor:
    """Coalitions [count, total] of some sizes with their chances, each after its complement.

    The sizes are one from each of as many equal parts of their distribution as there are pairs, in a random order.
    ``distinct``: no pair twice, among those of sizes that have as many.
    """
    half = (count + 1) // 2
    parts = torch.randperm(half, generator=random, device="cpu")
    places = (parts + torch.rand(half, generator=random, dtype=torch.float64, device="cpu")) / half
    ends = chances.cumsum(0)
    drawn = torch.tensor(sizes, device="cpu")[torch.bucketize(places * ends[-1], ends[:-1], right=True)]
    first = _members(drawn, total, random)
    if distinct:
        _redraw(first, drawn, random)
    return torch.stack([first, ~first], 1).flatten(0, 1)[:count]


def _members(sizes: Tensor, total: int, random: torch.Generator) -> Tensor:
    """Random coalitions [n, total] of sizes [n]."""
    order = torch.rand(len(sizes), total, generator=random, device="cpu", dtype=torch.float32).argsort(1)
    return order.argsort(1) < sizes[:, None]


FEW = 4
"""Pairs of a size for each that is drawn, below which they are listed and taken in a random order."""


def _redraw(present: Tensor, sizes: Tensor, random: torch.Generator) -> None:
    """Put others in the place of coalitions [n, total] that are there twice, or beside their complement."""
    total = present.shape[1]
    outer = torch.minimum(sizes, total - sizes)
    can = torch.zeros(len(sizes), dtype=torch.bool, device="cpu")
    for size, wanted in zip(*(each.tolist() for each in outer.unique(return_counts=True)), strict=True):
        middle = 2 * size == total
        pairs = math.comb(total, size) // (2 if middle else 1)
        if wanted > pairs:
            continue  # all of them are there, some several times
        where = (outer == size).nonzero()[:, 0]
        if pairs > FEW * wanted:
            can[where] = True
            continue
        # Of a coalition of half the features and its complement one has the first feature.
        listed = (
            itertools.combinations(range(1, total), size - 1) if middle else itertools.combinations(range(total), size)
        )
        members = torch.tensor(list(listed), device="cpu").reshape(pairs, -1)
        if middle:
            members = torch.cat([members.new_zeros(pairs, 1), members], 1)
        chosen = members[torch.randperm(pairs, generator=random, device="cpu")[:wanted]]
        present[where] = torch.zeros(wanted, total, dtype=torch.bool, device="cpu").scatter_(1, chosen, True)
    places = can.nonzero()[:, 0]
    while len(places):
        rows = present[places]
        alike = torch.where(rows[:, :1], rows, ~rows)
        _, where = torch.unique(alike, dim=0, return_inverse=True)
        index = torch.arange(len(places), device="cpu")
        first = index.new_full((len(places),), len(places)).scatter_reduce(0, where, index, "amin")
        again = places[first[where] < index]
        if not len(again):
            return
        present[again] = _members(sizes[again], total, random)
