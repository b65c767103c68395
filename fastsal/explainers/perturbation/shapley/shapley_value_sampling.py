"""Shapley Value Sampling: marginal contributions along random orders of the features."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from fastsal.explainers.anytime import relative
from fastsal.explainers.arguments import Baselines, Inputs, at_least_one
from fastsal.explainers.base import Estimating, PerturbationAttribution, attribution
from fastsal.explainers.call import Anytime, Call
from fastsal.explainers.futures import Awaiting
from fastsal.explainers.perturbation.features import segments
from fastsal.explainers.perturbation.shapley._players import Players, players_of
from fastsal.explainers.scores import Target
from fastsal.explainers.seeds import generator


class ShapleyValueSampling(Estimating, Awaiting, PerturbationAttribution):
    """Mean change of the score when a feature joins those before it in a random order: Castro, Gómez, Tejada,
    "Polynomial calculation of the Shapley value based on sampling" (2009); Štrumbelj, Kononenko (2010).

    Unbiased, and for every sample the attributions add up to F(x) - F(baseline). Costs n_samples * features forward
    passes and one; memory does not grow with n_samples.

    >>> columns = torch.arange(9) // 3
    >>> maps = fastsal.ShapleyValueSampling(model).attribute(images, target=classes, feature_mask=columns, n_samples=5)

    Args:
        forward_func: module or callable.
    """

    summary = "features' contributions, averaged over random orders in which they join"
    cost = "n_samples forward for each feature, 1 forward"

    @classmethod
    def defaults(cls, inputs: tuple[Tensor, ...]) -> dict[str, Any]:
        return {"feature_mask": segments(inputs), "seed": 0}

    @attribution
    def attribute(
        self,
        inputs: Inputs,
        baselines: Baselines = None,
        target: Target = None,
        additional_forward_args: Any = None,
        feature_mask: Any = None,
        n_samples: int = 25,
        perturbations_per_eval: int | None = None,
        show_progress: bool = False,
        *,
        seed: int | None = None,
    ) -> Call[Any]:
        """Attribution [*output, ...] in the form of the inputs and the dtype of the output.

        Args:
            inputs: tensor [B, ...] or tuple of them, any dtype.
            baselines: an absent feature's values: None (0), a number, a tensor that broadcasts, a tuple of these.
            target: which output to explain. With None, an output [B, K] gives attributions [B, K, ...].
            additional_forward_args: further arguments of the model; per-example tensors are repeated.
            feature_mask: the feature of each element, from 0: an int tensor [1 or B, ...] that broadcasts to the input,
                or a tuple of these; an id in several inputs is one feature. None takes each element as one.
            n_samples: orders of the features; all examples share them.
            perturbations_per_eval: coalitions per model call. When None, chosen from memory, but 1 where an additional
                tensor has as many entries as there are examples: only the caller knows whether to repeat it.
            show_progress: show a bar.
            seed: chooses the orders; None draws it from torch's global generator.

        Raises:
            TypeError, ValueError: for arguments outside of the above.
        """
        n_samples = at_least_one("n_samples", n_samples)
        task = self.task(
            inputs,
            target,
            additional_forward_args,
            baselines=baselines,
            per_call=perturbations_per_eval,
            show_progress=show_progress,
        )
        features = players_of(task, feature_mask)
        random = generator(seed)

        def described(estimating: bool) -> Call[Any]:
            with task.context():
                orders = _Orders(Players(task, features), n_samples, random, estimating)
            items = n_samples * features.total
            return task.sweep(
                items,
                orders.work,
                orders.keep,
                orders.finish,
                chunk_sizes=orders.game.scores.chunk_sizes(items),
                estimate=orders.estimate,
                limit=f"n_samples={n_samples}",
            )

        def anytime() -> Anytime:
            found = described(True).anytime
            assert found is not None
            return found()

        return Call(task, lambda: described(False).run(), anytime)


class _Orders:
    """The sweep over random orders, in which the players join one after the other."""

    def __init__(self, game: Players, n_samples: int, random: torch.Generator, estimating: bool) -> None:
        self.game, self._samples, self._random = game, n_samples, random
        self._empty = game.scores.clean
        self._total = self._empty.new_zeros((game.count, self._empty.numel()))
        self._spread = _Spread(self._total) if estimating else None
        # Only the orders of the samples that a chunk meets are held.
        self._orders: dict[int, Tensor] = {}
        self._before = self._empty

    def _order(self, sample: int) -> Tensor:
        if sample not in self._orders:
            self._orders[sample] = torch.randperm(self.game.count, generator=self._random, device="cpu")
        return self._orders[sample]

    def work(self, start: int, stop: int) -> tuple[range, Tensor, Tensor, Tensor, Tensor]:
        """(samples, and of each item: its place in the order, who joined, the change of the score, the score)."""
        players = self.game.count
        samples = range(start // players, (stop - 1) // players + 1)
        item = torch.arange(start, stop, device="cpu")
        sample, position = item // players - samples.start, item % players
        drawn = torch.stack([self._order(index) for index in samples])
        ranks = torch.empty_like(drawn, dtype=torch.int32)
        ranks.scatter_(1, drawn, torch.arange(players, dtype=torch.int32, device="cpu").expand_as(drawn))
        after = self.game.score(ranks[sample] <= position[:, None])
        previous = torch.cat([self._before[None], after[:-1]])
        previous[(position == 0).nonzero()[:, 0].tolist()] = self._empty
        return samples, position, drawn[sample, position].to(self._total.device), after - previous, after

    def keep(self, start: int, stop: int, found: tuple[range, Tensor, Tensor, Tensor, Tensor]) -> None:
        samples, position, joined, change, after = found
        firsts = (position == 0).nonzero()[:, 0].tolist()
        # Sample by sample, where no feature comes twice: the same bits in any chunks, without atomics.
        for features, changes, places in zip(
            *(each.tensor_split(firsts) for each in (joined, change, position)), strict=True
        ):
            self._total[features] += changes
            if self._spread is not None and len(places):
                self._spread.add(features, changes, whole=int(places[-1]) == self.game.count - 1)
        self._before = after[-1]
        for index in samples[:-1]:
            self._orders.pop(index)

    def finish(self) -> Any:
        return self.game.shaped(self._total / self._samples)

    def estimate(self, _done: int) -> tuple[Any, Any, float, int]:
        assert self._spread is not None
        shaped, spread = self.game.shaped, self._spread
        if not spread.count:
            # What has joined in the first order, of which nothing is known yet.
            return shaped(self._total), shaped(torch.full_like(self._total, torch.inf)), math.inf, 0
        mean, error = spread.mean, spread.error()
        return shaped(mean), shaped(error), relative((mean.T,), (error.T,)), spread.count


class _Spread:
    """Mean and variance of the contributions of whole orders (Welford, "Note on a method for calculating corrected sums
    of squares and products", 1962)."""

    def __init__(self, like: Tensor) -> None:
        self.count = 0
        self.mean, self._squares, self._current = (torch.zeros_like(like) for _ in range(3))

    def add(self, features: Tensor, changes: Tensor, *, whole: bool) -> None:
        """Contributions of an order's features, each once; ``whole`` with the last of them."""
        self._current[features] = changes
        if whole:
            self.count += 1
            apart = self._current - self.mean
            self.mean += apart / self.count
            self._squares += apart * (self._current - self.mean)

    def error(self) -> Tensor:
        """Standard error of the mean; infinite for one order."""
        if self.count < 2:
            return torch.full_like(self.mean, torch.inf)
        return (self._squares / (self.count * (self.count - 1))).sqrt()
