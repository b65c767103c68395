"""Who is in an explanation of a prepared model: several threads at once, and nobody while it is made anew."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from threading import get_ident


class Turns:
    """Explanations of one prepared model; a thread that is in one may begin others inside of it."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._inside: dict[int, list[bool]] = {}

    def is_inside(self) -> bool:
        """Whether this thread is in an explanation."""
        return get_ident() in self._inside

    def is_whole(self) -> bool:
        """Whether one of this thread's explanations asked for rows that are not split over devices."""
        return any(self._inside.get(get_ident(), ()))

    @contextlib.contextmanager
    def inside(self, renew: Callable[[], Callable[[], None] | None], whole: bool) -> Iterator[None]:
        """One explanation; ``renew`` returns what is to be done before it, if anything, while no thread is in one."""
        thread = get_ident()
        with self._condition:
            outermost = thread not in self._inside
            work = renew() if outermost else None
            if work is not None:
                self._alone(work)
            self._inside.setdefault(thread, []).append(whole)
        try:
            yield
        finally:
            with self._condition:
                mine = self._inside[thread]
                mine.pop()
                if not mine:
                    del self._inside[thread]
                    self._condition.notify_all()

    def alone(self, work: Callable[[], None]) -> None:
        """Do something while no thread is in an explanation; this one must not be."""
        with self._condition:
            self._alone(work)

    def _alone(self, work: Callable[[], None]) -> None:
        self._condition.wait_for(lambda: not self._inside)
        work()
