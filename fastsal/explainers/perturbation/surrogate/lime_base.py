"""LIME for any interpretable representation: the user says how to perturb, to weigh and to fit."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastsal.engine.run import ChunkTooLarge, run, tell
from fastsal.explainers.arguments import Inputs, as_inputs, at_least_one, examples_of
from fastsal.explainers.base import PerturbationAttribution, attribution
from fastsal.explainers.call import Call
from fastsal.explainers.perturbation.surrogate.fits import fit_surrogate
from fastsal.explainers.scores import Target, selected
from fastsal.explainers.task import Task


class _Sample(NamedTuple):
    features: Tensor  # [1, M]
    inputs: tuple[Tensor, ...]
    weight: float


def drawn(perturb_func: Callable[..., Any], original: Any, options: dict[str, Any]) -> Iterator[Any]:
    """What a perturbation function gives: by a call for each sample, or all from the iterator that it returns."""
    first = perturb_func(original, **options)
    if isinstance(first, Iterator):
        return first
    return itertools.chain([first], (perturb_func(original, **options) for _ in itertools.count()))


def item_scores(scores: Tensor, items: int, target: Target, perturbations_per_eval: int | None) -> Tensor:
    """Scores [items] of as many items in one call.

    Raises:
        ChunkTooLarge, ValueError: for one score for all of them (the second if the caller chose their number).
        ValueError: for several scores per item.
    """
    if scores.numel() == 1 and items > 1:
        if perturbations_per_eval is not None:
            raise ValueError("perturbations_per_eval: the output has one score per call, so it must be 1")
        raise ChunkTooLarge("forward_func returns one score per call, whatever the batch")
    if scores.numel() != items or (items > 1 and scores.shape[0] != items):
        raise ValueError(
            f"target: {target!r} leaves the shape {tuple(scores.shape)} of the output for {items} rows; a surrogate "
            "explains one score per example (or, called with one sample at a time, one per batch)"
        )
    flat = scores.detach().reshape(-1)
    return flat if flat.is_floating_point() else flat.to(torch.float32)


def checked_samples(n_samples: int, least: int) -> int:
    """A number of samples as given.

    Raises:
        TypeError, ValueError: for what is not an int, or below the least.
    """
    if at_least_one("n_samples", n_samples) < least:
        raise ValueError(f"n_samples: {n_samples} is below {least}")
    return n_samples


class LimeBase(PerturbationAttribution):
    """An interpretable model fitted to the model's scores of weighted samples around the input.

    Ribeiro, Singh, Guestrin, "Why Should I Trust You? Explaining the Predictions of Any Classifier" (KDD 2016),
    algorithm 1 and equation 2. Costs n_samples passes; altered inputs are held one batch at a time. Each function
    below also gets the keyword arguments that ``attribute`` does not know.

    >>> from fastsal.explainers.perturbation.surrogate.fits import Lasso
    >>> surrogate = fastsal.LimeBase(
    ...     lambda x: model(x)[:, 0],
    ...     Lasso(alpha=0.01),
    ...     similarity_func=lambda original, altered, features: 1.0,
    ...     perturb_func=lambda original: torch.randint(2, (1, 3)),
    ...     perturb_interpretable_space=True,
    ...     from_interp_rep_transform=lambda features, original: original * features[0, :, None, None],
    ...     to_interp_rep_transform=None,
    ... )
    >>> coefficients = surrogate.attribute(images[:1], n_samples=20)

    Args:
        forward_func: module or callable that returns one score for an input.
        interpretable_model: has ``fit(train_data)``, for a DataLoader with one batch of features [n, M], outputs [n]
            and weights [n] in float32, and ``representation()``.
        similarity_func: ``(original, perturbed, features [1, M])`` to a sample's weight, a number.
        perturb_func: ``(original)`` to one sample, or to an iterator (a generator) of samples: features [1, M] if
            perturb_interpretable_space, else inputs in the form of the original.
        perturb_interpretable_space: what perturb_func returns.
        from_interp_rep_transform: ``(features [1, M], original)`` to inputs; needed if perturb_interpretable_space.
        to_interp_rep_transform: ``(inputs, original)`` to features [1, M]; needed otherwise.

    Raises:
        ValueError: without the transform that is needed.
    """

    def __init__(
        self,
        forward_func: Callable[..., Any],
        interpretable_model: Any,
        similarity_func: Callable[..., Any],
        perturb_func: Callable[..., Any],
        perturb_interpretable_space: bool,
        from_interp_rep_transform: Callable[..., Any] | None,
        to_interp_rep_transform: Callable[..., Any] | None,
    ) -> None:
        super().__init__(forward_func)
        name = "from_interp_rep_transform" if perturb_interpretable_space else "to_interp_rep_transform"
        if (from_interp_rep_transform if perturb_interpretable_space else to_interp_rep_transform) is None:
            raise ValueError(f"{name}: None, but perturb_interpretable_space={perturb_interpretable_space} needs it")
        self.interpretable_model = interpretable_model
        self.similarity_func = similarity_func
        self.perturb_func: Callable[..., Any] | None = perturb_func
        self.perturb_interpretable_space = perturb_interpretable_space
        self.from_interp_rep_transform = from_interp_rep_transform
        self.to_interp_rep_transform = to_interp_rep_transform

    @property
    def multiplies_by_inputs(self) -> bool:
        return False

    summary = "an interpretable model of the score around the input, made of the caller's parts"
    cost = "n_samples forward"
    nameable = False

    @attribution
    def attribute(
        self,
        inputs: Inputs,
        target: Target = None,
        additional_forward_args: Any = None,
        n_samples: int = 50,
        perturbations_per_eval: int | None = None,
        show_progress: bool = False,
        **kwargs: Any,
    ) -> Call[Any]:
        """What ``interpretable_model.representation()`` returns after the fit.

        Args:
            inputs: tensor [B, ...] or tuple of them, any dtype. With B > 1 forward_func returns one score per batch.
            target: which output to explain.
            additional_forward_args: further arguments of the model; tensors [1, ...] are repeated for the samples.
            n_samples: samples; fewer, with a warning, where perturb_func's iterator ends before.
            perturbations_per_eval: samples per model call, 1 for batches; samples of different shapes (of deleted
                tokens) are not put in one call. When None, chosen from memory, but 1 where an additional tensor has
                one entry: only the caller knows whether to repeat it.
            show_progress: show a bar.
            **kwargs: passed on to the functions of the constructor.

        Raises:
            TypeError, ValueError: for arguments outside of the above.
        """
        checked_samples(n_samples, 1)
        task = self.task(
            inputs, target, additional_forward_args, per_call=perturbations_per_eval, show_progress=show_progress
        )
        examples = examples_of(task.inputs)
        if examples > 1 and perturbations_per_eval not in (None, 1):
            raise ValueError("perturbations_per_eval: a batch is explained as one, by one score per call: it must be 1")

        def fit() -> Any:
            with task.context():
                around = _Around(task, self._samples(task.form(task.inputs), kwargs))
                chunk_sizes = task.chunk_sizes(n_samples, alone=examples > 1)
                task.swept(n_samples, around.work, around.keep, chunk_sizes=chunk_sizes).run()
                if not around.outputs:
                    raise ValueError("perturb_func: its iterator has no sample")
                if len(around.outputs) < n_samples:
                    tell(
                        f"perturb_func: its iterator ended after {len(around.outputs)} of {n_samples} samples",
                    )
                return fit_surrogate(
                    self.interpretable_model,
                    torch.cat(around.features),
                    torch.stack(around.outputs),
                    torch.tensor(around.weights, dtype=torch.float64, device="cpu"),
                    task.device,
                )

        return task.once(fit)

    def _samples(self, original: Any, options: dict[str, Any]) -> Iterator[_Sample]:
        assert self.perturb_func is not None
        for value in drawn(self.perturb_func, original, options):
            if self.perturb_interpretable_space:
                assert self.from_interp_rep_transform is not None
                features = _features("perturb_func", value)
                altered = self.from_interp_rep_transform(value, original, **options)
            else:
                assert self.to_interp_rep_transform is not None
                transformed = self.to_interp_rep_transform(value, original, **options)
                features, altered = _features("to_interp_rep_transform", transformed), value
            weight = float(self.similarity_func(original, altered, features, **options))
            name = "from_interp_rep_transform" if self.perturb_interpretable_space else "perturb_func"
            yield _Sample(features, as_inputs(altered, name)[0], weight)


class _Around:
    """The sweep over samples around the input: their features, weights and scores."""

    def __init__(self, task: Task, source: Iterator[_Sample]) -> None:
        self._task, self._source = task, source
        self._waiting: list[_Sample] = []
        self.features: list[Tensor] = []
        self.weights: list[float] = []
        self.outputs: list[Tensor] = []

    def work(self, start: int, stop: int) -> tuple[list[_Sample], list[Tensor]]:
        """(samples, their scores)."""
        task, wanted = self._task, stop - start
        # Samples of a chunk that did not fit stay: each is drawn, and weighed, once.
        if len(self._waiting) < wanted:
            self._waiting.extend(itertools.islice(self._source, wanted - len(self._waiting)))
        chunk = self._waiting[:wanted]
        scores: list[Tensor] = [torch.empty(0)] * len(chunk)
        for members in _alike(chunk):
            batch = tuple(torch.cat(parts) for parts in zip(*(chunk[i].inputs for i in members), strict=True))
            _, extra = task.batch(len(members), dict(enumerate(batch)))
            found = selected(run(task.forward_func, batch, extra), task.tiled_target(len(members)))
            for i, score in zip(members, item_scores(found, len(members), task.target, task.per_call), strict=True):
                scores[i] = score
        return chunk, scores

    def keep(self, start: int, stop: int, found: tuple[list[_Sample], list[Tensor]]) -> None:
        chunk, scores = found
        del self._waiting[: len(chunk)]
        self.outputs.extend(scores)
        self.features.extend(sample.features for sample in chunk)
        self.weights.extend(sample.weight for sample in chunk)


def _features(name: str, value: Any) -> Tensor:
    if not isinstance(value, Tensor) or value.dim() != 2 or value.shape[0] != 1:
        what = f"of the shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise ValueError(f"{name}: it returned features {what}; they are a tensor [1, M]")
    return value


def _alike(chunk: list[_Sample]) -> list[list[int]]:
    """Places of the samples that have the same shapes."""
    places: dict[Any, list[int]] = {}
    for place, sample in enumerate(chunk):
        places.setdefault(tuple(tensor.shape for tensor in sample.inputs), []).append(place)
    return list(places.values())
