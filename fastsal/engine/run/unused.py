"""Whether a value on which scores do not depend through autograd is of no use to them at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from fastsal.engine.run.comparing import difference
from fastsal.engine.run.too_large import is_too_large

ROUNDINGS = 16
"""By which two runs on the same values may differ, where a device adds in no fixed order."""


def changes(scores: Callable[[Tensor], Tensor], given: Tensor) -> bool:
    """Whether other values than the given change the scores, or are refused.

    Args:
        scores: of a value, by a run of the model.
        given: the value that it had.
    """
    expected = _floating(scores(given))
    for other in _others(given):
        try:
            found = _floating(scores(other))
        except Exception as error:  # whatever a model's code makes of values that it does not take
            if is_too_large(error):
                raise
            return True
        if not difference(found, expected) <= ROUNDINGS * torch.finfo(expected.dtype).eps:
            return True
    return False


def _floating(scores: Tensor) -> Tensor:
    return scores if scores.is_floating_point() else scores.to(torch.float32)


def _others(given: Tensor) -> Iterator[Tensor]:
    """Other values. On a device without those that are no index where the given ones are: a lookup there ends the
    process."""
    yield torch.zeros_like(given)
    yield torch.ones_like(given)
    yield (given / 2).to(given.dtype)
    yield given.flatten().flip(0).view_as(given)
    if given.device.type == "cpu":
        yield given.logical_not() if given.dtype == torch.bool else -given
        yield (2 * given + 1).to(given.dtype)
