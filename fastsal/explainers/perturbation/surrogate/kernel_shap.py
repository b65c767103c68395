"""Kernel SHAP: Shapley values by a regression on random coalitions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastsal.explainers.anytime import GROUPS, relative
from fastsal.explainers.arguments import Baselines, Inputs
from fastsal.explainers.base import Estimating, PerturbationAttribution, attribution
from fastsal.explainers.call import Anytime, Call
from fastsal.explainers.perturbation.features import most_segments, named_ids, numbered, segments
from fastsal.explainers.perturbation.surrogate._coalitions import design
from fastsal.explainers.perturbation.surrogate._problem import Problem, problem_of
from fastsal.explainers.perturbation.surrogate.fits import shapley_jackknife, shapley_regression
from fastsal.explainers.perturbation.surrogate.lime import Lime
from fastsal.explainers.perturbation.surrogate.lime_base import checked_samples
from fastsal.explainers.scores import Target
from fastsal.explainers.seeds import generator


class KernelShap(Estimating, Lime):
    """Shapley values, as coefficients of a linear model of the score on which features are present.

    Lundberg, Lee, "A Unified Approach to Interpreting Model Predictions" (NeurIPS 2017), theorem 2. They add up to
    F(x) - F(baselines) whatever the samples, over the features that the masks of all examples name. The smallest and
    largest coalitions are all scored as far as n_samples goes, and the rest is drawn in pairs of complements (Covert,
    Lee, AISTATS 2021), so that with two features in each interaction the values are exact from few samples on, and any
    from 2^M - 2 on, where all 2^M are scored. Costs at most n_samples passes per example besides, those of none and of
    all included (a coalition that is drawn again is not run again); a batch is run as one, and its examples share the
    coalitions.

    >>> columns = torch.arange(9) // 3
    >>> maps = fastsal.KernelShap(model).attribute(images, target=classes, feature_mask=columns, n_samples=8)

    Args:
        forward_func: module or callable.
    """

    summary = "Shapley values by a regression on random coalitions of features"
    cost = "n_samples forward"

    @classmethod
    def defaults(cls, inputs: tuple[Tensor, ...]) -> dict[str, Any]:
        return {"feature_mask": segments(inputs), "seed": 0, "n_samples": 4 * most_segments(inputs)}

    def __init__(self, forward_func: Callable[..., Any]) -> None:
        # A Lime in name, as Captum's programs count on; it has none of its parts.
        PerturbationAttribution.__init__(self, forward_func)

    @attribution
    def attribute(  # type: ignore[override]
        self,
        inputs: Inputs,
        baselines: Baselines = None,
        target: Target = None,
        additional_forward_args: Any = None,
        feature_mask: Any = None,
        n_samples: int = 25,
        perturbations_per_eval: int | None = None,
        return_input_shape: bool = True,
        show_progress: bool = False,
        *,
        seed: int | None = None,
    ) -> Call[Any]:
        """Shapley values in the form and shapes of the inputs, in the scores' dtype (float32 for integer scores).

        Errors of :meth:`estimate` are those of the jackknife over 16 groups of coalitions (Quenouille 1956, Tukey
        1958) that are drawn, infinite until a fit without a group has as many coalitions as features; 0 where all are
        scored.

        Args:
            inputs: tensor [B, ...] or tuple of them, any dtype.
            baselines: what an absent feature is replaced by: None (0), a number, a tensor that broadcasts, a tuple.
            target: which output to explain, one for all or one per example.
            additional_forward_args: further arguments of the model; per-example tensors are repeated.
            feature_mask: ids of the features, in tensors that broadcast to the inputs; None: each element is one.
            n_samples: coalitions, with that of all features and the empty one; at least 2. Below the number of
                features the values are those of least squares that fit.
            perturbations_per_eval: coalitions per model call, each with all examples; 1 for a forward_func with one
                score per batch, which gets one surrogate. When None, chosen from memory, but 1 where an additional
                tensor has as many entries as there are examples: only the caller knows whether to repeat it.
            return_input_shape: False returns the values [B, M] ([1, M] for one score per batch).
            show_progress: show a bar.
            seed: chooses the coalitions; None draws it from torch's global generator.

        Raises:
            TypeError, ValueError: for arguments outside of the above.
        """
        checked_samples(n_samples, 2)
        task = self.task(
            inputs,
            target,
            additional_forward_args,
            baselines=baselines,
            per_call=perturbations_per_eval,
            show_progress=show_progress,
        )
        given = problem_of(task, feature_mask).features
        # An id that no element has is no player: it would take a part of what the others share.
        ids, problem = named_ids(given), Problem(task, numbered(given))
        chosen = design(n_samples, problem.features.total, generator(seed))
        present = chosen.present
        distinct, where = _distinct(present)
        found, sweep = problem.scoring(distinct)

        def shaped(values: Tensor, like: Tensor) -> Any:
            if not return_input_shape:
                values = values.new_zeros((len(values), given.total)).index_copy(1, ids, values)
            return problem.result(values, like, return_input_shape)

        def run() -> Any:
            with task.context():
                sweep.run()
                outputs = torch.cat(found).cpu()[where].T
                weights = chosen.weights(len(present))
                return shaped(shapley_regression(*_split(present, outputs), weights), outputs)

        def estimate(done: int) -> tuple[Any, Any, float, int] | None:
            count = int((where >= done).int().argmax()) if done < len(distinct) else len(present)
            if count < 2:
                return None
            outputs = torch.cat(found).cpu()[where[:count]].T
            parts, weights = _split(present[:count], outputs), chosen.weights(count)
            values = shapley_regression(*parts, weights)
            if count == chosen.fixed == len(present):
                error = torch.zeros_like(values)  # of all coalitions
            else:
                error = shapley_jackknife(*parts, GROUPS, weights, chosen.fixed - 2)
            samples = n_samples if count == len(present) else count
            return shaped(values, outputs), shaped(error, outputs), relative((values,), (error,)), samples

        return Call(task, run, lambda: Anytime(sweep, estimate, f"n_samples={n_samples}"))


def _distinct(present: Tensor) -> tuple[Tensor, Tensor]:
    """(each coalition once, in the order in which they come first, and the place of each sample in it)."""
    rows, where = torch.unique(present, dim=0, return_inverse=True)
    samples = torch.arange(len(present), device="cpu")
    first = samples.new_full((len(rows),), len(present)).scatter_reduce(0, where, samples, "amin")
    order = first.argsort()
    return rows[order], order.argsort()[where]


def _split(present: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Coalitions and their scores, and the scores of none and of all; given coalitions begin with all and none."""
    wide = outputs.to(torch.float64)
    return present[2:], wide[:, 2:], wide[:, 1], wide[:, 0]
