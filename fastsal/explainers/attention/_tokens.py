"""What the methods share that follow tokens through the layers: which layers, which queries, and the map of a row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fastsal.engine.reading.geometry import cells_along
from fastsal.explainers.arguments import Inputs
from fastsal.explainers.attending import Attended, in_windows, layout_of
from fastsal.explainers.attention._keys import Keys
from fastsal.explainers.attention._pass import Taken, attended
from fastsal.explainers.base import Attribution, Display
from fastsal.explainers.call import Call
from fastsal.explainers.scores import Target
from fastsal.explainers.task import Task
from fastsal.ops import accumulation_dtype, cam

Queries = int | Sequence[int] | None
OTHERS = "LeGrad, GradCAM and LRP tell of such a model"


class Stream:
    """The layers of self-attention over the tokens of the first input, in the order of the pass.

    Args:
        taken: the pass.
        crossed: whether cross-attention to these tokens will do.
        carries: whether a row is carried through all of them, which then must be all that the tokens go through.

    Attributes:
        layers: the calls of self-attention.
        crosses: those in which something else attends to the tokens.
        keys: where the tokens are that a row is of: the last layer's, or those of the one that was chosen.

    Raises:
        ValueError: for a model without such layers, or through which no row can be carried.
    """

    def __init__(self, taken: Taken, crossed: bool = False, carries: bool = False) -> None:
        own = [(each, keys) for each, keys in taken.located() if keys is not None]
        others = taken.crossed() if crossed else []
        located = [*others, *own]
        if carries:
            _check_way(taken, {id(each) for each, _ in located})
            for each, _ in own:
                if each.queries != each.keys:
                    raise ValueError(
                        f"forward_func: {each.queries} tokens attend to {each.keys} keys, of which some are of no "
                        f"token, and no row can be carried through; {OTHERS}"
                    )
        if not located:
            seen = "; ".join(taken.tap.unrecognised[:2])
            raise ValueError(
                "forward_func: no self-attention over the tokens of the first input ran"
                + (f" ({seen})" if seen else "")
                + f"; {OTHERS}"
            )
        counts = sorted({each.keys for each, _ in located}, reverse=True)
        if carries and len(counts) > 1:
            raise ValueError(
                f"forward_func: its stages have {' and '.join(map(str, counts))} tokens, and no row can be carried "
                "from one to the next; LeGrad resizes each stage's map"
            )
        self.taken = taken
        self.layers, self.crosses = [each for each, _ in own], [each for each, _ in others]
        self._places = [keys for _, keys in own]
        self.keys: Keys = located[-1][1]

    def start(self, queries: Queries, task: Task) -> Tensor:
        """Weights [B, N] of the tokens: the mean of the queries that are given, or of those that the score reads.

        Raises:
            ValueError: for a query that there is not, or a score without a gradient.
        """
        last = self.layers[-1]
        if queries is not None:
            return one_hot(queries, last)
        read: list[Tensor] = []
        self.taken.tap.gradients(
            task.select()(self.taken.output), lambda _, gradient: read.append(are_read(gradient)), [last]
        )
        if not read:
            raise ValueError(NO_GRADIENT)
        return read[0]

    def layer(self, number: int) -> Attended:
        """The layer of a number, negative from the last; a row is of its tokens from now on.

        Raises:
            ValueError: where there is none.
        """
        count = len(self.layers)
        if not isinstance(number, int) or not -count <= number < count:
            raise ValueError(
                f"attention_layer: {number!r} is not one of the {count} layers of attention, 0 to {count - 1}"
            )
        self.keys = self._places[number]
        return self.layers[number]

    def located(self, row: Tensor) -> Tensor:
        """[B, *size] of a row [B, N]: tokens without a place dropped."""
        return self.keys.arrange(row)


NO_GRADIENT = (
    "forward_func: the target does not depend on its attention through autograd (torch.no_grad, detach, a cast to "
    "integers or NumPy behind it); queries=0 tells of a token without a gradient, Occlusion and RISE need none"
)


def _check_way(taken: Taken, known: set[int]) -> None:
    """Refuse attention that the tokens go through and that no row can be carried through.

    Raises:
        ValueError: for windows, keys that are other places than the queries, or tokens that attend to something else.
    """
    for each in taken.tap.found:
        layout = layout_of(each, taken.lineage)
        if layout is None or id(each) in known:
            continue
        if in_windows(layout):
            raise ValueError(
                "forward_func: some of its attention is within windows, through which no row of all tokens can be "
                f"carried; {OTHERS}"
            )
        if cells_along(layout[-2], 0) is not None:
            raise ValueError(
                f"forward_func: in some of its attention {each.queries} tokens of the first input attend to "
                f"{each.keys} others, through which no row can be carried; {OTHERS}"
            )


def are_read(gradient: Tensor) -> Tensor:
    """Weights [B, N], which sum to 1, of the queries with a gradient [B, heads, N, ...]."""
    read = (gradient != 0).any(-1).any(1).to(accumulation_dtype(gradient.dtype))
    return read / read.sum(1, keepdim=True).clamp(min=1)


def one_hot(queries: int | Sequence[int], layer: Attended) -> Tensor:
    """The mean of chosen queries, [B, N].

    Raises:
        TypeError, ValueError: for what is no query.
    """
    chosen = [queries] if isinstance(queries, int) else list(queries)
    count = layer.queries
    if not chosen or any(isinstance(each, bool) or not isinstance(each, int) for each in chosen):
        raise TypeError(f"queries: {queries!r} is neither a token's number nor a sequence of them")
    if any(not -count <= each < count for each in chosen):
        raise ValueError(f"queries: {queries!r} is outside of the {count} tokens, which are 0 to {count - 1}")
    tensor = layer.query if layer.weights is None else layer.weights
    assert tensor is not None
    weights = torch.zeros(count, dtype=accumulation_dtype(tensor.dtype), device=tensor.device)
    for each in chosen:
        weights[each] += 1 / len(chosen)
    return weights.expand(layer.rows, count)


class TokenMap(Attribution):
    """Base of the methods that follow attention from some tokens to the tokens of the first input.

    A subclass gives :meth:`row`.

    Attributes:
        crossed: whether it also follows cross-attention.
        carries: whether it carries a row through all layers.
    """

    crossed = carries = False
    reads = "attention"
    shape = "positions"
    display = Display("range", 100.0)

    def row(self, stream: Stream, task: Task, queries: Queries, **options: Any) -> Tensor:
        """[B, N]: what each token of the stream gave; or [B, *size], where the method drops tokens itself."""
        raise NotImplementedError

    def described(
        self,
        inputs: Inputs,
        target: Target,
        additional_forward_args: Any,
        queries: Queries,
        upsample: bool,
        normalize: bool,
        graph: Callable[[Queries], bool] = lambda queries: True,
        **options: Any,
    ) -> Call[Tensor]:
        """The call: one pass with its attention kept, the row, and its map."""
        task = self.task(inputs, target, additional_forward_args)

        def maps() -> Tensor:
            with_graph = graph(queries)
            with task.context(eager=True), torch.set_grad_enabled(with_graph):
                stream = Stream(attended(task, with_graph), self.crossed, self.carries)
                row = self.row(stream, task, queries, **options)
            found = stream.located(row) if row.dim() == 2 else row
            return on_input(found, task.inputs[0], stream.keys, upsample, normalize)

        return task.once(maps)


def on_input(found: Tensor, first: Tensor, keys: Keys, upsample: bool, normalize: bool) -> Tensor:
    """A map of [B, *size]: [B, 1, *spatial] of an image, [B, N] of token numbers, [B, N, 1] of their embeddings."""
    size = [first.shape[axis] for axis in keys.axes]
    found = cam.finish(found, size if upsample else None, relu=False, normalize=normalize)
    dtype = first.dtype if first.is_floating_point() else found.dtype
    if first.dim() == 2:
        return found.to(dtype)
    return found.unsqueeze(-1 if keys.axes == (1,) else 1).to(dtype)
