"""What ``torch.compile`` does while modules are tapped or watched: it compiles nothing for hooks that are soon gone.

Its stance is the process's: one thread's is held until the last that asked for it is done.
"""

from __future__ import annotations

import sys
import threading
from typing import Any

import torch

EAGER = "force_eager"
"""Run what was compiled as plain PyTorch: compiled code was traced without the hooks and modes that a tap needs."""
AS_COMPILED = "eager_on_recompile"
"""Run what is compiled for the state of things; anything else as plain PyTorch rather than to compile it."""

_asked = {EAGER: 0, AS_COMPILED: 0}
_lock = threading.RLock()
_set: tuple[str, Any] | None = None
"""The stance that is set, and what puts the user's back; None where that was left alone."""


def hold(stance: str) -> bool:
    """Whether :func:`release` is due: nothing can have been compiled before Dynamo is imported.

    Raises:
        RuntimeError: inside of compiled code.
    """
    if "torch._dynamo" not in sys.modules:
        return False
    with _lock:
        _asked[stance] += 1
        try:
            _apply()
        except RuntimeError:
            _asked[stance] -= 1
            raise
    return True


def release(stance: str) -> None:
    """The end of a :func:`hold` that returned True."""
    with _lock:
        _asked[stance] -= 1
        _apply()


def _apply() -> None:
    """Set the strictest stance that is asked for, or the user's again."""
    global _set
    wanted = next((stance for stance, count in _asked.items() if count), None)
    if wanted == (None if _set is None else _set[0]):
        return
    if _set is not None:
        before, _set = _set[1], None
        if before is not None:
            before.__exit__(None, None, None)
    if wanted is not None:
        change: Any = torch.compiler.set_stance(wanted)
        if change.prev.stance == EAGER:  # the user's own
            change.__exit__(None, None, None)
            change = None
        _set = wanted, change
