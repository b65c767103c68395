"""The attention of a model, listed: layers, heads, tokens, kind, and chosen rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fastsal.engine.reading.geometry import Cells, Layout, Lineage, cells_along
from fastsal.engine.reading.geometry.layout import Dim, plain
from fastsal.engine.run.forward import evaluation, run, scratch
from fastsal.engine.run.modules import modules_of
from fastsal.explainers.attending.attended import Attended
from fastsal.explainers.attending.tap import AttentionTap


class AttentionLayer:
    """One call of attention of a pass.

    Attributes:
        name: dotted name of the module that ran; empty of a model that is no module.
        kind: ``self``, ``cross`` (queries and keys are of different things), ``windows`` (rows are parts of examples).
        spelled: as what the model called it: ``scaled_dot_product_attention``, ``softmax(matmul)``.
        rows: examples, or windows of all examples.
        heads, queries, keys: how many.
        fused: whether the model keeps no matrix of weights.
        notes: what else is to be known of it.
    """

    def __init__(self, attended: Attended, kind: str) -> None:
        self._attended = attended
        self.name, self.kind, self.spelled = attended.module, kind, attended.spelled
        self.rows, self.heads = attended.rows, attended.heads
        self.queries, self.keys, self.fused = attended.queries, attended.keys, attended.fused
        self.notes = tuple(attended.notes)

    def __repr__(self) -> str:
        told = f"{self.heads} heads, {self.queries} queries, {self.keys} keys, {self.spelled}"
        return (
            f"AttentionLayer({self.name or 'model'}: {self.kind}, {told}{''.join(f'; {each}' for each in self.notes)})"
        )

    def weights(self, queries: int | Sequence[int]) -> Tensor:
        """Rows of A of chosen queries, [rows, heads, chosen, keys] in float32 (float64 for float64), each summing to 1.

        Args:
            queries: number of a query, or several; negative from the last.

        Raises:
            TypeError, ValueError: for what is no query.
        """
        chosen = [queries] if isinstance(queries, int) else list(queries)
        if not chosen or any(isinstance(each, bool) or not isinstance(each, int) for each in chosen):
            raise TypeError(f"queries: {queries!r} is neither a query's number nor a sequence of them")
        if any(not -self.queries <= each < self.queries for each in chosen):
            raise ValueError(f"queries: {queries!r} is outside of the {self.queries} queries, 0 to {self.queries - 1}")
        tensor = self._attended.query if self._attended.weights is None else self._attended.weights
        assert tensor is not None
        index = torch.tensor([each % self.queries for each in chosen], device=tensor.device)
        with torch.no_grad():
            return self._attended.chosen(index)

    def received(self) -> Tensor:
        """What each key receives, [rows, heads, keys]: the mean over queries of A."""
        with torch.no_grad():
            return self._attended.received()


class AttentionLayers(Sequence[AttentionLayer]):
    """The attention of a pass, in the order of its calls.

    Attributes:
        unrecognised: a line for each softmax of a product that could not be read as attention.
    """

    def __init__(self, layers: Sequence[AttentionLayer], unrecognised: Sequence[str]) -> None:
        self._layers, self.unrecognised = tuple(layers), tuple(unrecognised)

    def __getitem__(self, index: Any) -> Any:
        return self._layers[index]

    def __len__(self) -> int:
        return len(self._layers)

    def __repr__(self) -> str:
        lines = [repr(each) for each in self._layers]
        return "\n".join([*lines, *(f"not recognised: {each}" for each in self.unrecognised)]) or "no attention"


def attention(model: Callable[..., Any], inputs: Any, additional_forward_args: Any = ()) -> AttentionLayers:
    """A model's attention: which layers, how many heads and tokens, of what kind, and chosen rows of its weights.

    One forward pass. Fused attention stays fused: queries and keys are kept, from which rows are computed when they are
    asked for; where the model writes the weights out itself, these are kept. Seen are
    ``torch.nn.functional.scaled_dot_product_attention``, multi-head attention, and a softmax over what a product of two
    tensors made, before a product with values. What looks like attention and was not read is named.

    >>> attention = torch.nn.MultiheadAttention(8, 2, batch_first=True)
    >>> found = fastsal.attention(lambda x: attention(x, x, x)[0], torch.rand(1, 5, 8))
    >>> found[0].weights(0).shape
    torch.Size([1, 2, 1, 5])

    Args:
        model: module or callable.
        inputs: tensor [B, ...], tuple or mapping of them.
        additional_forward_args: further arguments of the model.

    Returns:
        A sequence of layers, in the order in which they ran.
    """
    given: tuple[Any, ...]
    keywords: dict[str, Any] = {}
    if isinstance(inputs, dict):
        given, keywords = (), {name: scratch(value) for name, value in inputs.items()}
    else:
        given = tuple(map(scratch, inputs)) if isinstance(inputs, (tuple, list)) else (scratch(inputs),)
    extra = additional_forward_args if isinstance(additional_forward_args, tuple) else (additional_forward_args,)
    tensors = [each for each in (*given, *keywords.values()) if isinstance(each, Tensor)]
    batch = next((each.shape[0] for each in tensors if each.dim()), 1)
    with ExitStack() as stack:
        stack.enter_context(evaluation(model, eager=True))
        stack.enter_context(torch.no_grad())
        running = stack.enter_context(_running(modules_of(model)))
        tap, lineage = AttentionTap(batch, naming=lambda: running[-1] if running else ""), Lineage()
        lineage.begin(tensors)
        with tap, lineage:
            if keywords:
                model(**keywords)
            else:
                run(model, given, tuple(map(scratch, extra)))
    return AttentionLayers([AttentionLayer(each, _kind(each, lineage)) for each in tap.found], tap.unrecognised)


@contextmanager
def _running(modules: Sequence[nn.Module]) -> Iterator[list[str]]:
    """Names of the modules that run, the innermost last."""
    names: list[str] = []
    handles = []

    def enter(name: str) -> Any:
        return lambda *_: names.append(name)

    def leave(*_: Any) -> None:
        if names:
            names.pop()

    seen: set[int] = set()
    try:
        for outermost in modules:
            for name, module in outermost.named_modules():
                if id(module) not in seen:
                    seen.add(id(module))
                    handles.append(module.register_forward_pre_hook(enter(name)))
                    handles.append(module.register_forward_hook(leave, always_call=True))
        yield names
    finally:
        for handle in handles:
            handle.remove()


def layout_of(each: Attended, lineage: Lineage) -> Layout | None:
    """Of attention's weights [rows, heads, queries, keys], had they been written; None where no input is in them."""
    if each.tokens is not None and each.tokens[0].dim() == 3:
        # Before the projections, which views in heads hide of one example.
        asked, others = map(lineage.layout, each.tokens)
        rows = [known[1] for known in (asked, others) if known is not None]
        places = [None if known is None else known[0] for known in (asked, others)]
        heads: Dim = ()
    elif each.weights is not None:
        return lineage.layout(each.weights)
    else:
        found = [None if tensor is None else lineage.layout(tensor) for tensor in (each.query, each.key)]
        rows = [known[0] for known in found if known is not None]
        places = [None if known is None else known[2] for known in found]
        heads = next((known[1] for known in found if known is not None), ())
    if not rows:
        return None
    dims = [plain(count) if dim is None else dim for dim, count in zip(places, (each.queries, each.keys), strict=True)]
    return (rows[0], heads, *dims)


def in_windows(layout: Layout) -> bool:
    """Whether rows or heads of attention's weights are of different places of an input."""
    return any(isinstance(factor, Cells) for dim in layout[:-2] for factor in dim)


def _kind(each: Attended, lineage: Lineage) -> str:
    if each.tokens is not None:
        return "self" if each.tokens[0] is each.tokens[1] else "cross"
    layout = layout_of(each, lineage)
    if layout is None:
        return "self" if each.queries == each.keys else "cross"
    if in_windows(layout):
        return "windows"
    places = [_places(layout[at], len(lineage.extents)) for at in (2, 3)]
    if places[0] != places[1] or each.queries != each.keys:
        return "cross"
    return "self"


def _places(dim: Any, inputs: int) -> Any:
    """Which cells of which inputs a dimension is made of."""
    found = []
    for which in range(inputs):
        along = cells_along(dim, which)
        if along is not None:
            found.append(
                (which, [(cells.extent, [(look.axis, look.stride) for look in cells.looks]) for cells in along[1]])
            )
    return found
