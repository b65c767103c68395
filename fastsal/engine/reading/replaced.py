"""Values at layers, replaced: the part of a model behind them is run with others."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastsal.engine.reading.reading import Tensors, hooked
from fastsal.engine.run.forward import evaluation, run
from fastsal.engine.run.modules import calling


class Replaced:
    """Context in which a model can be run with given values at layers; autograd starts there.

    What ``torch.compile`` made runs as plain PyTorch inside, since compiled code would not see the values. The layers
    pass on (or, ``at_input``, receive) the values also where checkpointing runs them again for a gradient, which must
    be taken inside the context then.

    Args:
        model: module or callable around one.
        layers: modules of it.
        uses: how many tensors each use of a layer has, as of :attr:`Reading.uses`.
        at_input: the values are the layers' inputs.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        layers: Sequence[nn.Module],
        uses: Sequence[Sequence[int]],
        *,
        at_input: bool = False,
    ) -> None:
        self._model, self._uses = model, uses
        self._hooks = hooked(layers, self._visit, at_input)
        self._contexts = contextlib.ExitStack()
        self._values: list[list[Tensors]] = []
        self._used: list[int] | None = None

    def __enter__(self) -> Replaced:
        with contextlib.ExitStack() as entered:
            entered.enter_context(evaluation(self._model, eager=True))
            entered.enter_context(self._hooks)
            self._contexts = entered.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._contexts.__exit__(*error)
        self._values = []

    def run(self, values: Iterable[Tensor], inputs: tuple[Any, ...]) -> Any:
        """``model(*inputs)`` with the values, those of each layer use by use.

        Raises:
            ValueError: where the layers run another number of times, or with another number of tensors.
        """
        each = iter(values)
        self._values = [[tuple(next(each) for _ in range(size)) for size in sizes] for sizes in self._uses]

        @calling(self._model)
        def answered(*arguments: Any) -> Any:
            self._used = [0] * len(self._uses)
            with torch.no_grad():
                return self._model(*arguments)

        try:
            output = run(answered, inputs)
            for sizes, used in zip(self._uses, self._used or [], strict=True):
                if used != len(sizes):
                    raise ValueError(_other_uses(used, sizes))
        finally:
            self._used = None
        return output

    def _visit(self, index: int, tensors: Tensors) -> Tensors:
        if not self._values:
            return tensors
        values, use = self._values[index], 0
        if self._used is not None:
            use = self._used[index]
            self._used[index] += 1
        elif len(values) > 1:
            raise ValueError(
                "layer: it runs several times, and activation checkpointing runs it again; switch checkpointing off"
            )
        if use >= len(values):
            raise ValueError(_other_uses(use + 1, self._uses[index]))
        if len(tensors) != len(values[use]):
            raise ValueError(f"layer: it has {len(tensors)} tensors in this run and had {len(values[use])} before")
        torch.set_grad_enabled(True)
        return values[use]


def _other_uses(used: int, sizes: Sequence[int]) -> str:
    return f"layer: the model runs it {used} times here and {len(sizes)} times for the inputs; choose another layer"
