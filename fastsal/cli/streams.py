"""Standard output is the command's alone: what a model prints goes to standard error."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import TextIO


def printable(text: str) -> str:
    """One line that no terminal takes for orders: control characters and the like as escapes."""
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape", "surrogatepass").decode() for each in text
    )


@contextlib.contextmanager
def kept(process: bool) -> Iterator[TextIO]:
    """Standard output for the command; meanwhile everything else that is printed goes to standard error.

    process: the process is the command's own, so that what is below Python is sent there as well, for good: a model may
    print from C, from a thread, or at the process's end.
    """
    out = sys.stdout
    if out is None:  # closed by whoever started the process
        with open(os.devnull, "w") as nowhere:
            yield nowhere
        return
    copy = _copied(out) if process else None
    if copy is None:
        with contextlib.redirect_stdout(sys.stderr):
            yield out
        return
    sys.stdout = sys.stderr
    yield copy
    with contextlib.suppress(OSError):
        copy.flush()


def _copied(out: TextIO) -> TextIO | None:
    """The stream under another number, while its own leads to standard error; None for what is no file."""
    try:
        out.flush()
        number = out.fileno()
        copy = os.fdopen(os.dup(number), "w", encoding=out.encoding, errors="backslashreplace")
        os.dup2(sys.stderr.fileno() if sys.stderr is not None else os.open(os.devnull, os.O_WRONLY), number)
    except (OSError, ValueError, io.UnsupportedOperation):
        return None
    return copy


def closed(out: TextIO) -> None:
    """Whoever read this has gone: nothing more can be said on it, at the process's end either."""
    with contextlib.suppress(OSError, ValueError, io.UnsupportedOperation):
        os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())


def write_line(out: TextIO, text: str) -> None:
    """A line, in whatever the stream can encode."""
    try:
        print(text, file=out, flush=True)
    except UnicodeEncodeError:
        encoding = out.encoding or "ascii"
        print(text.encode(encoding, "backslashreplace").decode(encoding), file=out, flush=True)
