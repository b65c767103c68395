"""Where the command line writes: a progress bar on a terminal, plain lines in a pipe, one document with --json."""

from __future__ import annotations

import json
import math
import sys
from types import TracebackType
from typing import Any, TextIO

from tqdm import tqdm

from fastsal.cli.errors import Refused
from fastsal.cli.streams import closed, printable, write_line


class Console:
    """Lines and progress of one command. Used as a context, so that the bar is gone when an error is printed."""

    def __init__(self, as_json: bool, out: TextIO | None = None) -> None:
        self.as_json = as_json
        self.documents = 0
        self._out = sys.stdout if out is None else out
        self._bar: tqdm[Any] | None = None

    def __enter__(self) -> Console:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def expect(self, total: int) -> None:
        """A bar of so many steps, on a terminal."""
        if not self.as_json and total > 1 and sys.stderr is not None and sys.stderr.isatty():
            self._bar = tqdm(total=total, leave=False, file=sys.stderr)

    def close(self) -> None:
        """Takes the bar away."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def doing(self, what: str) -> None:
        """What the bar says is under way."""
        if self._bar is not None:
            self._bar.set_description(printable(what))

    def step(self) -> None:
        """One step of the total is done."""
        if self._bar is not None:
            self._bar.update()

    def line(self, text: str) -> None:
        """A line for people; nothing with --json."""
        if self.as_json:
            return
        if self._bar is not None:
            self._bar.clear()
        self._write("\n".join(map(printable, text.split("\n"))))

    def problem(self, text: str) -> None:
        """A line on standard error."""
        if self._bar is not None:
            self._bar.clear()
        if sys.stderr is not None:
            write_line(sys.stderr, f"fastsal: {printable(text)}")

    def note(self, text: str) -> None:
        """A line on standard error that tells of no problem; nothing with --json, whose document has it."""
        if not self.as_json:
            self.problem(text)

    def document(self, facts: dict[str, Any]) -> None:
        """The document that --json asks for, on one line; nothing without it."""
        if self.as_json:
            self.documents += 1
            self._write(json.dumps(_strict(facts), allow_nan=False))

    def _write(self, text: str) -> None:
        try:
            write_line(self._out, text)
        except BrokenPipeError:
            raise
        except OSError as error:  # of a full disk
            closed(self._out)
            raise Refused(f"standard output cannot be written: {error.strerror}") from None


def _strict(value: Any) -> Any:
    """The same in what JSON has: null for numbers that are not finite, texts without halves of characters."""
    if isinstance(value, dict):
        return {_strict(name): _strict(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(part) for part in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    return value
