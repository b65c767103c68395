"""How long a method will take and how far it is, told in time: lines that a log can hold too."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

from fastsal.engine.run import watched

LONG = 30.0
"""Seconds from which on a sweep is announced, and between the lines of one that goes on."""
_SURE = 0.5
"""Seconds of a sweep's first batches that an estimate needs."""


def duration(seconds: float) -> str:
    """A time for people: "40 s", "3 min", "2.5 h"."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 99 * 60 else f"{seconds / 3600:.1f} h"


class Watch:
    """One method at work.

    tell: takes a line.
    what: the image and the method, in words.
    hint: what ends it earlier, said where it will take long.
    """

    def __init__(self, tell: Callable[[str], None], what: str, hint: str = "") -> None:
        self._tell, self._what, self._hint = tell, what, hint
        self._began = self._said = time.monotonic()
        self._sweep = ("", 0)
        self._first = self._last = (0, 0.0)
        self._announced = False

    def told(self, name: str, done: int, total: int) -> None:
        """A chunk of a sweep is done."""
        now = time.monotonic()
        if (name, total) != self._sweep or done <= self._last[0]:
            self._sweep, self._first = (name, total), (done, now)
        self._last = (done, now)
        left = self._left()
        if left is None or self._announced:
            return
        # One chunk alone may have warmed up: its pace counts where there is no waiting for another.
        sure = now - self._began >= (_SURE if done > self._first[0] else LONG / 2)
        if sure and now - self._began + left > LONG:
            self._announced = True
            self._say(f"{total} passes, about {duration(now - self._began + left)} in all{self._hint}")

    def _left(self) -> float | None:
        """Seconds that the sweep will still take, at the pace since its first chunk, which may have warmed up."""
        _, total = self._sweep
        (first, at), (done, now) = self._first, self._last
        if done > first:
            return (total - done) * (now - at) / (done - first)
        return (total - done) * (now - self._began) / done if done else None

    def _say(self, text: str) -> None:
        self._said = time.monotonic()
        self._tell(f"{self._what}: {text}")

    def _still(self) -> None:
        """A line where there was none for long."""
        now = time.monotonic()
        if now - self._said < LONG:
            return
        left, (done, _), (_, total) = self._left(), self._last, self._sweep
        after = f"at work for {duration(now - self._began)}"
        self._say(after if left is None else f"{after}, {100 * done / total:.0f} %, about {duration(left)} left")

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Around the method's run."""
        over = threading.Event()

        def lines() -> None:
            while not over.wait(1.0):
                self._still()

        # A method may be busy for long without a sweep, or in a sweep's first chunk.
        thread = threading.Thread(target=lines, name="fastsal progress", daemon=True)
        thread.start()
        try:
            with watched(self.told):
                yield
        finally:
            over.set()
