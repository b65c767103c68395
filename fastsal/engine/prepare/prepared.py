"""A model made ready for many passes: a replica of its structure with weights that run faster."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fastsal._torch import tree_leaves, tree_map
from fastsal.engine.prepare.folding import Fold, fold
from fastsal.engine.prepare.precision import DTYPES, as_dtype, float32_arithmetic, keep_exact
from fastsal.engine.prepare.replica import replica
from fastsal.engine.prepare.watch import Watch
from fastsal.engine.run.forward import evaluation
from fastsal.engine.run.managed import Managed


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


Form = tuple[Any, ...]


class Prepared(Managed):
    """A model's passes, made by :func:`fastsal.prepare`.

    It is called as the model is, and hands other forms of call than the one that it was made for to the model itself.
    A change of the model's weights, flags or parts since is seen at the next explanation, and taken over.

    Attributes:
        original: the user's model, as it was.
        module: the replica that runs.
        steps: what was prepared, and what was not and why.
        rows: the rows per call with the most throughput; None where that was not measured.
        folded: parts of the replica whose own value is no longer what the model's was.
    """

    module: nn.Module
    _runs: list[Callable[..., Any]]

    def __init__(self, original: nn.Module, choice: Choice | None, form: Form, steps: Sequence[Step] = ()) -> None:
        super().__init__()
        self.__dict__["original"] = original  # not a part: its names are the replica's
        self.as_it_is = choice is None
        self.choice, self.form, self.steps = choice or Choice(), form, list(steps)
        self.rows: int | None = None
        self._split = True
        self._depth = 0
        self.copies: dict[nn.Module, nn.Module] = {}
        self._build()

    def _build(self) -> None:
        choice = self.choice
        original: nn.Module = self.__dict__["original"]
        self._watch = Watch(original)
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

    def copy_of(self, part: nn.Module) -> nn.Module:
        """The replica's counterpart of one of the model's parts; any other as it is."""
        return self.copies.get(part, part)

    @contextlib.contextmanager
    def session(self, whole: bool = False) -> Iterator[None]:
        """One explanation: weights as the model has them now, arithmetic as chosen; ``whole`` splits no rows."""
        if self._depth == 0 and self._watch.changed():
            self._build()
        split, self._split = self._split, self._split and not whole
        self._depth += 1
        try:
            with float32_arithmetic(self.choice.precision, self._device()):
                yield
        finally:
            self._depth -= 1
            self._split = split

    def _device(self) -> torch.device:
        first = next(self.module.parameters(), None)
        return torch.device("cpu") if first is None else first.device

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The model's output, in the dtypes that the model gives."""
        if kwargs or form_of(args) != self.form:
            original: nn.Module = self.__dict__["original"]
            with evaluation(original) if self._depth else contextlib.nullcontext():
                return original(*args, **kwargs)
        if self._depth == 0:
            with self.session():
                return self._run(args)
        return self._run(args)

    def _run(self, args: tuple[Any, ...]) -> Any:
        rows = args[0].shape[0] if args and isinstance(args[0], Tensor) and args[0].dim() else 0
        count = min(len(self._runs), rows) if self._split else 1
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


def form_of(args: tuple[Any, ...]) -> Form:
    """What a trace depends on beside the tensors' values: number and kinds of arguments, and plain values."""
    return tuple((str(v.dtype), v.dim()) if isinstance(v, Tensor) else (type(v).__name__, _plain(v)) for v in args)


def _plain(value: Any) -> Any:
    return value if isinstance(value, (int, float, str, bool, type(None))) else None


def _joined(parts: list[Any], device: torch.device) -> Any:
    """Outputs of shares of the rows as one, in the order of the rows."""
    leaves = [tree_leaves(part) for part in parts]
    joined = iter(
        torch.cat([each.to(device) for each in same]) if isinstance(same[0], Tensor) else same[0]
        for same in zip(*leaves, strict=True)
    )
    return tree_map(lambda _leaf: next(joined), parts[0])
