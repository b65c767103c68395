"""Score-CAM: channels weighed by the score that each leaves when it masks the input."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fastsal.explainers.arguments import Inputs
from fastsal.explainers.base import attribution
from fastsal.explainers.call import Call
from fastsal.explainers.cam.placing import Placement, placed
from fastsal.explainers.cam.records import LayerValues, Rendering
from fastsal.explainers.cam.swept import SweptMap
from fastsal.explainers.scores import Target, one_score_each
from fastsal.explainers.task import Task
from fastsal.ops import accumulation_dtype, cam, wide_dtype

Masked = Callable[[Tensor, Tensor, int, int, int], Tensor]
"""(inputs [B, ...], masks [channels, B, ...] with a 1 where the inputs have channels, the first of these channels,
start, stop) -> inputs [(stop - start) * B, ...] under the masks from start to stop; a channel has as many as samples.
"""


class ScoreCAM(SweptMap):
    """Wang et al., "Score-CAM" (CVPR Workshops 2020), equations 4 to 6.

    Each channel, resized to the input and scaled to [0, 1], masks the input; the softmax of the scores over the
    channels weighs them. (The score of the unmasked input that the paper takes off is the same for all channels, so it
    is of no effect.) Costs one forward pass, and one for each channel; no mask is kept.

    >>> maps = fastsal.ScoreCAM(model, "last").attribute(images, target=classes)

    Args:
        model: a torch.nn.Module, or a callable around one.
        layer: one of its modules, its dotted name, or a list of these, whose maps are fused. None takes the last layer
            that has positions and influence on the target, at the first call.
        reshape_transform: function of a layer's value that returns [B, C, *spatial], or a
            :class:`fastsal.Geometry` that says where its positions are. None finds that out.
    """

    summary = "channels weighed by the score that each leaves as a mask"
    cost = "1 forward, and 1 a channel"

    @attribution
    def attribute(
        self,
        inputs: Inputs,
        target: Target = None,
        additional_forward_args: Any = None,
        *,
        perturbations_per_eval: int | None = None,
        show_progress: bool = False,
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
            additional_forward_args: further arguments of the model; per-example tensors are repeated.
            perturbations_per_eval: channels per model call. When None, chosen from memory, but 1 where an additional
                tensor has as many entries as there are examples: only the caller knows whether to repeat it.
            show_progress: show a bar.
            targets: refused: call it for each.
            relu_attributions: keep what speaks for the target only.
            upsample: resize to the input, linearly with half-pixel centres; the (largest) layer's size otherwise.
            normalize: to [0, 1] per map, from the extremes of the resized map.
            fuse: of several layers' normalised maps: ``mean``, ``max`` or ``product``; None takes the method's own.
            eigen_smooth: instead of the sum over channels, their first principal component (Muhammad and Yeasin,
                "Eigen-CAM", IJCNN 2020).
            aug_smooth: the mean of six maps: of the input and its mirror image, times 0.9, 1 and 1.1, at six times the
                cost.
            create_graph: refused: no graph is kept of so many passes.

        Raises:
            TypeError, ValueError: for arguments outside of the above, or a layer without positions.
        """
        self.refuse(targets, create_graph)
        task = self.task(
            inputs, target, additional_forward_args, per_call=perturbations_per_eval, show_progress=show_progress
        )
        how = Rendering(relu_attributions, upsample, normalize, fuse, eigen_smooth, aug_smooth)
        return self.described(task, lambda task, values: self.scored(task, values, 1, _once), how)

    def scored(self, task: Task, values: LayerValues, samples: int, masked: Masked) -> list[Tensor | None]:
        """Each layer's weights [B, C, 1, ...], the softmax of the scores of the channels' masks.

        Args:
            task: what is explained.
            values: the layers'.
            samples: masks of one channel, whose scores are averaged.
            masked: what masks the inputs.

        Raises:
            ValueError: for a layer without the input's dimensions, or a target that names no score.
        """
        one_score_each(task.output, task.tiled_target(1), task.examples)  # refuses what names no score
        fields: list[Tensor | None] = []
        x = task.inputs[values.input]
        if not x.is_floating_point():
            raise ValueError(f"inputs: {x.dtype} cannot be masked by parts; take a method of gradients or EigenCAM")
        for view, activations in zip(values.views, values.activations, strict=True):
            look = view.placement(task.inputs)
            if activations.dim() - 2 != len(look.axes):
                given = f"{tuple(activations.shape)} cannot mask the input {tuple(x.shape)}"
                raise ValueError(f"layer: its output {given}")
            weights = self._channel_scores(task, values.input, activations, look, samples, masked).softmax(1)
            fields.append(weights.reshape(*weights.shape, *[1] * (activations.dim() - 2)))
        return fields

    def mask(self, channels: Tensor, size: list[int]) -> Tensor:
        """Masks [N, *size] in [0, 1] of N channels [N, 1, *layer]."""
        return cam.finish(channels[:, 0], size, relu=False)

    def _masks_of(self, channels: Tensor, look: Placement, dimensions: int) -> Tensor:
        """Of N channels [N, 1, *layer], where they look, to be multiplied by an input of so many dimensions."""
        if look.centres is not None:
            wide = channels[:, 0].to(accumulation_dtype(channels.dtype))
            channels = placed(wide, look.centres, look.extents)[:, None].to(channels.dtype)
        mask = self.mask(channels, list(look.extents))
        return mask.view(
            len(mask),
            *[mask.shape[1 + look.axes.index(dim)] if dim in look.axes else 1 for dim in range(1, dimensions)],
        )

    def _channel_scores(
        self, task: Task, which: int, activations: Tensor, look: Placement, samples: int, masked: Masked
    ) -> Tensor:
        """[B, C], each channel's score: the mean over its masks of one of the inputs."""
        x, channels, layer = task.inputs[which], activations.shape[1], activations.shape[2:]
        wide = accumulation_dtype(x.dtype)
        widest = wide_dtype(x.device)
        total = torch.zeros((channels, task.examples), dtype=widest, device=x.device)

        def work(start: int, stop: int) -> Tensor:
            first, last = start // samples, -(-stop // samples)
            used = activations[:, first:last].transpose(0, 1).reshape(-1, 1, *layer)
            masks = self._masks_of(used, look, x.dim()).to(wide).unflatten(0, (last - first, -1))
            batch = masked(x, masks, first, start, stop)
            scores = task.select(stop - start)(task.run(stop - start, {which: batch}))
            return scores.detach().reshape(stop - start, task.examples).to(widest)

        def keep(start: int, stop: int, scores: Tensor) -> None:
            added = torch.arange(start, stop, device=x.device) // samples
            total.index_put_((added,), scores, accumulate=True)

        with task.context():
            task.swept(channels * samples, work, keep).run()
        return (total / samples).T.to(accumulation_dtype(activations.dtype))


def _once(x: Tensor, masks: Tensor, channel: int, start: int, stop: int) -> Tensor:
    masked: Tensor = (x.to(masks.dtype) * masks).flatten(0, 1).to(x.dtype)
    return masked
