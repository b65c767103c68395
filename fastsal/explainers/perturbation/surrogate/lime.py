"""LIME: a sparse linear model of the score, on which features are present."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from fastsal.engine.run import tell
from fastsal.explainers.arguments import Baselines, Inputs
from fastsal.explainers.base import PerturbationAttribution, attribution
from fastsal.explainers.call import Call
from fastsal.explainers.perturbation.features import most_segments, segments
from fastsal.explainers.perturbation.surrogate._coalitions import balanced
from fastsal.explainers.perturbation.surrogate._problem import Problem, problem_of
from fastsal.explainers.perturbation.surrogate.fits import Lasso, fit_surrogate
from fastsal.explainers.perturbation.surrogate.lime_base import LimeBase, checked_samples, drawn
from fastsal.explainers.perturbation.surrogate.similarity import ExponentialKernel
from fastsal.explainers.scores import Target
from fastsal.explainers.seeds import generator


class Lime(LimeBase):
    """Coefficients of a weighted Lasso, fitted to the scores of random sets of features, the others at the baseline.

    Ribeiro, Singh, Guestrin, "Why Should I Trust You? Explaining the Predictions of Any Classifier" (KDD 2016),
    section 3.4. A set holds each feature with probability 1/2; the sets are spread evenly (each beside its complement,
    with sizes in their proportions; from 2^M samples on all sets, and none is drawn). Costs at most n_samples passes
    per example (a set that is drawn again is not run again); a batch is run as one, and its examples share the sets.
    The default fit needs no scikit-learn.

    >>> columns = torch.arange(9) // 3
    >>> maps = fastsal.Lime(model).attribute(images, target=classes, feature_mask=columns, n_samples=30)

    Args:
        forward_func: module or callable.
        interpretable_model: what to fit (see :class:`LimeBase`); None is the Lasso with alpha 0.01.
        similarity_func: ``(original, perturbed, sample [1, M], **kwargs)`` to the sample's weight; None is an
            exponential kernel of width 1 on the cosine distance.
        perturb_func: ``(original, **kwargs)`` to a sample [1, M] of zeros and ones, or to an iterator of samples, for
            one example at a time; None draws each feature with probability 1/2. Both functions get the keyword
            arguments baselines, feature_mask and num_interp_features.
    """

    summary = "a sparse linear model of the score on which features are present"
    cost = "n_samples forward"
    nameable = True

    @classmethod
    def defaults(cls, inputs: tuple[Tensor, ...]) -> dict[str, Any]:
        return {"feature_mask": segments(inputs), "seed": 0, "n_samples": 4 * most_segments(inputs)}

    def __init__(
        self,
        forward_func: Callable[..., Any],
        interpretable_model: Any = None,
        similarity_func: Callable[..., Any] | None = None,
        perturb_func: Callable[..., Any] | None = None,
    ) -> None:
        # A LimeBase in name, as Captum's programs count on; its transforms are fixed here.
        PerturbationAttribution.__init__(self, forward_func)
        for name, function in (("similarity_func", similarity_func), ("perturb_func", perturb_func)):
            if function is not None and not callable(function):
                raise TypeError(f"{name}: {type(function).__name__} is not callable")
        if interpretable_model is not None and not hasattr(interpretable_model, "fit"):
            raise TypeError(f"interpretable_model: {type(interpretable_model).__name__} has no fit()")
        self.interpretable_model = Lasso(alpha=0.01) if interpretable_model is None else interpretable_model
        self.similarity_func = ExponentialKernel() if similarity_func is None else similarity_func
        self.perturb_func = perturb_func

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
        """Coefficients in the form and shapes of the inputs, in the scores' dtype (float32 for integer scores).

        Args:
            inputs: tensor [B, ...] or tuple of them, any dtype.
            baselines: what an absent feature is replaced by: None (0), a number, a tensor that broadcasts, a tuple.
            target: which output to explain, one for all or one per example.
            additional_forward_args: further arguments of the model; per-example tensors are repeated.
            feature_mask: ids of the features, in tensors that broadcast to the inputs; None: each element is one.
            n_samples: samples for each example.
            perturbations_per_eval: samples per model call, each with all examples; 1 for a forward_func with one
                score per batch, which gets one surrogate. When None, chosen from memory, but 1 where an additional
                tensor has as many entries as there are examples: only the caller knows whether to repeat it.
            return_input_shape: False returns the coefficients [B, M] ([1, M] for one score per batch; what
                ``representation()`` returned if there is one surrogate).
            show_progress: show a bar.
            seed: of the default perturb_func; None draws one from torch's global generator.

        Raises:
            TypeError, ValueError: for arguments outside of the above.
        """
        checked_samples(n_samples, 1)
        task = self.task(
            inputs,
            target,
            additional_forward_args,
            baselines=baselines,
            per_call=perturbations_per_eval,
            show_progress=show_progress,
        )
        problem = problem_of(task, feature_mask)

        def run() -> Any:
            with task.context():
                samples, counts = self._drawn(problem, task.examples, n_samples, seed)
                outputs = _evaluated(problem, samples[0] if len(samples) == 1 else samples.transpose(0, 1))
                weights = self._weights(problem, samples, counts, together=len(outputs) == 1)
                found = self._fitted(samples, counts, outputs, weights, task.device)
                return problem.result(found, outputs, return_input_shape)

        return task.once(run)

    def _drawn(self, problem: Problem, examples: int, n_samples: int, seed: int | None) -> tuple[Tensor, list[int]]:
        """Samples [1 or B, n, M], and how many there are of each."""
        total = problem.features.total
        if self.perturb_func is None:
            chosen = balanced(n_samples, total, generator(seed))
            return chosen[None], [len(chosen)]
        together = False
        if examples > 1:
            # Its functions are called for an example or for a batch: that is known from a pass only.
            together = _evaluated(problem, torch.ones(1, total, dtype=torch.bool, device="cpu")).shape[0] == 1
        return _draw(self.perturb_func, problem.parts(together), n_samples)

    def _fitted(
        self, samples: Tensor, counts: list[int], outputs: Tensor, weights: Tensor, device: torch.device
    ) -> Any:
        """The coefficients of one surrogate, or [B, M] of several."""
        if len(samples) == 1 and isinstance(self.interpretable_model, Lasso):
            self.interpretable_model.solve(samples[0], outputs, weights)
            return self.interpretable_model.representation()
        fits = []
        for g in range(len(outputs)):
            own = 0 if len(samples) == 1 else g
            x, y, w = TensorDataset(samples[own], outputs[g], weights[g])[: counts[own]]
            fits.append(fit_surrogate(self.interpretable_model, x, y, w, device))
        return fits[0] if len(fits) == 1 else torch.stack([fit.detach().flatten() for fit in fits])

    def _weights(self, problem: Problem, samples: Tensor, counts: list[int], *, together: bool) -> Tensor:
        """[G, n] for samples [1 or G, n, M]."""
        kernel = self.similarity_func
        if isinstance(kernel, ExponentialKernel):
            return kernel.of_coalitions(problem.inputs, problem.baselines, problem.features, samples.bool(), together)
        weights = []
        for g, part in enumerate(problem.parts(together)):
            original, options = part.arguments()
            shared = 0 if len(samples) == 1 else g
            row = []
            for sample in samples[shared, : counts[shared], None]:
                altered = part.altered(sample.bool())
                place = sample.to(altered[0].device)
                place = place.long() if place.dtype == torch.bool else place
                row.append(float(kernel(original, part.form(altered), place, **options)))
            weights.append(row + [0.0] * (samples.shape[1] - len(row)))
        return torch.tensor(weights, dtype=torch.float64, device="cpu")


def _evaluated(problem: Problem, samples: Tensor) -> Tensor:
    """Scores [B, n], or [1, n] of whole batches, for coalitions [n, M], or [n, B, M] of the examples' own."""
    present, where = samples.to("cpu").bool(), None
    if present.dim() == 2:
        present, where = torch.unique(present, dim=0, return_inverse=True)
    found, sweep = problem.scoring(present)
    sweep.run()
    scores = torch.cat(found).cpu()
    return (scores if where is None else scores[where]).T


def _draw(perturb_func: Callable[..., Any], parts: list[Problem], n_samples: int) -> tuple[Tensor, list[int]]:
    """Samples [parts, n, M] of a user's function, and how many each has; the last is repeated where it has less."""
    rows = []
    for part in parts:
        original, options = part.arguments()
        row = list(itertools.islice(drawn(perturb_func, original, options), n_samples))
        for sample in row:
            shape = tuple(sample.shape) if isinstance(sample, Tensor) else type(sample).__name__
            if shape != (1, part.features.total):
                raise ValueError(f"perturb_func: a sample is {shape}, not a tensor [1, {part.features.total}]")
        if not row:
            raise ValueError("perturb_func: its iterator has no sample")
        if len(row) < n_samples:
            tell(f"perturb_func: its iterator ended after {len(row)} of {n_samples} samples")
        rows.append(torch.cat(row).cpu())
    most = max(map(len, rows))
    padded = [torch.cat([row, row[-1:].expand(most - len(row), -1)]) for row in rows]
    return torch.stack(padded), list(map(len, rows))
