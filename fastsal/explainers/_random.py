"""Where random methods draw from: a generator of their own, so that the caller's stays where it was."""

from __future__ import annotations

import hashlib
import operator

import torch


def as_seed(seed: int | None) -> int:
    """A seed as given; for None, one read off the state of torch's global CPU generator, which is not advanced.

    So ``torch.manual_seed`` chooses the map, as in Captum, and the same state gives the same map.

    Raises:
        TypeError: for what is neither an int nor None.
        ValueError: for a seed that does not fit in 64 bits.
    """
    if seed is None:
        state = torch.get_rng_state().numpy().tobytes()
        return int.from_bytes(hashlib.blake2b(state, digest_size=8).digest(), "little") >> 1
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
