"""IS-CAM: Score-CAM with masks of growing strength."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastsal.explainers.arguments import Inputs, at_least_one
from fastsal.explainers.base import attribution
from fastsal.explainers.call import Call
from fastsal.explainers.cam.records import Rendering
from fastsal.explainers.cam.score_cam import ScoreCAM
from fastsal.explainers.scores import Target


class ISCAM(ScoreCAM):
    """Naidu et al., "IS-CAM: Integrated Score-CAM" (2020), equations 5 and 6: the mean over masks times 1/n to n/n.

    Costs one forward pass, and n_samples for each channel; no mask is kept.

    >>> maps = fastsal.ISCAM(model, "last").attribute(images, target=classes)

    Args:
        model: a torch.nn.Module, or a callable around one.
        layer: one of its modules, its dotted name, or a list of these, whose maps are fused. None takes the last layer
            that has positions and influence on the target, at the first call.
        reshape_transform: function of a layer's value that returns [B, C, *spatial], or a
            :class:`fastsal.Geometry` that says where its positions are. None finds that out.
    """

    name = "is-cam"
    summary = "Score-CAM with masks of growing strength"
    cost = "1 forward, and n_samples a channel"

    @attribution
    def attribute(
        self,
        inputs: Inputs,
        target: Target = None,
        additional_forward_args: Any = None,
        *,
        n_samples: int = 10,
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
            n_samples: n, masks of a channel.
            perturbations_per_eval: masks per model call. When None, chosen from memory, but 1 where an additional
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
        samples = at_least_one("n_samples", n_samples)

        def shares(x: Tensor, masks: Tensor, channel: int, start: int, stop: int) -> Tensor:
            numbers = torch.arange(start, stop, device=x.device)
            strength = (numbers % samples + 1).to(masks.dtype) / samples
            weaker = strength.view(-1, *[1] * (masks.dim() - 1)) * masks[numbers // samples - channel]
            masked: Tensor = (weaker * x.to(masks.dtype)).flatten(0, 1).to(x.dtype)
            return masked

        return self.described(task, lambda task, values: self.scored(task, values, samples, shares), how)
