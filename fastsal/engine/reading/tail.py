"""The part of a model behind a layer, run again for other values of it without running what comes before."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from fastsal._torch import tree_leaves, tree_map
from fastsal.engine.run.forward import find, run, scratch
from fastsal.engine.run.modules import parts_of, unwrapped
from fastsal.engine.run.own import Undone


class Tail:
    """A model's answer to other values of one layer.

    While it runs, each module that had finished before the layer returns what it returned for the inputs, repeated for
    the rows, so that what is left to compute is between them and behind the layer. At first the answer to the layer's
    own value, beside another, is compared with the model's. Where they differ the model has more of its own: kept
    values are copied for each row (it writes to them), or all of it runs, or all of it for one row at a time (its rows
    depend on each other).

    Call inside ``evaluation(model, eager=True)`` and ``torch.no_grad``.

    Args:
        model: module or callable around one.
        layer: one of its modules, which runs once and returns a tensor.
        inputs, additional: arguments of the model for one example.

    Attributes:
        mode: which of :data:`MODES` it came to.
        output: the model's for the inputs.
        value: the layer's.

    Raises:
        ValueError: when the layer does not run once, its value is not one tensor, or replacing it does not work.
    """

    def __init__(
        self, model: Callable[..., Any], layer: nn.Module, inputs: tuple[Tensor, ...], additional: tuple[Any, ...]
    ) -> None:
        self._model, self._layer, self._inputs, self._additional = model, layer, inputs, additional
        whole = [unwrapped(module) for module in find(model, inputs, additional)]
        parts = {key: part for module in whole for key, part in parts_of(module).items()}
        self._parts = [part for part in parts.values() if part not in whole]
        self._kept: dict[nn.Module, list[Any]] = {}
        self.value = torch.empty(0)
        self.output = self._record()
        for mode in MODES:
            self.mode = mode
            if self._agrees():
                return
        raise ValueError("layer: the model's output for the layer's own value differs from run to run")

    @property
    def one_at_a_time(self) -> bool:
        """Whether a call takes one row."""
        return self.mode == "alone"

    def __call__(self, values: Tensor) -> Any:
        """The model's output for rows [n, ...] of the layer's value."""
        count = values.shape[0]
        # The model may write to what a layer returns.
        answers: dict[nn.Module, Callable[[int], Any]] = {self._layer: lambda _call: values.clone()}
        if self.mode in ("kept", "copied"):
            answers.update({part: self._repeated(kept, count) for part, kept in self._kept.items()})
        with self._answering(answers):
            rows = tuple(_rows(value, count, copied=True) for value in self._inputs)
            return run(self._model, rows, tuple(_rows(value, count, copied=True) for value in self._additional))

    def _repeated(self, kept: list[Any], count: int) -> Callable[[int], Any]:
        copied = self.mode == "copied"
        return lambda call: tree_map(lambda leaf: _rows(leaf, count, copied), kept[call])

    def _record(self) -> Any:
        seen: list[nn.Module] = []
        kept: dict[nn.Module, list[Any]] = {}

        def keep(module: nn.Module, _args: Any, output: Any) -> None:
            if module is self._layer:
                seen.append(module)
                if not isinstance(output, Tensor):
                    raise ValueError("layer: its output is not one tensor; choose a layer inside it")
                self.value = output.detach().clone()
            elif not seen:
                kept.setdefault(module, []).append(tree_map(scratch, output))
            else:
                kept.pop(module, None)  # it runs behind the layer too

        with Undone() as undone:
            for part in self._parts:
                undone.hook(part, keep)
            output = run(self._model, tuple(map(scratch, self._inputs)), tuple(map(scratch, self._additional)))
        if len(seen) != 1:
            raise ValueError(f"layer: the model ran it {len(seen)} times; choose one that its forward calls once")
        holders = {part for part in self._parts if any(child is self._layer for child in part.modules())}
        inner = {child for part in (*kept, self._layer) for child in part.modules() if child is not part}
        self._kept = {part: values for part, values in kept.items() if part not in holders and part not in inner}
        return output

    @contextlib.contextmanager
    def _answering(self, answers: dict[nn.Module, Callable[[int], Any]]) -> Iterator[None]:
        """Modules that return an answer, whatever hooks of the user's they have; all but a whole layer do not run."""
        calls = dict.fromkeys(answers, 0)

        def skipped(part: nn.Module) -> Callable[..., Any]:
            return lambda *_args, **_kwargs: answers[part](calls[part])

        def final(part: nn.Module) -> Callable[..., Any]:
            def hook(_module: nn.Module, _args: Any, _output: Any) -> Any:
                answer = answers[part](calls[part])
                calls[part] += 1
                return answer

            return hook

        with Undone() as undone:
            for part in answers:
                if self.mode in ("kept", "copied"):
                    undone.forward(part, skipped(part))
                undone.hook(part, final(part))
            yield

    def _agrees(self) -> bool:
        """Whether the layer's own value gives the model's output, beside a row of zeros."""
        values = self.value if self.one_at_a_time else torch.cat([self.value, torch.zeros_like(self.value)])
        leaves = [leaf for leaf in tree_leaves(self._kept) if isinstance(leaf, Tensor)]
        versions = [leaf._version for leaf in leaves]
        try:
            found = self(values)
        except Exception:  # whatever a model's code makes of repeated values: then more of it runs
            return False
        finally:
            written = versions != [leaf._version for leaf in leaves]
            if written:
                self._record()
        got, expected = tree_leaves(found), tree_leaves(self.output)
        return not written and len(got) == len(expected) and all(map(begins_with, got, expected))


MODES = ("kept", "copied", "whole", "alone")


def begins_with(got: Any, want: Any) -> bool:
    """Whether the first rows are those of another output, up to rounding."""
    if not isinstance(want, Tensor) or not want.is_floating_point():
        return True
    if not isinstance(got, Tensor) or got.dim() != want.dim() or got.shape[1:] != want.shape[1:]:
        return False
    first = got[: want.shape[0]] if want.dim() else got
    # An infinite or unknown tolerance would let anything pass, or nothing.
    scale = float(want.abs().nan_to_num(nan=0.0, posinf=0.0).max()) if want.numel() else 0.0
    tolerance = 64 * torch.finfo(want.dtype).eps * scale
    return torch.allclose(first, want, rtol=0, atol=tolerance, equal_nan=True)


def _rows(value: Any, count: int, copied: bool) -> Any:
    """A value of one example repeated for the rows; any other as it is."""
    if not isinstance(value, Tensor) or value.dim() == 0 or value.shape[0] != 1:
        return scratch(value)
    repeated = value.expand(count, *value.shape[1:])
    return repeated.clone() if copied else repeated
