"""Where random methods draw from: a generator of their own, seeded by the caller or from torch's global one."""

from __future__ import annotations

import operator

import torch

from fastsal._torch import disable_current_modes


def as_seed(seed: int | None) -> int:
    """A seed as given; for None, one drawn from torch's global CPU generator.

    So ``torch.manual_seed`` chooses the map and the next call draws anew, as everything random in PyTorch does.

    Raises:
        TypeError: for what is neither an int nor None.
        ValueError: for a seed that does not fit in 64 bits.
    """
    if seed is None:
        return int(torch.randint(2**63 - 1, (), device="cpu"))
    try:
        value: int = operator.index(seed)
    except TypeError:
        raise TypeError(f"seed: {seed!r} is neither an int nor None") from None
    if not -(2**63) <= value < 2**63:
        raise ValueError(f"seed: {value} does not fit in 64 bits")
    return value


def generator(seed: int | None) -> torch.Generator:
    """A CPU generator: what it draws is the same for every device."""
    return torch.Generator("cpu").manual_seed(as_seed(seed))


def seeds_of(random: torch.Generator, count: int) -> list[int]:
    """Seeds, numbers also where a graph is traced on tensors without values."""
    with disable_current_modes():
        drawn: list[int] = torch.randint(0, 2**62, (count,), generator=random, device="cpu").tolist()
    return drawn
