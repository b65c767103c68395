"""Which part of each value a change of the input reaches, and what is left to compute."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, fx

from fastsal.engine.incremental.rules import Axes, Local, aten, average, even, local
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
class Step:
    """A call and how it can be run on a part of its map.

    Attributes:
        kind: ``constant`` (the same for every input), ``local``, ``even``, ``average``, ``rows`` (their number)
            or ``whole``.
        sources: the arguments that vary with the input.
        reach: of the result; None where it has no positions, or all of them change.
        local: the geometry of a window operation.
        keeps: whether an average keeps the dimensions of height and width.
        work: multiply-adds of a row, run whole.
    """

    node: fx.Node
    kind: str
    sources: tuple[fx.Node, ...] = ()
    reach: Reach | None = None
    local: Local | None = None
    keeps: bool = False
    work: float = 0.0


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


def steps_of(traced: Traced, rectangles: Tensor) -> tuple[Reach, list[Step]]:
    """How far the change of each rectangle of the input reaches into each value, without regard to what pays.

    Args:
        traced: graph of one input [B, C, H, W].
        rectangles: [P, 4], int64: top, bottom, left, right, the ends excluded.
    """
    shape = _shape_of(traced)
    low, high = rectangles[:, 0::2], rectangles[:, 1::2]
    _, _, height, width = traced.shape(traced.input) or ()
    start = Reach((2, 3), (int(height), int(width)), low, high)
    reaches: dict[Any, Reach] = {traced.input: start}
    varying: set[fx.Node] = {traced.input}
    steps = []
    for node in traced.nodes:
        step = _step(node, shape, reaches, varying)
        steps.append(step)
        if step.kind != "constant":
            varying.add(node)
        if step.reach is not None:
            reaches[node] = step.reach
    return start, steps


def _shape_of(traced: Traced) -> Any:
    def shape(node: Any) -> tuple[Any, ...] | None:
        if not isinstance(node, fx.Node):
            return ()  # a number
        value = traced.constants.get(node, node.meta.get("val"))
        return tuple(value.shape) if isinstance(value, Tensor) else None

    return shape


def _step(node: fx.Node, shape: Any, reaches: dict[Any, Reach], varying: set[fx.Node]) -> Step:
    sources = tuple(each for each in node.all_input_nodes if each in varying)
    if not sources:
        return Step(node, "constant")
    work = _work(node, shape)
    if node.target is aten.sym_size.int and node.args[1] == 0:
        return Step(node, "rows", sources)
    if any(each not in reaches for each in sources):
        return Step(node, "whole", sources, work=work)
    first = reaches[sources[0]]
    window = local(node, shape) if node.args[0] is sources[0] and len(sources) == 1 else None
    if window is not None and first.axes == (2, 3) and not window.pointwise:
        return Step(node, "local", sources, _grown(first, window), window, work=work)
    axes = (2, 3) if window is not None and first.axes == (2, 3) else None
    if window is None:
        keeps = average(node, shape, first.axes) if len(sources) == 1 and node.args[0] is sources[0] else None
        if keeps is not None:
            return Step(node, "average", sources, keeps=keeps, work=work)
        axes = even(node, shape, {each: reaches[each].axes for each in sources})
    if axes is None or any(reaches[each].extent != first.extent for each in sources):
        return Step(node, "whole", sources, work=work)
    low = torch.stack([reaches[each].low for each in sources]).amin(0)
    high = torch.stack([reaches[each].high for each in sources]).amax(0)
    return Step(node, "even", sources, Reach(axes, first.extent, low, high), work=work)


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


def _work(node: fx.Node, shape: Any) -> float:
    """Multiply-adds of a row."""
    result = shape(node)
    if result is None:
        return 0.0
    elements = 1.0
    for size in result[1:]:
        elements *= float(size)
    if node.target in (aten.conv2d.default, aten.convolution.default, aten.linear.default):
        weight = shape(node.args[1]) or ()
        for size in weight[1:]:
            elements *= float(size)
    elif node.target in (aten.addmm.default, aten.mm.default, aten.bmm.default, aten.matmul.default):
        matrix = shape(node.args[1 if node.target is aten.addmm.default else 0]) or ()
        elements *= float(matrix[-1]) if matrix else 1.0
    elif node.target is aten.scaled_dot_product_attention.default:
        keys: tuple[Any, ...] = shape(node.args[1]) or (0, 0)
        elements *= 2.0 * float(keys[-2])
    return elements


def planned(traced: Traced, start: Reach, steps: list[Step], positions: Tensor) -> Group:
    """The windows of a group of positions: as large as its largest changed parts, or the whole map."""
    group = Group(positions)
    first = _window(start, positions)
    if first is not None:
        group.windows[traced.input] = first
    for step in steps:
        window = None
        if step.reach is not None and all(each in group.windows for each in step.sources):
            window = _window(step.reach, positions)
        share = 1.0
        if window is not None and step.reach is not None:
            group.windows[step.node] = window
            share = _area(window.size) / _area(step.reach.extent)
        group.work += step.work * share
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


def grouped(start: Reach, steps: list[Step], least: int) -> list[Tensor]:
    """Positions in groups whose changed parts are of about one size, so that none is padded to a far larger one.

    Those at the border change less. In each dimension positions are split by how much they change, at the places that
    save the most.

    Args:
        least: positions of a group, so that its batches are full.
    """
    count = start.low.shape[0]
    partial = [(step.work, step.reach) for step in steps if step.reach is not None and step.work]
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
