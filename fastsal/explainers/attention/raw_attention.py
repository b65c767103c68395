"""Raw attention: what a layer's weights themselves say."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fastsal.explainers.arguments import Inputs
from fastsal.explainers.attention._tokens import Queries, Stream, TokenMap, one_hot
from fastsal.explainers.base import attribution
from fastsal.explainers.call import Call
from fastsal.explainers.scores import Target
from fastsal.explainers.task import Task


class RawAttention(TokenMap):
    """What some tokens attend to in one layer: the row of A = softmax(q kᵀ / sqrt(D)), its mean over heads.

    The tokens are those that the score reads: the class token of a model that is classified by one, all of one that
    takes their mean, a place's own of a dense one. Nothing of the score's value is in the map. Costs one forward pass,
    and the way back to the last attention where ``queries`` are not given; fused attention stays fused.

    >>> patches, head = torch.nn.Conv2d(3, 8, 4, 4), torch.nn.Linear(8, 4)
    >>> attention = torch.nn.MultiheadAttention(8, 2, batch_first=True)
    >>> def transformer(x):
    ...     tokens = patches(x).flatten(2).mT
    ...     return head(attention(tokens, tokens, tokens)[0].mean(1))
    >>> maps = fastsal.RawAttention(transformer).attribute(torch.rand(2, 3, 16, 16), target=classes)

    Args:
        forward_func: module or callable with self-attention over its tokens, however it is written.
    """

    summary = "what the tokens behind the score attend to in one layer"
    cost = "1 forward"

    @attribution
    def attribute(
        self,
        inputs: Inputs,
        target: Target = None,
        additional_forward_args: Any = None,
        *,
        attention_layer: int = -1,
        head: int | None = None,
        queries: Queries = None,
        upsample: bool = True,
        normalize: bool = True,
    ) -> Call[Tensor]:
        """Maps [B, 1, *spatial] of images, in the size of the (first) input or of the patches; [B, N] of token numbers.

        Args:
            inputs: images [B, C, *spatial], token numbers [B, N] or embeddings [B, N, C], or a tuple or mapping.
            target: whose tokens are asked; its value is not in the map.
            additional_forward_args: further arguments of the model.
            attention_layer: number of the attention, from the first; negative from the last.
            head: of its heads; None takes their mean.
            queries: number of a token, or several, whose mean is taken; None finds those that the score reads.
            upsample: resize to the input; the patches' grid otherwise.
            normalize: to [0, 1] per map.

        Raises:
            TypeError, ValueError: for arguments outside of the above, or a model without such attention.
        """
        return self.described(
            inputs,
            target,
            additional_forward_args,
            queries,
            upsample,
            normalize,
            lambda given: given is None,
            attention_layer=attention_layer,
            head=head,
        )

    def row(self, stream: Stream, task: Task, queries: Queries, **options: Any) -> Tensor:
        """The row of A."""
        head = options["head"]
        chosen = stream.layer(options["attention_layer"])
        if queries is None and chosen.queries != stream.layers[-1].queries:
            raise ValueError(
                f"queries: the layer has {chosen.queries} tokens, and the last, whose tokens the score reads, has "
                f"{stream.layers[-1].queries}; give the numbers of its own"
            )
        start = stream.start(None, task) if queries is None else one_hot(queries, chosen)
        received = chosen.received(start)
        heads = received.shape[1]
        if head is None:
            return received.mean(1)
        if not isinstance(head, int) or not -heads <= head < heads:
            raise ValueError(f"head: {head!r} is not one of the {heads} heads, 0 to {heads - 1}")
        return received[:, head]
