"""Values at layers, read: hooks that stand for one run of the model and are gone after it."""

from __future__ import annotations

import contextlib
import functools
import itertools
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fastsal._torch import tree_flatten, tree_unflatten
from fastsal.engine.reading.affine import Escapes, is_affine, reaches
from fastsal.engine.reading.geometry.asking import Noted
from fastsal.engine.reading.geometry.lineage import Lineage
from fastsal.engine.reading.resolving import resolve_layer
from fastsal.engine.run.forward import detached, evaluation, run, scratch
from fastsal.engine.run.modules import calling, modules_of, unwrapped
from fastsal.engine.run.own import Undone
from fastsal.engine.run.random_states import keeping_random_states
from fastsal.engine.run.telling import tell
from fastsal.engine.run.unused import changes

Tensors = tuple[Tensor, ...]


class Unrelated(ValueError):
    """Raised for layers whose values the selected scores do not depend on.

    Args:
        names: of these layers, where there are others that they do depend on.
    """

    def __init__(self, names: Sequence[str] = ()) -> None:
        named = f"layer {', '.join(names)}" if names else "layer"
        super().__init__(
            f"{named}: the target does not depend on its value through autograd; choose one on the way to the target, "
            "with no torch.no_grad, detach, cast to integers or NumPy behind it; EigenCAM and ScoreCAM need no gradient"
        )


class Reading(NamedTuple):
    """What was read of one run.

    Attributes:
        output: the model's.
        values: the tensors at each layer: of its last use, or of all in turn.
        gradients: of the selected scores by them; with several scores per example, stacked in front, [T, ...].
        affine: whether the scores are an affine function of the one layer's value.
        uses: how many tensors each use of a layer had.
        apart: whether the scores depend on an earlier use of a layer other than through its last, as far as the graph
            tells.
        noted: what a lineage noted of the first tensor of each layer's last use.
    """

    output: Any
    values: list[Tensors]
    gradients: list[Tensors]
    affine: bool = False
    uses: Sequence[tuple[int, ...]] = ()
    apart: bool = False
    noted: Sequence[Noted | None] = ()


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
def hooked(layers: Sequence[nn.Module], visit: Callable[[int, Tensors], Tensors], at_input: bool) -> Iterator[None]:
    """Layer i's tensors (its input's, positional then by keyword, or its output's) become ``visit(i, tensors)``."""

    def before(index: int) -> Callable[..., Any]:
        def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            return _swap((args, kwargs), lambda tensors: visit(index, tensors))

        return hook

    def after(index: int) -> Callable[..., Any]:
        return lambda _module, _args, output: _swap(output, lambda tensors: visit(index, tensors))

    with Undone() as undone:
        for index, layer in enumerate(layers):
            if at_input:
                undone.hook(layer, before(index), before=True, kwargs=True)
            else:
                undone.hook(layer, after(index))
        yield


class _Recording:
    """What passes at layers in one run of the model: every use, or the last one alone.

    Args:
        layers: how many.
        differentiated: whether autograd starts at the layers.
        at_input: whether their inputs are read.
        every_use: keep them all also where nothing is differentiated.
        lineage: which tells where the tensors come from.
    """

    def __init__(
        self, layers: int, differentiated: bool, at_input: bool, every_use: bool, lineage: Lineage | None = None
    ) -> None:
        self._differentiated, self._at_input, self._every = differentiated, at_input, every_use or differentiated
        self.uses: list[list[Tensors]] = [[] for _ in range(layers)]
        self.sizes: list[list[int]] = [[] for _ in range(layers)]
        self.noted: list[Noted | None] = [None] * layers
        self.flagged: list[Tensor] = []
        self._lineage = lineage
        self.escapes = Escapes()
        self._model: Callable[..., Any] | None = None
        self._of_model: set[int] | None = None
        self._running = False

    def _tensors_of_model(self) -> set[int]:
        """Weights and buffers, by id: other threads use them too, so their flags stay."""
        if self._of_model is None:
            modules = modules_of(self._model) if self._model is not None else []
            self._of_model = {id(t) for module in modules for t in (*module.parameters(), *module.buffers())}
        return self._of_model

    def of(self, model: Callable[..., Any]) -> Callable[..., Any]:
        """The model, each run of which begins anew; what checkpointing runs again after it is not recorded."""
        self._model = model

        @calling(model)
        def recorded(*arguments: Any) -> Any:
            for uses, sizes in zip(self.uses, self.sizes, strict=True):
                uses.clear()
                sizes.clear()
            self._running = True
            try:
                return model(*arguments)
            finally:
                self._running = False

        return recorded

    def visit(self, index: int, tensors: Tensors) -> Tensors:
        """What the model goes on with in the place of the tensors at a layer."""
        if self._running:
            self.sizes[index].append(len(tensors))
            if self._lineage is not None:
                self.noted[index] = Noted(tuple(tensors[0].shape), self._lineage.layout(tensors[0]))
            if not self._every:
                self.uses[index].clear()
        if not self._differentiated:
            if self._running:
                self.uses[index].append(tuple(tensor.detach().clone() for tensor in tensors))
            return tensors
        torch.set_grad_enabled(True)
        self.escapes.active = True
        kept = tuple(map(self._leaf, tensors))
        if self._running:
            self.uses[index].append(kept)
        return tuple(tensor.clone() for tensor in kept)

    def _leaf(self, tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point() or tensor.requires_grad:
            return tensor
        if self._at_input and id(tensor) not in self._tensors_of_model():
            self.flagged.append(tensor)
            return tensor.requires_grad_()
        return tensor.detach().requires_grad_()

    def values(self, every_use: bool) -> list[Tensors]:
        """The tensors at each layer, of all its uses or the last."""
        return [tuple(t for use in (uses if every_use else uses[-1:]) for t in use) for uses in self.uses]


def read(
    model: Callable[..., Any],
    layers: Sequence[nn.Module],
    inputs: tuple[Any, ...],
    additional: tuple[Any, ...],
    select: Callable[[Any], Tensor] | None = None,
    *,
    at_input: bool = False,
    every_use: bool = False,
    create_graph: bool = False,
    tail_graph: bool = False,
    affine: bool = False,
    note: Callable[[Any], None] | None = None,
    grad_kwargs: Mapping[str, Any] | None = None,
    lineage: Lineage | None = None,
) -> Reading:
    """Run the model once and read what passes at layers, and the gradient of the selected scores by it.

    What comes before the first layer runs without autograd. A layer's output becomes a leaf whose copy the rest works
    on, so that an activation in place changes neither what is recorded nor the gradient. A layer that runs several
    times is read at its last use, unless all are asked for. A layer's input may be used beside it too (a residual
    branch), which counts.

    Args:
        model: module or callable around one.
        layers: modules of it.
        inputs, additional: arguments of the model; it gets copies.
        select: one score per example [B] from the model's output, or several, [T, B]; without it nothing is
            differentiated.
        at_input: read the layers' inputs rather than their outputs.
        every_use: the tensors of every use of a layer, in turn.
        create_graph: keep the graph, so that values and gradients can be differentiated.
        tail_graph: keep it from the layers on only, so that gradients can be differentiated by the values.
        affine: find out whether the scores are an affine function of the one layer's value.
        note: told of the output before the scores are selected. What it does with it makes no score less affine.
        grad_kwargs: further arguments of ``torch.autograd.grad``.
        lineage: notes where the layers' values come from.

    Raises:
        ValueError: when a layer does not run, or its value holds no tensor.
        Unrelated: when the scores do not depend on one of them through autograd, unless ``grad_kwargs`` allow it and
            other values of it leave the scores as they are.
    """
    recording = _Recording(len(layers), select is not None, at_input, every_use, lineage)
    watch: Any = recording.escapes if affine else contextlib.nullcontext()
    hooks = hooked(layers, recording.visit, at_input)
    try:
        with evaluation(model, eager=True), torch.set_grad_enabled(create_graph), hooks:
            copies = tuple(x.clone() if create_graph and isinstance(x, Tensor) else scratch(x) for x in inputs)
            with watch, contextlib.nullcontext() if lineage is None else lineage:
                if lineage is not None:
                    lineage.begin(copies)
                output = run(recording.of(model), copies, tuple(map(scratch, additional)))
            if note is not None:
                note(output)
            with watch:
                scores = None if select is None else select(output)
            if not all(recording.uses):
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
                    every_use=every_use,
                    create_graph=create_graph,
                    tail_graph=tail_graph,
                    affine=affine,
                    note=note,
                    grad_kwargs=grad_kwargs,
                    lineage=lineage,
                )
            found, sizes = recording.values(every_use), [tuple(each) for each in recording.sizes]
            if select is None:
                return Reading(output, found, [], uses=sizes, noted=recording.noted)
            wanted = [tensor for value in found for tensor in value if tensor.requires_grad]
            if not wanted:
                raise ValueError(f"layer: its value of {found[0][0].dtype} has no gradient; choose one after it")
            assert scores is not None
            options = {"create_graph": create_graph or tail_graph, **(grad_kwargs or {})}
            allow_unused = bool(options.pop("allow_unused", False)) or bool(options.pop("materialize_grads", False))
            options["allow_unused"] = True
            if not scores.requires_grad and not allow_unused:
                raise Unrelated
            straight = affine and not recording.escapes.seen and len(wanted) == 1 and is_affine(scores, wanted[0])
            apart = any(reaches(scores, uses[:-1], uses[-1]) for uses in recording.uses if len(uses) > 1)
            gradients = iter(_gradients(scores, wanted, options) if scores.requires_grad else (None,) * len(wanted))
            of_layers = [[next(gradients) if tensor.requires_grad else None for tensor in value] for value in found]
            several = scores.shape[:-1] if scores.dim() > 1 else ()
    finally:
        for tensor in recording.flagged:
            tensor.requires_grad_(False)
    unrelated = [place for place, each in enumerate(of_layers) if all(gradient is None for gradient in each)]
    if unrelated and not allow_unused:
        raise Unrelated(() if len(unrelated) == len(found) else _names(model, layers, unrelated))
    for place in unrelated:
        check_unused(model, layers[place], found[place], (inputs, additional), select, at_input)
    by_layer = [
        tuple(t.new_zeros((*several, *t.shape)) if g is None else g for t, g in zip(*pair, strict=True))
        for pair in zip(found, of_layers, strict=True)
    ]
    if not create_graph:
        output = detached(output)
    if not create_graph and not tail_graph:
        found = [tuple(t.detach() for t in value) for value in found]
    return Reading(output, found, by_layer, straight, sizes, apart, recording.noted)


def _names(model: Callable[..., Any], layers: Sequence[nn.Module], places: Sequence[int]) -> list[str]:
    """How the model calls some of its layers; their place in the list where it does not."""
    names = {id(part): name for module in modules_of(model) for name, part in unwrapped(module).named_modules()}
    return [names.get(id(layers[place])) or f"[{place}]" for place in places]


def check_unused(
    model: Callable[..., Any],
    layer: nn.Module,
    values: Tensors,
    arguments: tuple[tuple[Any, ...], tuple[Any, ...]],
    select: Callable[[Any], Tensor],
    at_input: bool = False,
) -> None:
    """Warn that a layer's gradient is 0, as the selected scores do not depend on it in any way.

    Args:
        model: module or callable around one.
        layer: a module of it.
        values: its tensors in a run, use by use.
        arguments: inputs and additional arguments of the run.
        select: the scores from the model's output.
        at_input: the values are the layer's inputs.

    Raises:
        Unrelated: where other values of it change the scores, or are refused.
    """
    (name,) = _names(model, [layer], [0])

    def scores(place: int, value: Tensor) -> Tensor:
        passed = itertools.count()

        def visit(_: int, tensors: Tensors) -> Tensors:
            return tuple(value if next(passed) == place else tensor for tensor in tensors)

        alike = keeping_random_states(value.device)
        with alike, evaluation(model, eager=True), torch.no_grad(), hooked([layer], visit, at_input):
            return select(run(model, *(tuple(map(scratch, each)) for each in arguments)))

    for place, value in enumerate(values):
        if changes(functools.partial(scores, place), value):
            raise Unrelated([name])
    tell(f"layer {name}: the target does not depend on it, so its gradient is 0")


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
def values_at(
    layers: Sequence[nn.Module], *, at_input: bool = False, taken: Callable[[Tensors], Any] | None = None
) -> Iterator[list[list[Any]]]:
    """While the model runs, what passes at each layer is in its list, use by use, on the model's graph.

    What is found are copies, on which the rest of the model works: its gradient by them can be asked for, and they can
    be differentiated by what comes before, whatever is written in place on the way. Or else it is what ``taken`` makes
    of the tensors, and the model goes on with these themselves.
    """
    found: list[list[Any]] = [[] for _ in layers]

    def visit(index: int, tensors: Tensors) -> Tensors:
        if taken is not None:
            found[index].append(taken(tensors))
            return tensors
        found[index].append(tuple(tensor.clone() for tensor in tensors))
        return tuple(tensor.clone() for tensor in found[index][-1])

    with hooked(layers, visit, at_input):
        yield found
