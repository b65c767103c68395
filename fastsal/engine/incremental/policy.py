"""When incremental inference is used: where it is possible, right, and by sizes pays in the very call."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fastsal.engine.incremental.asked import Asked, Changes
from fastsal.engine.incremental.layout import laid_out
from fastsal.engine.incremental.memory import Known, Memory
from fastsal.engine.incremental.runner import Incremental
from fastsal.engine.incremental.scoring import ROWS, Wrong, scores_of_changes
from fastsal.engine.incremental.worth import seconds_of_row, trace_seconds
from fastsal.engine.prepare import Prepared, Step
from fastsal.engine.run import hookable, host_may_wait, modules_of, tell

FEWEST = 48
"""Positions below which not even one pass is recorded, to see whether it pays."""
MOST = 2**16
"""Positions above which the plan itself would take long."""
LEAST_GAIN = 1.2
"""Times fewer multiply-adds than the plain sweep's, below which the copies would eat what is saved."""
SAVED = 2.0
"""Times what a trace takes that a call must save, by sizes: then it saves in an explainer's first call.

Measured on one core, a trace and its imports included, as shares of the plain sweep: 729 windows of 16 x 16 at 224 x
224 took 0.42 with ResNet-50, 0.44 with ResNet-18, 0.29 with MobileNetV2 and 0.67 with ConvNeXt-T; 196 windows 0.21 with
VGG-16 and 0.57 with ResNet-50. Of those below, 196 windows took 0.71 with ResNet-18 and 0.77 with MobileNetV2, about 1
on two cores, and 49 windows more than 2.
Where there are more cores, a sweep is shorter than by its sizes, and a trace is not: the factor is for them too.
"""
SAVED_PREPARED = 0.5
"""The same of a prepared model, which was made ready for more calls than one."""


class Outcome(NamedTuple):
    """What an attempt came to.

    Attributes:
        scores: [P, outputs] of the changed images; None where the plain sweep is the way.
        step: for :meth:`plan`, why it is.
    """

    scores: Tensor | None
    step: Step | None


def attempt(asked: Asked, memory: Memory, forced: bool = False) -> Outcome:
    """Scores by incremental inference, where that is possible, right and pays.

    The same arguments have the same outcome, whatever was asked before: it depends on sizes, on the operations of the
    model and on whether it is prepared, and on no clock.

    Call inside ``evaluation`` and ``torch.no_grad``.

    Args:
        asked: what to compute.
        memory: of the forward function, kept by the caller between calls.
        forced: wherever it is possible, or an error.

    Raises:
        ValueError: with ``forced``, where it is not possible, saying why.
    """
    try:
        found = _attempt(asked, memory, forced)
    except Wrong as error:
        found = str(error)
        if not forced:
            tell(f"incremental: {error}; the plain sweep is used")
    if isinstance(found, Tensor):
        return Outcome(found, None)
    if forced:
        raise ValueError(f'incremental: not possible: {found}; "auto" takes the plain sweep instead')
    return Outcome(None, Step("incremental", False, f"not used: {found}"))


def _attempt(asked: Asked, memory: Memory, forced: bool) -> Tensor | str:
    """The scores, or why there are none.

    Raises:
        Wrong: for scores that are not the model's.
    """
    impossible = _impossible(asked)
    if impossible is not None:
        return impossible
    (image,) = asked.inputs
    unmeasured = None if forced else _unmeasured(image.device)
    if unmeasured is not None:
        return unmeasured
    changes, models = asked.changes(), modules_of(asked.forward_func)
    count = len(changes.rectangles)
    if not forced and count < FEWEST:
        return f"there are fewer than {FEWEST} positions"
    if count > MOST:
        return f"there are more than {MOST} positions"
    prepared = [model for model in models if isinstance(model, Prepared)]
    if not hookable(asked.forward_func):
        return "the model is compiled, or split over devices"
    known = memory.of(asked.forward_func, models, image, asked.scorer.output_of)
    unworthy = None if forced else _unworthy(known, image, changes, SAVED_PREPARED if prepared else SAVED)
    if unworthy is not None:
        return unworthy
    is_new, traced = known.traced is None, known.trace_of(image[:1])
    if isinstance(traced, str):
        return traced
    alone = asked.scorer.alone()
    if alone:
        return alone
    whole_rows = None if image.is_cuda else max(1, asked.scorer.chunk_sizes(count).size // image.shape[0])
    try:
        engine = Incremental(traced, changes.rectangles, asked.gather, asked.rows or ROWS, whole_rows)
        if not forced and engine.gain < LEAST_GAIN:
            return _gains_little(engine.gain)
        scores = scores_of_changes(asked, changes, engine)
    except torch.OutOfMemoryError:
        raise
    except Wrong:
        if is_new or known.was_wrong:
            known.was_wrong = True
            raise
    except Exception as error:  # whatever an operation makes of a part of its map, or of another layout
        message = (str(error).strip() or type(error).__name__).split("\n", 1)[0]
        return f"an operation of the model does not run on parts: {message}"
    else:
        if is_new:
            memory.settle()
        return scores
    memory.forget()  # what the model does may have changed where no watch looks
    return _attempt(asked, memory, forced)


def _impossible(asked: Asked) -> str | None:
    if not host_may_wait() or asked.inputs[0].is_meta:
        return "results cannot be checked without waiting for the device"
    if len(asked.inputs) != 1 or asked.scorer.additional:
        return "there is more than one input"
    (image,) = asked.inputs
    if image.dim() != 4 or not image.is_floating_point():
        return "the input is not an image [B, C, H, W] in floating point"
    if asked.scorer.shared:
        return "the output has no row for each example"
    return None


def _unmeasured(device: torch.device) -> str | None:
    """Why it is not taken of itself on a device: many small launches and waits, against a few large passes."""
    if device.type == "cpu":
        return None
    return f"it was not measured to be faster on {device.type}; incremental=True takes it all the same"


def _unworthy(known: Known, image: Tensor, changes: Changes, least: float) -> str | None:
    """Why a trace would not pay, by the operations of one pass; ``least`` is in times what the trace takes."""
    recorded = known.record_of(image[:1])
    if isinstance(recorded, str):
        return recorded
    rows = len(changes.rectangles) * image.shape[0]
    seconds, needed = rows * seconds_of_row(recorded), least * trace_seconds(recorded)
    if seconds < needed:
        return f"the sweep, of about {seconds:.2g} s by its size, is short beside a trace of the model"
    gain = laid_out(recorded, changes.rectangles, ROWS).gain
    if gain < LEAST_GAIN:
        return _gains_little(gain)
    if seconds * (1 - 1 / gain) < needed:
        return f"it would save about {seconds * (1 - 1 / gain):.2g} s by the sizes, little beside a trace of the model"
    return None


def _gains_little(gain: float) -> str:
    return f"it would leave 1/{gain:.2f} of the multiply-adds, which does not pay"
