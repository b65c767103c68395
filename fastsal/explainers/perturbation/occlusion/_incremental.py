"""Scores of inputs that are changed in one place each, by incremental inference where that pays and is right."""

from __future__ import annotations

import time
import warnings
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fastsal.engine.incremental import Group, Incremental, NotTraceable, Traced, share_in_maps, trace, trace_seconds
from fastsal.engine.prepare import Step, Watch
from fastsal.engine.run import Plan, hookable, host_may_wait, modules_of, observed, sweep
from fastsal.engine.run.sweep import Swept, note
from fastsal.explainers.perturbation.altered import AlteredScores
from fastsal.explainers.perturbation.occlusion._changes import Changes
from fastsal.ops import patches

FEWEST = 48
"""Positions below which nothing is traced."""
MOST = 2**16
"""Positions above which the plan itself would take long."""
LEAST_GAIN = 1.2
"""Times fewer multiply-adds than the plain sweep's, below which the copies would eat what is saved."""
LEAST_TRACES = 4
"""Sweeps of one explainer take so many times what tracing takes, before it is traced: then it cannot cost much more
than it saves."""
ROWS = 32
"""Changed inputs per call: patches are small, and a batch of them must fill the machine."""
TOLERANCE = 1e-2
"""Allowed difference from the plain forward, as a share of what the changes do to the output.

Right runs on five networks stayed below 1e-4; each of six faults put in on purpose was above, at some position.
"""
MOST_CHECKS = 8
TIMED = 3
"""Calls of a group that are timed."""
ROUNDINGS = 64
"""Allowed difference in roundings of the largest output, for changes that do next to nothing."""


class _Kept(NamedTuple):
    """A trace, or why there is none, and the model as it was."""

    traced: Traced | str
    watches: tuple[Watch, ...]


_traces: weakref.WeakKeyDictionary[Any, dict[Any, _Kept]] = weakref.WeakKeyDictionary()
"""Of explainers, the trace of the last form of input."""
_spent: weakref.WeakKeyDictionary[Any, float] = weakref.WeakKeyDictionary()
"""Of explainers, about how many seconds their sweeps have taken without a trace."""


def checked_setting(incremental: Any) -> bool | str:
    """``"auto"``, True or False.

    Raises:
        ValueError: for anything else.
    """
    if incremental is True or incremental is False or incremental == "auto":
        return incremental  # type: ignore[no-any-return]
    raise ValueError(f'incremental: {incremental!r} is none of "auto", True and False')


def incremental_scores(
    explainer: Any,
    scores: AlteredScores,
    inputs: tuple[Tensor, ...],
    changes: Callable[[], Changes],
    setting: bool | str,
    rows: int | None,
    show_progress: bool,
) -> Tensor | None:
    """Scores [P, outputs] of the changed inputs; None where the plain sweep is the way.

    Call inside ``evaluation`` and ``torch.no_grad``.

    Args:
        explainer: whose model it is; keeps the trace for the next call.
        scores: of the plain sweep.
        inputs: of the explainer, one image tensor where it can be done.
        changes: makes the changes of the one image tensor.
        setting: ``"auto"``: where it pays; True: wherever it is possible; False: not.
        rows: changed inputs per call, chosen when None.
        show_progress: show a bar.

    Raises:
        ValueError: with ``setting`` True, where it is not possible, saying why.
    """
    steps: dict[str, Any] = explainer.__dict__
    steps.pop("_incremental", None)
    if setting is False:
        return None
    found = _attempt(explainer, scores, inputs, changes, setting is True, rows, show_progress)
    if isinstance(found, str):
        if setting is True:
            raise ValueError(f'incremental: not possible: {found}; "auto" takes the plain sweep instead')
        steps["_incremental"] = Step("incremental", False, f"not used: {found}")
        return None
    return found


def _attempt(
    explainer: Any,
    scores: AlteredScores,
    inputs: tuple[Tensor, ...],
    changes: Callable[[], Changes],
    forced: bool,
    rows: int | None,
    show_progress: bool,
) -> Tensor | str:
    if not host_may_wait() or inputs[0].is_meta:
        return "results cannot be checked without waiting for the device"
    if len(inputs) != 1 or scores.additional:
        return "there is more than one input"
    (image,) = inputs
    if image.dim() != 4 or not image.is_floating_point():
        return "the input is not an image [B, C, H, W] in floating point"
    if scores.shared:
        return "the output has no row for each example"
    made = changes()
    count = len(made.rectangles)
    if not forced and count < FEWEST:
        return f"there are fewer than {FEWEST} positions"
    if count > MOST:
        return f"there are more than {MOST} positions"
    traced = _traced(explainer, scores, image, count, forced)
    if isinstance(traced, str):
        return traced
    most = ROWS if rows is None else rows
    whole_rows = None if image.is_cuda else max(1, scores.plan(count).size // image.shape[0])
    engine = Incremental(traced, made.rectangles, patches.gather, most, whole_rows)
    if not forced and engine.gain < LEAST_GAIN:
        return f"it would leave 1/{engine.gain:.2f} of the multiply-adds, which does not pay"
    run = _Run(explainer, scores, image, made, engine, rows, show_progress)
    return run.all_examples(forced)


def _traced(explainer: Any, scores: AlteredScores, image: Tensor, count: int, forced: bool) -> Traced | str:
    kept = _traces.setdefault(explainer, {})
    key = (tuple(image.shape[1:]), image.dtype, image.device)
    found = kept.get(key)
    if found is not None and not any(watch.changed() for watch in found.watches):
        return found.traced
    if not hookable(explainer.forward_func):
        return "the model is compiled, or split over devices"
    models = modules_of(explainer.forward_func)
    parts = sum(1 for model in models for _ in model.modules())
    spent = _spent.get(explainer, 0.0) + count * image.shape[0] * scores.seconds
    _spent[explainer] = spent
    if not forced and spent < LEAST_TRACES * trace_seconds(parts):
        return "the sweeps so far took little longer than tracing the model would"
    if not forced and share_in_maps(models, lambda: scores.output_of(image[:1])) < 1 - 1 / LEAST_GAIN:
        return "most of the model is not in layers over maps"
    traced: Traced | str
    try:
        traced = trace(explainer.forward_func, image[:1])
    except NotTraceable as error:
        traced = f"the model cannot be traced: {error}"
    kept.clear()
    kept[key] = _Kept(traced, tuple(Watch(model) for model in models))
    return traced


class _Run:
    """The sweeps of one attribution."""

    def __init__(
        self,
        explainer: Any,
        scores: AlteredScores,
        image: Tensor,
        changes: Changes,
        engine: Incremental,
        rows: int | None,
        show_progress: bool,
    ) -> None:
        self._name, self._scores, self._image, self._changes = explainer.get_name(), scores, image, changes
        self._engine, self._show_progress = engine, show_progress
        self._rows = ROWS if rows is None else rows
        self._examples = image.shape[0]
        self._plain_seconds = float("inf")

    def all_examples(self, forced: bool) -> Tensor | str:
        """Scores [P, outputs], or how they differ from the model's."""
        count = len(self._changes.rectangles)
        found = self._scores.clean.new_empty((count, *self._scores.clean.view(self._examples, -1).shape))
        began = time.perf_counter()
        quick = True
        with observed() as sweeps:
            for example in range(self._examples):
                self._engine.prepare(self._image[example : example + 1])
                wrong = self._differs(example, MOST_CHECKS if example == 0 else 2)
                if wrong is not None:
                    warnings.warn(f"incremental: {wrong}; the plain sweep is used", stacklevel=6)
                    return wrong
                for group in self._engine.groups:
                    seconds = self._sweep(example, group, found[:, example], quick)
                    # The first call of a shape chooses algorithms.
                    if not forced and quick and min(seconds[1:], default=0.0) > self._plain_seconds:
                        quick = False
        how = f"incremental ({self._engine.gain:.1f} times fewer multiply-adds)"
        how += "" if quick else ", the rest plain, which was measured to be faster"
        sizes = tuple(size for each in sweeps for size in each.sizes)
        retried = sum(each.retried for each in sweeps)
        note(Swept(f"{self._name}, {how}", count * self._examples, sizes, retried, time.perf_counter() - began))
        return found.flatten(1)

    def _outputs(self, example: int, group: Group, rows: Tensor) -> Any:
        window = self._engine.window(group)
        altered = self._changes.altered(example, group.positions[rows.cpu()], window.starts[rows], window.size)
        return self._engine(group, rows, altered)

    def _plain_outputs(self, example: int, positions: Tensor) -> Any:
        starts = torch.zeros((len(positions), 2), dtype=torch.int64, device=self._image.device)
        height, width = self._image.shape[2:]
        return self._scores.output_of(self._changes.altered(example, positions, starts, (height, width)))

    def _sweep(self, example: int, group: Group, found: Tensor, quick: bool) -> list[float]:
        """One group's scores of one example, into the rows of its positions; seconds a row of each call."""
        total = len(group.positions)
        # Chunks of one size, since each other size makes the libraries choose their algorithms anew.
        size = -(-total // -(-total // self._rows))
        plan = Plan(total, 1, 0, self._image.device, size) if quick else self._scores.plan(total)
        seconds: list[float] = []

        def step(start: int, stop: int) -> Callable[[], None]:
            began = self._now()
            if quick:
                output = self._outputs(example, group, torch.arange(start, stop, device=self._image.device))
            else:
                output = self._plain_outputs(example, group.positions[start:stop])
            values = self._scores.of_rows(output, stop - start, example)
            if len(seconds) < TIMED:
                seconds.append((self._now() - began) / (stop - start))

            def commit() -> None:
                found[group.positions[start:stop]] = values

            return commit

        sweep(total, step, plan, show_progress=self._show_progress, description=self._name)
        return seconds

    def _differs(self, example: int, most: int) -> str | None:
        """How corners, centre and other positions differ from the plain forward, if beyond rounding."""
        chosen = torch.tensor(self._to_check()[:most], device="cpu")
        parts, order = [], []
        for group in self._engine.groups:
            rows = torch.isin(group.positions, chosen).nonzero()[:, 0]
            if len(rows):
                output = self._outputs(example, group, rows.to(self._image.device))
                parts.append(self._scores.of_rows(output, len(rows), example))
                order.append(group.positions[rows])
        positions = torch.cat(order)
        began = self._now()
        output = self._plain_outputs(example, positions)
        want = self._scores.of_rows(output, len(positions), example).double()
        if example == 0:
            self._plain_seconds = (self._now() - began) / len(positions)
        got, clean = torch.cat(parts).double(), self._scores.clean.view(self._examples, -1)[example].double()
        if not torch.equal(got.isfinite(), want.isfinite()):
            return "its outputs are not finite where the model's are"
        got, want, clean = (each.nan_to_num(posinf=0, neginf=0) for each in (got, want, clean))
        apart, effect = float((got - want).abs().max()), float((want - clean).abs().max())
        rounding = ROUNDINGS * torch.finfo(self._image.dtype).eps * float(want.abs().max())
        if apart <= max(TOLERANCE * effect, rounding):
            return None
        return f"outputs at {len(positions)} positions were off by up to {apart:.1e}, with an effect of {effect:.1e}"

    def _to_check(self) -> list[int]:
        """The centre, corners and three more positions."""
        rectangles = self._changes.rectangles.double()
        middle = torch.stack([rectangles[:, :2].mean(1), rectangles[:, 2:].mean(1)], 1)
        low, high = middle.amin(0), middle.amax(0)
        places = [(low + high) / 2, low, high, torch.stack([low[0], high[1]]), torch.stack([high[0], low[1]])]
        chosen = [int((middle - place).square().sum(1).argmin()) for place in places]
        others = np.random.default_rng(0).integers(len(rectangles), size=3).tolist()
        return list(dict.fromkeys([chosen[0], others[0], *chosen[1:], *others[1:]]))

    def _now(self) -> float:
        if self._image.device.type == "cuda":
            torch.cuda.synchronize(self._image.device)
        return time.perf_counter()
