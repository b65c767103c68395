"""The layout of every tensor of a pass, by the operations that made it: what a layer's dimensions are is proved.

No operation runs twice or otherwise for it; each costs some microseconds more on the host.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from fastsal._torch import OpOverload, StorageWeakRef, TorchDispatchMode, tree_leaves
from fastsal.engine.reading.geometry import rules_products, rules_shape, rules_windows  # noqa: F401  they fill RULES
from fastsal.engine.reading.geometry.layout import Cells, Layout, Unknown, merged, of_input, opaque
from fastsal.engine.reading.geometry.rule import RULES, Operation

logger = logging.getLogger("fastsal")

_Key = tuple[Any, ...]


class Lineage(TorchDispatchMode):
    """While it is entered, notes the layout of what is made of the inputs that :meth:`begin` was given.

    Tensors are known by where they lie in memory, since autograd hands on other objects than it is given; none is kept
    alive.

    Attributes:
        contracted: for each input, its axes in the order in which products first took sums over them.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._kept: dict[int, tuple[StorageWeakRef, dict[_Key, Layout]]] = {}
        self.contracted: dict[int, list[int]] = {}
        self.extents: list[tuple[int, ...]] = []
        self._whole: set[int] = set()

    def begin(self, inputs: Iterable[Any]) -> None:
        """The tensors of the inputs, before the model runs; whatever was noted before is forgotten."""
        self._kept, self.contracted = {}, {}
        given = list(inputs)
        self.extents = [tuple(value.shape) if isinstance(value, Tensor) else () for value in given]
        self._whole = {
            index for index, value in enumerate(given) if isinstance(value, Tensor) and not value.is_floating_point()
        }
        for index, value in enumerate(given):
            if isinstance(value, Tensor) and value.dim():
                self._set(value, of_input(index, value.shape))

    def features(self, index: int) -> int | None:
        """The dimension of an input's features: the first that a product took the sum over; none of one of numbers."""
        return None if index in self._whole else next(iter(self.contracted.get(index, ())), 1)

    def layout(self, value: Tensor) -> Layout | None:
        """Of a tensor; None where it depends on no input, as far as is known."""
        try:
            storage = value.untyped_storage()._cdata
        except (NotImplementedError, RuntimeError):  # sparse, or of a subclass without memory of its own
            return None
        held = self._kept.get(storage)
        if held is None:
            return None
        found = held[1].get(_key(value))
        return opaque(value.shape) if found is None else found

    def _set(self, value: Tensor, layout: Layout, alone: bool = False) -> None:
        try:
            storage = value.untyped_storage()
        except (NotImplementedError, RuntimeError):
            return
        held = self._kept.get(storage._cdata)
        if held is None:
            held = self._kept[storage._cdata] = StorageWeakRef(storage), {}
        elif alone and held[1].get(_key(value)) != layout:
            held[1].clear()  # what else lies there is not what it was
        held[1][_key(value)] = layout

    def _contracts(self, layout: Layout, dim: int) -> None:
        for factor in layout[dim]:
            if isinstance(factor, Cells):
                for look in factor.looks:
                    axes = self.contracted.setdefault(look.input, [])
                    if look.axis not in axes:
                        axes.append(look.axis)

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if any(self.layout(each) is not None for each in given):
            self._note(func, args, kwargs, result, given)
        return result

    def _note(self, func: OpOverload, args: Any, kwargs: Any, result: Any, given: list[Tensor]) -> None:
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        if not made:
            return
        layouts: list[Layout]
        name = func._schema.name.removeprefix("aten::")
        rule = RULES.get(name)
        try:
            if rule is not None:
                found = rule(Operation(func, args, kwargs, result, self.layout, self._contracts))
                layouts = found if isinstance(found, list) else [found]
            elif torch.Tag.pointwise in func.tags or name.removesuffix("_") in _ELEMENTWISE:
                layouts = [self._elementwise(given)]
            else:
                raise Unknown
        except (Unknown, KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            if not isinstance(error, Unknown):
                logger.debug("no layout of %s: %s: %s", func, type(error).__name__, error)
            layouts = []
        writes = func._schema.is_mutable
        for place, tensor in enumerate(made):
            layout = layouts[place] if place < len(layouts) else opaque(tensor.shape)
            if len(layout) != tensor.dim():
                layout = opaque(tensor.shape)
            # Of what is written to in part the rest is not known any more.
            self._set(tensor, layout, alone=writes)

    def _elementwise(self, given: list[Tensor]) -> Layout:
        found: Layout | None = None
        for tensor in given:
            layout = self.layout(tensor)
            if layout is not None:
                found = layout if found is None else merged(found, layout)
        assert found is not None
        widest = max(tensor.dim() for tensor in given)
        return ((),) * (widest - len(found)) + found


_ELEMENTWISE = {
    "_prelu_kernel",
    "celu",
    "gelu",
    "hardshrink",
    "hardsigmoid",
    "hardswish",
    "hardtanh",
    "masked_fill",
    "mish",
    "prelu",
    "relu6",
    "rrelu_with_noise",
    "selu",
    "silu",
    "softplus",
    "softshrink",
    "threshold",
    "where",
}
"""Operations that PyTorch does not tag as such in every release."""


def _key(value: Tensor) -> _Key:
    return value.storage_offset(), value.shape, value.stride()
