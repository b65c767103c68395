"""Gradient times attention of the last layer."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fastsal.explainers.arguments import Inputs
from fastsal.explainers.attending import Attended
from fastsal.explainers.attention._tokens import NO_GRADIENT, Queries, Stream, TokenMap, are_read, one_hot
from fastsal.explainers.base import attribution
from fastsal.explainers.call import Call
from fastsal.explainers.scores import Target
from fastsal.explainers.task import Task


class GradientAttention(TokenMap):
    """Chefer, Gur, Wolf, "Generic Attention-model Explainability" (ICCV 2021), equation 5, of one layer.

    The row of E_h[(A ⊙ ∂s/∂A)⁺]: attention weighed by what the score gains from it. The tokens are those that the score
    reads, or ``queries``. Costs one forward pass, and the way back to that layer; fused attention stays fused, and
    ∂s/∂A_ij = g_i · v_j is formed where it is used, with g the gradient by the attention's output.

    >>> patches, head = torch.nn.Conv2d(3, 8, 4, 4), torch.nn.Linear(8, 4)
    >>> attention = torch.nn.MultiheadAttention(8, 2, batch_first=True)
    >>> def transformer(x):
    ...     tokens = patches(x).flatten(2).mT
    ...     return head(attention(tokens, tokens, tokens)[0].mean(1))
    >>> maps = fastsal.GradientAttention(transformer).attribute(torch.rand(2, 3, 16, 16), target=classes)

    Args:
        forward_func: module or callable with self-attention over its tokens, however it is written.
    """

    summary = "the last layer's attention, weighed by its gradient"
    cost = "1 forward, 1 backward"

    @attribution
    def attribute(
        self,
        inputs: Inputs,
        target: Target = None,
        additional_forward_args: Any = None,
        *,
        attention_layer: int = -1,
        queries: Queries = None,
        upsample: bool = True,
        normalize: bool = True,
    ) -> Call[Tensor]:
        """Maps [B, 1, *spatial] of images, in the size of the (first) input or of the patches; [B, N] of token numbers.

        Args:
            inputs: images [B, C, *spatial], token numbers [B, N] or embeddings [B, N, C], or a tuple or mapping.
            target: which output to explain, one for all or one per example.
            additional_forward_args: further arguments of the model.
            attention_layer: number of the attention, from the first; negative from the last.
            queries: number of a token, or several, whose mean is taken; None takes those through which the score
                depends on the layer.
            upsample: resize to the input; the patches' grid otherwise.
            normalize: to [0, 1] per map.

        Raises:
            TypeError, ValueError: for arguments outside of the above, or a model without such attention.
        """
        return self.described(
            inputs, target, additional_forward_args, queries, upsample, normalize, attention_layer=attention_layer
        )

    def row(self, stream: Stream, task: Task, queries: Queries, **options: Any) -> Tensor:
        """The row of the product of A and its gradient."""
        chosen, found = stream.layer(options["attention_layer"]), list[Tensor]()

        def visit(each: Attended, gradient: Tensor) -> None:
            by = are_read(gradient) if queries is None else one_hot(queries, each)
            found.append(each.relevance(gradient, by).mean(1))

        stream.taken.tap.gradients(task.select()(stream.taken.output), visit, [chosen])
        if not found:
            raise ValueError(NO_GRADIENT)
        return found[0]
