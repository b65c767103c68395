"""The generators that a pass may draw from, and how to set them back."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import torch

from fastsal.engine.run.own import Undone

_lock = threading.RLock()
"""PyTorch asks for a generator's state, and sets it, with its mutex and the GIL: while garbage is collected in one
thread the GIL may go to another, which then waits for the mutex and never gives the GIL back."""


def _set_state(state: torch.Tensor) -> None:
    with _lock:
        torch.set_rng_state(state)


def random_states(devices: Iterable[torch.device]) -> list[tuple[Any, Any]]:
    """(function, argument) that set each generator back that a pass on the devices may draw from."""
    with _lock:
        states: list[tuple[Any, Any]] = [(_set_state, torch.get_rng_state())]
    for device in {device for device in devices if device.type == "cuda"}:
        if not torch.cuda.is_current_stream_capturing():  # generators cannot be asked meanwhile
            state = torch.cuda.get_rng_state(device)
            states.append((lambda state, device=device: torch.cuda.set_rng_state(state, device), state))
    return states


@contextlib.contextmanager
def keeping_random_states(device: torch.device) -> Iterator[None]:
    """What is drawn inside is drawn again by what comes after."""
    with Undone() as undone:
        for draw, state in random_states([device]):
            undone.at_end(functools.partial(draw, state))
        yield
