"""Whether what a detector finds differs by a choice, or by roundings on which objects turn."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from fastsal.engine.prepare.form import form_of
from fastsal.engine.prepare.precision import TOLERANCES, as_dtype
from fastsal.engine.prepare.prepared import Choice, Prepared
from fastsal.engine.prepare.replica import replica
from fastsal.engine.run.comparing import by_row, difference
from fastsal.engine.run.forward import run, scratch


def agrees_in_double(model: nn.Module, choice: Choice, arguments: tuple[Any, ...], output: Any) -> bool:
    """Whether a prepared model gives the plain one's lists of objects where both run in float64.

    In float32 two boxes of nearly the same score may change places with the rounding, and others be suppressed for it.

    Args:
        model: module, in evaluation mode.
        choice: in the model's own precision; False for any other.
        arguments: of a call.
        output: the model's, of which only lists with an item for each example are compared so.
    """
    listed = by_row(output, arguments[0].shape[0])
    if listed is None or not listed.listed or choice.precision is not None or choice.compiled is not None:
        return False
    try:
        wide = replica(model, lambda tensor: as_dtype(tensor, torch.float64))[0]
        given = tuple(as_dtype(scratch(value), torch.float64) for value in arguments)
        expected = run(wide, tuple(map(scratch, given)))
        found = run(Prepared(wide, choice, form_of(given)), given)
    except Exception:  # a model of one dtype alone
        return False
    return difference(found, expected) <= TOLERANCES[None]
