"""Deletion and insertion: how the score falls, or rises, as elements are taken away, or shown, in a map's order.

Petsiuk, Das, Saenko, "RISE: Randomized Input Sampling for Explanation of Black-box Models" (BMVC 2018), section 4.2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastsal.engine.run import run, scratch
from fastsal.explainers.arguments import Baselines, as_baselines, at_least_one
from fastsal.explainers.outputs import main_output
from fastsal.explainers.scores import Target
from fastsal.explainers.task import Task
from fastsal.metrics._blur import blurred
from fastsal.ops import ranks

STEPS = 224
"""Of the paper: 224 pixels a step at 224 x 224."""


class Curve(NamedTuple):
    """The scores on the way from one input to another.

    Attributes:
        scores: [B, steps + 1], the target's probability; the first for the start as it is, the last for its end.
        fractions: [steps + 1], share of the elements that are exchanged.
        area: [B], under each curve by the trapezoid rule, from 0 to 1.
    """

    scores: Tensor
    fractions: Tensor
    area: Tensor


def deletion(
    forward_func: Callable[..., Any],
    inputs: Tensor,
    attributions: Any,
    target: Target = None,
    *,
    baselines: Baselines = None,
    step: int | None = None,
    additional_forward_args: Any = None,
    softmax: bool = True,
    show_progress: bool = False,
) -> Any:
    """The target's probability while the elements of highest attribution are replaced; a low area is good.

    Args:
        forward_func: module or callable with outputs [B, K].
        inputs: [B, C, *shape]; all channels of an element are exchanged together.
        attributions: maps [B, *shape] or [B, C or 1, *shape], whose channels are summed; or a mapping of names to maps,
            all ranked alike. Of equal values the first in row-major order goes first.
        target: class of each example; None takes the one that the inputs' output has highest.
        baselines: what stands for a missing element: None (0), a number, a tensor that broadcasts, or ``"blur"``.
        step: elements exchanged at a time; 1/224 of them when None, as in the paper.
        additional_forward_args: further arguments of the model; per-example tensors follow their examples.
        softmax: the outputs are logits, and are made probabilities, the only one of a binary classifier by its sigmoid;
            False for a model that does so itself.
        show_progress: show a bar.

    Returns:
        A :class:`Curve`, or with a mapping one for each name.

    Raises:
        TypeError, ValueError: for arguments outside of the above, or attributions that are not finite.
    """
    way = _Way(forward_func, inputs, baselines, target, step, additional_forward_args, softmax, show_progress)
    return way.curves(attributions, way.inputs, way.baseline, "Deletion")


def insertion(
    forward_func: Callable[..., Any],
    inputs: Tensor,
    attributions: Any,
    target: Target = None,
    *,
    baselines: Baselines = "blur",
    step: int | None = None,
    additional_forward_args: Any = None,
    softmax: bool = True,
    show_progress: bool = False,
) -> Any:
    """The target's probability while the elements of highest attribution are shown; a high area is good.

    Arguments, result and errors are those of :func:`deletion`. It begins with ``baselines``, by default the inputs
    blurred as in the authors' code.
    """
    way = _Way(forward_func, inputs, baselines, target, step, additional_forward_args, softmax, show_progress)
    return way.curves(attributions, way.baseline, way.inputs, "Insertion")


class _Way:
    """The scores of examples on the way between their inputs and baselines."""

    def __init__(
        self,
        forward_func: Callable[..., Any],
        inputs: Tensor,
        baselines: Baselines,
        target: Target,
        step: int | None,
        additional: Any,
        softmax: bool,
        show_progress: bool,
    ) -> None:
        if not isinstance(inputs, Tensor) or inputs.dim() < 3 or not inputs.is_floating_point():
            found = f"{inputs.dtype} of shape {tuple(inputs.shape)}" if isinstance(inputs, Tensor) else type(inputs)
            raise ValueError(f"inputs: {found} is not floating point of shape [B, C, *shape]")
        if inputs.numel() == 0:
            raise ValueError(f"inputs: shape {tuple(inputs.shape)} has no examples, or no elements")
        self.inputs = inputs.detach()
        if isinstance(baselines, str):
            if baselines != "blur":
                raise ValueError(f'baselines: {baselines!r} is neither "blur", a number nor a tensor')
            self.baseline = blurred(self.inputs)
        else:
            (given,) = as_baselines(baselines, (self.inputs,))
            value = given if isinstance(given, Tensor) else torch.full((), given, device=inputs.device)
            self.baseline = value.to(self.inputs).expand_as(self.inputs).contiguous()
        self._task = Task(forward_func, self.inputs, target, additional, show_progress=show_progress)
        self._softmax, self._given = softmax, target
        elements = self.inputs[0, 0].numel()
        self._step = max(1, elements // STEPS) if step is None else at_least_one("step", step)
        self._elements = elements

    def curves(self, attributions: Any, start: Tensor, end: Tensor, description: str) -> Any:
        """A curve for each map from ``start`` to ``end``."""
        named = attributions if isinstance(attributions, Mapping) else {"": attributions}
        if not named:
            raise ValueError("attributions: the mapping is empty")
        rankings = [self._ranking(name, maps) for name, maps in named.items()]
        examples = self.inputs.shape[0]
        device = self.inputs.device
        counts = torch.arange(0, self._elements, self._step, device=device)
        counts = torch.cat([counts, counts.new_tensor([self._elements])])
        length = len(counts)
        pairs = len(rankings) * examples
        with self._task.context():
            classes = self._classes()
            found = torch.empty(pairs * length, dtype=torch.float64, device=device)

            def work(first: int, last: int) -> Tensor:
                rows = []
                for pair in range(first // length, -(-last // length)):
                    part = counts[max(first - pair * length, 0) : last - pair * length]
                    example = slice(pair % examples, pair % examples + 1)
                    ranking = rankings[pair // examples][example]
                    rows.append(ranks.batch(start[example], end[example], ranking, part))
                places = torch.arange(first, last, device=device) // length % examples
                return self._scores(torch.cat(rows) if len(rows) > 1 else rows[0], places, classes)

            def keep(first: int, last: int, scores: Tensor) -> None:
                found[first:last] = scores

            self._task.name = description
            chunk_sizes = self._task.chunk_sizes(len(found), by_row=True)
            self._task.swept(len(found), work, keep, chunk_sizes=chunk_sizes).run()
        scores = found.view(len(rankings), examples, length)
        fractions = counts.to(torch.float64) / self._elements
        results = {
            name: Curve(each, fractions, _area(each, fractions)) for name, each in zip(named, scores, strict=True)
        }
        return results if isinstance(attributions, Mapping) else results[""]

    def _ranking(self, name: str, maps: Any) -> Tensor:
        """The place of each element in a map's order, [B, *shape], from 0."""
        called = f"attributions[{name!r}]" if name else "attributions"
        if not isinstance(maps, Tensor):
            raise TypeError(f"{called}: {type(maps).__name__} is not a tensor")
        shape = (self.inputs.shape[0], *self.inputs.shape[2:])
        values = maps.detach().to(self.inputs.device)
        if values.dim() == self.inputs.dim() and values.shape[1] in (1, self.inputs.shape[1]):
            values = values.sum(1)
        if tuple(values.shape) != shape:
            raise ValueError(f"{called}: shape {tuple(maps.shape)} is not {shape}, that of the inputs, beside channels")
        if not values.isfinite().all():
            raise ValueError(f"{called}: has values that are not finite, which have no place in an order")
        order = values.flatten(1).argsort(dim=1, descending=True, stable=True)
        places = torch.arange(self._elements, device=order.device).expand_as(order)
        return torch.empty_like(order).scatter_(1, order, places).view(shape)

    def _classes(self) -> Tensor:
        """The class of each example, [B]."""
        self._task.note(self._task.run(1, {}))
        output = _by_class(main_output(self._task.output))
        examples = self.inputs.shape[0]
        if not isinstance(output, Tensor) or output.dim() != 2 or output.shape[0] != examples:
            given = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise ValueError(
                f"forward_func: its output {given} is not [{examples}, K], a score for each class, or [{examples}]"
            )
        target = output.argmax(1) if self._given is None else self._task.target
        classes = torch.as_tensor(target, device=output.device).reshape(-1)
        if classes.is_floating_point() or classes.dtype == torch.bool or classes.numel() not in (1, examples):
            raise ValueError(f"target: {target!r} is not a class for all examples or one for each of {examples}")
        if int(classes.min()) < 0 or int(classes.max()) >= output.shape[1]:
            raise ValueError(f"target: {target!r} is out of range for {output.shape[1]} classes")
        return classes.expand(examples)

    def _scores(self, rows: Tensor, places: Tensor, classes: Tensor) -> Tensor:
        """The probability of each row's class, [n], float64; ``places`` are the rows' examples."""
        examples = self.inputs.shape[0]
        additional = tuple(
            value.index_select(0, places.to(value.device))
            if isinstance(value, Tensor) and value.dim() > 0 and value.shape[0] == examples
            else scratch(value)
            for value in self._task.additional
        )
        output = _by_class(main_output(run(self._task.forward_func, (rows,), additional))).to(torch.float64)
        chances = output
        if self._softmax:
            chances = output.softmax(1) if output.shape[1] > 1 else output.sigmoid()
        chosen: Tensor = chances.gather(1, classes[places.to(classes.device)][:, None])[:, 0].to(rows.device)
        return chosen


def _by_class(output: Any) -> Any:
    """Scores [B, K]: of a binary classifier with one for each example, K = 1."""
    return output[:, None] if isinstance(output, Tensor) and output.dim() == 1 else output


def _area(scores: Tensor, fractions: Tensor) -> Tensor:
    return torch.trapezoid(scores, fractions, dim=-1)
