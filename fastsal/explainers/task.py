"""What a call of ``attribute`` explains, parsed once, and the passes that it may make of it."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from fastsal.engine.run import (
    ChunkSizes,
    ChunkTooLarge,
    Rows,
    Sweep,
    detached,
    evaluation,
    input_gradients,
    one_example,
    run,
    scratch,
)
from fastsal.explainers.arguments import examples_of
from fastsal.explainers.call import Anytime, Call, Estimated
from fastsal.explainers.columns import read_once
from fastsal.explainers.explained import Explained
from fastsal.explainers.reached import reached
from fastsal.explainers.row_check import found_rows, last_copy_of
from fastsal.explainers.scores import (
    Target,
    chooses,
    could_be_per_example,
    one_score_each,
    per_example,
    resolved,
    rows,
    selected,
    target_of,
    tile,
    tile_target,
    unrepeatable,
)

Result = TypeVar("Result")
Kept = TypeVar("Kept")


class Task(Explained):
    """What one call explains, and the model's passes on altered copies of it.

    Copies are copy-major: of n copies of B examples row c * B + b is copy c of example b; per-example extra tensors
    and targets are repeated alike.

    Args:
        forward_func: module or callable.
        inputs: tensor [B, ...], tuple of them, or a mapping, whose floating point tensors are explained.
        target: which output to explain (see :func:`fastsal.explainers.scores.select_target`). A function of the output
            is asked once, for the inputs as they are.
        additional_forward_args: further arguments of the model.
        baselines: None (0), a number, a tensor that broadcasts, a tuple of one per input (or a mapping).
        per_call: copies per model call, as given by the caller; None chooses it from memory.
        rows_per_call: rows per model call instead, of which a copy has one per example.
        named: the argument that these two are, for errors.
        create_graph: keep the graph to the caller's inputs.
        floating: take integers as floating point.
        fractions: take integers as floating point where their baseline is a fraction.
        tensors_only: refuse inputs that are no tensors; otherwise they are the model's, and nothing of them altered.
        allow_unused: take zeros for the gradient by an input that the target does not use.
        show_progress: show a bar over a sweep.
        name: of the method.

    Attributes:
        model: the callable as given.
        forward_func: the same as a function of (*inputs, *additional).
        given: the form of the inputs.
        inputs: tensors [B, ...], detached unless create_graph, none made in inference mode.
        additional: further arguments, those of a mapping that are not explained first.
        baselines: a number or tensor for each input.
        copies: how many of the examples are altered copies of one, for a method that runs inside another's sweep.
        ambiguous: extra arguments of which only the caller knows whether an entry of theirs is of one example.
        asks: make a pass of the inputs as they are where a target that is a function of the output needs one.
        allows_unused: as given, or by ``grad_kwargs``.
        rows_ahead: rows of the sweeps that were described, as far as they are known.
        parts: (name, number of inputs) of what a gradient must reach, in order, where that is not each input.

    Raises:
        TypeError, ValueError: for arguments outside of the above.
    """

    @property
    def output(self) -> Any:
        """The model's output for the inputs as they are, detached: the first pass's, or one made for it."""
        if self._output is None:
            with evaluation(self.model), torch.no_grad():
                self.note(self.run(1, {}))
        return self._output

    @property
    def target(self) -> Target:
        """What is explained; a function of the output as what it returned.

        Raises:
            TypeError: for a function where no pass was made of the inputs as they are, unless :attr:`asks`.
        """
        if chooses(self._target):
            if self._output is None and not self.asks:
                raise TypeError(
                    "target: a function would choose anew for each altered copy; pass what it returns for the inputs"
                )
            self.note(self.output)
        return self._target

    def note(self, output: Any) -> None:
        """Tell of the output for the inputs as they are; a target that is a function of it is asked now, once."""
        self._output = detached(output)
        self._target = resolved(self._target, self._output)

    def instead(self, inputs: tuple[Tensor, ...], target: Target) -> Task:
        """The same call with other inputs in the place of these, and what is explained of them."""
        other = copy.copy(self)
        other.inputs, other._target, other._output = inputs, target, None
        return other

    def delta(
        self,
        results: Sequence[Tensor],
        starts: tuple[Tensor, ...] | None = None,
        ends: tuple[Tensor, ...] | None = None,
        count: int = 1,
    ) -> Tensor:
        """Sum of results minus the change of the score from starts to ends (the baselines, the inputs), for copies."""
        with evaluation(self.model), torch.no_grad():
            change = self._scores_at(self.inputs if ends is None else ends, count)
            change = change - self._scores_at(self.starts() if starts is None else starts, count)
        total = sum(per_example(part).sum(1) for part in results)
        return total - change

    def _scores_at(self, inputs: tuple[Tensor, ...], count: int) -> Tensor:
        extra = tuple(scratch(value) for value in self.repeated(self.additional, count))
        output = run(self.forward_func, tuple(map(scratch, inputs)), extra)
        return one_score_each(output, self.tiled_target(count), count * self.examples)

    def form(self, tensors: tuple[Tensor, ...], count: int = 1) -> Any:
        """Tensors [count * B, ...] in the place of the inputs, in the form in which these were passed."""
        return self.given.form(tensors, self.repeated(self.given.others, count))

    # Passes

    @contextlib.contextmanager
    def context(self, *, eager: bool = False) -> Iterator[None]:
        """Around passes: evaluation mode, and a graph where one is kept; ``eager`` as of ``evaluation``."""
        with evaluation(self.model, eager=eager), torch.set_grad_enabled(self.create_graph):
            yield

    def batch(self, count: int, altered: Mapping[int, Tensor]) -> tuple[tuple[Tensor, ...], tuple[Any, ...]]:
        """(inputs, extra arguments) of copies: those that are altered as given, by their place, the others repeated."""
        inputs = tuple(
            altered[i] if i in altered else tile(scratch(tensor), count, self.examples)
            for i, tensor in enumerate(self.inputs)
        )
        return inputs, tuple(tile(scratch(value), count, self.examples) for value in self.additional)

    def run(self, count: int, altered: Mapping[int, Tensor]) -> Any:
        """The model's output for copies.

        Raises:
            Coupled: where they are found to depend on each other.
        """
        compare = last_copy_of(self, count if altered else 1, lambda: self._last(altered))
        output = run(self.forward_func, *self.batch(count, altered))
        compare(output)
        return output

    def _last(self, altered: Mapping[int, Tensor]) -> dict[int, Tensor]:
        return {place: scratch(tensor[-self.examples :]) for place, tensor in altered.items()}

    def run_one(self) -> Any:
        """The model's output for one example, where its extra arguments can be told by example, else for all."""
        with evaluation(self.model), torch.no_grad():
            return run(self.forward_func, *one_example(self.inputs, self.additional))

    def selected(self, count: int, altered: Mapping[int, Tensor]) -> Tensor:
        """What the target picks of it, in whatever shape, detached."""
        return selected(self.run(count, altered), self.tiled_target(count)).detach()

    def scores(self, count: int, altered: Mapping[int, Tensor]) -> Tensor:
        """Scores [copies, B, K] of copies, in floating point.

        Raises:
            ValueError: for an output whose dimension 0 is not the batch.
        """
        return rows(self.selected(count, altered), count, self.examples)

    def select(self, count: int = 1, time_first: bool = False) -> Callable[[Any], Tensor]:
        """A function of the output for copies that returns one score for each row, or one for a whole batch.

        Raises:
            ChunkTooLarge: for one score of several copies, a mean over which would scale their gradients.
        """
        examples = count * self.examples

        def select(output: Any) -> Tensor:
            scores = one_score_each(output, self.tiled_target(count), examples, time_first)
            if count * self.copies > 1 and scores.numel() != examples:
                raise ChunkTooLarge("forward_func returns one score per call, whatever the batch")
            return scores

        return select

    def gradients(
        self,
        count: int = 1,
        batches: tuple[Tensor, ...] | None = None,
        *,
        forward_func: Callable[..., Any] | None = None,
        grad_kwargs: Mapping[str, Any] | None = None,
        scored: Callable[[Tensor], None] | None = None,
        last: Callable[[], Mapping[int, Tensor]] | None = None,
    ) -> tuple[Tensor, ...]:
        """Gradients of the scores by the inputs, or by copies of them; call inside :meth:`context`.

        Args:
            count: copies in ``batches``.
            batches: [count * B, ...] for each input; None takes the inputs as they are, whose output is noted.
            forward_func: what runs instead of the model.
            grad_kwargs: further arguments of ``torch.autograd.grad``.
            scored: told of the scores, with their graph, before the gradients are taken.
            last: makes the model's inputs for the last copy, where ``forward_func`` takes others.

        Raises:
            Coupled: for copies that are found to depend on each other.
            Unreached: for an input that no gradient reaches.
        """
        choose = self.select(count, time_first=batches is None)  # no copies, so any dimension may be the batch's
        if last is None and batches is not None and forward_func is None and self.parts is None:
            last = lambda: self._last(dict(enumerate(batches)))  # noqa: E731
        compare = last_copy_of(self, count if last else 1, last or dict[int, Tensor])

        def select(output: Any) -> Tensor:
            compare(output)
            scores = choose(output)
            if scored is not None:
                scored(scores)
            return scores

        def noting(output: Any) -> Tensor:
            self.note(output)
            return select(output)

        extra = self.additional
        if batches is not None:
            extra = tuple(tile(value, count, self.examples) for value in extra)
            self.tiled_target(count)  # a function of the output is asked before, by a pass of its own
        inputs = self.inputs if batches is None else batches
        gradients = input_gradients(
            self.forward_func if forward_func is None else forward_func,
            inputs,
            extra,
            noting if batches is None else select,
            self.create_graph,
            grad_kwargs,
        )
        given = grad_kwargs or {}
        return reached(self, gradients, inputs, bool(given.get("allow_unused") or given.get("materialize_grads")))

    def repeated(self, values: tuple[Any, ...], count: int) -> tuple[Any, ...]:
        """Values for copies: tensors with an entry per example repeated, any other as it is."""
        return tuple(tile(value, count, self.examples) for value in values)

    def tiled_target(self, count: int) -> Target:
        """The target for copies, with indices that are read from the device once a call."""
        target = self._read_target()
        return target if count == 1 else tile_target(target, count, self.examples)

    def copied_target(self, count: int) -> Target:
        """The target for copies, in whose form it was given: what repeats it for one copy too."""
        return tile_target(self.target, count, self.examples)

    def target_of(self, example: int, count: int = 1) -> Target:
        """One example's target, for copies of it alone."""
        return tile_target(target_of(self._read_target(), example, self.examples), count, 1)

    def _read_target(self) -> Target:
        target = self.target
        if self._read is None or self._read[0] is not target:
            self._read = target, read_once(target, self.examples)
        return self._read[1]

    def rows(self) -> Rows:
        """What the rows of a batch of copies have to do with each other: known, or found by three or four passes.

        Inside another method's sweep, which has looked, and where a graph is being made, nothing is asked.
        """
        if self.looked_at is None:
            self.looked_at = Rows() if self.copies > 1 else found_rows(self)
        return self.looked_at

    def take_rows(self, other: Task) -> None:
        """What was found of another task holds for this one, which runs a part of the same model."""
        self.looked_at = other.rows()

    # Descriptions

    def chunk_sizes(
        self,
        total: int,
        *,
        cost: int = 1,
        rows: int = 1,
        repeats: bool = False,
        alone: bool = False,
        by_row: bool = False,
    ) -> ChunkSizes:
        """Chunk sizes for a sweep of ``total`` items.

        Where an extra tensor has as many entries as there are examples, only the caller knows whether to repeat it:
        unless told how many, items run one at a time then. So they do where a list or an array has, which may be one
        for each example and is never repeated.

        Args:
            total: items.
            cost: of an item's row, in sizes of the inputs: 2 where a gradient keeps the activations.
            rows: of an item, for each example.
            repeats: such an extra tensor is one per example, by the method's contract.
            alone: one item at a time, unless told how many.
            by_row: an item is a row, with its own part of the extra tensors.
        """
        if self.per_call != 1:
            examples_of(self.inputs)  # one copy a call goes with inputs of any lengths
        given = self.per_call
        if given is None and not by_row and unrepeatable(self.ambiguous, self.examples):
            given = 1
        known = repeats or by_row or not could_be_per_example(self.ambiguous, self.examples)
        if given is None and (alone or not known):
            given = 1
        row_bytes = sum(tensor[:1].numel() * tensor.element_size() for tensor in self.inputs)
        items = 1 if by_row else rows * self.examples
        return ChunkSizes(total, items, cost * row_bytes, self.device, given, self.model)

    def swept(
        self,
        total: int,
        work: Callable[[int, int], Kept],
        keep: Callable[[int, int, Kept], None],
        *,
        chunk_sizes: ChunkSizes | None = None,
        context: Callable[[], contextlib.AbstractContextManager[Any]] | None = None,
        checked: bool = True,
    ) -> Sweep[Kept]:
        """A sweep over ``total`` items; ``work`` and ``keep`` as of :class:`fastsal.engine.run.Sweep`.

        ``checked``: copies of the inputs are scored one at a time where the rows of a batch depend on each other.
        """
        self.rows_ahead += total * self.examples
        return Sweep(
            total,
            work,
            keep,
            self.chunk_sizes(total) if chunk_sizes is None else chunk_sizes,
            self.name,
            self.show_progress,
            self.context if context is None else context,
            self.rows if checked else None,
            self._given,
        )

    def sweep(
        self,
        total: int,
        work: Callable[[int, int], Kept],
        keep: Callable[[int, int, Kept], None],
        finish: Callable[[], Result],
        *,
        chunk_sizes: ChunkSizes | None = None,
        context: Callable[[], contextlib.AbstractContextManager[Any]] | None = None,
        estimate: Callable[[int], Estimated | None] | None = None,
        limit: str = "",
        refused: str = "",
    ) -> Call[Result]:
        """The description of a sweep: altered copies are generated, scored and folded chunk by chunk.

        Args:
            total: items (masks, windows, steps).
            work: ``work(start, stop)`` generates and scores a chunk; it changes nothing.
            keep: ``keep(start, stop, what work returned)`` folds it.
            finish: what ``attribute`` returns, after the last chunk.
            chunk_sizes: chunk sizes; None takes :meth:`chunk_sizes`'s for passes without gradients.
            context: around each chunk; None takes :meth:`context`.
            estimate: (maps, errors, relative error, samples) of the items so far, for methods that can end early; None
                while they are too few.
            limit: the argument that bounds the items, as in ``n_masks=4000``.
            refused: why an estimate of all items cannot be had; empty where it can.
        """
        swept = self.swept(total, work, keep, chunk_sizes=chunk_sizes, context=context)

        def run() -> Result:
            with swept.context():
                swept.run()
                return finish()

        anytime = None if estimate is None else Anytime(swept, estimate, limit, refused)
        return Call(self, run, None if anytime is None else lambda: anytime)

    def once(self, run: Callable[[], Result]) -> Call[Result]:
        """The description of what is no sweep, or several: a function that runs it."""
        return Call(self, run)
