"""A model's layers that a class activation map can read, and the one that it reads by default."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from torch import Tensor, nn

from fastsal.engine.reading.geometry import Geometry, Seen, measured, measured_too, survey
from fastsal.engine.reading.reading import read
from fastsal.engine.reading.resolving import resolve_layer
from fastsal.engine.run.own import Bounds

FEWEST_POSITIONS = 4
"""Of a default layer; with fewer there is hardly a place to tell."""


class _Named(NamedTuple):
    name: str
    shape: tuple[int, ...]
    geometry: Geometry | None


class Layer(_Named):
    """A module's dotted name, the shape of its output as [B, C, *spatial], and where its positions are.

    Attributes:
        name: the module's dotted name.
        shape: of its output as [B, C, *spatial]; as it is where it has no geometry.
        geometry: a :class:`fastsal.Geometry`; None where the layer has none.
        passed_over: why it is no default layer, whatever the target; empty where it may be.
    """

    passed_over: str

    def __new__(cls, name: str, shape: tuple[int, ...], geometry: Geometry | None, passed_over: str = "") -> Layer:
        made = super().__new__(cls, name, shape, geometry)
        made.passed_over = passed_over
        return made

    def __repr__(self) -> str:
        told = self.passed_over or "may be the default"
        return f"Layer({self.name}, {list(self.shape)}, {self.geometry or 'no positions'}; {told})"


def _layer(seen: Seen) -> Layer:
    if isinstance(seen.found, str):
        return Layer(seen.name, seen.shape, None, seen.found)
    geometry = seen.found
    shape = (seen.shape[geometry.examples], seen.shape[geometry.channels], *geometry.size)
    return Layer(seen.name, shape, geometry, _passed_over(seen, geometry))


def _passed_over(seen: Seen, geometry: Geometry) -> str:
    """Why a layer with a geometry is no default, whatever the target; empty where it may be."""
    if seen.runs > 1:
        return f"it runs {seen.runs} times, each with values of its own"
    if not geometry.local:
        return "its values are sums over all positions"
    if geometry.resampled:
        return "its grid was pooled to a fixed size, or enlarged"
    if math.prod(geometry.grid) < FEWEST_POSITIONS:
        return f"it has fewer than {FEWEST_POSITIONS} positions"
    if _is_linear(seen.module):
        return "it is a linear map of each position"
    return ""


def _is_linear(module: nn.Module) -> bool:
    """Whether it is a linear map, with nothing but a normalisation around it: queries, keys and values are."""
    leaves = [part for part in module.modules() if not any(True for _ in part.children())]
    linear = [part for part in leaves if isinstance(part, nn.Linear)]
    norms = (nn.LayerNorm, nn.Identity, nn.Dropout, nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)
    return len(linear) == 1 and all(
        isinstance(part, (nn.Linear, *norms)) or not (type(part).__module__.startswith("torch.") or _has_weights(part))
        for part in leaves
    )


def _has_weights(module: nn.Module) -> bool:
    return any(True for _ in module.parameters())


def told_apart(geometries: Sequence[Geometry]) -> bool:
    """Whether the runs of a layer look at different inputs, so that each input has a run of its own."""
    inputs = [which for each in geometries for which in (each.input, *each.also)]
    return len(set(inputs)) == len(inputs)


def _of_layers(seen: Sequence[Seen]) -> list[Seen]:
    """One for each layer: its last run, or all of them where each looks at an input of its own."""
    runs: dict[str, list[Seen]] = {}
    for each in seen:
        runs.setdefault(each.name, []).append(each)
    found = []
    for last in (each for each in seen if each.run == each.runs - 1):
        geometries = [each.found for each in runs[last.name] if isinstance(each.found, Geometry)]
        if len(geometries) == last.runs > 1 and told_apart(geometries):
            first = min(geometries, key=lambda geometry: geometry.input)
            others = [each for each in geometries if each is not first]
            also = tuple(which for each in others for which in (each.input, *each.also))
            known = (*first.others, *(known for each in others for known in (each, *each.others)))
            last = last._replace(found=replace(first, also=(*first.also, *also), others=known), runs=1, run=0)
        found.append(last)
    return found


def _may_be_read(seen: Seen, first: bool = False) -> bool:
    layer = _layer(seen)
    if layer.geometry is None or layer.passed_over:
        return False
    return not first or layer.geometry.input == 0


def layers(
    model: Callable[..., Any], inputs: Any, additional_forward_args: Any = (), *, refused: bool = False
) -> list[Layer]:
    """Layers that a class activation map can read, in the order in which they finish.

    These are the modules whose output is one tensor of which it is known where the examples, the channels and the
    positions are: maps, channels first or last, tokens. A layer that runs several times is listed as of its last run,
    or as of all together where each looks at another input.
    Costs one pass, on the first example (on all where an extra argument has as many entries as there are examples),
    and another where it takes one to find the module behind a callable.

    Args:
        model: module or callable around one.
        inputs: tensor, or tuple of them.
        additional_forward_args: further arguments of the model.
        refused: list the others too, with the reason.

    Raises:
        TypeError: where there is not one module behind the model.
    """
    values = inputs if isinstance(inputs, tuple) else (inputs,)
    extra = additional_forward_args if isinstance(additional_forward_args, tuple) else (additional_forward_args,)
    with Bounds():
        found = survey(model, values, extra).seen
    listed = [_layer(seen) for seen in _of_layers(found)]
    return [layer for layer in listed if refused or layer.geometry is not None]


def default_layer(
    model: Callable[..., Any],
    inputs: tuple[Any, ...],
    additional: tuple[Any, ...],
    select: Callable[[Any], Tensor],
    verify: bool = False,
) -> Layer:
    """The last layer whose geometry is settled, whose values are local and more than a few, and that has influence.

    A transformer's classifier may read one token, so that the last layers' patches have no gradient: there it is the
    last layer whose positions have one. That costs a second pass, with its backward pass, as it does for an output that
    has places itself, and for any model with ``verify``. The scores of such an output are no layer to explain them by.

    Raises:
        ValueError: where there is none.
    """
    seen, dense = survey(model, inputs, additional)
    seen = _of_layers(seen)
    if len(inputs) > 1 and any(_may_be_read(each, first=True) for each in seen):
        seen = [each for each in seen if isinstance(each.found, str) or each.found.input == 0]
    last_proved = max((place for place, each in enumerate(seen) if _may_be_read(each)), default=-1)
    behind = _local_too(seen[last_proved + 1 :], model, inputs, additional)
    seen = seen[: last_proved + 1] + measured_too(behind, model, inputs, additional)
    found = [_layer(each) for each in seen if _may_be_read(each)]
    if not found:
        raise ValueError(
            "layer: the model has none whose positions are known and local (fastsal.layers(..., refused=True) says why "
            "of each); name one, and pass reshape_transform"
        )
    last = found[-1].geometry
    assert last is not None
    if len(set(last.positions)) == len(last.positions) and not verify and not dense:
        return found[-1]
    parts = [resolve_layer(model, layer.name) for layer in found]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of those that the target does not depend on, which are passed over
        options = {"allow_unused": True}
        gradients = read(model, parts, inputs, additional, select, grad_kwargs=options).gradients
    thinned: list[Layer] = []
    for layer, gradient in zip(reversed(found), reversed(gradients), strict=True):
        assert layer.geometry is not None
        places = layer.geometry.arrange(gradient[0])
        if places.count_nonzero() and not (dense and _of_one_channel(places)):
            if not _is_thinned(layer, found):
                return layer
            thinned.append(layer)
    if thinned:
        return thinned[0]
    if not all(len(tensor) for tensor in inputs if isinstance(tensor, Tensor) and tensor.dim()):
        raise ValueError("inputs: no examples, by which no layer can be found; name one")
    raise ValueError("layer: no position has influence on the target; name a layer")


def _local_too(
    seen: list[Seen], model: Callable[..., Any], inputs: tuple[Any, ...], additional: tuple[Any, ...]
) -> list[Seen]:
    """The same, with the last whose values are sums over all positions measured: a trained one may look locally.

    So it is behind attention that nothing goes around, as between LeViT's stages.
    """
    summed = [
        each
        for each in seen
        if isinstance(each.found, Geometry)
        and not each.found.local
        and not _passed_over(each, replace(each.found, local=True))
    ]
    if not summed:
        return seen
    last, key = summed[-1], (summed[-1].module, summed[-1].run)
    found, proved = measured(model, [key], inputs, additional)[key], last.found
    assert isinstance(proved, Geometry)
    if isinstance(found, str) or (found.axes, found.grid) != (proved.axes, proved.grid):
        return seen
    return [each._replace(found=replace(proved, local=True)) if each is last else each for each in seen]


def _is_thinned(layer: Layer, found: Sequence[Layer]) -> bool:
    """Whether it is inside a block that has more positions: keys and values that attention takes fewer of."""

    def count(each: Layer) -> int:
        return 0 if each.geometry is None else math.prod(each.geometry.grid)

    return any(layer.name.startswith(f"{each.name}.") and count(each) > count(layer) for each in found)


def _of_one_channel(places: Tensor) -> bool:
    """Whether of several channels one alone has influence: a map of scores, of which the target is one."""
    return places.shape[1] > 1 and int(places.detach().abs().flatten(2).sum((0, 2)).count_nonzero()) <= 1


def map_axes(geometry: Geometry, dimensions: int) -> Sequence[int]:
    """The dimensions of an input that a map of a layer has: all behind the channels, or those that it runs along."""
    spatial = range(2, dimensions)
    return spatial if set(geometry.axes) <= set(spatial) else sorted(geometry.axes)
