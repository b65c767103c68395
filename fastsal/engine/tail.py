"""The part of a model behind a layer, run again for other values of it without running what comes before."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map

from fastsal.engine.forward import owner, run, scratch


class Tail:
    """A model's answer to other values of one layer.

    While it runs, each module that had finished before the layer returns what it returned for the inputs, repeated for
    the rows, so that what is left to compute is between them and behind the layer. The first call compares the answer
    to the layer's own value with the model's: where they differ (a model that leaves the hooks out, or whose rows
    depend on each other), all of the model runs.

    Call inside ``evaluation(model, eager=True)`` and ``torch.no_grad``.

    Args:
        model: module or callable around one.
        layer: one of its modules, which runs once and returns a tensor.
        inputs, additional: arguments of the model for one example.

    Attributes:
        whole: whether all of the model runs.
        output: the model's for the inputs.
        value: the layer's.

    Raises:
        ValueError: when the layer does not run once, or its value is not one tensor.
    """

    def __init__(
        self, model: Callable[..., Any], layer: nn.Module, inputs: tuple[Tensor, ...], additional: tuple[Any, ...]
    ) -> None:
        self._model, self._layer, self._inputs, self._additional = model, layer, inputs, additional
        module = owner(model)
        assert module is not None
        self._parts = [part for part in module.modules() if part is not module]
        self._kept: dict[nn.Module, list[Any]] = {}
        self._copies = False
        """Whether what modules return is copied for each row, since the model writes to it."""
        self.value = torch.empty(0)
        self.output = self._record()
        self.whole = False
        if not self._agrees():
            self._copies = True
            self.whole = not self._agrees()

    def __call__(self, values: Tensor) -> Any:
        """The model's output for rows [n, ...] of the layer's value."""
        count = values.shape[0]
        if self.whole:
            with self._patched({self._layer: lambda *_args, **_kwargs: values}):
                return self._run(count)
        with self._patched(self._replacements(values)):
            return self._run(count)

    def _run(self, count: int) -> Any:
        def rows(value: Any) -> Any:
            return value.expand(count, *value.shape[1:]).clone() if _one_row(value) else scratch(value)

        return run(self._model, tuple(map(rows, self._inputs)), tuple(map(rows, self._additional)))

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

        handles = [part.register_forward_hook(keep) for part in self._parts]
        try:
            output = run(self._model, tuple(map(scratch, self._inputs)), tuple(map(scratch, self._additional)))
        finally:
            for handle in handles:
                handle.remove()
        if len(seen) != 1:
            raise ValueError(f"layer: the model ran it {len(seen)} times; choose one that its forward calls once")
        holders = {part for part in self._parts if any(child is self._layer for child in part.modules())}
        inner = {child for part in (*kept, self._layer) for child in part.modules() if child is not part}
        self._kept = {part: values for part, values in kept.items() if part not in holders and part not in inner}
        return output

    def _replacements(self, values: Tensor) -> dict[nn.Module, Callable[..., Any]]:
        count = values.shape[0]

        def rows(leaf: Any) -> Any:
            if not _one_row(leaf):
                return scratch(leaf)
            repeated = leaf.expand(count, *leaf.shape[1:])
            return repeated.clone() if self._copies else repeated

        def repeat(kept: list[Any]) -> Callable[..., Any]:
            pending = iter(kept)
            return lambda *_args, **_kwargs: tree_map(rows, next(pending))

        found = {part: repeat(kept) for part, kept in self._kept.items()}
        found[self._layer] = lambda *_args, **_kwargs: values
        return found

    @contextlib.contextmanager
    def _patched(self, replacements: dict[nn.Module, Callable[..., Any]]) -> Iterator[None]:
        """``forward`` of some modules replaced on the instance."""
        before: dict[nn.Module, Any] = {part: vars(part).get("forward") for part in replacements}
        try:
            for part, forward in replacements.items():
                part.__dict__["forward"] = forward
            yield
        finally:
            for part, forward in before.items():
                if forward is None:
                    part.__dict__.pop("forward", None)
                else:
                    part.__dict__["forward"] = forward

    def _agrees(self) -> bool:
        """Whether two rows of the layer's own value give the model's output twice."""
        try:
            found = self(self.value.expand(2, *self.value.shape[1:]).clone())
        except Exception:  # whatever a model's code makes of repeated values: then all of it runs
            return False
        leaves, expected = tree_flatten(found)[0], tree_flatten(self.output)[0]
        if len(leaves) != len(expected):
            return False
        for got, want in zip(leaves, expected, strict=True):
            if isinstance(want, Tensor) and want.is_floating_point():
                if not isinstance(got, Tensor) or got.shape != (2 * want.shape[0], *want.shape[1:]):
                    return False
                tolerance = 64 * torch.finfo(want.dtype).eps
                scale = float(want.abs().max()) if want.numel() else 0.0
                if not torch.allclose(got, want.repeat(2, *[1] * (want.dim() - 1)), rtol=0, atol=tolerance * scale):
                    return False
        return True


def _one_row(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() > 0 and value.shape[0] == 1
