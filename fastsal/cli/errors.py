"""What the command line refuses or cannot do, in one line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class Refused(Exception):
    """A request that cannot be met; its text is the one line that the user reads, and the exit code is 2."""


class Failed(Exception):
    """One image or method that failed; its text is one line, and the others go on."""


def first_line(error: BaseException) -> str:
    """The first line of an error's text, with its class where the text alone says little."""
    try:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    except Exception:  # an error of somebody else's whose text fails
        lines = []
    if not lines:
        return type(error).__name__
    bare = isinstance(error, (LookupError, AssertionError, NameError, ZeroDivisionError, SystemExit))
    return f"{type(error).__name__}: {lines[0]}" if bare else lines[0]


def nearest(name: str, known: Iterable[str], count: int = 3) -> str:
    """What to say after an unknown name: the nearest known ones, or all when they are few, or nothing."""
    names = list(known)
    folded = {candidate.lower(): candidate for candidate in names}
    close = [folded[match] for match in difflib.get_close_matches(name.lower(), folded, count, cutoff=0.5)]
    if close:
        return f"; did you mean {' or '.join(close)}?"
    return f"; known: {', '.join(names)}" if 0 < len(names) <= 64 else ""
