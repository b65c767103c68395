"""LIME: a sparse linear model of the score, on which features are present."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from fastsal.engine.run import Plan, evaluation, scratch
from fastsal.explainers._old import attribute_method, could_be_per_example, scores_of, sweep
from fastsal.explainers.arguments import (
    Baselines,
    Inputs,
    as_arguments,
    as_baselines,
    as_inputs,
    as_result,
    examples_of,
)
from fastsal.explainers.base import PerturbationAttribution
from fastsal.explainers.perturbation.features import Baseline, Features, coalitions, features_of
from fastsal.explainers.perturbation.surrogate.fits import Lasso, fit_surrogate
from fastsal.explainers.perturbation.surrogate.lime_base import LimeBase, check_counts, drawn, item_scores
from fastsal.explainers.perturbation.surrogate.similarity import ExponentialKernel, get_exp_kernel_similarity_function
from fastsal.explainers.scores import Target, tile, tile_target
from fastsal.explainers.seeds import generator

__all__ = ["Lasso", "Lime", "LimeBase", "get_exp_kernel_similarity_function"]


class Problem(NamedTuple):
    """What a call of ``attribute`` explains."""

    inputs: tuple[Tensor, ...]
    given_tuple: bool
    baselines: tuple[Baseline, ...]
    features: Features

    def parts(self, together: bool) -> list[Problem]:
        """One problem per example, or the batch as one."""
        if together:
            return [self]
        return [
            self._replace(
                inputs=tuple(tensor[i : i + 1] for tensor in self.inputs),
                baselines=tuple(
                    _example(baseline, tensor, i) if isinstance(baseline, Tensor) else baseline
                    for baseline, tensor in zip(self.baselines, self.inputs, strict=True)
                ),
                features=Features(
                    tuple(map(_example, self.features.ids, self.inputs, itertools.repeat(i))), self.features.total
                ),
            )
            for i in range(self.inputs[0].shape[0])
        ]

    def arguments(self) -> tuple[Any, dict[str, Any]]:
        """The inputs and keyword arguments of a user's functions."""

        def form(values: Any) -> Any:
            return as_result(values, self.given_tuple)

        options = {"feature_mask": form(self.features.ids), "num_interp_features": self.features.total}
        return form(self.inputs), {"baselines": form(self.baselines), **options}


def _example(value: Tensor, tensor: Tensor, index: int) -> Tensor:
    per_example = value.dim() == tensor.dim() and value.shape[0] == tensor.shape[0]
    return value[index : index + 1] if per_example else value


class Lime(LimeBase):
    """Coefficients of a weighted Lasso, fitted to the scores of random sets of features, the others at the baseline.

    Ribeiro, Singh, Guestrin, "Why Should I Trust You? Explaining the Predictions of Any Classifier" (KDD 2016),
    section 3.4. Costs at most n_samples passes per example (a set that is drawn again is not run again); a batch is
    run as one, and its examples share the sets. The default fit needs no scikit-learn.

    Args:
        forward_func: module or callable.
        interpretable_model: what to fit (see :class:`LimeBase`); None is the Lasso with alpha 0.01.
        similarity_func: ``(original, perturbed, sample [1, M], **kwargs)`` to the sample's weight; None is an
            exponential kernel of width 1 on the cosine distance.
        perturb_func: ``(original, **kwargs)`` to a sample [1, M] of zeros and ones, or to an iterator of samples, for
            one example at a time; None draws each feature with probability 1/2. Both functions get the keyword
            arguments baselines, feature_mask and num_interp_features.
    """

    def __init__(
        self,
        forward_func: Callable[..., Any],
        interpretable_model: Any = None,
        similarity_func: Callable[..., Any] | None = None,
        perturb_func: Callable[..., Any] | None = None,
    ) -> None:
        PerturbationAttribution.__init__(self, forward_func)
        for name, function in (("similarity_func", similarity_func), ("perturb_func", perturb_func)):
            if function is not None and not callable(function):
                raise TypeError(f"{name}: {type(function).__name__} is not callable")
        if interpretable_model is not None and not hasattr(interpretable_model, "fit"):
            raise TypeError(f"interpretable_model: {type(interpretable_model).__name__} has no fit()")
        self.interpretable_model = Lasso(alpha=0.01) if interpretable_model is None else interpretable_model
        self.similarity_func = ExponentialKernel() if similarity_func is None else similarity_func
        self.perturb_func = perturb_func

    @attribute_method
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
    ) -> Any:
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
        check_counts(n_samples, 1, perturbations_per_eval)
        problem = problem_of(inputs, baselines, feature_mask)
        evaluate = self._evaluator(problem, target, additional_forward_args, perturbations_per_eval, show_progress)
        examples = problem.inputs[0].shape[0]
        with evaluation(self.forward_func), torch.no_grad():
            together = False
            if examples > 1 and self.perturb_func is not None:
                # Its functions are called for an example or for a batch: that is known from a pass only.
                together = evaluate(torch.ones(1, problem.features.total, dtype=torch.bool, device="cpu")).shape[0] == 1
            if self.perturb_func is None:
                random = torch.rand(
                    n_samples, problem.features.total, generator=generator(seed), device="cpu", dtype=torch.float32
                )
                samples, counts = (random < 0.5)[None], [n_samples]
            else:
                samples, counts = _draw(self.perturb_func, problem.parts(together), n_samples)
            outputs = evaluate(samples[0] if len(samples) == 1 else samples.transpose(0, 1))
            weights = self._weights(problem, samples, counts, together=len(outputs) == 1)
            device = problem.inputs[0].device
            if len(samples) == 1 and isinstance(self.interpretable_model, Lasso):
                self.interpretable_model.solve(samples[0], outputs, weights)
                found = self.interpretable_model.representation()
            else:
                fits = []
                for g in range(len(outputs)):
                    own = 0 if len(samples) == 1 else g
                    x, y, w = TensorDataset(samples[own], outputs[g], weights[g])[: counts[own]]
                    fits.append(fit_surrogate(self.interpretable_model, x, y, w, device))
                found = fits[0] if len(fits) == 1 else torch.stack([fit.detach().flatten() for fit in fits])
            return result_of(problem, found, outputs, return_input_shape)

    def _evaluator(
        self,
        problem: Problem,
        target: Target,
        additional_forward_args: Any,
        perturbations_per_eval: int | None,
        show_progress: bool,
    ) -> Callable[[Tensor], Tensor]:
        """Scores [B, n], or [1, n] of whole batches, for coalitions [n, M], or [n, B, M] of the examples' own."""

        def evaluate(samples: Tensor) -> Tensor:
            present, where = samples.to("cpu").bool(), None
            if present.dim() == 2:
                present, where = torch.unique(present, dim=0, return_inverse=True)
            found, step, plan = self._scoring(problem, target, additional_forward_args, perturbations_per_eval, present)
            sweep(len(present), step, plan, show_progress=show_progress, description=self.get_name())
            scores = torch.cat(found).cpu()
            return (scores if where is None else scores[where]).T

        return evaluate

    def _scoring(
        self,
        problem: Problem,
        target: Target,
        additional_forward_args: Any,
        perturbations_per_eval: int | None,
        present: Tensor,
    ) -> tuple[list[Tensor], Callable[[int, int], Callable[[], None]], Plan]:
        """(a list that the step appends scores [n, B] to, the step, the plan) of a sweep over coalitions [n, ...]."""
        plain, examples = problem.inputs, problem.inputs[0].shape[0]
        additional = as_arguments(additional_forward_args)
        alone = perturbations_per_eval is None and could_be_per_example(additional, examples)
        size = 1 if alone else perturbations_per_eval
        row_bytes = sum(tensor[:1].numel() * tensor.element_size() for tensor in plain)
        plan = Plan(len(present), examples, row_bytes, plain[0].device, size, self.forward_func)
        found: list[Tensor] = []

        def step(start: int, stop: int) -> Callable[[], None]:
            count = stop - start
            batch = coalitions(plain, problem.baselines, problem.features, present[start:stop])
            extra = tuple(tile(scratch(value), count, examples) for value in additional)
            scores = scores_of(self.forward_func, batch, extra, tile_target(target, count, examples))
            whole = scores.numel() == count == 1
            items = 1 if whole else count * examples
            each = item_scores(scores, items, target, perturbations_per_eval).reshape(count, -1)
            return lambda: found.append(each)

        return found, step, plan

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
                altered = coalitions(part.inputs, part.baselines, part.features, sample.bool())
                place = sample.to(altered[0].device)
                place = place.long() if place.dtype == torch.bool else place
                row.append(float(kernel(original, as_result(altered, part.given_tuple), place, **options)))
            weights.append(row + [0.0] * (samples.shape[1] - len(row)))
        return torch.tensor(weights, dtype=torch.float64, device="cpu")


def problem_of(inputs: Inputs, baselines: Baselines, feature_mask: Any) -> Problem:
    """The arguments of ``attribute`` read; a mask whose ids start elsewhere is taken to start at 0, with a warning.

    Raises:
        TypeError, ValueError: for forms outside of Captum's.
    """
    tensors, given_tuple = as_inputs(inputs)
    examples_of(tensors)
    plain = tuple(scratch(tensor) if tensor.is_inference() else tensor.detach() for tensor in tensors)
    features = features_of(feature_mask, plain)
    lowest = min((int(ids.min()) for ids in features.ids if ids.numel()), default=0)
    if lowest > 0:
        warnings.warn(f"feature_mask: the first feature is {lowest}; it is taken as 0", stacklevel=4)
        features = Features(tuple(ids - lowest for ids in features.ids), features.total - lowest)
    if features.total == 0:
        raise ValueError("inputs: they have no features")
    return Problem(plain, given_tuple, as_baselines(baselines, plain), features)


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
            warnings.warn(f"perturb_func: its iterator ended after {len(row)} of {n_samples} samples", stacklevel=4)
        rows.append(torch.cat(row).cpu())
    most = max(map(len, rows))
    padded = [torch.cat([row, row[-1:].expand(most - len(row), -1)]) for row in rows]
    return torch.stack(padded), list(map(len, rows))


def result_of(problem: Problem, found: Any, outputs: Tensor, return_input_shape: bool) -> Any:
    """A surrogate's coefficients as ``attribute`` returns them."""
    dtype, device, total = outputs.dtype, problem.inputs[0].device, problem.features.total
    if not return_input_shape:
        return found.to(device, dtype) if isinstance(found, Tensor) else found
    groups = len(outputs)
    coefficients = found.detach().to(device, dtype).reshape(groups, -1)
    if coefficients.shape[1] < total:
        raise ValueError(
            f"interpretable_model: its representation has {coefficients.shape[1]} entries for {total} features; "
            "return_input_shape=False returns it as it is"
        )
    results = []
    for tensor, ids in zip(problem.inputs, problem.features.ids, strict=True):
        rows = torch.arange(groups, device=tensor.device).reshape(-1, *[1] * (tensor.dim() - 1))
        shape = tensor.shape if groups == tensor.shape[0] else (1, *tensor.shape[1:])
        chosen = coefficients.to(tensor.device)[rows, ids if groups > 1 else ids[:1]]
        results.append(chosen.expand(shape).contiguous())
    return as_result(results, problem.given_tuple)
