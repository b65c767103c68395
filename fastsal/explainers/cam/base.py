"""What class activation maps share: the layers, one pass read at them, and how weighted activations become a map."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from fastsal.engine.reading import (
    UNRELATED,
    Layer,
    Reading,
    default_layer,
    grid_of,
    read,
    resolvable,
    resolve_layer,
    resolve_layers,
)
from fastsal.engine.run import evaluation
from fastsal.explainers._wrapped import attribute_method
from fastsal.explainers.base import Attribution, Inputs, Target, as_arguments, as_inputs, one_score_each
from fastsal.explainers.cam.principal import principal_projection
from fastsal.explainers.targets import mirrored
from fastsal.ops import accumulation_dtype, cam

FUSIONS = ("mean", "max", "product")
_told: set[str] = set()
"""What was said of default layers, once each."""
ReshapeTransform = Callable[[Tensor], Tensor]


class CamReading(NamedTuple):
    """What one pass left of each layer.

    Attributes:
        output: the model's.
        activations: [N, C, *spatial] per layer.
        fields: like the activations; a channel's weight is the mean of its field.
        targets: how many targets the rows are of, targets first; None where one was given as such.
        affine: whether the scores are known to be an affine function of the one layer, all of which is in the
            activations; where the method asks.
    """

    output: Any
    activations: list[Tensor]
    fields: list[Tensor]
    targets: int | None = None
    affine: bool = False


class Summed(NamedTuple):
    """What :func:`fastsal.ops.cam.map` and :func:`fastsal.viz.overlay` make a map of, in one launch on a GPU."""

    activations: Tensor
    field: Tensor


class ActivationMap(Attribution):
    """Base of the class activation maps.

    Args:
        model: a torch.nn.Module, or a callable around one.
        layer: one of its modules, its dotted name, or a list of these, whose maps are fused. None takes the last layer
            that has positions (see :func:`fastsal.layers`) and influence on the target; it is found, and told on
            standard error, at the first call. So is a name where it takes running a callable to know its module.
        reshape_transform: function of a layer's value that returns [B, C, *spatial]. None recognises channels-last
            layers and tokens of equal patches, with the tokens of no place before them.
    """

    needs_gradients = True
    fusion = "mean"
    """Of several layers' maps, where attribute() is not told otherwise."""
    tail_graph = False
    """Whether the gradients are differentiated once more, by the layer's value."""

    asks_affine = False
    """Whether the formula depends on the score being an affine function of the layer."""

    def __init__(
        self,
        model: Callable[..., Any],
        layer: nn.Module | str | Sequence[nn.Module | str] | None = None,
        *,
        reshape_transform: ReshapeTransform | None = None,
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

    @attribute_method
    def attribute(
        self,
        inputs: Inputs,
        target: Target = None,
        additional_forward_args: Any = None,
        *,
        targets: Sequence[Target] | None = None,
        relu_attributions: bool = True,
        upsample: bool = True,
        normalize: bool = True,
        fuse: str | None = None,
        eigen_smooth: bool = False,
        aug_smooth: bool = False,
        create_graph: bool = False,
    ) -> Tensor:
        """Maps [B, 1, *spatial], in the size of the (first) input or of the layer; on the device, in the finer of the
        layer's dtype and the first input's.

        Args:
            inputs: tensor [B, C, *spatial] or tuple of tensors.
            target: which output to explain, one for all or one per example; also one of :mod:`fastsal.targets`.
            additional_forward_args: further arguments of the model.
            targets: several of these instead of one. The result is [len(targets), B, 1, *spatial], from one forward
                pass and backward passes from the output to the layer in one.
            relu_attributions: keep what speaks for the target only.
            upsample: resize to the input, linearly with half-pixel centres; the (largest) layer's size otherwise.
            normalize: to [0, 1] per map, from the extremes of the resized map.
            fuse: of several layers' normalised maps: ``mean``, ``max`` or ``product``; None takes the method's own.
            eigen_smooth: instead of the sum over channels, their first principal component (Muhammad and Yeasin,
                "Eigen-CAM", IJCNN 2020).
            aug_smooth: the mean of six maps: of the input and its mirror image, times 0.9, 1 and 1.1. Costs six passes.
            create_graph: keep the graph, so that the map can be trained through.

        Raises:
            TypeError, ValueError: for arguments outside of the above, a layer without positions, or one that the
                target does not depend on.
        """
        options = (relu_attributions, upsample, normalize, fuse, eigen_smooth)

        def explain(inputs: Inputs, target: Target, targets: Any) -> Tensor:
            found = self.read(inputs, target, additional_forward_args, targets=targets, create_graph=create_graph)
            return self.render(found, inputs, *options)

        if not aug_smooth:
            return explain(inputs, target, targets)
        tensors, given_tuple = as_inputs(inputs)
        if not upsample:
            raise ValueError("aug_smooth: needs upsample=True, since a mirrored layer need not be the layer mirrored")
        total: Tensor | None = None
        turned = mirrored(target), None if targets is None else [mirrored(each) for each in targets]
        for flip in (False, True):
            for factor in (0.9, 1.0, 1.1):
                first = factor * (tensors[0].flip(-1) if flip else tensors[0])
                given = (first, *tensors[1:]) if given_tuple else first
                maps = explain(given, *turned).flip(-1) if flip else explain(given, target, targets)
                total = maps if total is None else total + maps
        assert total is not None
        return total / 6

    def read(
        self,
        inputs: Inputs,
        target: Target = None,
        additional_forward_args: Any = None,
        *,
        targets: Sequence[Target] | None = None,
        create_graph: bool = False,
    ) -> CamReading:
        """The model's part: output, activations and what weighs them."""
        tensors, _ = as_inputs(inputs)
        additional = as_arguments(additional_forward_args)
        examples = tensors[0].shape[0]
        several = targets is not None
        if several and target is not None:
            raise ValueError("targets: given beside target; pass one of the two")
        if several and not targets:
            raise ValueError("targets: the list is empty")

        def select(output: Any) -> Tensor:
            if targets is None:
                return self.scores(output, target, examples)
            return torch.stack([self.scores(output, each, examples) for each in targets])

        def run() -> Reading:
            return read(
                self.forward_func,
                self.layers,
                tensors,
                additional,
                select if self.needs_gradients else None,
                create_graph=create_graph,
                tail_graph=self.tail_graph,
                affine=self.asks_affine,
            )

        if self._given and not self.layers:
            self.layers = resolve_layers(self.forward_func, self._given, tensors, additional)
        if self.layers:
            found = run()
        else:
            score = select if self.needs_gradients else _any_score
            with evaluation(self.forward_func):
                self._take(default_layer(self.forward_func, tensors, additional, score))
                try:
                    found = run()
                except ValueError as error:
                    if UNRELATED not in str(error):
                        raise
                    # The last layer may be another head's.
                    self._take(default_layer(self.forward_func, tensors, additional, score, verify=True))
                    found = run()
            self._tell()
        # A prepared model, whose layers they are, may have been found by the run.
        self.layers = [resolve_layer(self.forward_func, layer) for layer in self.layers]
        count = len(targets) if targets is not None else 1
        activations, fields, affine = [], [], found.affine
        with torch.inference_mode(False), torch.set_grad_enabled(create_graph or self.tail_graph):
            for index, value in enumerate(found.values):
                if len(value) != 1:
                    raise ValueError("layer: its output is a tuple, not one tensor; choose a layer inside it")
                if self.needs_gradients:
                    gradient = found.gradients[index][0]
                    gradient = self.adjust(value[0], gradient if several else gradient[None], found.affine)
                    fields.append(self._arrange(gradient.flatten(0, 1), tensors))
                activation = self._arrange(value[0], tensors)
                affine = affine and activation.numel() == value[0].numel()
                activations.append(activation.repeat(count, *[1] * (activation.dim() - 1)) if count > 1 else activation)
        if self.tail_graph and not create_graph:
            activations, fields = [t.detach() for t in activations], [t.detach() for t in fields]
        with torch.inference_mode(False), torch.set_grad_enabled(create_graph):
            if self.needs_gradients:
                fields = [self.field(a, g) for a, g in zip(activations, fields, strict=True)]
            else:
                fields = [self.field(a, a) for a in activations]
        return CamReading(found.output, activations, fields, count if several else None, affine)

    def scores(self, output: Any, target: Target, examples: int) -> Tensor:
        """Scores [B] whose gradients are taken."""
        return one_score_each(output, target, examples)

    def adjust(self, value: Tensor, gradients: Tensor, affine: bool) -> Tensor:
        """What stands for the gradients [T, *value.shape], in the form of the layer's own value."""
        return gradients

    def field(self, activations: Tensor, gradients: Tensor) -> Tensor:
        """The method's formula: what weighs the activations [N, C, *spatial], in their shape or [N, C, 1, ...].

        A channel's weight is the mean of its field, unless :attr:`elementwise`: then the field itself is.
        """
        raise NotImplementedError

    elementwise = False
    """Whether each position has a weight of its own."""

    def render(
        self,
        reading: CamReading,
        inputs: Inputs,
        relu: bool = True,
        upsample: bool = True,
        normalize: bool = True,
        fuse: str | None = None,
        eigen_smooth: bool = False,
    ) -> Tensor:
        """Maps from what :meth:`read` returned, in the finer of the layer's dtype and the first input's."""
        fuse = self.fusion if fuse is None else fuse
        if fuse not in FUSIONS:
            raise ValueError(f"fuse: {fuse!r} is not one of {', '.join(FUSIONS)}")
        given = as_inputs(inputs)[0][0].dtype
        sizes = [activation.shape[2:] for activation in reading.activations]
        size = max(sizes, key=lambda each: each.numel())
        if upsample:
            size = as_inputs(inputs)[0][0].shape[2:]
            for each in reading.activations:
                if each.dim() - 2 != len(size):
                    raise ValueError(
                        f"upsample: the layer's output {tuple(each.shape)} and the input do not have the same spatial "
                        "dimensions; use upsample=False"
                    )
        several = len(reading.activations) > 1
        with torch.inference_mode(False), torch.set_grad_enabled(any(field.requires_grad for field in reading.fields)):
            maps = [
                cam.map(*self._summed(a, field, eigen_smooth), size, relu=relu, normalize=normalize or several).to(
                    torch.promote_types(a.dtype, given) if given.is_floating_point else a.dtype
                )
                for a, field in zip(reading.activations, reading.fields, strict=True)
            ]
            result = _fused(maps, fuse, normalize)[:, None]
        return result if reading.targets is None else result.unflatten(0, (reading.targets, -1))

    def summed(self, reading: CamReading) -> Summed:
        """One layer's part of what :meth:`read` returned, ready to be an overlay.

        Raises:
            ValueError: for several layers.
        """
        if len(reading.activations) != 1:
            raise ValueError(f"reading: it has {len(reading.activations)} layers; fuse them with render()")
        return Summed(*self._summed(reading.activations[0], reading.fields[0], False))

    def _summed(self, activations: Tensor, field: Tensor, eigen_smooth: bool) -> tuple[Tensor, Tensor]:
        """(activations, field) of :func:`fastsal.ops.cam.map`, which weighs channels by means."""
        if not self.elementwise and not eigen_smooth:
            return activations, field.expand_as(activations).to(activations.dtype)
        dtype = accumulation_dtype(activations.dtype)
        weights = field.to(dtype) if self.elementwise else field.to(dtype).mean(tuple(range(2, field.dim())), True)
        weighted = weights * activations.to(dtype)
        summed = principal_projection(weighted)[:, None] if eigen_smooth else weighted.sum(1, keepdim=True)
        return summed, torch.ones((), dtype=dtype, device=summed.device).expand_as(summed)

    def _take(self, layer: Layer) -> None:
        self.layer_names = [layer.name]
        self.layers = [resolve_layer(self.forward_func, layer.name)]
        self._note = f"fastsal: layer {layer.name} {list(layer.shape)[1:]}, by default"

    def _tell(self) -> None:
        if self._note not in _told:
            _told.add(self._note)
            print(self._note, file=sys.stderr)

    def _arrange(self, value: Tensor, tensors: tuple[Tensor, ...]) -> Tensor:
        """[N, C, *spatial] of a layer's value."""
        if self.reshape_transform is not None:
            arranged = self.reshape_transform(value)
            if not isinstance(arranged, Tensor) or arranged.dim() < 3 or arranged.shape[0] != value.shape[0]:
                raise ValueError("reshape_transform: what it returned is no tensor [B, C, *spatial]")
            return arranged
        grid = grid_of(value.shape, tensors[0].shape[2:]) if tensors[0].dim() >= 3 else None
        return value if grid is None else grid.arrange(value)


def _fused(maps: list[Tensor], fuse: str, normalize: bool) -> Tensor:
    if len(maps) == 1:
        return maps[0]
    stacked = torch.stack(maps)
    fused = stacked.mean(0) if fuse == "mean" else stacked.amax(0) if fuse == "max" else stacked.prod(0)
    if not normalize:
        return fused
    return cam.map(fused[:, None], torch.ones_like(fused)[:, None], relu=False, normalize=True)


def _any_score(output: Any) -> Tensor:
    """One number per example of whatever a model returns, to see what it depends on."""
    first = next(leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor) and leaf.is_floating_point())
    return first.flatten(1).amax(1) if first.dim() > 1 else first
