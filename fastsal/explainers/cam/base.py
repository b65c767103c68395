"""What class activation maps share: the layers, one pass read at them, and how weighted activations become a map."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastsal.engine.reading import (
    Reading,
    Unrelated,
    default_layer,
    read,
    resolvable,
    resolve_layer,
    resolve_layers,
)
from fastsal.engine.run import evaluation
from fastsal.explainers.arguments import Inputs, as_inputs
from fastsal.explainers.base import Attribution, Display, describe
from fastsal.explainers.call import Call
from fastsal.explainers.cam._places import Places, View
from fastsal.explainers.cam._places import ReshapeTransform as ReshapeTransform
from fastsal.explainers.cam._places import Stated as Stated
from fastsal.explainers.cam._uses import any_score, each_its_own, several_maps
from fastsal.explainers.cam.placing import Placement, placed
from fastsal.explainers.cam.principal import principal_projection
from fastsal.explainers.cam.records import CamReading, LayerValues, MapCall, Rendering, Summed, Weigh
from fastsal.explainers.scores import Target, mirrored, one_score_each, resolved
from fastsal.explainers.task import Task
from fastsal.ops import accumulation_dtype, cam

FUSIONS = ("mean", "max", "product")
logger = logging.getLogger("fastsal")


class ActivationMap(Attribution):
    """Base of the class activation maps: a layer's activations, weighed by whatever the method makes of the model.

    A subclass describes its call in an ``attribute`` by :meth:`described`, to which it hands what weighs; those of one
    pass take the one of :class:`fastsal.explainers.cam.one_pass.OnePassMap`.

    Args:
        model: a torch.nn.Module, or a callable around one.
        layer: one of its modules, its dotted name, or a list of these, whose maps are fused. None takes the last layer
            that has positions (see :func:`fastsal.layers`) and influence on the target; it is found, and told to the
            logger ``fastsal``, at the first call.
        reshape_transform: what is known of the layer by hand: a function of its value that returns [B, C, *spatial] of
            the first input; or a :class:`fastsal.Geometry`, which also says which dimension is the examples, and where
            in which input is looked; a list has one for each layer. None finds the layer's geometry.

    Raises:
        TypeError, ValueError: for a layer that the model does not have.
    """

    reads = "layer"
    shape = "positions"
    fixed = True
    display = Display("range", 100.0)

    needs_gradients = False
    fusion = "mean"
    """Of several layers' maps, where attribute() is not told otherwise."""
    elementwise = False
    """Whether each position has a weight of its own; else a channel's is the mean of its field."""
    principal = False
    """Whether the first principal component of the weighted activations stands for their sum."""
    tail_graph = False
    """Whether the gradients are differentiated once more, by the layer's value."""
    asks_affine = False
    """Whether the formula depends on the score being an affine function of the layer."""

    def __init__(
        self,
        model: Callable[..., Any],
        layer: nn.Module | str | Sequence[nn.Module | str] | None = None,
        *,
        reshape_transform: Stated = None,
    ) -> None:
        super().__init__(model)
        given: list[Any] = [] if layer is None else list(layer) if isinstance(layer, (list, tuple)) else [layer]
        if layer is not None and not given:
            raise ValueError("layer: the list is empty")
        self._given = given
        self.layers: list[nn.Module] = (
            [resolve_layer(model, each) for each in given] if resolvable(model, given) else []
        )
        self.layer_names = [each if isinstance(each, str) else None for each in given]
        self.reshape_transform = reshape_transform
        self._places = Places(reshape_transform)

    def described(self, task: Task, weigh: Weigh, how: Rendering, targets: Sequence[Target] | None = None) -> Call[Any]:
        """The description of a call.

        Args:
            task: what is explained.
            weigh: what weighs each layer's activations, from one pass and, where it makes them, further ones.
            how: the rest of the arguments of ``attribute``.
            targets: several, in the place of the task's.

        Raises:
            ValueError: for a fusion of no such name, or ``aug_smooth`` of maps in the layer's size.
        """
        self._fusion(how.fuse)
        if how.aug_smooth and not how.upsample:
            raise ValueError("aug_smooth: needs upsample=True, since a mirrored layer need not be the layer mirrored")

        def readings(task: Task, targets: Sequence[Target] | None) -> Iterator[tuple[int, CamReading]]:
            for values in self._values(task, targets):
                activations, fields, views = values.activations, weigh(task, values), values.views
                looks = [view.placement(task.inputs) for view in views]
                yield values.input, CamReading(task.output, activations, fields, values.targets, looks)

        def rendered(task: Task, targets: Sequence[Target] | None) -> dict[int, Tensor]:
            return {which: self.render(each, task.inputs, *how[:-1]) for which, each in readings(task, targets)}

        def augmented() -> dict[int, Tensor]:
            task.asks = True  # what is explained is chosen for the inputs as they are
            given = task.target, targets
            turned = mirrored(task.target), None if targets is None else [mirrored(each) for each in targets]
            total: dict[int, Tensor] = {}
            for flip in (False, True):
                for factor in (0.9, 1.0, 1.1):
                    first = task.inputs[0].flip(-1) if flip else task.inputs[0]
                    target, several = turned if flip else given
                    altered = task.instead((factor * first, *task.inputs[1:]), target)
                    maps = rendered(altered, several)
                    if factor == 1.0 and not flip:
                        task.note(altered.output)
                    for which, each in maps.items():
                        each = each.flip(-1) if flip and which == 0 else each
                        total[which] = total[which] + each if which in total else each
            return {which: each / 6 for which, each in total.items()}

        def run() -> Any:
            with torch.set_grad_enabled(task.create_graph):
                maps = augmented() if how.aug_smooth else rendered(task, targets)
            if len(maps) == 1:
                return next(iter(maps.values()))
            return task.given.result([maps.get(which) for which in range(len(task.inputs))])

        def read_alone() -> CamReading:
            with torch.set_grad_enabled(task.create_graph):
                return next(readings(task, targets))[1]

        return MapCall(task, run, read=read_alone)

    def read(
        self, inputs: Inputs, target: Target = None, additional_forward_args: Any = None, **options: Any
    ) -> CamReading:
        """The model's part of ``attribute``: output, activations and what weighs them, for the first input looked at.

        Args:
            inputs: tensor [B, C, *spatial], tuple of tensors, or mapping.
            target: which output to explain, one for all or one per example.
            additional_forward_args: further arguments of the model.
            options: the method's other arguments of ``attribute``.

        Raises:
            TypeError, ValueError: for arguments outside of the above, a layer without positions, or one that the
                target does not depend on.
        """
        call = describe(self, inputs, target, additional_forward_args, **options)
        assert isinstance(call, MapCall)
        with torch.inference_mode(False):
            return call.read()

    def scores(self, output: Any, target: Target, examples: int) -> Tensor:
        """Scores [B] whose gradients are taken."""
        return one_score_each(output, target, examples)

    def adjust(self, value: Tensor, gradients: Tensor, affine: bool) -> Tensor:
        """What stands for the gradients [T, *value.shape], in the form of the layer's own value."""
        return gradients

    def weighted(
        self, activations: Tensor, field: Tensor | None, eigen_smooth: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """(activations, field) of :func:`fastsal.ops.cam.map`, which weighs channels by means and sums them.

        Where a channel's weights are no means, the weighted sum [N, 1, *spatial] and None.
        """
        principal = self.principal or eigen_smooth
        if field is not None and not self.elementwise and not principal:
            return activations, field.expand_as(activations).to(activations.dtype)
        dtype = accumulation_dtype(activations.dtype)
        weighted = activations.to(dtype)
        if field is not None:
            weights = field.to(dtype) if self.elementwise else field.to(dtype).mean(tuple(range(2, field.dim())), True)
            weighted = weights * weighted
        return principal_projection(weighted)[:, None] if principal else weighted.sum(1, keepdim=True), None

    def combine(
        self,
        activations: Tensor,
        field: Tensor | None,
        size: Sequence[int] | None = None,
        *,
        relu_attributions: bool = True,
        normalize: bool = True,
        eigen_smooth: bool = False,
    ) -> Tensor:
        """One layer's map [N, *size], in the activations' dtype, or in at least float32 where no channel has a weight.

        Args:
            activations: [N, C, *layer].
            field: what weighs them, in their shape or [N, C, 1, ...]; None where nothing does.
            size: of the map; None keeps the layer's.
            relu_attributions: keep what speaks for the target only.
            normalize: to [0, 1] per map.
            eigen_smooth: the first principal component of the weighted activations instead of their sum.
        """
        activations, field = self.weighted(activations, field, eigen_smooth)
        if field is None:
            return cam.finish(activations[:, 0], size, relu=relu_attributions, normalize=normalize)
        return cam.map(activations, field, size, relu=relu_attributions, normalize=normalize)

    def render(
        self,
        reading: CamReading,
        inputs: Inputs,
        relu_attributions: bool = True,
        upsample: bool = True,
        normalize: bool = True,
        fuse: str | None = None,
        eigen_smooth: bool = False,
    ) -> Tensor:
        """Maps [B, 1, *spatial] from what :meth:`read` returned; of several targets [len(targets), B, 1, *spatial].

        They are of the first input that the layers look at, as the reading is.

        Args:
            reading: what was made of the model.
            inputs: of that call, for their size and dtype.
            relu_attributions: keep what speaks for the target only.
            upsample: resize to the (first) input, linearly; the (largest) layer's size otherwise.
            normalize: to [0, 1] per map, from the extremes of the resized map.
            fuse: of several layers' normalised maps: ``mean``, ``max`` or ``product``; None takes the method's own.
            eigen_smooth: the first principal component of the weighted activations instead of their sum.

        Raises:
            ValueError: for a fusion of no such name, or a layer without the input's spatial dimensions.
        """
        fuse, given = self._fusion(fuse), as_inputs(inputs)[0]
        size: Sequence[int] = max((each.shape[2:] for each in reading.activations), key=math.prod)
        if upsample:
            sizes = [list(look.extents) for look in reading.looks] or [list(given[0].shape[2:])]
            size = sizes[0]
            if any(each != size for each in sizes):
                raise ValueError(f"layer: they look at inputs of sizes {sizes}, whose maps cannot be fused")
            for each in reading.activations:
                if each.dim() - 2 != len(size):
                    raise ValueError(
                        f"upsample: the layer's output {tuple(each.shape)} and the input do not have the same spatial "
                        "dimensions; use upsample=False"
                    )
        several = len(reading.activations) > 1
        maps = []
        looks = reading.looks or [Placement()] * len(reading.activations)
        for look, activations, field in zip(looks, reading.activations, reading.fields, strict=True):
            centres = look.centres if upsample else None
            each = self.combine(
                activations,
                field,
                size if centres is None else None,
                relu_attributions=relu_attributions,
                normalize=centres is None and (normalize or several),
                eigen_smooth=eigen_smooth,
            )
            if centres is not None:
                wide = each.to(accumulation_dtype(each.dtype))
                each = cam.finish(placed(wide, centres, size), relu=False, normalize=normalize or several)
            dtype, first = activations.dtype, given[0]
            maps.append(each.to(torch.promote_types(dtype, first.dtype) if first.is_floating_point() else dtype))
        result = _fused(maps, fuse, normalize)[:, None]
        return result if reading.targets is None else result.unflatten(0, (reading.targets, -1))

    def summed(self, reading: CamReading) -> Summed:
        """One layer's part of what :meth:`read` returned, ready to be an overlay.

        Raises:
            ValueError: for several layers.
        """
        if len(reading.activations) != 1:
            raise ValueError(f"reading: it has {len(reading.activations)} layers; fuse them with render()")
        activations, field = self.weighted(reading.activations[0], reading.fields[0])
        field = activations.new_ones(()).expand_as(activations) if field is None else field
        return Summed(activations, field, reading.looks[0] if reading.looks else Placement())

    def _fusion(self, fuse: str | None) -> str:
        fuse = self.fusion if fuse is None else fuse
        if fuse not in FUSIONS:
            raise ValueError(f"fuse: {fuse!r} is not one of {', '.join(FUSIONS)}")
        return fuse

    def _values(self, task: Task, targets: Sequence[Target] | None) -> list[LayerValues]:
        """One pass over the inputs, whose output is noted, with what it left of the layers that look at each input."""

        def select(output: Any) -> Tensor:
            if targets is None:
                return self.scores(output, task.tiled_target(1), task.examples)
            return torch.stack([self.scores(output, resolved(each, task.output), task.examples) for each in targets])

        found = self._pass(task, select)
        if any(size != 1 for sizes in found.uses for size in sizes):
            raise ValueError("layer: its output is a tuple, not one tensor; choose a layer inside it")
        every = self._places.views(len(self.layers), task.inputs)
        return [self._viewed(task, found, which, views, targets) for which, views in every.items()]

    def _viewed(
        self, task: Task, found: Reading, which: int, views: Sequence[View], targets: Sequence[Target] | None
    ) -> LayerValues:
        """What a pass left of the layers that look at one input."""
        count = 1 if targets is None else len(targets)
        activations, gradients, affine = [], [], found.affine
        with torch.enable_grad() if self.tail_graph else contextlib.nullcontext():
            for view in views:
                value = found.values[view.layer][view.use]
                if self.needs_gradients:
                    gradient = found.gradients[view.layer][view.use]
                    gradient = self.adjust(value, gradient[None] if targets is None else gradient, found.affine)
                    each = [self._places.arrange(view, part, task.inputs) for part in gradient]
                    gradients.append(torch.cat(each) if len(each) > 1 else each[0])
                activation = self._places.arrange(view, value, task.inputs)
                affine = affine and activation.numel() == value.numel()
                activations.append(activation.repeat(count, *[1] * (activation.dim() - 1)) if count > 1 else activation)
        if self.tail_graph and not task.create_graph:
            activations, gradients = [t.detach() for t in activations], [t.detach() for t in gradients]
        return LayerValues(activations, gradients, None if targets is None else count, affine, which, views)

    def _pass(self, task: Task, select: Callable[[Any], Tensor]) -> Reading:
        """One pass, read at the layers; where none was named, they are found before it."""

        def run(layers: Sequence[nn.Module]) -> Reading:
            lineage, by_run = self._places.lineage(layers, task), self._places.by_run(len(layers), task.inputs)
            found = read(
                task.forward_func,
                layers,
                task.inputs,
                task.additional,
                select if self.needs_gradients else None,
                every_use=by_run,
                create_graph=task.create_graph,
                tail_graph=self.tail_graph,
                affine=self.asks_affine,
                note=task.note,
                lineage=lineage,
            )
            if lineage is not None:
                self._places.learn(layers, self.layer_names, task, found, lineage)
            if by_run or not each_its_own(found, self.needs_gradients, task, layers):
                return found
            if self._places.learn_runs(layers, task, found.uses):
                return run(layers)
            raise several_maps(found)

        def score(output: Any) -> Tensor:
            task.note(output)
            return select(output)

        if self._given and not self.layers:
            self.layers = resolve_layers(self.forward_func, self._given, task.inputs, task.additional)
        if self.layers:
            found = run(self.layers)
            if not isinstance(self.forward_func, nn.Module):
                # A prepared model, whose layers they are, may have been found by the run.
                self.layers = [resolve_layer(self.forward_func, layer) for layer in self.layers]
            return found
        selected = score if self.needs_gradients else any_score
        with evaluation(self.forward_func):  # what is found of a callable's modules stays known to the run
            try:
                return self._at_default_layer(task, selected, run)
            except Unrelated:  # the last layer may be another head's
                return self._at_default_layer(task, selected, run, verify=True)

    def _at_default_layer(
        self,
        task: Task,
        score: Callable[[Any], Tensor],
        run: Callable[[Sequence[nn.Module]], Reading],
        verify: bool = False,
    ) -> Reading:
        layer = default_layer(task.forward_func, task.inputs, task.additional, score, verify)
        parts = [resolve_layer(self.forward_func, layer.name)]
        found = run(parts)
        self.layers, self.layer_names = parts, [layer.name]
        logger.info("layer %s %s, by default", layer.name, list(layer.shape)[1:])
        return found


def _fused(maps: list[Tensor], fuse: str, normalize: bool) -> Tensor:
    if len(maps) == 1:
        return maps[0]
    stacked = torch.stack(maps)
    fused = stacked.mean(0) if fuse == "mean" else stacked.amax(0) if fuse == "max" else stacked.prod(0)
    return cam.finish(fused, relu=False) if normalize else fused
