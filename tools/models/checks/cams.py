"""Class activation maps at the default layer: a hook of our own, arranged as the model's own settings say."""

from __future__ import annotations

import itertools
import warnings
from typing import Any

import torch
from torch import Tensor, nn

import fastsal
from tools.models import by_hand
from tools.models.cell import Meaningless, Wrong, apart, near
from tools.models.stated import GridSize
from tools.models.subject import Subject

NO_POSITIONS = "CAM without positions"
MOST_CHANNELS = 2048
"""AblationCAM by hand runs a copy for each."""
COPIES = 32
"""In a call of the model, where the first, the last and the weightiest channel alone come out as among others."""


def layer_of(explainer: Any, model: nn.Module) -> tuple[str, nn.Module]:
    """Name and module of the layer that an explainer took."""
    part = explainer.layers[0]
    name = explainer.layer_names[0]
    return name or next(n for n, m in model.named_modules() if m is part), part


def arranged(
    subject: Subject, explainer: Any, target: Any = None
) -> tuple[str, list[tuple[Tensor, Tensor | None, GridSize]]]:
    """The default layer's name, and of each of its runs the value [B, C, *grid], its gradient alike, and the grid.

    Raises:
        Wrong: where the layer's shape is none that the model's settings say.
    """
    name, layer = layer_of(explainer, subject.model)
    found = []
    runs = by_hand.read(subject, layer, target)
    for value, gradient in runs:
        as_stated = subject.stated.arrange(value, subject.inputs.shape[0])
        if as_stated is not None:
            of_gradient = None if gradient is None else subject.stated.arrange(gradient, subject.inputs.shape[0])
            found.append((as_stated[0], None if of_gradient is None else of_gradient[0], as_stated[1]))
    if not found:
        shapes = ", ".join(str(list(value.shape)) for value, _ in runs)
        raise Wrong(f"layer {name} {shapes}: the model's {subject.stated.source} say {list(subject.stated.grids)[:4]}")
    return name, found


def _place(subject: Subject, name: str, grid: GridSize) -> str:
    last = subject.stated.grids[0]
    stage = "" if sorted(grid) == sorted(last) else ", not the last stage's"
    return f"{name}, grid {'x'.join(map(str, grid))}{stage} ({subject.stated.source})"


def _meant(subject: Subject) -> None:
    if not subject.stated.grids:
        raise Meaningless(NO_POSITIONS)


def _maps(subject: Subject, method: str) -> tuple[Any, Tensor, Tensor | None]:
    """The explainer, its raw map [B, *grid] and, of images, the map in the input's size."""
    explainer = getattr(fastsal, method)(subject.model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the default layer is told
        raw = explainer.attribute(
            subject.inputs, subject.target, relu_attributions=False, upsample=False, normalize=False
        )
        whole = explainer.attribute(subject.inputs, subject.target) if subject.kind == "image" else None
    return explainer, raw[:, 0], whole


def _weighed(subject: Subject, method: str, elementwise: bool) -> str:
    _meant(subject)
    explainer, raw, whole = _maps(subject, method)
    name, runs = arranged(subject, explainer)
    closest, figure, grid = float("inf"), "", runs[0][2]
    for value, gradient, each in runs:
        if gradient is None:
            continue
        weights = gradient.clamp_min(0) if elementwise else gradient.flatten(2).mean(2)[(..., *[None] * len(each))]
        parts = weights * value
        expected = parts.sum(1)
        size = float(parts.abs().sum(1).max())
        gap = apart(raw, expected, size)
        if gap <= closest:
            closest, grid, figure = gap, each, f"layer's map {gap:.1e}"
            if whole is not None:
                gap = in_the_inputs_size(subject, whole, expected, size)
                figure += f", in the input's size {gap:.1e}"
                closest = max(closest, gap / 30)
    if not closest <= 1e-4:
        raise Wrong(f"{_place(subject, name, grid)}: {figure or 'no gradient reaches it'}; map {list(raw.shape)}")
    return f"{_place(subject, name, grid)}: {figure}"


def in_the_inputs_size(subject: Subject, maps: Tensor, raw: Tensor, size: float) -> float:
    """How far maps in [0, 1] are from a layer's map [B, *grid] by hand, stretched; ``size`` is that of its terms.

    Where the positive part is all but flat, what is stretched to [0, 1] is rounding: the layer's own map counts there.
    """
    positive = raw.clamp_min(0).flatten(1)
    clear = (positive.amax(1) - positive.amin(1)) > 1e-3 * size
    if maps.shape[0] != clear.shape[0]:
        return float("inf")
    expected = by_hand.stretched(raw, tuple(subject.inputs.shape[2:]))
    if not bool(clear.any()):
        return 0.0
    gap = apart(maps[clear], expected[clear])
    return 0.0 if gap > 3e-3 and _moved(maps[clear], expected[clear], tuple(raw.shape[1:])) else gap


def _moved(maps: Tensor, plain: Tensor, grid: GridSize) -> bool:
    """Whether maps are those of plain resizing, moved by less than a step of the grid.

    Paddings and strides let positions look beside where equal parts of the input would put them, and the map follows.
    """
    size = tuple(plain.shape[2:])
    steps = [-(-extent // count) for extent, count in zip(size, grid, strict=True)]
    inner: tuple[Any, ...] = (..., *(slice(step, extent - step) for step, extent in zip(steps, size, strict=True)))
    best = [-1.0] * len(maps)
    for shift in itertools.product(*(range(-step, step + 1) for step in steps)):
        moved = plain.roll(shift, tuple(range(2, 2 + len(size))))[inner].flatten(1)
        pairs = zip(maps[inner].flatten(1), moved, strict=True)
        found = [float(torch.corrcoef(torch.stack(pair))[0, 1]) for pair in pairs]
        best = [max(pair) for pair in zip(best, found, strict=True)]
    return min(best) > 0.95


def grad_cam(subject: Subject) -> str:
    return _weighed(subject, "GradCAM", False)


def layer_cam(subject: Subject) -> str:
    return _weighed(subject, "LayerCAM", True)


def eigen_cam(subject: Subject) -> str:
    _meant(subject)
    explainer, raw, _ = _maps(subject, "EigenCAM")
    name, runs = arranged(subject, explainer)
    best: tuple[float, GridSize] = (0.0, runs[0][2])
    for value, _, grid in runs:
        worst = 1.0
        for row, found in zip(value.double(), raw.double(), strict=True):
            table = row.flatten(1).mT - row.flatten(1).mT.mean(0)
            _, values, right = torch.linalg.svd(table, full_matrices=False)
            if found.numel() != table.shape[0]:
                worst = 0.0
                break
            projected = found.flatten() - found.mean()
            # Several directions may be all but equally long: the map must lie in these.
            near_first = right[values > values[0] * (1 - 1e-3)]
            basis = torch.linalg.qr(table @ near_first.mT)[0]
            share = float((basis.mT @ projected).norm() / projected.norm().clamp_min(1e-30))
            worst = min(worst, share)
        best = max(best, (worst, grid))
    if not best[0] >= 0.999:
        raise Wrong(f"{_place(subject, name, best[1])}: {best[0]:.4f} of the map is the first component; {raw.shape}")
    return f"{_place(subject, name, best[1])}: {best[0]:.6f} of it the first component"


def ablation_cam(subject: Subject) -> str:
    _meant(subject)
    one = subject.first()
    explainer, raw, _ = _maps(one, "AblationCAM")
    name, runs = arranged(one, explainer)
    _, layer = layer_of(explainer, one.model)
    value, _, grid = runs[0]
    channels = value.shape[1]
    if len(runs) > 1 or channels > MOST_CHANNELS:
        raise Wrong(f"{name} ran {len(runs)} times, {channels} channels: not compared")
    clean = float(by_hand.scores(one)[0])
    shares = _shares(one, layer, channels, clean)
    parts = (shares / (clean or 1.0))[(None, ..., *[None] * len(grid))] * value
    return f"{_place(one, name, grid)}: " + near(
        f"{channels} channels", raw.double(), parts.sum(1), 1e-3, float(parts.abs().sum(1).max())
    )


def _shares(one: Subject, layer: nn.Module, channels: int, clean: float) -> Tensor:
    """What the score loses without each channel, float64 [channels]."""
    firsts = range(0, channels, COPIES)
    found = torch.cat([clean - _ablated(one, layer, list(range(channels))[first : first + COPIES]) for first in firsts])
    tried = sorted({0, channels - 1, int(found.abs().argmax())})
    alone = torch.cat([clean - _ablated(one, layer, [channel]) for channel in tried])
    if apart(found[tried], alone, float(found.abs().max())) <= 1e-4:
        return found
    return torch.cat([clean - _ablated(one, layer, [channel]) for channel in range(channels)])


def _ablated(one: Subject, layer: nn.Module, channels: list[int]) -> Tensor:
    """Scores of copies of an example, each without one of these channels of a layer, float64 [channels]."""
    copies = one.inputs.expand(len(channels), *one.inputs.shape[1:])
    hook = layer.register_forward_hook(_without(one, channels))
    try:
        return by_hand.scores(one, copies).double()
    finally:
        hook.remove()


def _without(subject: Subject, channels: list[int]) -> Any:
    """A hook that returns the layer's value, row by row without a channel."""

    def hook(_part: nn.Module, _inputs: Any, output: Any) -> Any:
        value = (output if isinstance(output, Tensor) else by_hand.leaves(output)[0]).clone()
        where = subject.stated.arrange(value, len(channels))
        assert where is not None
        # The tokens of no place lose the channel too.
        shared = (where[0].shape[1], where[0].stride(1))
        axis = next(a for a in range(1, value.dim()) if (value.shape[a], value.stride(a)) == shared)
        for row, channel in enumerate(channels):
            value[row].select(axis - 1, channel).zero_()
        return value if isinstance(output, Tensor) else (value, *output[1:])

    return hook
