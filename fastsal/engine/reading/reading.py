"""Values at layers, read and replaced: hooks that stand for one run of the model and are gone after it."""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fastsal._torch import tree_flatten, tree_unflatten
from fastsal.engine.reading.affine import Escapes, is_affine
from fastsal.engine.reading.resolving import resolve_layer
from fastsal.engine.run.forward import detached, evaluation, run, scratch

Tensors = tuple[Tensor, ...]


class Unrelated(ValueError):
    """Raised for a layer whose value the selected scores do not depend on."""

    def __init__(self) -> None:
        super().__init__("layer: the target does not depend on its value; choose one on the way to the target")


class Reading(NamedTuple):
    """What was read of one run.

    Attributes:
        output: the model's.
        values: the tensors at each layer.
        gradients: of the selected scores by them; with several scores per example, stacked in front, [T, ...].
        affine: whether the scores are an affine function of the one layer's value.
    """

    output: Any
    values: list[Tensors]
    gradients: list[Tensors]
    affine: bool = False


def _swap(value: Any, visit: Callable[[Tensors], Tensors]) -> Any:
    """A layer's value with its tensors passed through ``visit``, in the (nested) form in which it came."""
    leaves, form = tree_flatten(value)
    tensors = tuple(leaf for leaf in leaves if isinstance(leaf, Tensor))
    if not tensors:
        kind = type(value).__name__
        raise ValueError(f"layer: its value is a {kind}, not a tensor or a tuple of tensors; choose a layer inside it")
    visited = iter(visit(tensors))
    return tree_unflatten([next(visited) if isinstance(leaf, Tensor) else leaf for leaf in leaves], form)


@contextlib.contextmanager
def _hooked(layers: Sequence[nn.Module], visit: Callable[[int, Tensors], Tensors], at_input: bool) -> Iterator[None]:
    """Layer i's tensors (its input's, positional then by keyword, or its output's) become ``visit(i, tensors)``."""

    def before(index: int) -> Callable[..., Any]:
        def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            return _swap((args, kwargs), lambda tensors: visit(index, tensors))

        return hook

    def after(index: int) -> Callable[..., Any]:
        return lambda _module, _args, output: _swap(output, lambda tensors: visit(index, tensors))

    handles = []
    try:
        for index, layer in enumerate(layers):
            if at_input:
                handles.append(layer.register_forward_pre_hook(before(index), with_kwargs=True))
            else:
                handles.append(layer.register_forward_hook(after(index)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def read(
    model: Callable[..., Any],
    layers: Sequence[nn.Module],
    inputs: tuple[Any, ...],
    additional: tuple[Any, ...],
    select: Callable[[Any], Tensor] | None = None,
    *,
    at_input: bool = False,
    create_graph: bool = False,
    tail_graph: bool = False,
    affine: bool = False,
    note: Callable[[Any], None] | None = None,
    grad_kwargs: Mapping[str, Any] | None = None,
) -> Reading:
    """Run the model once and read what passes at layers, and the gradient of the selected scores by it.

    What comes before the first layer runs without autograd. A layer's output becomes a leaf whose copy the rest works
    on, so that an activation in place changes neither what is recorded nor the gradient. A layer that runs several
    times is read at its last use. A layer's input may be used beside it too (a residual branch), which counts.

    Args:
        model: module or callable around one.
        layers: modules of it.
        inputs, additional: arguments of the model; it gets copies.
        select: one score per example [B] from the model's output, or several, [T, B]; without it nothing is
            differentiated.
        at_input: read the layers' inputs rather than their outputs.
        create_graph: keep the graph, so that values and gradients can be differentiated.
        tail_graph: keep it from the layers on only, so that gradients can be differentiated by the values.
        affine: find out whether the scores are an affine function of the one layer's value.
        note: told of the output before the scores are selected. What it does with it makes no score less affine.
        grad_kwargs: further arguments of ``torch.autograd.grad``.

    Raises:
        ValueError: when a layer does not run, or its value holds no tensor.
        Unrelated: when the scores do not depend on it.
    """
    values: list[Tensors | None] = [None] * len(layers)
    flagged: list[Tensor] = []
    escapes = Escapes()
    watch: Any = escapes if affine else contextlib.nullcontext()

    def visit(index: int, tensors: Tensors) -> Tensors:
        if select is None:
            values[index] = tuple(tensor.detach().clone() for tensor in tensors)
            return tensors
        torch.set_grad_enabled(True)
        escapes.active = True
        kept = []
        for tensor in tensors:
            if tensor.is_floating_point() and not tensor.requires_grad:
                if at_input:
                    flagged.append(tensor)
                else:
                    tensor = tensor.detach()
                tensor.requires_grad_()
            kept.append(tensor)
        values[index] = tuple(kept)
        return tuple(tensor.clone() for tensor in kept)

    try:
        with evaluation(model, eager=True), torch.set_grad_enabled(create_graph), _hooked(layers, visit, at_input):
            copies = tuple(x.clone() if create_graph and isinstance(x, Tensor) else scratch(x) for x in inputs)
            with watch:
                output = run(model, copies, tuple(map(scratch, additional)))
            if note is not None:
                note(output)
            with watch:
                scores = None if select is None else select(output)
            found = [value for value in values if value is not None]
            if len(found) < len(layers):
                # Those of a prepared model, which was not known to be behind the callable until now.
                copies_of = [resolve_layer(model, layer) for layer in layers]
                if all(map(operator.is_, copies_of, layers)):
                    raise ValueError("layer: the model did not run it; choose one that its forward calls")
                return read(
                    model,
                    copies_of,
                    inputs,
                    additional,
                    select,
                    at_input=at_input,
                    create_graph=create_graph,
                    tail_graph=tail_graph,
                    affine=affine,
                    note=note,
                    grad_kwargs=grad_kwargs,
                )
            if select is None:
                return Reading(output, found, [])
            wanted = [tensor for value in found for tensor in value if tensor.requires_grad]
            if not wanted:
                raise ValueError(f"layer: its value of {found[0][0].dtype} has no gradient; choose one after it")
            assert scores is not None
            if not scores.requires_grad:
                raise Unrelated
            options = {"allow_unused": True, "create_graph": create_graph or tail_graph, **(grad_kwargs or {})}
            straight = affine and not escapes.seen and len(wanted) == 1 and is_affine(scores, wanted[0])
            gradients = _gradients(scores, wanted, options)
            if all(gradient is None for gradient in gradients):
                raise Unrelated
            pending = iter(gradients)
            by_layer = []
            for value in found:
                each = (next(pending) if tensor.requires_grad else None for tensor in value)
                several = scores.shape[:-1] if scores.dim() > 1 else ()
                by_layer.append(
                    tuple(
                        t.new_zeros((*several, *t.shape)) if g is None else g for t, g in zip(value, each, strict=True)
                    )
                )
    finally:
        for tensor in flagged:
            tensor.requires_grad_(False)
    if not create_graph:
        output = detached(output)
    if create_graph or tail_graph:
        return Reading(output, found, by_layer, straight)
    return Reading(output, [tuple(t.detach() for t in value) for value in found], by_layer, straight)


def _gradients(scores: Tensor, wanted: list[Tensor], options: dict[str, Any]) -> tuple[Tensor | None, ...]:
    """Of scores [B], or of each row of [T, B] at once; row by row where an operation has no batched derivative."""
    if scores.dim() <= 1:
        return torch.autograd.grad(scores.sum(), wanted, **options)
    totals = scores.sum(1)
    chosen = torch.eye(len(totals), dtype=totals.dtype, device=totals.device)
    try:
        return torch.autograd.grad(totals, wanted, chosen, is_grads_batched=True, retain_graph=True, **options)
    except RuntimeError:
        rows = [torch.autograd.grad(totals, wanted, row, retain_graph=True, **options) for row in chosen]
    return tuple(None if each[0] is None else torch.stack(each) for each in zip(*rows, strict=True))


@contextlib.contextmanager
def replaced(layers: Sequence[nn.Module], values: Sequence[Tensors], *, at_input: bool = False) -> Iterator[None]:
    """While the model runs, layers pass on (or, ``at_input``, receive) the given tensors; autograd starts there."""

    def visit(index: int, tensors: Tensors) -> Tensors:
        if len(tensors) != len(values[index]):
            raise ValueError(f"layer: it has {len(tensors)} tensors in this run and had {len(values[index])} before")
        torch.set_grad_enabled(True)
        return values[index]

    with torch.no_grad(), _hooked(layers, visit, at_input):
        yield
