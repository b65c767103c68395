"""LeGrad: a vision transformer's attention, weighed by its gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastsal.engine.reading import grid_of
from fastsal.engine.run import evaluation, run, scratch
from fastsal.explainers._old import attribute_method
from fastsal.explainers.arguments import Inputs, as_arguments, as_inputs, at_least_one
from fastsal.explainers.attention._weights import AttentionWeights
from fastsal.explainers.base import Attribution
from fastsal.explainers.scores import Target, one_score_each
from fastsal.ops import accumulation_dtype, cam


class LeGrad(Attribution):
    """Bousselham et al., "LeGrad" (2024), equations 5 to 8, with the model's own score for every layer.

    The gradient of the score by each layer's attention weights, rectified, averaged over heads and queries: what each
    patch gives to the answer; then averaged over the layers. (The paper scores each layer's tokens by the last layer's
    classifier, which a model does not offer in general.) Costs one forward and backward pass, with the attention
    weights in memory.

    Args:
        model: module or callable whose attention runs over the patches, however it is written.
    """

    @attribute_method
    def attribute(
        self,
        inputs: Inputs,
        target: Target = None,
        additional_forward_args: Any = None,
        *,
        upsample: bool = True,
        normalize: bool = True,
        last_layers: int | None = None,
    ) -> Tensor:
        """Maps [B, 1, *spatial], in the size of the (first) input or of the patches.

        Args:
            inputs: tensor [B, C, *spatial], two or three spatial dimensions, or tuple of tensors.
            target: which output to explain, one for all or one per example.
            additional_forward_args: further arguments of the model.
            upsample: resize to the input; the patches' grid otherwise.
            normalize: to [0, 1] per map.
            last_layers: how many layers count, from the last; None takes all.

        Raises:
            TypeError, ValueError: for arguments outside of the above, or a model without attention over the patches.
        """
        if last_layers is not None:
            at_least_one("last_layers", last_layers)
        tensors, _ = as_inputs(inputs)
        additional = as_arguments(additional_forward_args)
        examples, size = tensors[0].shape[0], tensors[0].shape[2:]
        reader = AttentionWeights()
        with evaluation(self.forward_func, eager=True), torch.enable_grad():
            copies = tuple(scratch(tensor) for tensor in tensors)
            # Frozen models have no graph of their own.
            copies = tuple(copy.requires_grad_() if copy.is_floating_point() else copy for copy in copies)
            with reader:
                output = run(self.forward_func, tuple(copy.clone() for copy in copies), tuple(map(scratch, additional)))
            scores = one_score_each(output, target, examples)
            grids = [grid_of((examples, *weights.shape[-2:]), size) for weights in reader.weights]
            # Attention within windows has more rows than there are examples: it says nothing of the whole image.
            kept = [
                (w, grid)
                for w, grid in zip(reader.weights, grids, strict=True)
                if grid is not None and w.shape[0] == examples
            ]
            kept = kept[-(last_layers or 0) :]
            if not kept:
                raise ValueError(
                    "forward_func: no attention over patches of equal size ran; LeGrad is for vision transformers"
                )
            gradients = torch.autograd.grad(scores.sum(), [weights for weights, _ in kept], allow_unused=True)
        maps = []
        for (_, grid), gradient in zip(kept, gradients, strict=True):
            if gradient is not None:
                wide = gradient.to(accumulation_dtype(gradient.dtype)).relu()
                received = wide.reshape(examples, -1, wide.shape[-1]).mean(1)
                maps.append(grid.arrange(received[..., None]))
        if not maps:
            raise ValueError("forward_func: the target does not depend on its attention")
        largest = max((each.shape[2:] for each in maps), key=lambda shape: shape.numel())
        found = [cam.finish(each[:, 0], largest, relu=False, normalize=False) for each in maps]
        mean = torch.stack(found).mean(0)
        result = cam.finish(mean, size if upsample else None, relu=False, normalize=normalize)
        return result[:, None].to(tensors[0].dtype)
