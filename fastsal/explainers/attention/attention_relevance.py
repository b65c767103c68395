"""Relevance propagated through attention: gradient times attention of all layers."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fastsal.explainers.arguments import Inputs
from fastsal.explainers.attending import Attended
from fastsal.explainers.attention._crossed import Given, crossed_row
from fastsal.explainers.attention._tokens import NO_GRADIENT, OTHERS, Queries, Stream, TokenMap, are_read, one_hot
from fastsal.explainers.base import attribution
from fastsal.explainers.call import Call
from fastsal.explainers.scores import Target
from fastsal.explainers.task import Task


class AttentionRelevance(TokenMap):
    """Chefer, Gur, Wolf, "Generic Attention-model Explainability" (ICCV 2021), equations 5 to 11.

    The row of R, which starts as I and takes R ← R + Ā R in each layer, with Ā = E_h[(A ⊙ ∂s/∂A)⁺]. The row alone is
    carried from the last layer to the first, r ← r + r Ā, while the gradient arrives there, since R is
    (I + Ā_L) ... (I + Ā_1). The tokens are those that the score reads, or ``queries``. Costs one forward and backward
    pass; fused attention stays fused, and ∂s/∂A_ij = g_i · v_j is formed where it is used.

    Where a decoder's tokens s attend to those of the first input q, the row is that of R_sq, which takes
    R_sq + R̄_ssᵀ Ā R̄_qq in cross-attention and R_sq + Ā R_sq in the decoder's own, with R̄ = I + (R - I) whose rows sum
    to 1 and 1; then the tokens that are read, or ``queries``, are the decoder's.

    >>> patches, head = torch.nn.Conv2d(3, 8, 4, 4), torch.nn.Linear(8, 4)
    >>> attention = torch.nn.MultiheadAttention(8, 2, batch_first=True)
    >>> def transformer(x):
    ...     tokens = patches(x).flatten(2).mT
    ...     return head(attention(tokens, tokens, tokens)[0].mean(1))
    >>> maps = fastsal.AttentionRelevance(transformer).attribute(torch.rand(2, 3, 16, 16), target=classes)

    Args:
        forward_func: module or callable with self-attention over its tokens, however it is written.
    """

    crossed = carries = True
    summary = "attention of all layers, weighed by its gradient and multiplied"
    cost = "1 forward, 1 backward"

    @attribution
    def attribute(
        self,
        inputs: Inputs,
        target: Target = None,
        additional_forward_args: Any = None,
        *,
        queries: Queries = None,
        upsample: bool = True,
        normalize: bool = True,
    ) -> Call[Tensor]:
        """Maps [B, 1, *spatial] of images, in the size of the (first) input or of the patches; [B, N] of token numbers.

        Args:
            inputs: images [B, C, *spatial], token numbers [B, N] or embeddings [B, N, C], or a tuple or mapping.
            target: which output to explain, one for all or one per example.
            additional_forward_args: further arguments of the model.
            queries: number of a token, or several, whose mean is taken; None finds those that the score reads.
            upsample: resize to the input; the patches' grid otherwise.
            normalize: to [0, 1] per map.

        Raises:
            TypeError, ValueError: for arguments outside of the above, or a model without such attention.
        """
        return self.described(inputs, target, additional_forward_args, queries, upsample, normalize)

    def row(self, stream: Stream, task: Task, queries: Queries, **options: Any) -> Tensor:
        """The row of R, or of R_sq."""
        if stream.crosses:
            return _through_decoder(stream, task, queries)
        last, carried = stream.layers[-1], list[Tensor]()

        def visit(each: Attended, gradient: Tensor) -> None:
            if not carried:
                carried.append(are_read(gradient) if queries is None else one_hot(queries, last))
            carried[0] = carried[0] + each.relevance(gradient, carried[0]).mean(1)

        stream.taken.tap.gradients(task.select()(stream.taken.output), visit, stream.layers)
        if not carried:
            raise ValueError(NO_GRADIENT)
        return carried[0]


def _through_decoder(stream: Stream, task: Task, queries: Queries) -> Tensor:
    """The row of R_sq, of an encoder's tokens q and a decoder's s.

    Raises:
        ValueError: for attention of other tokens beside, or none that the score depends on.
    """
    own, crosses = set(map(id, stream.layers)), set(map(id, stream.crosses))
    counts = {each.queries for each in stream.crosses}
    calls = stream.taken.tap.found
    for each in calls:
        if id(each) not in own | crosses and (len(counts) > 1 or {each.queries, each.keys} != counts):
            raise ValueError(
                f"forward_func: attention of {each.queries} queries and {each.keys} keys is neither of an encoder's "
                f"tokens nor of a decoder's {max(counts)}; {OTHERS}"
            )
    found: dict[int, Given] = {}

    def visit(each: Attended, gradient: Tensor) -> None:
        found[id(each)] = Given(each, gradient)

    stream.taken.tap.gradients(task.select()(stream.taken.output), visit, calls)
    reached = [(each, found[id(each)]) for each in calls if id(each) in found]
    encoder = [given for each, given in reached if id(each) in own]
    decoder = [(id(each) in crosses, given) for each, given in reached if id(each) not in own]
    if not any(crossing for crossing, _ in decoder):
        raise ValueError(NO_GRADIENT)
    last = decoder[-1][1]
    start = are_read(last.gradient) if queries is None else one_hot(queries, last.attended)
    return crossed_row(encoder, decoder, start)
