"""RandomCAM: the control that a class activation map must beat."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastsal._torch import disable_current_modes
from fastsal.engine.run import freed
from fastsal.explainers.arguments import Inputs
from fastsal.explainers.base import attribution
from fastsal.explainers.call import Call
from fastsal.explainers.cam.base import ActivationMap
from fastsal.explainers.cam.one_pass import check_targets
from fastsal.explainers.cam.records import LayerValues, Rendering
from fastsal.explainers.scores import Target
from fastsal.explainers.seeds import as_seed, generator
from fastsal.explainers.task import Task


class RandomCAM(ActivationMap):
    """Channels weighed by uniform numbers of [-1, 1], the same for all examples. Costs one forward pass.

    >>> maps = fastsal.RandomCAM(model, "last").attribute(images, seed=1)

    Args:
        model: a torch.nn.Module, or a callable around one.
        layer: one of its modules, its dotted name, or a list of these, whose maps are fused. None takes the last layer
            that has positions, at the first call.
        reshape_transform: function of a layer's value that returns [B, C, *spatial], or a
            :class:`fastsal.Geometry` that says where its positions are. None finds that out.
    """

    summary = "channels weighed at random: what the others must beat"
    cost = "1 forward"

    @attribution
    def attribute(
        self,
        inputs: Inputs,
        target: Target = None,
        additional_forward_args: Any = None,
        *,
        seed: int | None = 0,
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
            seed: chooses the weights; None draws it from torch's global generator.
            targets: several of these instead of one. The result is [len(targets), B, 1, *spatial].
            relu_attributions: keep what speaks for the target only.
            upsample: resize to the input, linearly with half-pixel centres; the (largest) layer's size otherwise.
            normalize: to [0, 1] per map, from the extremes of the resized map.
            fuse: of several layers' normalised maps: ``mean``, ``max`` or ``product``; None takes the method's own.
            eigen_smooth: instead of the sum over channels, their first principal component (Muhammad and Yeasin,
                "Eigen-CAM", IJCNN 2020).
            aug_smooth: the mean of six maps: of the input and its mirror image, times 0.9, 1 and 1.1, at six times the
                cost.
            create_graph: keep the graph, so that the map can be trained through.

        Raises:
            TypeError, ValueError: for arguments outside of the above, or a layer without positions.
        """
        check_targets(target, targets)
        task = self.task(inputs, target, additional_forward_args, create_graph=create_graph)
        how = Rendering(relu_attributions, upsample, normalize, fuse, eigen_smooth, aug_smooth)
        chosen = as_seed(seed)

        def weigh(_task: Task, values: LayerValues) -> list[Tensor | None]:
            return [weights_of(each, chosen) for each in values.activations]

        return self.described(task, weigh, how, targets)


def weights_of(activations: Tensor, seed: int) -> Tensor:
    """One number for each channel, [1, C, 1, ...]; kept, since a copy to a GPU cannot be part of a CUDA graph."""
    with torch.inference_mode(False), disable_current_modes():  # a mode's own kind of tensor is not kept
        drawn = _drawn(activations.shape[1], seed, activations.dtype, activations.device)
    return drawn.view(1, -1, *[1] * (activations.dim() - 2))


@freed
@functools.lru_cache(maxsize=16)
def _drawn(channels: int, seed: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return (torch.rand(channels, generator=generator(seed), device="cpu") * 2 - 1).to(device, dtype)
