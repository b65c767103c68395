"""Random small networks against brute force: no class activation map lies elsewhere than its layer looks.

``python -m tests.fuzz.positions --n 2000 --seed 1``. Of each network the default layer and some named ones are asked.
What is compared: (1) the layer's geometry with where single elements of the inputs, changed one by one in float64, show
at it; (2) Grad-CAM, at the layer's size, with autograd by hand over the values as the network itself knows how to read
them; (3) the map in the input's size: at each element between the values of the positions around it. A layer without
positions must be refused. One with them may be, which is counted, and must be rare.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from random import Random
from typing import Any

import torch
from torch import Tensor, nn

import fastsal
from fastsal.engine.reading import Geometry, Unsettled, geometry_of
from tests.fuzz import cases
from tests.fuzz.assembled import Network, Raw
from tests.fuzz.networks import VOCABULARY, Step, Truth

MOST_REFUSED = 0.1
LEAST_OF_A_KIND = 50
MUCH = 3.0
"""What is added to an element: so much that every maximum shows it."""
MEASURED = 0.75
"""Steps by which a measured position may look beside: it is taken for one of equal parts of the input, also of one that
is cut a little."""


class Wrong(AssertionError):
    """A silent error."""


def passed(network: Network, inputs: tuple[Tensor, ...], names: list[str]) -> dict[tuple[str, int], Tensor]:
    """The layers' values, run by run."""
    found: dict[tuple[str, int], Tensor] = {}

    def hook(name: str) -> Any:
        def note(_module: nn.Module, _args: Any, output: Tensor) -> None:
            found[name, sum(1 for key, _ in found if key == name)] = output

        return note

    handles = [network.get_submodule(name).register_forward_hook(hook(name)) for name in names]
    try:
        network(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return found


def altered(raw: Raw, value: Tensor) -> Tensor:
    """Rows of an input [1, ...], in each of which one element (of all channels) is another."""
    extents = [value.shape[axis] for axis in raw.axes]
    count = math.prod(extents)
    lying = [extents[raw.axes.index(dim)] if dim in raw.axes else 1 for dim in range(1, value.dim())]
    # The axes of an input are in the order of its dimensions.
    one = torch.eye(count, dtype=value.dtype).view(count, *lying)
    return (value + 3 * one) % VOCABULARY if value.dtype == torch.int64 else value + MUCH * one


@contextlib.contextmanager
def unmixed(network: Network) -> Iterator[None]:
    """Inside, nothing is summed over positions, which are where they were: what is left shows where each looks."""
    steps = [step for step in network.modules() if isinstance(step, Step)]
    kept = [(parameter, parameter.detach().clone()) for step in steps for parameter in step.sums]
    norms = [part for part in network.modules() if isinstance(part, nn.GroupNorm)]
    handles = [norm.register_forward_hook(lambda _module, args, _output: args[0] * 1) for norm in norms]
    try:
        for parameter, _ in kept:
            parameter.data.zero_()
        yield
    finally:
        for handle in handles:
            handle.remove()
        for parameter, value in kept:
            parameter.data.copy_(value)


def influence(network: Network, names: list[str], which: int) -> dict[tuple[str, int], Tensor]:
    """[*extents of the input, *grid]: how far each position of a layer changes with each element of an input.

    By what is not summed over all positions.
    """
    inputs, raw = tuple(each[:1] for each in network.inputs), network.raws[which]
    known = {(name, run): truth for name in names for run, truth in enumerate(network.truths[name]) if truth}

    def read(given: tuple[Tensor, ...]) -> dict[tuple[str, int], Tensor]:
        values = passed(network, given, names)
        return {key: truth.form.back(values[key], truth.grid) for key, truth in known.items()}

    changes: dict[tuple[str, int], list[Tensor]] = {key: [] for key in known}
    with torch.no_grad(), unmixed(network):
        plain = read(inputs)
        for rows in altered(raw, inputs[which]).split(256):
            given = tuple(
                rows if index == which else each.expand(len(rows), *each.shape[1:]) for index, each in enumerate(inputs)
            )
            for key, value in read(given).items():
                changes[key].append((value - plain[key]).abs().sum(1))
    extents = [inputs[which].shape[axis] for axis in raw.axes]
    return {key: torch.cat(each).unflatten(0, extents) for key, each in changes.items()}


def looks_there(geometry: Geometry, truth: Truth, raw: Raw, seen: Tensor, said: str) -> None:
    """Compares where each position looks with what changes it."""
    axes = truth.looks[geometry.input]
    if (tuple(sorted(geometry.axes)), geometry.size) != (axes, truth.grid):
        raise Wrong(f"{said}: grid {geometry.size} along {geometry.axes}, but it is {truth.grid} along {axes}")
    lead = len(raw.axes)
    for place, axis in enumerate(axes):
        at = raw.axes.index(axis)
        along = seen.movedim(at, 0).flatten(1, lead - 1).amax(1) if lead > 1 else seen
        centre = torch.tensor(geometry.centres()[place], dtype=torch.float64)
        centre = centre.view(*[-1 if dim == place else 1 for dim in range(len(axes))]).expand(truth.grid)
        step = abs(geometry.stride[geometry.axes.index(axis)])
        is_measured = geometry.evidence == "measured"
        slack = (2**truth.doubled - 1) / 2 * step + MEASURED * step * is_measured
        beside = _beside(along, centre, truth.padded or is_measured, slack)
        if beside is not None:
            where = tuple(beside.nonzero()[0].tolist())
            shown = along[(slice(None), *where)]
            changes = [round(value, 3) for value in (shown / shown.max()).tolist()]
            raise Wrong(
                f"{said}: position {where} looks at {float(centre[where]):.1f} of dimension {axis} of input "
                f"{geometry.input}, where changes show {changes}; {geometry}"
            )


def _beside(along: Tensor, centre: Tensor, cut: bool, slack: float) -> Tensor | None:
    """The positions that do not look at the middle of the elements that change them."""
    extent, greatest = len(along), along.amax(0)
    shown = along > 1e-12 * along.max()
    index = torch.arange(extent).view(-1, *[1] * (along.dim() - 1))
    first, last = torch.where(shown, index, extent).amin(0), torch.where(shown, index, -1).amax(0)
    some = (last >= 0) & (greatest > 1e-6 * along.max())
    width = torch.where(some, last - first + 1, 0)
    # What a border or padding cuts off is less wide, and looks beside its middle.
    whole = some & (first > 0) & (last < extent - 1) & (width == width.max())
    reach = torch.where(whole, 1.0, width.max()).clamp_min(slack)
    # Convolutions without padding leave half of what they see off each end, which equal parts of the input do not.
    slack_of = (width / (2 if cut else 4)).clamp_min(max(slack, 1.0))
    beside = some & ((centre < first - reach) | (centre > last + reach))
    beside |= whole & ((centre - (first + last) / 2).abs() > slack_of)
    return beside if bool(beside.any()) else None


def by_hand(network: Network, name: str, truth: Truth, run: int) -> Tensor:
    """Grad-CAM [B, *grid] of score 1 by autograd alone."""
    with torch.enable_grad():
        kept: list[Tensor] = []
        number = itertools.count()

        def hook(_module: nn.Module, _args: Any, output: Tensor) -> Tensor | None:
            if next(number) != run:
                return None
            kept.append(output.detach().requires_grad_())
            return kept[0] * 1

        handle = network.get_submodule(name).register_forward_hook(hook)
        scores = network(*network.inputs)
        handle.remove()
        (gradient,) = torch.autograd.grad(scores[:, 1].sum(), kept[0], allow_unused=True)
    if gradient is None:
        gradient = torch.zeros_like(kept[0])
    read, weighed = (truth.form.back(each.detach(), truth.grid) for each in (kept[0], gradient))
    return (weighed.flatten(2).mean(2).view(*weighed.shape[:2], *[1] * len(truth.grid)) * read).sum(1)


def between(wide: Tensor, small: Tensor, geometry: Geometry, raw: Raw, said: str) -> None:
    """Whether a map [B, 1, *spatial] is at each element between the positions within one and a half steps of it."""
    behind = tuple(range(2, 1 + len(raw.shape)))
    spatial = behind if set(geometry.axes) <= set(behind) else tuple(sorted(geometry.axes))
    if wide.shape[2:] != tuple(raw.shape[axis - 1] for axis in spatial):
        raise Wrong(f"{said}: its map is {tuple(wide.shape)} of an input {raw.shape}")
    low = high = small
    axes = sorted(geometry.axes)
    strides = dict(zip(geometry.axes, geometry.stride, strict=True))
    for place, axis in enumerate(axes):
        centres = torch.tensor(geometry.centres()[place], dtype=torch.float64)
        at = torch.arange(raw.shape[axis - 1], dtype=torch.float64)
        apart = (at[:, None] - centres).abs()
        near = apart <= torch.maximum(1.5 * torch.tensor(abs(strides[axis])), apart.amin(1, keepdim=True)) + 1e-9
        mask = near.view(*near.shape, *[1] * (len(axes) - place - 1))
        low = torch.where(mask, low.unsqueeze(1 + place), math.inf).amin(2 + place)
        high = torch.where(mask, high.unsqueeze(1 + place), -math.inf).amax(2 + place)
    for place, axis in enumerate(spatial):
        if axis not in axes:
            low, high = low.unsqueeze(1 + place), high.unsqueeze(1 + place)
    slack = 1e-6 * float(small.abs().max()) + 1e-12
    if not bool(((wide[:, 0] >= low - slack) & (wide[:, 0] <= high + slack)).all()):
        raise Wrong(f"{said}: its map in the input's size lies beside its positions; {geometry}")


class Positions:
    """Networks one after the other, and what was in them."""

    def __init__(self) -> None:
        self.kinds: Counter[str] = Counter()
        self.layers: Counter[str] = Counter()

    def one(self, random: Random) -> str:
        """One network: "right" or "refused" of its default layer; what is wrong is raised."""
        network = Network(random)
        self.kinds.update(network.kinds)
        known = [name for name, runs in network.truths.items() if runs[0] is not None]
        without = [name for name, runs in network.truths.items() if runs[0] is None]
        asked = random.sample(known, min(3, len(known)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            default = self._default(network)
            if default is not None and default[0] not in network.truths:
                raise Wrong(f"{default[0]}: the default layer is one of which nothing was said")
            names = list(dict.fromkeys([*asked, *([] if default is None else [default[0]])]))
            seen = {
                which: influence(network, names, which)
                for which, raw in enumerate(network.raws)
                if raw.axes and any(t and which in t.looks for n in names for t in network.truths[n])
            }
            for name in random.sample(without, min(2, len(without))):
                self._refused(network, name)
            for name in asked:
                self.layers[self._named(network, name, seen)] += 1
            if default is None:
                return "refused"
            name, maps = default
            if network.truths[name][-1] is None:
                raise Wrong(f"{name} is the default layer of {network.together} and has no positions that are known")
            self._compared(network, name, maps, self._geometries(network, name), seen)
            last = network.candidates[-1] if network.candidates else ""
            return "right" if name == last or network.only_tokens else "right, an earlier layer"

    @staticmethod
    def _runs(network: Network, name: str) -> list[int]:
        """Of a layer; -1 of one that runs once, whose geometry is then known from its map."""
        count = len(network.truths[name])
        return [-1] if count == 1 else list(range(count))

    def _geometries(self, network: Network, name: str) -> dict[int, Geometry]:
        return {run: geometry_of(network, name, network.inputs, run=run) for run in self._runs(network, name)}

    def _default(self, network: Network) -> tuple[str, Any] | None:
        explainer = fastsal.GradCAM(network)
        try:
            maps = explainer.attribute(network.inputs, target=1, **PLAIN)
        except ValueError as error:
            if not str(error).startswith("layer: "):
                raise
            return None
        return str(explainer.layer_names[0]), maps

    def _refused(self, network: Network, name: str) -> None:
        for run in self._runs(network, name):
            try:
                found = geometry_of(network, name, network.inputs, run=run)
            except Unsettled:
                continue
            raise Wrong(f"{name} has no positions, but is taken for {found}")

    def _named(self, network: Network, name: str, seen: Seen) -> str:
        runs = network.truths[name]
        explainer = fastsal.GradCAM(network, name)
        try:
            maps = explainer.attribute(network.inputs, target=1, **PLAIN)
            geometries = self._geometries(network, name)
        except Unsettled:
            return "refused"
        except ValueError as error:
            if "depends on each use" in str(error) and len(runs) > len({tuple(r.looks) for r in runs if r}):
                return "runs several times"
            if "does not depend" in str(error):  # of what only a class token is read behind
                return "of no influence"
            raise
        self._compared(network, name, maps, geometries, seen)
        self._in_the_inputs_size(network, name, maps, geometries)
        return "right"

    def _compared(self, network: Network, name: str, maps: Any, geometries: dict[int, Geometry], seen: Seen) -> None:
        truths = network.truths[name]
        said = f"{name} of {network.together} {[raw.kind for raw in network.raws]}"
        for run, geometry in geometries.items():
            truth = truths[run]
            assert truth is not None
            each = [geometry, *geometry.others]
            if geometry.evidence == "measured" and {geometry.input, *geometry.also} == set(truth.looks):
                truth = replace(
                    truth, looks={g.input: truth.looks[g.input] for g in each}
                )  # a map of each is not known
            if {g.input for g in each} != set(truth.looks):
                raise Wrong(f"{said}, run {run}: looks at {[g.input for g in each]}, but does at {list(truth.looks)}")
            for g in each:
                looks_there(
                    g,
                    truth,
                    network.raws[g.input],
                    seen[g.input][name, run % len(truths)],
                    f"{said}, run {run}",
                )
        for which, small in self._by_input(network, maps, geometries).items():
            run = max(run for run, truth in enumerate(truths) if truth is not None and which in truth.looks)
            truth = truths[run]
            assert truth is not None
            expected = by_hand(network, name, truth, run)
            if small.numel() != expected.numel():
                raise Wrong(f"{said}: a map {tuple(small.shape)} of input {which} for {tuple(expected.shape)}")
            found = small[:, 0].reshape(expected.shape)
            apart = float((found - expected).abs().max())
            if not apart <= 1e-9 * float(expected.abs().max()) + 1e-12:
                raise Wrong(f"{said}: the map of input {which} is {apart:.1e} from that by hand; {geometries}")

    def _by_input(self, network: Network, maps: Any, geometries: dict[int, Geometry]) -> dict[int, Tensor]:
        looked = {each.input for geometry in geometries.values() for each in (geometry, *geometry.others)}
        if isinstance(maps, Tensor):
            if len(looked) != 1:
                raise Wrong(f"one map for a layer that looks at inputs {looked}")
            return {looked.pop(): maps}
        found = {which: each for which, each in enumerate(maps) if each is not None}
        if set(found) != looked or len(maps) != len(network.inputs):
            raise Wrong(f"maps of inputs {list(found)} for a layer that looks at {looked}")
        return found

    def _in_the_inputs_size(self, network: Network, name: str, small: Any, geometries: dict[int, Geometry]) -> None:
        explainer = fastsal.GradCAM(network, name)
        wide = explainer.attribute(network.inputs, target=1, **{**PLAIN, "upsample": True})
        of = {each.input: each for geometry in geometries.values() for each in (geometry, *geometry.others)}
        small_of = self._by_input(network, small, geometries)
        for which, each in self._by_input(network, wide, geometries).items():
            grid = small_of[which][:, 0].reshape(len(each), *of[which].size)
            between(each, grid, of[which], network.raws[which], name)


PLAIN: dict[str, Any] = {"upsample": False, "normalize": False, "relu_attributions": False}
Seen = dict[int, dict[tuple[str, int], Tensor]]


if __name__ == "__main__":
    positions = Positions()
    outcomes = cases.run_many(__doc__, positions.one)
    print(f"named layers: {dict(positions.layers)}; kinds: {dict(positions.kinds.most_common())}")
    count = sum(outcomes.values())
    assert outcomes.get("refused", 0) <= MOST_REFUSED * count, outcomes
    assert positions.layers["refused"] <= MOST_REFUSED * sum(positions.layers.values()), positions.layers
    assert count < 2000 or min(positions.kinds.values()) >= LEAST_OF_A_KIND, positions.kinds
