"""Where the command line writes: a progress bar on a terminal, plain lines in a pipe, one document with --json."""

from __future__ import annotations

import json
import sys
from types import TracebackType
from typing import Any

from tqdm import tqdm


class Console:
    """Lines and progress of one command. Used as a context, so that the bar is gone when an error is printed."""

    def __init__(self, as_json: bool, total: int = 0) -> None:
        self.as_json = as_json
        bar = not as_json and total > 1 and sys.stderr.isatty()
        self._bar: tqdm[Any] | None = tqdm(total=total, leave=False, file=sys.stderr) if bar else None

    def __enter__(self) -> Console:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Takes the bar away."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def doing(self, what: str) -> None:
        """What the bar says is under way."""
        if self._bar is not None:
            self._bar.set_description(what)

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
        print(text, flush=True)

    def problem(self, text: str) -> None:
        """A line on standard error."""
        if self._bar is not None:
            self._bar.clear()
        print(f"fastsal: {text}", file=sys.stderr, flush=True)

    def document(self, facts: dict[str, Any]) -> None:
        """The document that --json asks for; nothing without it."""
        if self.as_json:
            print(json.dumps(facts, indent=1), flush=True)
