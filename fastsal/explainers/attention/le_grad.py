"""LeGrad: a vision transformer's attention, weighed by its gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastsal.explainers.arguments import Inputs, at_least_one
from fastsal.explainers.attending import Attended
from fastsal.explainers.attention._keys import Keys
from fastsal.explainers.attention._pass import attended
from fastsal.explainers.base import Attribution, Display, attribution
from fastsal.explainers.call import Call
from fastsal.explainers.scores import Target
from fastsal.explainers.task import Task
from fastsal.ops import cam


class LeGrad(Attribution):
    """Bousselham et al., "LeGrad" (2024), equations 5 to 8, with the model's own score for every layer.

    The gradient of the score by each layer's attention weights, rectified, averaged over heads and queries: what each
    patch gives to the answer; then averaged over the layers. (The paper scores each layer's tokens by the last layer's
    classifier, which a model does not offer in general.) Which keys are which patches follows from the operations of
    the pass, for every stage of a hierarchy; attention within windows is left out, since it says nothing of the whole
    image. Costs one forward and backward pass and no attention weights in memory: fused attention stays fused.

    >>> patches, head = torch.nn.Conv2d(3, 8, 4, 4), torch.nn.Linear(8, 4)
    >>> attention = torch.nn.MultiheadAttention(8, 2, batch_first=True)
    >>> def transformer(x):
    ...     tokens = patches(x).flatten(2).mT
    ...     return head(attention(tokens, tokens, tokens)[0].mean(1))
    >>> maps = fastsal.LeGrad(transformer).attribute(torch.rand(2, 3, 16, 16), target=classes)

    Args:
        forward_func: module or callable whose attention runs over the patches, however it is written.
    """

    summary = "a vision transformer's attention, weighed by its gradient"
    cost = "1 forward, 1 backward"
    reads = "attention"
    shape = "positions"
    display = Display("range", 100.0)

    @attribution
    def attribute(
        self,
        inputs: Inputs,
        target: Target = None,
        additional_forward_args: Any = None,
        *,
        upsample: bool = True,
        normalize: bool = True,
        last_layers: int | None = None,
    ) -> Call[Tensor]:
        """Maps [B, 1, *spatial], in the size of the (first) input or of the patches.

        Args:
            inputs: tensor [B, C, *spatial], two or three spatial dimensions, tuple of tensors, or mapping.
            target: which output to explain, one for all or one per example.
            additional_forward_args: further arguments of the model.
            upsample: resize to the input; the patches' grid otherwise.
            normalize: to [0, 1] per map.
            last_layers: how many layers count, from the last; None takes all.

        Raises:
            TypeError, ValueError: for arguments outside of the above, or a model without attention over the patches.
        """
        if last_layers is not None:
            last_layers = at_least_one("last_layers", last_layers)
        task = self.task(inputs, target, additional_forward_args)
        if not 4 <= task.inputs[0].dim() <= 5:
            raise ValueError(
                f"inputs: {tuple(task.inputs[0].shape)} is no image [B, C, H, W] or volume, of whose patches LeGrad "
                "makes a map; of text, series and sound IntegratedGradients or FeatureAblation tell"
            )
        size = task.inputs[0].shape[2:]

        def maps() -> Tensor:
            each = []
            for keys, received in _by_attention(task, last_layers):
                if received is not None:
                    each.append(keys.arrange(received)[:, None])
            if not each:
                raise ValueError(
                    "forward_func: the target does not depend on its attention through autograd (torch.no_grad, "
                    "detach, a cast to integers or NumPy behind it); Occlusion and RISE need no gradient"
                )
            largest = max((layer.shape[2:] for layer in each), key=lambda shape: shape.numel())
            found = [cam.finish(layer[:, 0], largest, relu=False, normalize=False) for layer in each]
            mean = torch.stack(found).mean(0)
            result = cam.finish(mean, size if upsample else None, relu=False, normalize=normalize)
            return result[:, None].to(task.inputs[0].dtype)

        return task.once(maps)


def _by_attention(task: Task, last_layers: int | None) -> list[tuple[Keys, Tensor | None]]:
    """One pass: each layer's keys, and what they received [rows, keys], the mean over heads and queries.

    Raises:
        ValueError: for a model without attention over the patches.
    """
    with task.context(eager=True), torch.enable_grad():
        taken = attended(task)
        kept = [(each, keys) for each, keys in taken.located() if keys is not None]
        kept = kept[-(last_layers or 0) :]
        if not kept:
            raise ValueError(
                "forward_func: no attention over patches of the first input ran; LeGrad is for vision transformers"
            )
        received: dict[int, Tensor] = {}

        def visit(each: Attended, gradient: Tensor) -> None:
            received[id(each)] = each.gradient_received(gradient).mean(1)

        taken.tap.gradients(task.select()(taken.output), visit, [each for each, _ in kept])
    return [(keys, received.get(id(each))) for each, keys in kept]
