"""One cell of the matrix: a method on an architecture, what became of it, and whether the model is as it was."""

from __future__ import annotations

import contextlib
import resource
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from tools.models.subject import Subject

OK, REFUSED, WRONG, ERROR, TIMEOUT, MEMORY, NONE = "ok", "refused", "wrong", "error", "timeout", "memory", "no meaning"
LIBRARY = "/fastsal/"


class Wrong(Exception):
    """The value is not what was found without the library."""


class Meaningless(Exception):
    """The method has no meaning for this architecture; the reason is one of the list in tests/tools/test_models.py."""


class OutOfTime(BaseException):
    """The cell's share of processor time is used up. No Exception, so that no fallback takes it for a failed try."""


@dataclass
class Cell:
    """What became of one method on one architecture.

    Attributes:
        model: "package:architecture".
        method: as in :data:`tools.models.checks.METHODS`.
        status: ok, refused, wrong, error, timeout, memory, no meaning.
        detail: the figures, or the refusal's line.
        changed: what the call left changed on the model; "" for nothing.
        seconds: of processor time.
        versions: of the packages.
        commit: of fastsal.
    """

    model: str
    method: str
    status: str
    detail: str = ""
    changed: str = ""
    seconds: float = 0.0
    versions: dict[str, str] = field(default_factory=dict)
    commit: str = ""

    def record(self) -> dict[str, Any]:
        return asdict(self)


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raises :class:`OutOfTime` after that much processor time of this process."""

    def ring(_signal: int, _frame: Any) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGPROF, ring)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def limit_memory(gigabytes: float) -> None:
    """Lets this process allocate no more than that of data, so that a large cell fails alone."""
    limit = int(gigabytes * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def state_of(model: nn.Module) -> dict[str, Any]:
    """What an explanation must leave as it was: hooks, flags, gradients, versions and places of tensors."""
    found: dict[str, Any] = {}
    for name, part in model.named_modules():
        hooks = {key: len(value) for key, value in vars(part).items() if key.endswith("hooks") and value}
        found[f"{name}: hooks"] = hooks
        found[f"{name}: training"] = part.training
        found[f"{name}: forward"] = vars(part).get("forward")
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        found[f"{name}: requires_grad"] = tensor.requires_grad
        found[f"{name}: gradient"] = tensor.grad is None
        found[f"{name}: place"] = tensor.data_ptr()
        found[f"{name}: value"] = (
            (float(tensor.detach().double().sum()), tuple(tensor.shape)) if tensor.numel() else None
        )
        if isinstance(tensor, nn.Parameter):
            found[f"{name}: version"] = tensor._version
    return found


def difference(before: dict[str, Any], after: dict[str, Any]) -> str:
    """What differs, in one line; "" for nothing."""
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    return "; ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def line_of(error: BaseException) -> str:
    """An error in one line, with where in the library it was raised last."""
    message = str(error).strip().split("\n")[0]
    inside = [frame for frame in traceback.extract_tb(error.__traceback__) if LIBRARY in frame.filename]
    where = f" at {Path(inside[-1].filename).name}:{inside[-1].lineno}" if inside else ""
    return f"{type(error).__name__}: {message}"[:400] + where


def is_refusal(error: BaseException) -> bool:
    """Whether the library refused: an error that it raised itself, in one line that begins with what was given."""
    frames = traceback.extract_tb(error.__traceback__)
    message = str(error).strip()
    start = message.partition(":")[0]
    return bool(
        isinstance(error, (ValueError, TypeError))
        and frames
        and LIBRARY in frames[-1].filename
        and "\n" not in message
        and ":" in message
        and len(start.split()) <= 4
    )


def run_cell(subject: Subject, method: str, check: Callable[[Subject], str], seconds: float) -> Cell:
    """One cell. What is wrong in float32 is tried again in float64: rounding at a kink is no fault of the library."""
    began, cell, before = time.process_time(), Cell(subject.name, method, OK), state_of(subject.model)
    try:
        with limited(seconds):
            cell.detail = _twice(subject, check)
    except Meaningless as reason:
        cell.status, cell.detail = NONE, str(reason)
    except Wrong as wrong:
        cell.status, cell.detail = WRONG, str(wrong)
    except OutOfTime:
        cell.status, cell.detail = TIMEOUT, f"over {seconds:.0f} s of processor time"
    except MemoryError:
        cell.status = MEMORY
    except Exception as error:  # whatever is raised is what the cell says
        memory = "can't allocate memory" in str(error) or "not enough memory" in str(error)
        cell.status = MEMORY if memory else REFUSED if is_refusal(error) else ERROR
        cell.detail = line_of(error)
    cell.changed = difference(before, state_of(subject.model))
    cell.seconds = round(time.process_time() - began, 1)
    return cell


def _twice(subject: Subject, check: Callable[[Subject], str]) -> str:
    try:
        return check(subject)
    except Wrong as wrong:
        try:
            exact = check(subject.double())
        except Wrong as again:
            raise Wrong(f"{wrong}; in float64 {again}") from None
        except Exception as error:  # a model that float64 does not run: float32 has the word
            raise Wrong(f"{wrong}; float64: {line_of(error)}") from None
        return f"float64: {exact}; float32: {wrong}"


def apart(found: Tensor, expected: Tensor, scale: float | None = None) -> float:
    """The largest difference as a share of the expected values' size; inf for another shape or a value that is none."""
    if found.shape != expected.shape or not bool(found.isfinite().all()) or not bool(expected.isfinite().all()):
        return float("inf")
    size = float(expected.abs().max()) if scale is None else scale
    gap = float((found.double() - expected.double()).abs().max())
    return gap / size if size > 0 else (0.0 if gap == 0 else float("inf"))


def near(name: str, found: Tensor, expected: Tensor, tolerance: float, scale: float | None = None) -> str:
    """The figure, where the two are near.

    Raises:
        Wrong: where they are not.
    """
    gap = apart(found, expected, scale)
    if not gap <= tolerance:
        shapes = "" if found.shape == expected.shape else f", shapes {tuple(found.shape)} and {tuple(expected.shape)}"
        raise Wrong(f"{name} {gap:.1e} apart{shapes}")
    return f"{name} {gap:.1e}"
