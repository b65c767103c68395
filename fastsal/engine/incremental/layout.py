"""Which part of each value a change of the input reaches, and what is left to compute."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, fx

from fastsal.engine.incremental.rules import Axes, Even, Local, OperationCall, Rule, Shape, Way, rule_of
from fastsal.engine.incremental.tracing import Traced

WHOLE_SHARE = 0.75
"""A layer of whose map more than this share would be recomputed is run whole: the copies would cost what they save."""
QUANTILES = tuple(round(0.05 * index, 2) for index in range(1, 20))
MOST_BOUNDS = 2
WORTH = 0.97
"""Positions are split further where that leaves less than this share of the multiply-adds."""


@dataclass
class Reach:
    """The changed part of one value.

    Attributes:
        axes: which dimensions are height and width.
        extent: their sizes.
        low, high: [P, 2], first changed and first unchanged element of each position, in both dimensions.
    """

    axes: Axes
    extent: tuple[int, int]
    low: Tensor
    high: Tensor


@dataclass
class Operation:
    """A call and how it can be run on a part of its map.

    Attributes:
        rule: of its overload.
        sources: the arguments that vary with the input; none where the result is the same for every input.
        way: how a change goes on.
        reach: of the result; None where it has no positions, or all of them change.
        work: multiply-adds of a row, run whole.
    """

    node: fx.Node
    rule: Rule
    sources: tuple[fx.Node, ...] = ()
    way: Way = None
    reach: Reach | None = None
    work: float = 0.0

    @property
    def target(self) -> Any:
        """The overload."""
        return self.node.target


class Window(NamedTuple):
    """What a group of positions recomputes of a value: equal sizes, and where each begins."""

    size: tuple[int, int]
    starts: Tensor

    def same(self, other: Window) -> bool:
        """Whether both are of the same places."""
        return self.size == other.size and torch.equal(self.starts, other.starts)


@dataclass
class Group:
    """Positions that recompute windows of the same sizes.

    Attributes:
        positions: their indices.
        windows: of each value that stays a part of its map; values that are not in it are whole.
        work: multiply-adds of a row.
    """

    positions: Tensor
    windows: dict[fx.Node, Window] = field(default_factory=dict)
    work: float = 0.0


class Layout(NamedTuple):
    """How a graph is run for changes of its input.

    Attributes:
        operations: in order.
        reach: of each value of which a part changes, the input too.
        groups: positions that are computed together.
        work: multiply-adds of a row, run whole.
        gain: how many times fewer multiply-adds are left, by the windows' sizes, one whole row included.
    """

    operations: list[Operation]
    reach: dict[fx.Node, Reach]
    groups: list[Group]
    work: float
    gain: float


def laid_out(traced: Traced, rectangles: Tensor, least: int) -> Layout:
    """The layout of a graph.

    Args:
        traced: graph of one input [B, C, H, W].
        rectangles: [P, 4], int64, on the CPU: top, bottom, left and right of each change, the ends excluded.
        least: positions of a group, see :func:`grouped`.
    """
    start, operations = operations_of(traced, rectangles)
    reach = {traced.input: start}
    reach.update({each.node: each.reach for each in operations if each.reach is not None})
    groups = [planned(traced, start, operations, each) for each in grouped(start, operations, least)]
    whole = sum(each.work for each in operations)
    left = sum(len(group.positions) * group.work for group in groups) + whole
    return Layout(operations, reach, groups, whole, len(rectangles) * whole / left if left else 1.0)


def operations_of(traced: Traced, rectangles: Tensor) -> tuple[Reach, list[Operation]]:
    """How far the change of each rectangle of the input reaches into each value, without regard to what pays.

    Args:
        traced: graph of one input [B, C, H, W].
        rectangles: [P, 4], int64: top, bottom, left, right, the ends excluded.
    """
    low, high = rectangles[:, 0::2], rectangles[:, 1::2]
    _, _, height, width = traced.shape(traced.input) or ()
    start = Reach((2, 3), (int(height), int(width)), low, high)
    reaches: dict[Any, Reach] = {traced.input: start}
    varying: set[fx.Node] = {traced.input}
    operations = []
    for node in traced.nodes:
        operation = _operation(node, traced.shape, reaches, varying)
        operations.append(operation)
        if operation.sources:
            varying.add(node)
        if operation.reach is not None:
            reaches[node] = operation.reach
    return start, operations


def _operation(node: fx.Node, shape: Shape, reaches: dict[Any, Reach], varying: set[fx.Node]) -> Operation:
    rule = rule_of(node.target)
    sources = tuple(each for each in node.all_input_nodes if each in varying)
    if not sources:
        return Operation(node, rule)
    call = OperationCall(node, shape, {each: reaches[each].axes for each in sources if each in reaches})
    found = Operation(node, rule, sources, work=rule.work(call))
    if len(call.axes) < len(sources) or not (rule.several or sources == node.args[:1]):
        return found
    way, first = rule.reach(call), reaches[sources[0]]
    if isinstance(way, Even):
        if any(reaches[each].extent != first.extent for each in sources):
            return found
        low = torch.stack([reaches[each].low for each in sources]).amin(0)
        high = torch.stack([reaches[each].high for each in sources]).amax(0)
        found.reach = Reach(way.axes, first.extent, low, high)
    elif isinstance(way, Local):
        found.reach = _grown(first, way)
    found.way = way
    return found


def _grown(before: Reach, window: Local) -> Reach:
    """The outputs of a window operation that read a changed input."""
    lows, highs, extent = [], [], []
    for axis in (0, 1):
        stride, padding = window.stride[axis], window.padding[axis]
        count = (before.extent[axis] + 2 * padding - window.reach(axis)) // stride + 1
        low = -(-(before.low[:, axis] + padding - window.reach(axis) + 1) // stride)
        high = (before.high[:, axis] - 1 + padding) // stride + 1
        low, high = low.clamp(0, count), high.clamp(0, count)
        # What a stride steps over changes nothing; a window of one element stands for none.
        low = torch.minimum(low, torch.full_like(low, count - 1))
        lows.append(low)
        highs.append(torch.maximum(high, low + 1))
        extent.append(count)
    return Reach((2, 3), (extent[0], extent[1]), torch.stack(lows, 1), torch.stack(highs, 1))


def planned(traced: Traced, start: Reach, operations: list[Operation], positions: Tensor) -> Group:
    """The windows of a group of positions: as large as its largest changed parts, or the whole map."""
    group = Group(positions)
    first = _window(start, positions)
    if first is not None:
        group.windows[traced.input] = first
    for operation in operations:
        window = None
        if operation.reach is not None and all(each in group.windows for each in operation.sources):
            window = _window(operation.reach, positions)
        share = 1.0
        if window is not None and operation.reach is not None:
            group.windows[operation.node] = window
            share = _area(window.size) / _area(operation.reach.extent)
        group.work += operation.work * share
    return group


def _window(reach: Reach, positions: Tensor) -> Window | None:
    low, high = reach.low[positions], reach.high[positions]
    height, width = (high - low).amax(0).tolist()
    if height * width >= WHOLE_SHARE * _area(reach.extent):
        return None
    last = torch.tensor([reach.extent[0] - height, reach.extent[1] - width], device="cpu")
    return Window((height, width), torch.minimum(low, last))


def _area(size: tuple[int, int]) -> int:
    return size[0] * size[1]


def grouped(start: Reach, operations: list[Operation], least: int) -> list[Tensor]:
    """Positions in groups whose changed parts are of about one size, so that none is padded to a far larger one.

    Those at the border change less. In each dimension positions are split by how much they change, at the places that
    save the most.

    Args:
        least: positions of a group, so that its batches are full.
    """
    count = start.low.shape[0]
    partial = [(each.work, each.reach) for each in operations if each.reach is not None and each.work]
    everything = torch.arange(count, device="cpu")
    if not partial or count < 2 * least:
        return [everything]
    work = np.array([each for each, _ in partial])
    lengths = np.stack([(reach.high - reach.low).numpy() / np.array(reach.extent) for _, reach in partial])
    score = np.einsum("s,spa->pa", work, lengths)  # [P, 2]

    def split(shares: tuple[float, ...]) -> tuple[float, list[Any]]:
        """Multiply-adds of groups bounded by quantiles of the score, and the groups."""
        bounds = np.quantile(score, shares, axis=0) if shares else np.empty((0, 2))
        classes = (score[None] > bounds[:, None]).sum(0)  # [P, 2]
        labels = classes[:, 0] * (len(shares) + 1) + classes[:, 1]
        total, groups = 0.0, []
        for label in np.unique(labels):
            members = np.flatnonzero(labels == label)
            area = lengths[:, members].max(1).prod(-1)
            total += len(members) * float(work @ np.where(area < WHOLE_SHARE, area, 1.0))
            groups.append(members)
        if len(groups) > 1 and min(map(len, groups)) < least:
            return float("inf"), groups
        return total, groups

    shares: tuple[float, ...] = ()
    best, groups = split(shares)
    for _ in range(MOST_BOUNDS):
        found = [(split(tuple(sorted((*shares, share)))), share) for share in QUANTILES if share not in shares]
        (total, members), share = min(found, key=lambda each: each[0][0])
        if total > WORTH * best:
            break
        best, groups, shares = total, members, (*shares, share)
    return [torch.from_numpy(members) for members in groups]
