"""A model made ready for many passes: a replica of its structure with weights that run faster."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from fastsal._torch import tree_leaves, tree_map
from fastsal.engine.prepare.folding import Fold, fold
from fastsal.engine.prepare.form import Form, form_of
from fastsal.engine.prepare.precision import DTYPES, as_dtype, float32_arithmetic, keep_exact, tolerance
from fastsal.engine.prepare.replica import replica
from fastsal.engine.prepare.turns import Turns
from fastsal.engine.run.comparing import by_row, difference
from fastsal.engine.run.forward import evaluation, scratch
from fastsal.engine.run.managed import Managed
from fastsal.engine.run.snapshot import Change, Scratch, Snapshot
from fastsal.engine.run.telling import tell

VERIFIED_ROWS = 240
"""Rows for which one is compared with the user's model: that, and its own, are below a hundredth of them."""


class Choice(NamedTuple):
    """What a prepared model does otherwise than the plain one.

    Attributes:
        pairs: batch norms folded into the layers before them.
        channels_last: weights and inputs with channels innermost.
        precision: as of :func:`fastsal.prepare`.
        autocast: in lower precision by ``torch.autocast``, rather than with weights of that dtype.
        exact_layer: name of the last layer, which then keeps the model's dtype.
        compiled: mode of ``torch.compile``; None runs eagerly.
        devices: over which rows are split; one or none does not split.
        by_row: which arguments have a part for each row.
    """

    pairs: tuple[Fold, ...] = ()
    channels_last: bool = False
    precision: str | None = None
    autocast: bool = False
    exact_layer: str | None = None
    compiled: str | None = None
    devices: tuple[torch.device, ...] = ()
    by_row: tuple[bool, ...] = ()


class Step(NamedTuple):
    """One preparation: its name, whether it was done, and what came of it or why not."""

    name: str
    done: bool
    detail: str

    def __str__(self) -> str:
        return f"{self.name}: {self.detail}"


class Remake(Protocol):
    """Finds out again what can be prepared of a model that is no longer what it was."""

    @property
    def verify(self) -> bool:
        """Whether to look for writes that PyTorch does not count, and to compare rows."""

    def again(self, model: nn.Module, before: Choice) -> tuple[Choice | None, list[Step], Scratch]:
        """A choice that is right now, the steps to it, and what passes of the model write to themselves.

        None in the place of a choice where the model is to run as it is.
        """


class Prepared(Managed):
    """A model's passes, made by :func:`fastsal.prepare`.

    It is called as the model is, and hands other forms of call than the one that it was made for to the model itself.

    At the beginning of each explanation, and of each call outside of one, it looks whether the model is still what it
    was made from: weights, buffers, attributes, hooks, parts, classes and forwards, and a fingerprint of the weights
    for writes that PyTorch does not count. Before a sweep one row's output is compared with the model's, once for
    every 240 rows. Where something differs, what was prepared is made anew, with a warning if PyTorch did not tell.

    Attributes:
        original: the user's model, as it was.
        module: the replica that runs.
        steps: what was prepared, and what was not and why.
        rows: the rows per call with the most throughput; None where that was not measured.
        folded: parts of the replica whose own value is no longer what the model's was.
    """

    module: nn.Module
    _runs: list[Callable[..., Any]]

    def __init__(
        self,
        original: nn.Module,
        choice: Choice | None,
        form: Form,
        steps: Sequence[Step] = (),
        remake: Remake | None = None,
        scratch: Scratch = frozenset(),
    ) -> None:
        super().__init__()
        self.__dict__["original"] = original  # not a part: its names are the replica's
        self.as_it_is = choice is None
        self.choice, self.form, self.steps = choice or Choice(), form, list(steps)
        self.rows: int | None = None
        self._remake, self._scratch, self._turns = remake, scratch, Turns()
        self._unverified = VERIFIED_ROWS
        self._passes: list[tuple[tuple[Any, ...], Any]] | None = None
        self.copies: dict[nn.Module, nn.Module] = {}
        self._build()

    def __reduce__(self) -> Any:
        # What is watched, and who is in a call, is of this process.
        state = self.__dict__["original"], None if self.as_it_is else self.choice, self.form, self.steps, self._remake
        return _restored, (*state, self.rows)

    def _build(self) -> None:
        choice = self.choice
        original: nn.Module = self.__dict__["original"]
        self._snapshot: Snapshot | None = None
        if self._remake is not None and not self.as_it_is:
            self._snapshot = Snapshot(original, [original], samples=self.verifies, scratch=self._scratch)
        self._finest = next((p.dtype for p in original.parameters() if p.is_floating_point()), None)
        self.folded: set[nn.Module] = set()
        if self.as_it_is:
            self.module, self._runs = original, [original]
            return
        folded, first = replica(original)
        norms = [folded.get_submodule(pair.norm) for pair in choice.pairs]
        fold(folded, choice.pairs)
        # A batch norm's value is what the folded convolution's is now: an identity in its place can still be read.
        stands_for = {norm: folded.get_submodule(pair.norm) for norm, pair in zip(norms, choice.pairs, strict=True)}
        sources = {part: stands_for.get(copy, copy) for part, copy in first.items()}
        earlier = {source: self.copies[part] for part, source in sources.items() if part in self.copies}
        module, second = replica(folded, self._convert, earlier)
        self.copies = {part: second[source] for part, source in sources.items()}
        self.folded = {module.get_submodule(name) for pair in choice.pairs for name in pair.values}
        if choice.exact_layer is not None and self._finest is not None:
            source, exact = (each.get_submodule(choice.exact_layer) for each in (folded, module))
            exact.__dict__.update(_parameters=source._parameters, _buffers=source._buffers)
            keep_exact(exact, self._finest)
        self.module = module
        others = [replica(module, lambda t, to=device: t.to(to))[0] for device in choice.devices[1:]]  # type: ignore[misc]
        self._runs = [module, *others]
        if choice.compiled is not None:
            self._runs = [torch.compile(each, mode=choice.compiled, dynamic=False) for each in self._runs]

    def _convert(self, tensor: Tensor) -> Tensor:
        value: Tensor = as_dtype(tensor, self._dtype)
        if self.choice.channels_last and value.dim() == 4:
            value = value.contiguous(memory_format=torch.channels_last)
        return value

    @property
    def _dtype(self) -> torch.dtype | None:
        """Of the weights and inputs, where it is not the model's own."""
        return None if self.choice.autocast else DTYPES.get(self.choice.precision or "")

    @property
    def hookable(self) -> bool:
        return self.choice.compiled is None and len(self.choice.devices) < 2

    @property
    def verifies(self) -> bool:
        """Whether it looks for writes that PyTorch does not count."""
        return self._remake is not None and self._remake.verify

    def copy_of(self, part: nn.Module) -> nn.Module:
        """The replica's counterpart of one of the model's parts; any other as it is."""
        return self.copies.get(part, part)

    @contextlib.contextmanager
    def session(self, whole: bool = False) -> Iterator[None]:
        """One explanation: the model as it is now, arithmetic as chosen; ``whole`` splits no rows."""
        with self._turns.inside(self._renew, whole), float32_arithmetic(self.choice.precision, self._device()):
            yield

    def _renew(self) -> Callable[[], None] | None:
        """What takes over a change of the model; None where there is none."""
        change = None if self._snapshot is None else self._snapshot.change()
        return None if change is None else lambda: self._take_over(change)

    def _take_over(self, change: Change) -> None:
        if change.unseen:
            tell(f"fastsal.prepare: {change} since this model was prepared, so that it was made anew")
        if change.values:
            with contextlib.suppress(Exception):  # of another form: then it is looked at as a whole
                self._build()
                return
        self._choose()

    def _choose(self) -> None:
        """Find out anew what can be prepared."""
        assert self._remake is not None
        choice, steps, self._scratch = self._remake.again(self.__dict__["original"], self.choice)
        self.as_it_is, self.choice, self.steps = choice is None, choice or Choice(), steps
        self._build()

    def verify(self, rows: int, run: Callable[[], Any]) -> None:
        """Before a sweep: compare a row with the user's model, unless that was done less than 240 rows ago.

        Where they differ, what was prepared is made anew, and where that differs too, the model runs as it is.

        Args:
            rows: of the sweep, as far as they are known; those that ran since the last comparison count too.
            run: a pass of one example, that calls this model; in evaluation mode, without gradients.
        """
        if self._snapshot is None or not self.verifies:
            return
        if self._unverified + rows < VERIFIED_ROWS or self._turns.is_inside():
            return
        self._unverified = 0
        apart, allowed = self._apart(run), tolerance(self.choice.precision, self._device())
        if apart <= allowed:
            return
        self._turns.alone(self._choose)
        if not self.as_it_is and self._apart(run) > allowed:
            self.as_it_is, self.choice = True, Choice()
            self.steps = [Step("model", False, f"as it is: outputs were off by {apart:.1e} of their spread")]
            self._turns.alone(self._build)
        how = "it runs as it is" if self.as_it_is else "it was made anew"
        tell(f"fastsal.prepare: an output was off by {apart:.1e} of its spread from that of the model, so that {how}")

    def _apart(self, run: Callable[[], Any]) -> float:
        """How far outputs that have a row for each example are from the user's model's in a pass."""
        passes: list[tuple[tuple[Any, ...], Any]] = []
        self._passes = passes
        original: nn.Module = self.__dict__["original"]
        try:
            run()
        except Exception:  # the model's own error is raised where the explainer runs it
            return 0.0
        finally:
            self._passes = None
        apart = 0.0
        for args, output in passes:
            rows = by_row(output, args[0].shape[0])
            if rows is not None and not rows.listed:  # how many objects there are may turn on a rounding
                with evaluation(original), torch.no_grad():
                    apart = max(apart, difference(output, original(*args)))
        return apart

    def _device(self) -> torch.device:
        first = next(self.module.parameters(), None)
        return torch.device("cpu") if first is None else first.device

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The model's output, in the dtypes that the model gives."""
        if not self._turns.is_inside():
            with self.session():
                return self.forward(*args, **kwargs)
        if kwargs or form_of(args) != self.form:
            original: nn.Module = self.__dict__["original"]
            with evaluation(original):
                return original(*args, **kwargs)
        if self._passes is None:
            return self._run(args)
        given = tuple(map(scratch, args))
        output = self._run(args)
        self._passes.append((given, output))
        return output

    def _run(self, args: tuple[Any, ...]) -> Any:
        rows = args[0].shape[0] if args and isinstance(args[0], Tensor) and args[0].dim() else 0
        self._unverified += rows
        count = 1 if self._turns.is_whole() else min(len(self._runs), rows)
        split = [each for each, by_row in zip(args, self.choice.by_row, strict=False) if by_row]
        if count <= 1 or any(each.shape[0] != rows for each in split):
            return self._one(0, args)
        bounds = [rows * index // count for index in range(count + 1)]
        parts = []
        for index, device in enumerate(self.choice.devices[:count]):
            share = slice(bounds[index], bounds[index + 1])
            own = (value[share] if row else value for value, row in zip(args, self.choice.by_row, strict=True))
            moved = (v.to(device, non_blocking=True) if isinstance(v, Tensor) else v for v in own)
            parts.append(self._one(index, tuple(moved)))
        return _joined(parts, self.choice.devices[0])

    def _one(self, index: int, args: tuple[Any, ...]) -> Any:
        choice = self.choice
        args = tuple(as_dtype(value, self._dtype) for value in args)
        if choice.channels_last:
            args = tuple(
                value.contiguous(memory_format=torch.channels_last)
                if isinstance(value, Tensor) and value.dim() == 4
                else value
                for value in args
            )
        context: Any = contextlib.nullcontext()
        if choice.autocast:
            context = torch.autocast(self._device().type, DTYPES[choice.precision or "float32"])
        if choice.compiled == "reduce-overhead":
            torch.compiler.cudagraph_mark_step_begin()
        with context:
            output = self._runs[index](*args)
        if choice.compiled == "reduce-overhead":
            # The next call overwrites a graph's own output.
            output = tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, output)
        if self._finest is None or (self._dtype is None and not choice.autocast):
            return output
        return tree_map(lambda leaf: as_dtype(leaf, self._finest), output)

    def __getattr__(self, name: str) -> Any:
        """The model's own attributes, such as its layers."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if "original" not in self.__dict__:
                raise
            return getattr(self.__dict__["original"], name)

    def __repr__(self) -> str:
        return "Prepared(\n  " + "\n  ".join(map(str, self.steps)) + "\n)"


def unprepared(model: Any) -> Any:
    """A prepared model's original; any other as it is."""
    return model.__dict__["original"] if isinstance(model, Prepared) else model


def _joined(parts: list[Any], device: torch.device) -> Any:
    """Outputs of shares of the rows as one, in the order of the rows."""
    leaves = [tree_leaves(part) for part in parts]
    joined = iter(
        torch.cat([each.to(device) for each in same]) if isinstance(same[0], Tensor) else same[0]
        for same in zip(*leaves, strict=True)
    )
    return tree_map(lambda _leaf: next(joined), parts[0])


def _restored(
    original: nn.Module, choice: Choice | None, form: Form, steps: list[Step], remake: Remake | None, rows: int | None
) -> Prepared:
    prepared = Prepared(original, choice, form, steps, remake)
    prepared.rows = rows
    return prepared
