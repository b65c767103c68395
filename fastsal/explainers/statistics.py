"""Statistics of attributions, in one pass: values come batch by batch, and what was seen elsewhere can be merged in."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

StatValue = Tensor | int | float
Function = Callable[[Tensor, Tensor], Tensor]


class Stat:
    """A statistic of the tensors that :meth:`update` is given, element by element.

    Args:
        name: its key in a summary; the class's name in lower case unless given.
        params: what tells it from others of its class.

    Attributes:
        name: as given, or made.
        params: as given.
    """

    def __init__(self, name: str | None = None, **params: Any) -> None:
        self.params = params
        told = f"({params})" if params else ""
        self.name = f"{type(self).__name__.lower()}{told}" if name is None else name

    def needs(self) -> Sequence[Stat]:
        """The statistics that it is computed from."""
        return ()

    def init(self, others: Callable[[Stat], Stat]) -> None:
        """Begin, with the statistics beside it by their kind."""

    def update(self, x: Tensor) -> None:
        """Count one tensor in."""

    def merge(self, other: Any) -> None:
        """Count in what another statistic of its kind has seen, before those that it is computed from do."""

    def get(self) -> StatValue | None:
        """The value; None before the first update."""
        raise NotImplementedError

    def __hash__(self) -> int:
        return hash((type(self), frozenset(self.params.items())))

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.params == getattr(other, "params", None)


class Count(Stat):
    """How many tensors there were."""

    def __init__(self, name: str | None = None) -> None:
        super().__init__(name)
        self.n: int | None = None

    def update(self, x: Tensor) -> None:
        self.n = (self.n or 0) + 1

    def merge(self, other: Count) -> None:
        self.n = None if self.n is None and other.n is None else (self.n or 0) + (other.n or 0)

    def get(self) -> int | None:
        return self.n


class _Moment(Stat):
    """Of what is computed from the mean and the sum of squares around it (Welford 1962; merged by Chan, Golub, LeVeque,
    "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances", 1979)."""

    def needs(self) -> Sequence[Stat]:
        return (Count(), _Moments())

    def init(self, others: Callable[[Stat], Stat]) -> None:
        found: Any = others(_Moments())
        self.moments: _Moments = found


class _Moments(Stat):
    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.mean: Tensor | None = None
        self.squares: Tensor | None = None

    def update(self, x: Tensor) -> None:
        wide = x if x.is_floating_point() or x.is_complex() else x.double()
        self.count += 1
        if self.mean is None or self.squares is None:
            self.mean, self.squares = wide.clone(), torch.zeros_like(wide)
            return
        apart = wide - self.mean
        self.mean = self.mean + apart / self.count
        self.squares = self.squares + apart * (wide - self.mean)

    def merge(self, other: _Moments) -> None:
        if other.mean is None or other.squares is None:
            return
        if self.mean is None or self.squares is None:
            self.count, self.mean, self.squares = other.count, other.mean.clone(), other.squares.clone()
            return
        count = self.count + other.count
        apart = other.mean - self.mean
        self.mean = self.mean + apart * (other.count / count)
        self.squares = self.squares + other.squares + apart.square() * (self.count * other.count / count)
        self.count = count

    def get(self) -> StatValue | None:
        return self.mean


class Mean(_Moment):
    """The mean, in floating point."""

    def get(self) -> Tensor | None:
        return self.moments.mean


class MSE(_Moment):
    """The sum of squares around the mean, as Captum calls it."""

    def get(self) -> Tensor | None:
        return self.moments.squares


class Var(_Moment):
    """The variance in float64: the sum of squares around the mean by n - order.

    Args:
        name: its key in a summary.
        order: 0 for the population's, 1 for the sample's.
    """

    def __init__(self, name: str | None = None, order: int = 0) -> None:
        known = {0: "variance", 1: "sample_variance"}
        super().__init__(known.get(order, f"variance({order})") if name is None else name, order=order)
        self.order = order

    def get(self) -> Tensor | None:
        squares, count = self.moments.squares, self.moments.count
        if squares is None:
            return None
        return torch.zeros_like(squares) if count <= self.order else squares.double() / (count - self.order)


class StdDev(Var):
    """The square root of the variance.

    Args:
        name: its key in a summary.
        order: 0 for the population's, 1 for the sample's.
    """

    def __init__(self, name: str | None = None, order: int = 0) -> None:
        known = {0: "std_dev", 1: "sample_std_dev"}
        super().__init__(known.get(order, f"std_dev({order})") if name is None else name, order)

    def get(self) -> Tensor | None:
        variance = super().get()
        return None if variance is None else variance.sqrt()


class _Fold(Stat):
    def __init__(self, name: str | None, function: Function) -> None:
        super().__init__(name)
        self.fn = function
        self.result: Tensor | None = None

    def update(self, x: Tensor) -> None:
        self.result = x.clone() if self.result is None else self.fn(self.result, x)

    def merge(self, other: _Fold) -> None:
        if other.result is not None:
            self.update(other.result)

    def get(self) -> Tensor | None:
        return self.result


class Min(_Fold):
    """The least value.

    Args:
        name: its key in a summary.
        min_fn: of two tensors.
    """

    def __init__(self, name: str | None = None, min_fn: Function = torch.minimum) -> None:
        super().__init__(name, min_fn)


class Max(_Fold):
    """The greatest value.

    Args:
        name: its key in a summary.
        max_fn: of two tensors.
    """

    def __init__(self, name: str | None = None, max_fn: Function = torch.maximum) -> None:
        super().__init__(name, max_fn)


class Sum(_Fold):
    """The sum.

    Args:
        name: its key in a summary.
        add_fn: of two tensors.
    """

    def __init__(self, name: str | None = None, add_fn: Function = torch.add) -> None:
        super().__init__(name, add_fn)


def CommonStats() -> list[Stat]:
    """Mean, sample variance and standard deviation, least and greatest value."""
    return [Mean(), Var(order=1), StdDev(order=1), Min(), Max()]


class SummarizerSingleTensor:
    """Statistics of one tensor that comes again and again.

    Args:
        stats: that are kept, and what these need.
        summary_stats_indices: which of them a summary has.
    """

    def __init__(self, stats: list[Stat], summary_stats_indices: Sequence[int]) -> None:
        self._stats = _with_needs(stats)
        self._by_kind = {stat: stat for stat in self._stats}
        self._shown = [self._by_kind[stats[index]] for index in summary_stats_indices]
        for stat in self._stats:
            stat.init(self._by_kind.__getitem__)

    def update(self, x: Tensor) -> None:
        """Count one tensor in."""
        for stat in self._stats:
            stat.update(x)

    def merge(self, other: SummarizerSingleTensor) -> None:
        """Count in what another one with the same statistics has seen."""
        for stat in self._stats:
            stat.merge(other._by_kind[stat])

    def get(self, stat: Stat) -> Stat | None:
        """The statistic of a kind that is kept here; None where there is none."""
        return self._by_kind.get(stat)

    @property
    def summary(self) -> dict[str, StatValue | None]:
        """By name, the values."""
        return {stat.name: stat.get() for stat in self._shown}


class Summarizer:
    """Statistics of attributions: of a tensor, or of each of a tuple, update by update.

    >>> summary = fastsal.Summarizer(fastsal.CommonStats())
    >>> for _ in range(2):
    ...     summary.update(fastsal.Saliency(model).attribute(images, target=classes))
    >>> sorted(summary.summary)
    ['max', 'mean', 'min', 'sample_std_dev', 'sample_variance']

    Args:
        stats: :class:`Mean`, :class:`Var` and the like; each once.
    """

    def __init__(self, stats: list[Stat]) -> None:
        self._wanted = list(dict.fromkeys(stats))
        self._each: list[SummarizerSingleTensor] = []
        self._is_tuple: bool | None = None

    def update(self, x: Any) -> None:
        """Count a tensor (or number) in, or a tuple of them, always of the same length.

        Raises:
            ValueError: for a tuple where there was none, or another length.
        """
        is_tuple = isinstance(x, tuple)
        parts = x if is_tuple else (x,)
        if self._is_tuple is None:
            self._is_tuple = is_tuple
            self._each = [self._one() for _ in parts]
        if is_tuple != self._is_tuple or len(parts) != len(self._each):
            raise ValueError(f"x: {len(parts)} given where there were {len(self._each)} before, in the same form")
        for one, part in zip(self._each, parts, strict=True):
            one.update(part.detach() if isinstance(part, Tensor) else torch.tensor(part, dtype=torch.float32))

    def merge(self, other: Summarizer) -> None:
        """Count in what another one with the same statistics has seen, in another process for instance.

        Raises:
            ValueError: for one of other tensors.
        """
        if other._is_tuple is None:
            return
        if self._is_tuple is None:
            self._is_tuple, self._each = other._is_tuple, [self._one() for _ in other._each]
        if other._is_tuple != self._is_tuple or len(other._each) != len(self._each):
            raise ValueError(f"other: it has {len(other._each)} tensors, this one {len(self._each)}")
        for one, another in zip(self._each, other._each, strict=True):
            one.merge(another)

    def _one(self) -> SummarizerSingleTensor:
        return SummarizerSingleTensor(copy.deepcopy(self._wanted), range(len(self._wanted)))

    @property
    def summary(self) -> Any:
        """By name, the values; a list of these for a tuple; None before the first update."""
        if self._is_tuple is None:
            return None
        found = [one.summary for one in self._each]
        return found if self._is_tuple else found[0]


class ClassSummarizer(Summarizer):
    """The same for each class by itself, beside all together.

    Args:
        stats: as of :class:`Summarizer`.
    """

    def __init__(self, stats: list[Stat]) -> None:
        super().__init__(stats)
        self._stats = stats
        self.summaries: dict[Any, Summarizer] = {}

    def update(self, x: Any, labels: Any = None) -> None:
        """Count tensors [B, ...] in.

        Args:
            x: a tensor, or a tuple of them.
            labels: of the examples: one for all, or a list or tensor with one each. None counts for no class.

        Raises:
            ValueError: for a number of labels that is neither 1 nor B.
        """
        if labels is None:
            super().update(x)
            return
        parts = x if isinstance(x, tuple) else (x,)
        given = list(labels) if isinstance(labels, (list, Tensor)) else [labels]
        if len(given) > 1 and any(len(part) != len(given) for part in parts):
            raise ValueError(f"labels: {len(given)} given for {len(parts[0])} examples; one each, or one for all")
        for row in range(len(parts[0])):
            label = given[row if len(given) > 1 else 0]
            label = label.item() if isinstance(label, Tensor) else label
            example = tuple(part[row] for part in parts)  # also of one tensor, as Captum's
            super().update(example)
            self.summaries.setdefault(label, Summarizer(self._stats)).update(example)

    @property
    def class_summaries(self) -> dict[Any, Any]:
        """By label, the summaries: lists, of the one tensor or of each of the tuple."""
        return {label: each.summary for label, each in self.summaries.items()}


def _with_needs(stats: Sequence[Stat]) -> list[Stat]:
    """Each statistic after those that it is computed from."""
    found: dict[Stat, Stat] = {}

    def add(stat: Stat) -> None:
        for needed in stat.needs():
            if needed not in found:
                add(needed)
        found.setdefault(stat, stat)

    for stat in stats:
        add(stat)
    return list(found.values())
