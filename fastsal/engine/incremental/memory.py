"""What is kept of a model between calls: nothing that changes what comes out, only how soon."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from fastsal.engine.incremental.recording import record
from fastsal.engine.incremental.tracing import NotTraceable, Traced, trace
from fastsal.engine.run.modules import unwrapped
from fastsal.engine.run.snapshot import Snapshot


@dataclass
class Known:
    """Of a forward function and a form of input: the graph of one pass and the trace, each made when first asked for.

    Attributes:
        forward_func: module or callable of one tensor.
        recorded, traced: the graphs, or why there is none; None until asked for.
        was_wrong: whether the trace was for some image as soon as it was made, so that another would not help.
    """

    forward_func: Callable[..., Any]
    recorded: Traced | str | None = None
    traced: Traced | str | None = None
    was_wrong: bool = False

    def record_of(self, image: Tensor) -> Traced | str:
        """The graph of a pass of one image [1, C, H, W], or why there is none."""
        if self.recorded is None:
            try:
                self.recorded = record(self.forward_func, image)
            except NotTraceable as error:
                self.recorded = f"a pass of the model cannot be recorded: {error}"
        return self.recorded

    def trace_of(self, image: Tensor) -> Traced | str:
        """The graph for any number of images like one, [1, C, H, W], or why there is none."""
        if self.traced is None:
            try:
                self.traced = trace(self.forward_func, image)
            except NotTraceable as error:
                self.traced = f"the model cannot be traced: {error}"
        return self.traced


class Memory:
    """Of one forward function, what is known of the last form of input; it is forgotten where the model changed.

    Copies and pickles of it are empty.
    """

    def __init__(self) -> None:
        self._known: Known | None = None
        self._key: tuple[Any, ...] = ()
        self._snapshot: Snapshot | None = None

    def of(
        self,
        forward_func: Callable[..., Any],
        models: Sequence[nn.Module],
        image: Tensor,
        run: Callable[[Tensor], Any],
    ) -> Known:
        """What is known for images like this one.

        Args:
            models: the modules that ``forward_func`` runs.
            image: [B, C, H, W].
            run: a plain pass of [1, C, H, W]: where the model is not as it was, what it writes to itself is no change.
        """
        key = (forward_func, *models, tuple(image.shape[1:]), image.dtype, image.device)
        before = self._snapshot if key == self._key else None
        change = None if before is None else before.change()
        if self._known is None or before is None or change is not None:
            self._known, self._key = Known(forward_func), key
            scratch = frozenset[tuple[int, str]]() if before is None else before.scratch
            self._snapshot = Snapshot(forward_func, map(unwrapped, models), scratch=scratch)
            if change is not None and not change.values:
                run(image[:1].clone())
                self._snapshot.settle()
        return self._known

    def settle(self) -> None:
        """What the model's own passes wrote to it since is no change."""
        if self._snapshot is not None:
            self._snapshot.settle()

    def forget(self) -> None:
        """Know nothing."""
        self._known = self._snapshot = None

    def __reduce__(self) -> Any:
        return Memory, ()
