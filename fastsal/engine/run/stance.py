"""What ``torch.compile`` does while modules are tapped or watched: it compiles nothing for hooks that are soon gone.

Its stance is the process's: one thread's is held until the last that asked for it is done.
"""

from __future__ import annotations

import sys
import threading
from typing import Any

import torch

from fastsal.engine.run.own import Undone

EAGER = "force_eager"
"""Run what was compiled as plain PyTorch: compiled code was traced without the hooks and modes that a tap needs."""
AS_COMPILED = "eager_on_recompile"
"""Run what is compiled for the state of things; anything else as plain PyTorch rather than to compile it."""

_asked: dict[str, set[object]] = {EAGER: set(), AS_COMPILED: set()}
"""By stance, who asked for it."""
_lock = threading.RLock()
_set: tuple[str, Any] | None = None
"""The stance that is set, and what puts the user's back; None where that was left alone."""


def hold(stance: str, undone: Undone) -> None:
    """Ask for a stance until the end of a context; nothing can have been compiled before Dynamo is imported.

    Raises:
        RuntimeError: inside of compiled code.
    """
    if "torch._dynamo" not in sys.modules:
        return
    key = object()
    undone.at_end(lambda: _release(stance, key))
    with _lock:
        _asked[stance].add(key)
        try:
            _apply()
        except RuntimeError:
            _asked[stance].discard(key)
            raise


def _release(stance: str, key: object) -> None:
    with _lock:
        if key in _asked[stance]:
            _asked[stance].discard(key)
        _apply()


def nothing_held() -> bool:
    """Whether nobody asks for a stance."""
    return _set is None and not any(_asked.values())


def _apply() -> None:
    """Set the strictest stance that is asked for, or the user's again."""
    global _set
    wanted = next((stance for stance, keys in _asked.items() if keys), None)
    if wanted == (None if _set is None else _set[0]):
        return
    if _set is not None:
        if _set[1] is not None:
            _set[1].__exit__(None, None, None)
        _set = None
    if wanted is not None:
        change: Any = torch.compiler.set_stance(wanted)
        if change.prev.stance == EAGER:  # the user's own
            change.__exit__(None, None, None)
            change = None
        _set = wanted, change
