"""A model's outputs for many small changes of one input, each computed from the part of every map that it reaches."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from fastsal._torch import OpOverload, tree_unflatten
from fastsal.engine.incremental.asked import Gather
from fastsal.engine.incremental.layout import Group, Operation, Reach, Window, laid_out
from fastsal.engine.incremental.rules import CONVOLUTION, WHOLE, Average, Even, Local, Rows, as_it_is, is_pointwise
from fastsal.engine.incremental.tracing import Traced, aliases


class Incremental:
    """A graph for one input, and positions at which the input will change.

    Args:
        traced: graph of an input [B, C, H, W].
        rectangles: [P, 4], int64, on the CPU: top, bottom, left and right of each change, the ends excluded.
        gather: the op ``patches.gather``.
        least: positions of a group, see :func:`grouped`.
        whole_rows: rows per call of the layers that run on whole maps; all when None.

    Attributes:
        groups: positions that are computed together.
        gain: how many times fewer multiply-adds are left, by the windows' sizes.
    """

    def __init__(
        self, traced: Traced, rectangles: Tensor, gather: Gather, least: int, whole_rows: int | None = None
    ) -> None:
        self._traced, self._gather, self._whole_rows = traced, gather, whole_rows
        layout = laid_out(traced, rectangles, least)
        self._operations, self._reach = layout.operations, layout.reach
        self.groups, self.gain = layout.groups, layout.gain
        self._cached: dict[fx.Node, Tensor] = {}
        self._constants: dict[fx.Node, Any] = dict(traced.constants)
        self._device = torch.device("cpu")
        self._scales: dict[fx.Node, tuple[Tensor, ...]] = {}
        self._last = self._last_uses()
        self._needed = {
            source
            for group in self.groups
            for operation in self._operations
            for source in operation.sources
            if source in group.windows and not self._aligned(group, operation, source)
        } | {node for node in traced.outputs if node in self._reach}

    def _aligned(self, group: Group, operation: Operation, source: fx.Node) -> bool:
        """Whether an operation takes a source's window as it is."""
        if isinstance(operation.way, Even) and operation.node in group.windows:
            return group.windows[source].same(group.windows[operation.node])
        return isinstance(operation.way, Rows)

    def _last_uses(self) -> list[list[fx.Node]]:
        """Values that nothing reads after a operation."""
        seen = {node for node in self._traced.outputs if isinstance(node, fx.Node)}
        last = []
        for operation in reversed(self._operations):
            ended = [each for each in dict.fromkeys((*operation.sources, operation.node)) if each not in seen]
            seen.update(ended)
            last.append(ended)
        return last[::-1]

    def prepare(self, input: Tensor) -> None:
        """Run the input, [1, C, H, W], as it is, and keep the maps that changes are pasted into."""
        self._device = input.device
        for group in self.groups:
            for node, window in group.windows.items():
                group.windows[node] = Window(window.size, window.starts.to(input.device))
        self._scales = {
            each.node: tuple(torch.tensor(pair, device=input.device) for pair in (each.way.stride, each.way.padding))
            for each in self._operations
            if isinstance(each.way, Local)
        }
        values: dict[fx.Node, Any] = {self._traced.input: input.contiguous(memory_format=torch.channels_last)}
        self._cached = {}
        if self._traced.input in self._needed:
            self._keep(self._traced.input, values[self._traced.input])
        for operation, ended in zip(self._operations, self._last, strict=True):
            node = operation.node
            args, kwargs = self._arguments(node, values)
            value = operation.target(*_laid(operation, args), **kwargs)
            if not operation.sources:
                self._constants[node] = value
                continue
            values[node] = value
            if node in self._needed:
                self._keep(node, value)
            if isinstance(operation.way, Average):
                self._cached[node] = value
            for each in ended:
                values.pop(each, None)

    def _keep(self, node: fx.Node, value: Tensor) -> None:
        self._cached[node] = value.permute(_order(self._reach[node])).contiguous(memory_format=torch.channels_last)

    def window(self, group: Group) -> Window:
        """What of the input a group's positions are given by."""
        found = group.windows.get(self._traced.input)
        extent = self._reach[self._traced.input].extent
        zeros = torch.zeros((len(group.positions), 2), dtype=torch.int64, device=self._device)
        return found or Window(extent, zeros)

    def __call__(self, group: Group, rows: Tensor, altered: Tensor) -> Any:
        """The model's output for some of a group's positions.

        Args:
            rows: [n], int64, on the input's device: which of ``group.positions``.
            altered: [n, C, *size], the input as it is changed, in the group's window of it.
        """
        values: dict[fx.Node, Any] = {self._traced.input: altered}
        owned: set[fx.Node] = set()
        first, last = self._whole_part(group)
        self._run_all(slice(0, first), group, rows, values, owned)
        count = len(rows)
        most = self._whole_rows or count
        alone = [each for each in values.values() if not isinstance(each, Tensor) or each.shape[:1] != (count,)]
        merged = None
        if count > most and not alone:
            parts = []
            for begin in range(0, count, most):
                part = {node: value[begin : begin + most] for node, value in values.items()}
                self._run_all(slice(first, last), group, rows[begin : begin + most], part, set())
                parts.append(part)
            merged = _merged(parts, count, most)
        if merged is None:
            self._run_all(slice(first, last), group, rows, values, owned)
        else:
            values, owned = merged, set()
        self._run_all(slice(last, None), group, rows, values, owned)
        outputs = [self._output(node, group, rows, values) for node in self._traced.outputs]
        return tree_unflatten(outputs, self._traced.spec)

    def _run_all(
        self, which: slice, group: Group, rows: Tensor, values: dict[fx.Node, Any], owned: set[fx.Node]
    ) -> None:
        for operation, ended in zip(self._operations[which], self._last[which], strict=True):
            if not operation.sources:
                continue
            values[operation.node] = self._run(operation, group, rows, values, owned, ended)
            for each in ended:
                values.pop(each, None)

    def _whole_part(self, group: Group) -> tuple[int, int]:
        """Operations after the last that takes a part of a map, up to the last convolution."""
        first = last = 0
        for index, operation in enumerate(self._operations, 1):
            if operation.node in group.windows or any(source in group.windows for source in operation.sources):
                first = index
            if operation.rule is CONVOLUTION:
                last = index
        return first, max(first, last)

    def _output(self, node: Any, group: Group, rows: Tensor, values: dict[fx.Node, Any]) -> Any:
        if not isinstance(node, fx.Node):
            return node
        if node in group.windows:
            return self._whole(node, group, rows, values[node])
        return values[node] if node in values else self._constants[node]

    def _run(
        self,
        operation: Operation,
        group: Group,
        rows: Tensor,
        values: dict[fx.Node, Any],
        owned: set[fx.Node],
        ended: list[fx.Node],
    ) -> Any:
        """One operation for some rows; ``owned`` are values that may be written over once they have ended."""
        node, way, window = operation.node, operation.way, group.windows.get(operation.node)
        given: dict[fx.Node, Any] = dict(values)
        mine = {each for each in ended if each in owned}
        if window is None and isinstance(way, Average) and operation.sources[0] in group.windows:
            return self._average(way, operation.node, operation.sources[0], group, rows, values)
        for source in operation.sources:
            if source not in group.windows or isinstance(way, Rows):
                continue
            if window is None:
                given[source] = self._whole(source, group, rows, values[source])
            elif isinstance(way, Local):
                given[source] = self._with_border(operation.node, way, window, source, group, rows, values[source])
            elif not self._aligned(group, operation, source):
                given[source] = self._region(source, group, rows, values[source], window.starts[rows], window.size, 0.0)
            else:
                continue
            mine.add(source)
        if operation.rule.fresh or (window is not None and isinstance(way, Local)):
            owned.add(node)
        else:
            owned.difference_update(operation.sources)  # the result may be a view of them
        args, kwargs = self._arguments(node, given)
        written = _written_over(node) if mine and node.args and node.args[0] in mine else None
        run = as_it_is if window is None else operation.rule.run
        return run(written or operation.target, _laid(operation, args), kwargs)

    def _with_border(
        self,
        node: fx.Node,
        way: Local,
        window: Window,
        source: fx.Node,
        group: Group,
        rows: Tensor,
        value: Tensor,
    ) -> Tensor:
        """What a window of the result is made of, padding included."""
        stride, padding = self._scales[node]
        size = tuple((window.size[axis] - 1) * way.stride[axis] + way.reach(axis) for axis in (0, 1))
        return self._region(source, group, rows, value, window.starts[rows] * stride - padding, size, way.fill)

    def _region(
        self,
        source: fx.Node,
        group: Group,
        rows: Tensor,
        value: Tensor,
        starts: Tensor,
        size: tuple[int, ...],
        fill: float,
    ) -> Tensor:
        order = _order(self._reach[source])
        origins = group.windows[source].starts[rows]
        found = self._gather(self._cached[source], starts, size, patch=value.permute(order), origins=origins, fill=fill)
        return found.permute(_inverse(order))

    def _whole(self, source: fx.Node, group: Group, rows: Tensor, value: Tensor) -> Tensor:
        starts = torch.zeros_like(group.windows[source].starts[rows])
        return self._region(source, group, rows, value, starts, self._reach[source].extent, 0.0)

    def _average(
        self, way: Average, node: fx.Node, source: fx.Node, group: Group, rows: Tensor, values: dict[fx.Node, Any]
    ) -> Tensor:
        """The untouched map's average, and what the changed part adds to it."""
        reach, window, value = self._reach[source], group.windows[source], values[source]
        before = self._gather(self._cached[source], window.starts[rows], window.size).permute(_inverse(_order(reach)))
        wide = torch.promote_types(value.dtype, torch.float32)
        added = (value.to(wide) - before.to(wide)).sum(reach.axes, keepdim=way.keeps)
        average: Tensor = self._cached[node].to(wide) + added / (reach.extent[0] * reach.extent[1])
        return average.to(value.dtype)

    def _arguments(self, node: fx.Node, values: dict[fx.Node, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        def of(each: fx.Node) -> Any:
            return values[each] if each in values else self._constants[each]

        return fx.node.map_arg(node.args, of), fx.node.map_arg(node.kwargs, of)


def _order(reach: Reach) -> list[int]:
    """The permutation that makes a value [B, C, H, W]."""
    (channels,) = {1, 2, 3} - set(reach.axes)
    return [0, channels, *reach.axes]


def _inverse(order: list[int]) -> list[int]:
    return [order.index(dimension) for dimension in range(len(order))]


def _written_over(node: fx.Node) -> Any:
    """The form of an operation that writes its result over its first argument, where it has one that fits."""
    first, result = node.args[0], node.meta.get("val")
    before = first.meta.get("val") if isinstance(first, fx.Node) else None
    if not isinstance(before, Tensor) or not isinstance(result, Tensor):
        return None
    if before.dtype != result.dtype or before.dim() != result.dim() or before.shape[1:] != result.shape[1:]:
        return None
    if not is_pointwise(node.target):
        return None
    target: Any = node.target
    packet = getattr(torch.ops.aten, target._schema.name.split("::")[1] + "_", None)
    return getattr(packet, target._overloadname, None)


def _merged(parts: list[dict[fx.Node, Any]], count: int, most: int) -> dict[fx.Node, Any] | None:
    """Values of parts of the rows as those of all; None where one is not by rows."""
    lengths = [min(most, count - begin) for begin in range(0, count, most)]
    merged: dict[fx.Node, Any] = {}
    for node in parts[0]:
        found = _joined([part[node] for part in parts], lengths)
        if found is None:
            return None
        merged[node] = found
    return merged


def _joined(values: list[Any], lengths: list[int]) -> Any:
    if all(isinstance(each, int) for each in values):
        return sum(values) if values == lengths else None  # the number of rows, asked of a map
    if all(isinstance(each, (tuple, list)) and len(each) == len(values[0]) for each in values):
        items = [_joined(list(same), lengths) for same in zip(*values, strict=True)]
        return None if any(each is None for each in items) else items
    if [each.shape[:1] if isinstance(each, Tensor) else None for each in values] != [(each,) for each in lengths]:
        return None
    return torch.cat(values)


def _laid(operation: Operation, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Arguments of an operation that looks at memory, such as a view, laid out as the model's own are."""
    if operation.rule is not WHOLE or not isinstance(operation.target, OpOverload) or not aliases(operation.node):
        return args
    return tuple(
        _in_order(value, node.meta.get("val")) if isinstance(node, fx.Node) and isinstance(value, Tensor) else value
        for node, value in zip(operation.node.args, args, strict=True)
    )


def _in_order(value: Tensor, like: Any) -> Tensor:
    """A value whose dimensions lie in memory in another's order, and densely."""
    if not isinstance(like, Tensor) or like.dim() != value.dim() or like.layout is not torch.strided:
        return value
    strides = [int(stride) for stride in like.stride()]
    order = sorted(range(value.dim()), key=lambda dim: (-strides[dim], dim))
    back = [order.index(dim) for dim in range(value.dim())]
    return value.permute(order).contiguous().permute(back)
