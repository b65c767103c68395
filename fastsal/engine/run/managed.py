"""A module that makes itself ready for an explanation, as what :func:`fastsal.prepare` returns does."""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Iterator

from torch import nn


class Managed(nn.Module):
    """Base of modules that stand for a model and run a replica of it.

    Attributes:
        module: the replica that runs.
        rows: the rows per call with the most throughput; None where that was not measured.
    """

    module: nn.Module
    rows: int | None

    @property
    @abstractmethod
    def hookable(self) -> bool:
        """Whether hooks on the replica see all that runs: it is not compiled, and on one device."""

    @abstractmethod
    @contextlib.contextmanager
    def session(self, whole: bool = False) -> Iterator[None]:
        """One explanation: weights as the model has them now; ``whole`` splits no rows over devices."""
        yield
