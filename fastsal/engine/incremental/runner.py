"""A model's outputs for many small changes of one input, each computed from the part of every map that it reaches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from fastsal._torch import OpOverload, tree_unflatten
from fastsal.engine.incremental.layout import Group, Reach, Step, Window, grouped, planned, steps_of
from fastsal.engine.incremental.rules import CONVOLUTIONS, aten, is_identity
from fastsal.engine.incremental.tracing import Traced

Gather = Callable[..., Tensor]
_FRESH = {
    aten.conv2d.default,
    aten.convolution.default,
    aten.linear.default,
    aten.addmm.default,
    aten.batch_norm.default,
    aten.avg_pool2d.default,
    aten.max_pool2d.default,
}
"""Operations beside the elementwise ones whose result is theirs alone, so that the next may be written over it."""


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
        start, self._steps = steps_of(traced, rectangles)
        self._reach: dict[fx.Node, Reach] = {traced.input: start}
        self._reach.update({step.node: step.reach for step in self._steps if step.reach is not None})
        self.groups = [planned(traced, start, self._steps, each) for each in grouped(start, self._steps, least)]
        whole = sum(step.work for step in self._steps)
        left = sum(len(group.positions) * group.work for group in self.groups) + whole
        self.gain = len(rectangles) * whole / left if left else 1.0
        self._cached: dict[fx.Node, Tensor] = {}
        self._constants: dict[fx.Node, Any] = dict(traced.constants)
        self._device = torch.device("cpu")
        self._scales: dict[fx.Node, tuple[Tensor, ...]] = {}
        self._last = self._last_uses()
        self._needed = {
            source
            for group in self.groups
            for step in self._steps
            for source in step.sources
            if source in group.windows and not self._aligned(group, step, source)
        } | {node for node in traced.outputs if node in self._reach}

    def _aligned(self, group: Group, step: Step, source: fx.Node) -> bool:
        """Whether a step takes a source's window as it is."""
        return step.kind == "rows" or (
            step.kind == "even" and step.node in group.windows and group.windows[source].same(group.windows[step.node])
        )

    def _last_uses(self) -> list[list[fx.Node]]:
        """Values that nothing reads after a step."""
        seen = {node for node in self._traced.outputs if isinstance(node, fx.Node)}
        last = []
        for step in reversed(self._steps):
            ended = [each for each in dict.fromkeys((*step.sources, step.node)) if each not in seen]
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
            step.node: tuple(
                torch.tensor(each, device=input.device) for each in (step.local.stride, step.local.padding)
            )
            for step in self._steps
            if step.local is not None
        }
        values: dict[fx.Node, Any] = {self._traced.input: input.contiguous(memory_format=torch.channels_last)}
        self._cached = {}
        if self._traced.input in self._needed:
            self._keep(self._traced.input, values[self._traced.input])
        for step, ended in zip(self._steps, self._last, strict=True):
            node = step.node
            value = self._call(node, self._arguments(node, values))
            if step.kind == "constant":
                self._constants[node] = value
                continue
            values[node] = value
            if node in self._needed:
                self._keep(node, value)
            if step.kind == "average":
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
        self._run_steps(slice(0, first), group, rows, values, owned)
        count = len(rows)
        most = self._whole_rows or count
        alone = [each for each in values.values() if not isinstance(each, Tensor) or each.shape[:1] != (count,)]
        if count > most and not alone:
            parts = []
            for begin in range(0, count, most):
                part = {node: value[begin : begin + most] for node, value in values.items()}
                self._run_steps(slice(first, last), group, rows[begin : begin + most], part, set())
                parts.append(part)
            values = {node: torch.cat([part[node] for part in parts]) for node in parts[0]}
            owned = set()
        else:
            self._run_steps(slice(first, last), group, rows, values, owned)
        self._run_steps(slice(last, None), group, rows, values, owned)
        outputs = [self._output(node, group, rows, values) for node in self._traced.outputs]
        return tree_unflatten(outputs, self._traced.spec)

    def _run_steps(
        self, which: slice, group: Group, rows: Tensor, values: dict[fx.Node, Any], owned: set[fx.Node]
    ) -> None:
        for step, ended in zip(self._steps[which], self._last[which], strict=True):
            if step.kind == "constant":
                continue
            values[step.node] = self._run(step, group, rows, values, owned, ended)
            for each in ended:
                values.pop(each, None)

    def _whole_part(self, group: Group) -> tuple[int, int]:
        """Steps after the last that takes a part of a map, up to the last convolution."""
        first = last = 0
        for index, step in enumerate(self._steps, 1):
            if step.node in group.windows or any(source in group.windows for source in step.sources):
                first = index
            if step.node.target in CONVOLUTIONS:
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
        step: Step,
        group: Group,
        rows: Tensor,
        values: dict[fx.Node, Any],
        owned: set[fx.Node],
        ended: list[fx.Node],
    ) -> Any:
        """One step for some rows; ``owned`` are values that may be written over once they have ended."""
        node, window = step.node, group.windows.get(step.node)
        given: dict[fx.Node, Any] = dict(values)
        mine = {each for each in ended if each in owned}
        if window is not None and step.local is not None:
            (source,) = step.sources
            geometry = step.local
            stride, padding = self._scales[node]
            starts = window.starts[rows] * stride - padding
            size = tuple((window.size[a] - 1) * geometry.stride[a] + geometry.reach(a) for a in (0, 1))
            given[source] = self._region(source, group, rows, values[source], starts, size, geometry.fill)
            arguments = list(self._arguments(node, given)[0])
            if len(arguments) > geometry.padding_at:
                arguments[geometry.padding_at] = [0, 0]
            owned.add(node)
            return self._call(node, (tuple(arguments), {}))
        if window is None and step.kind == "average" and step.sources[0] in group.windows:
            return self._average(step, group, rows, values[step.sources[0]])
        if window is not None and is_identity(node):
            return values[step.sources[0]]
        for source in step.sources:
            if source not in group.windows or step.kind == "rows":
                continue
            if window is None:
                given[source] = self._whole(source, group, rows, values[source])
                mine.add(source)
            elif not self._aligned(group, step, source):
                given[source] = self._region(source, group, rows, values[source], window.starts[rows], window.size, 0.0)
                mine.add(source)
        if _is_fresh(node):
            owned.add(node)
        else:
            owned.difference_update(step.sources)  # the result may be a view of them
        return self._call(node, self._arguments(node, given), mine)

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

    def _average(self, step: Step, group: Group, rows: Tensor, value: Tensor) -> Tensor:
        """The untouched map's average, and what the changed part adds to it."""
        (source,) = step.sources
        reach, window = self._reach[source], group.windows[source]
        before = self._gather(self._cached[source], window.starts[rows], window.size).permute(_inverse(_order(reach)))
        wide = torch.promote_types(value.dtype, torch.float32)
        added = (value.to(wide) - before.to(wide)).sum(reach.axes, keepdim=step.keeps)
        average = self._cached[step.node].to(wide) + added / (reach.extent[0] * reach.extent[1])
        return average.to(value.dtype)

    def _arguments(self, node: fx.Node, values: dict[fx.Node, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        def of(each: fx.Node) -> Any:
            return values[each] if each in values else self._constants[each]

        return fx.node.map_arg(node.args, of), fx.node.map_arg(node.kwargs, of)

    def _call(
        self, node: fx.Node, arguments: tuple[tuple[Any, ...], dict[str, Any]], mine: set[fx.Node] | None = None
    ) -> Any:
        args, kwargs = arguments
        target: Any = node.target
        if mine and node.args and node.args[0] in mine:
            written = _written_over(node)
            if written is not None:
                return written(*args, **kwargs)
        return target(*args, **kwargs)


def _order(reach: Reach) -> list[int]:
    """The permutation that makes a value [B, C, H, W]."""
    (channels,) = {1, 2, 3} - set(reach.axes)
    return [0, channels, *reach.axes]


def _inverse(order: list[int]) -> list[int]:
    return [order.index(dimension) for dimension in range(len(order))]


def _is_fresh(node: fx.Node) -> bool:
    return node.target in _FRESH or torch.Tag.pointwise in getattr(node.target, "tags", ())


def _written_over(node: fx.Node) -> Any:
    """The form of an operation that writes its result over its first argument, where it has one that fits."""
    first, result = node.args[0], node.meta.get("val")
    before = first.meta.get("val") if isinstance(first, fx.Node) else None
    if not isinstance(before, Tensor) or not isinstance(result, Tensor):
        return None
    if before.dtype != result.dtype or before.dim() != result.dim() or before.shape[1:] != result.shape[1:]:
        return None
    if not isinstance(node.target, OpOverload) or torch.Tag.pointwise not in node.target.tags:
        return None
    packet = getattr(aten, node.target._schema.name.split("::")[1] + "_", None)
    return getattr(packet, node.target._overloadname, None)
