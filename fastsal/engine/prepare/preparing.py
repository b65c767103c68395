"""How a model is prepared: each step tried against the plain model, kept where it is right and where it pays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fastsal._torch import BatchNorm, tree_leaves
from fastsal.engine.prepare.doubled import agrees_in_double
from fastsal.engine.prepare.finding import foldable
from fastsal.engine.prepare.form import Form, form_of
from fastsal.engine.prepare.precision import checked_precision, tolerance
from fastsal.engine.prepare.prepared import Choice, Prepared, Step, unprepared
from fastsal.engine.prepare.replica import NotReplicable, replica
from fastsal.engine.prepare.timing import GAIN, Timing
from fastsal.engine.run.chunk_sizes import MOST_ROWS
from fastsal.engine.run.comparing import by_row, difference
from fastsal.engine.run.forward import evaluation, run, scratch
from fastsal.engine.run.modules import unwrapped
from fastsal.engine.run.own import Undone, bounded
from fastsal.engine.run.snapshot import Scratch, Snapshot

MEMORY_FORMATS = ("auto", "channels_last", "contiguous")
FIRST_ROWS = 8
"""Rows per call at which memory formats are compared, where that is quick."""


@bounded
def prepare(
    model: nn.Module,
    inputs: Any,
    additional_forward_args: Any = (),
    *,
    precision: str | None = None,
    fold_batch_norm: bool = True,
    memory_format: str = "auto",
    compile: bool | str | None = None,
    cuda_graphs: bool = False,
    devices: Sequence[torch.device | str] | None = None,
    probe_seconds: float = 3.0,
    verify: bool = True,
) -> Prepared:
    """A model made ready for many passes, to be explained in place of the plain one.

    >>> fast = fastsal.prepare(model, images)
    >>> maps = fastsal.Occlusion(fast).attribute(images, (3, 4, 4), (3, 2, 2), target=classes)
    >>> print(fastsal.Occlusion(fast).plan())  # doctest: +SKIP

    The user's model is not touched. Weights have no gradients of their own, batch norm that follows a convolution or a
    linear layer is folded into it, and the memory format and the rows per call are those that were fastest here. What
    cannot be prepared stays as it is; each step's outputs were compared with the plain model's on the inputs, and
    ``print()`` of the result says what was done and why not.

    Args:
        model: module.
        inputs: tensor [B, ...] or tuple of them, as it will be explained.
        additional_forward_args: further arguments of the model.
        precision: None (the model's own), ``float32``, ``tf32``, ``bfloat16`` or ``float16``. Lower ones change maps:
            see docs/faster.md for how much. The last linear layer keeps the model's dtype, since maps are made of small
            differences of its outputs.
        fold_batch_norm: fold, where nothing but the norm reads a layer's value, in whatever course the model takes.
        memory_format: of weights and images: ``channels_last``, ``contiguous``, or ``auto``, the faster one.
        compile: use ``torch.compile``, with its default mode or the one named; None does where the model comes from it.
        cuda_graphs: replay each call as a CUDA graph (``torch.compile``'s mode ``reduce-overhead``).
        devices: split the rows of each call over these, the first being the model's.
        probe_seconds: how long the measuring may take, beyond the first measurement; 0 measures nothing and leaves
            contiguous and the default batch.
        verify: look for writes to the weights that PyTorch does not count (``.data``, NumPy, other libraries) by a
            fingerprint of 64 elements of each tensor at the beginning of each explanation, and compare one row with
            the model's for every 240 rows of sweeps. Without it, what PyTorch counts is seen all the same.

    Raises:
        TypeError: for a model that is no torch.nn.Module.
        ValueError: for options outside of the above.
    """
    model = unprepared(model)
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: {type(model).__name__} is not a torch.nn.Module; prepare the module that it calls")
    checked_precision(precision)
    if memory_format not in MEMORY_FORMATS:
        raise ValueError(f"memory_format: {memory_format!r} is not one of {', '.join(MEMORY_FORMATS)}")
    if not probe_seconds >= 0:
        raise ValueError(f"probe_seconds: {probe_seconds} is below 0; 0 measures nothing")
    values = tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)
    extra = additional_forward_args if isinstance(additional_forward_args, tuple) else (additional_forward_args,)
    arguments = tuple(map(scratch, (*values, *extra)))
    if not isinstance(arguments[0], Tensor) or arguments[0].dim() == 0 or arguments[0].shape[0] == 0:
        raise ValueError("inputs: the first must be a tensor [B, ...] with at least one example")
    plain = unwrapped(model)
    preparation = _Preparation(plain, arguments)
    split = tuple(torch.device(each) for each in devices or ())
    if split:
        preparation.check_devices(split)
    mode = "reduce-overhead" if cuda_graphs else plain is not model if compile is None else compile
    asked = Asked(arguments, precision, fold_batch_norm, memory_format, mode, split, probe_seconds)
    with evaluation(model), torch.no_grad():
        preparation.prepare(asked)
        preparation.find_rows(probe_seconds)
        return preparation.result(Again(asked, verify))


class Asked(NamedTuple):
    """What a model is to be prepared for, and how, as of :func:`prepare`."""

    arguments: tuple[Any, ...]
    precision: str | None
    fold_batch_norm: bool
    memory_format: str
    compile: bool | str
    devices: tuple[torch.device, ...]
    probe_seconds: float


class Again(NamedTuple):
    """How a model is prepared again that is no longer what it was; measures nothing, since that was decided."""

    asked: Asked
    verify: bool

    def again(self, model: nn.Module, before: Choice) -> tuple[Choice | None, list[Step], Scratch]:
        """A choice that is right now, the steps to it, and what passes write; None: the model is to run as it is."""
        how = "channels_last" if before.channels_last else "contiguous"
        preparation = _Preparation(model, tuple(map(scratch, self.asked.arguments)))
        try:
            with evaluation(model), torch.no_grad():
                preparation.prepare(self.asked._replace(memory_format=how, probe_seconds=0.0))
        except Exception as error:  # whatever the changed model makes of the inputs that it was prepared for
            message = str(error).strip().split("\n", 1)[0]
            preparation.ready = False
            preparation.say("model", False, f"as it is: it changed, and raised {type(error).__name__}: {message}")
        return preparation.choice if preparation.ready else None, preparation.steps, preparation.scratch


class _Preparation:
    """A choice that grows step by step."""

    def __init__(self, model: nn.Module, arguments: tuple[Any, ...]) -> None:
        self.model, self.arguments = model, arguments
        self.form: Form = form_of(arguments)
        self.choice, self.steps = Choice(), list[Step]()
        self.rows: int | None = None
        self.ready = False
        self.output: Any = None
        first = next((p for p in model.parameters() if p.is_floating_point()), None)
        self.device = arguments[0].device if first is None else first.device
        self.tolerance = tolerance(None, self.device)
        self.timing = Timing(arguments, self.device)
        self.scratch: Scratch = frozenset()

    def prepare(self, asked: Asked) -> None:
        """All steps but the number of rows."""
        if self.repeats_itself():
            self.replicate()
        if self.ready:
            self.set_precision(asked.precision)
            self.fold(asked.fold_batch_norm)
            self.set_format(asked.memory_format, asked.probe_seconds)
            self.compile(asked.compile)
            self.split(list(asked.devices))

    def say(self, name: str, done: bool, detail: str) -> None:
        self.steps.append(Step(name, done, detail))

    def repeats_itself(self) -> bool:
        """Whether a second call gives the same; nothing can be compared with a model that is random."""
        self.output = run(self.model, self._copies())
        before = Snapshot(self.model, [self.model], samples=False)
        again = run(self.model, self._copies())
        before.settle()
        self.scratch = before.scratch
        if difference(again, self.output) <= self.tolerance:
            return True
        self.say("model", False, "as it is: its output differs from call to call, so nothing can be checked against it")
        return False

    def _copies(self) -> tuple[Any, ...]:
        return tuple(map(scratch, self.arguments))

    def replicate(self) -> None:
        try:
            failed = self._fails(self.choice)
        except NotReplicable as error:
            failed = str(error)
        self.ready = failed is None
        if failed is not None:
            self.say("model", False, f"as it is: {failed}")
        else:
            self.say("model", True, "a replica without gradients of its weights, in evaluation mode")

    def _fails(self, choice: Choice, arguments: tuple[Any, ...] | None = None, expected: Any = None) -> str | None:
        """Why a choice is not right, if it is not."""
        try:
            found = run(self._made(choice), self._copies() if arguments is None else arguments)
        except NotReplicable:
            raise
        except Exception as error:
            message = str(error).strip().split("\n", 1)[0]
            return f"{type(error).__name__}: {message}"
        apart = difference(found, self.output if arguments is None else expected)
        if apart <= self.tolerance or (
            arguments is None and agrees_in_double(self.model, choice, self.arguments, self.output)
        ):
            return None
        return f"outputs were off by {apart:.1e} of their spread, with {self.tolerance:.0e} allowed"

    def _made(self, choice: Choice) -> Prepared:
        return Prepared(self.model, choice, self.form)

    def set_precision(self, precision: str | None) -> None:
        if precision is None:
            return
        self.tolerance = tolerance(precision, self.device)
        if precision == "tf32" and self.device.type != "cuda":
            self.say("precision", False, f"tf32 is a GPU's, the model is on {self.device}: its own")
            return
        wanted = self.choice._replace(precision=precision)
        if precision in ("bfloat16", "float16"):
            wanted = wanted._replace(exact_layer=self._last_layer())
            failed = self._fails(wanted)
            if failed is not None:
                wanted = wanted._replace(exact_layer=None, autocast=True)
                failed = self._fails(wanted)
        else:
            failed = self._fails(wanted)
        if failed is not None:
            self.tolerance = tolerance(None, self.device)
            self.say("precision", False, f"{precision} not used: {failed}")
            return
        self.choice = wanted
        how = "by autocast" if wanted.autocast else ""
        if wanted.exact_layer is not None:
            how = f"{wanted.exact_layer} in the model's own"
        self.say("precision", True, f"{precision}{', ' + how if how else ''}")

    def _last_layer(self) -> str | None:
        """The linear layer that runs last, once, and shares its weights with none."""
        linear = [(part, name) for name, part in self.model.named_modules() if isinstance(part, nn.Linear)]
        names: dict[nn.Module, str] = dict(linear)
        seen: list[nn.Module] = []
        with Undone() as undone:
            for part in names:
                undone.hook(part, lambda part, _args, _out: seen.append(part))
            run(self.model, self._copies())
        if not seen or seen.count(seen[-1]) != 1:
            return None
        return names[seen[-1]]

    def fold(self, wanted: bool) -> None:
        name = "batch norm"
        if not wanted:
            self.say(name, False, "not folded, as asked")
            return
        if not any(isinstance(part, BatchNorm) for part in self.model.modules()):
            self.say(name, False, "none in the model")
            return
        found = foldable(lambda: replica(self.model)[0], self.arguments, self._of_other_rows)
        choice = self.choice._replace(pairs=found.pairs)
        failed = self._fails(choice) if found.pairs else str(found) or "none ran"
        if failed is not None:
            self.say(name, False, f"not folded: {failed}")
            return
        self.choice = choice
        kinds = {self.model.get_parameter(pair.weight).dim() > 2 for pair in found.pairs}
        into = " and ".join("convolutions" if kind else "linear layers" for kind in sorted(kinds, reverse=True))
        left = f"; {found}" if found.reasons else ""
        self.say(name, True, f"{len(found.pairs)} of {found.norms} folded into {into}{left}")

    def _of_other_rows(self) -> tuple[Any, ...]:
        return self.timing.repeated(1 if self.arguments[0].shape[0] > 1 else 2)

    def set_format(self, wanted: str, probe_seconds: float) -> None:
        name = "memory format"
        weights = [p for p in self.model.parameters() if p.dim() == 4]
        if wanted == "contiguous" or not weights:
            self.say(name, False, "contiguous, as asked" if weights else "contiguous: no weight has four dimensions")
            return
        if wanted == "auto" and probe_seconds <= 0:
            self.say(name, False, "contiguous, as nothing was to be measured")
            return
        choice = self.choice._replace(channels_last=True)
        failed = self._fails(choice)
        if failed is not None:
            self.say(name, False, f"contiguous: {failed}")
            return
        detail = "channels_last, as asked"
        if wanted == "auto":
            rows = self.timing.comparable(self._made(self.choice), FIRST_ROWS, probe_seconds)
            before, after = self.timing.compared([self._made(self.choice), self._made(choice)], rows)
            measured = f"{1e3 * after:.2f} ms a row against {1e3 * before:.2f} at {rows} rows"
            if after > GAIN * before:
                self.say(name, False, f"contiguous: channels_last took {measured}")
                return
            detail = f"channels_last: {measured}"
        self.choice = choice
        self.say(name, True, detail)

    def compile(self, wanted: bool | str) -> None:
        if not wanted:
            return
        mode = "default" if wanted is True else str(wanted)
        name = "cuda graphs" if mode == "reduce-overhead" else "compile"
        if name == "cuda graphs" and self.device.type != "cuda":
            self.say(name, False, f"not used: the model is on {self.device}")
            return
        choice = self.choice._replace(compiled=mode)
        failed = self._fails(choice)
        if failed is None:
            self.choice = choice
        self.say(name, failed is None, f"torch.compile, mode {mode}" if failed is None else f"not used: {failed}")

    def check_devices(self, devices: Sequence[torch.device]) -> None:
        same = devices[0].type == self.device.type and devices[0].index in (None, self.device.index)
        if not same:
            raise ValueError(f"devices: the first is {devices[0]}, but the model is on {self.device}; begin with that")

    def split(self, devices: list[torch.device]) -> None:
        if len(devices) < 2:
            return
        rows = len(devices) * self.arguments[0].shape[0]
        expected = run(self.model, self.timing.repeated(rows))
        if any(
            isinstance(leaf, Tensor) and (leaf.dim() == 0 or leaf.shape[0] != rows) for leaf in tree_leaves(expected)
        ):
            self.say("devices", False, "not split: the output has no row for each example")
            return
        by_row = tuple(map(self.timing.by_row, self.arguments))
        choice = self.choice._replace(devices=tuple(devices), by_row=by_row)
        failed = self._fails(choice, self.timing.repeated(rows), expected)
        if failed is None:
            self.choice = choice
        names = ", ".join(map(str, devices))
        self.say("devices", failed is None, f"rows split over {names}" if failed is None else f"not split: {failed}")

    def find_rows(self, probe_seconds: float) -> None:
        """Rows per call: twice as many, or half, as long as that is faster and the time lasts."""
        if not self.ready:
            return
        if self._rows_depend_on_each_other():
            self.rows = 1
            self.say("rows per call", True, "1: the rows of a batch depend on each other")
            return
        if probe_seconds <= 0:
            return
        most = MOST_ROWS * max(1, len(self.choice.devices))
        start = FIRST_ROWS * max(1, len(self.choice.devices))
        rows, found = self.timing.fastest_rows(self._made(self.choice), start, most, probe_seconds)
        if not found:
            return
        self.rows = rows
        told = ", ".join(f"{count}: {1e3 * found[count]:.2f}" for count in sorted(found))
        self.say("rows per call", True, f"{rows} (ms a row at {told})")

    def _rows_depend_on_each_other(self) -> bool:
        count = self.arguments[0].shape[0]
        work = self._made(self.choice)
        same, others = self.timing.repeated(2 * count), self.timing.repeated(2 * count)
        for value in others:
            if isinstance(value, Tensor) and value.is_floating_point() and value.dim() and value.shape[0] == 2 * count:
                value[count:] *= -3
        beside_same, beside_others = (by_row(run(work, each), 2 * count) for each in (same, others))
        if beside_same is None or beside_others is None:
            return True
        if difference(beside_others.parts[:count], beside_same.parts[:count]) > self.tolerance:
            return True
        # How many objects a detector finds may turn on the roundings of another batch, so there the batches are alike.
        alone = None if beside_same.listed else by_row(self.output, count)
        return alone is not None and difference(beside_same.parts[:count], alone.parts) > self.tolerance

    def result(self, remake: Again) -> Prepared:
        choice = self.choice if self.ready else None
        prepared = Prepared(self.model, choice, self.form, self.steps, remake, self.scratch)
        prepared.rows = self.rows
        return prepared
