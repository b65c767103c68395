"""A described call: what ``attribute`` would run, which estimates, compiled calls and exports run as well."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from fastsal.engine.run import Sweep

if TYPE_CHECKING:
    from fastsal.explainers.task import Task

Result = TypeVar("Result", covariant=True)
Other = TypeVar("Other")
Estimated = tuple[Any, Any, float, int]
"""(attribution, standard errors, relative error, samples)."""


@dataclasses.dataclass(frozen=True)
class Anytime:
    """A sweep that can end early.

    Attributes:
        sweep: its chunks.
        estimate: of so many items; None while they are too few.
        limit: how a message names the argument that bounds the items.
        refused: why an estimate of all items cannot be had; empty where it can.
    """

    sweep: Sweep[Any]
    estimate: Callable[[int], Estimated | None]
    limit: str
    refused: str = ""


@dataclasses.dataclass(frozen=True)
class Call(Generic[Result]):
    """What an ``attribute`` describes.

    Attributes:
        task: what is explained; after :attr:`run` its output is the model's prediction where the method made it.
        run: runs all of it and returns what ``attribute`` returns.
        anytime: describes it as a sweep that can end early; None for what is exact, or has no errors to tell.
    """

    task: Task
    run: Callable[[], Result]
    anytime: Callable[[], Anytime] | None = None

    def then(self, convert: Callable[[Any], Other]) -> Call[Other]:
        """The same with attributions (and their errors) converted."""
        anytime = self.anytime

        def converted() -> Anytime:
            assert anytime is not None
            found = anytime()

            def estimate(done: int) -> Estimated | None:
                result = found.estimate(done)
                return None if result is None else (convert(result[0]), convert(result[1]), *result[2:])

            return dataclasses.replace(found, estimate=estimate)

        return Call(self.task, lambda: convert(self.run()), None if anytime is None else converted)
