"""Class activation maps of one pass: weighed by what is in the layer, or by the gradients at it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from fastsal.explainers.arguments import Inputs
from fastsal.explainers.base import attribution
from fastsal.explainers.call import Call
from fastsal.explainers.cam.base import ActivationMap
from fastsal.explainers.cam.records import LayerValues, Rendering
from fastsal.explainers.scores import Target


class OnePassMap(ActivationMap):
    """Base of the class activation maps of one pass. A subclass says in :meth:`fields` what weighs.

    Args:
        model: a torch.nn.Module, or a callable around one.
        layer: one of its modules, its dotted name, or a list of these, whose maps are fused. None takes the last layer
            that has positions, at the first call.
        reshape_transform: function of a layer's value that returns [B, C, *spatial], or a
            :class:`fastsal.Geometry` that says where its positions are. None finds that out.
    """

    cost = "1 forward"

    @attribution
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
    ) -> Call[Any]:
        """Maps [B, 1, *spatial], in the size of the input or of the layer; on the device, in the finer of the layer's
        dtype and the first input's. Where the layer looks at several inputs there is one for each of these, in the form
        of the inputs: None stands for an input that it does not look at.

        Args:
            inputs: tensor [B, C, *spatial], tuple of tensors, or mapping.
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
        check_targets(target, targets)
        task = self.task(inputs, target, additional_forward_args, create_graph=create_graph)
        how = Rendering(relu_attributions, upsample, normalize, fuse, eigen_smooth, aug_smooth)
        return self.described(task, lambda _task, values: self.fields(values), how, targets)

    def fields(self, values: LayerValues) -> list[Tensor | None]:
        """What weighs each layer's activations, in their shape or [N, C, 1, ...]; None where nothing does, as here."""
        return [None] * len(values.activations)


class GradientMap(OnePassMap):
    """Base of those that gradients weigh. A subclass gives the method's formula in :meth:`field`.

    Args:
        model: a torch.nn.Module, or a callable around one.
        layer: one of its modules, its dotted name, or a list of these, whose maps are fused. None takes the last layer
            that has positions and influence on the target, at the first call.
        reshape_transform: function of a layer's value that returns [B, C, *spatial], or a
            :class:`fastsal.Geometry` that says where its positions are. None finds that out.
    """

    cost = "1 forward, 1 backward to the layer"
    needs_gradients = True

    def fields(self, values: LayerValues) -> list[Tensor | None]:
        return [self.field(*pair) for pair in zip(values.activations, values.gradients, strict=True)]

    def field(self, activations: Tensor, gradients: Tensor) -> Tensor:
        """The method's formula: what weighs the activations [N, C, *spatial], in their shape or [N, C, 1, ...].

        A channel's weight is the mean of its field, unless :attr:`elementwise`: then the field itself is.
        """
        raise NotImplementedError


def check_targets(target: Target, targets: Sequence[Target] | None) -> None:
    """Refuses several targets beside one, and none of them.

    Raises:
        ValueError: for these.
    """
    if targets is not None and target is not None:
        raise ValueError("targets: given beside target; pass one of the two")
    if targets is not None and not targets:
        raise ValueError("targets: the list is empty")
