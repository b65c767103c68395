"""Noise Tunnel: an explainer's attributions of noisy inputs, averaged as they come."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastsal.engine.run import ChunkTooLarge
from fastsal.explainers.anytime import relative
from fastsal.explainers.arguments import Inputs, as_arguments, as_result, at_least_one
from fastsal.explainers.base import Attribution, Estimating, attribution, describe
from fastsal.explainers.call import Anytime, Call
from fastsal.explainers.gradient.distribution import Draws, distribution_of
from fastsal.explainers.gradient.saliency import Saliency
from fastsal.explainers.seeds import generator, seeds_of
from fastsal.explainers.task import Task
from fastsal.ops import noise

NOISE = 0.15
"""Standard deviation of the noise, as a share of each example's range, where nobody says what it is: SmoothGrad's."""
TYPES = ("smoothgrad", "smoothgrad_sq", "vargrad")


class NoiseTunnel(Estimating, Attribution):
    """Moments of another explainer's attributions A of x + N(0, stdev²), over nt_samples draws.

    smoothgrad is their mean (Smilkov et al., "SmoothGrad", 2017), smoothgrad_sq the mean of their squares and vargrad
    their variance (Hooker et al., "A Benchmark for Interpretability Methods in Deep Neural Networks", NeurIPS 2019,
    section 2; Adebayo et al., "Local Explanation Methods for Deep Neural Networks Lack Sensitivity to Parameter
    Values", 2018). Costs nt_samples of the explainer's own; memory does not grow with nt_samples.

    >>> tunnel = fastsal.NoiseTunnel(fastsal.InputXGradient(model))
    >>> maps = tunnel.attribute(images, "vargrad", nt_samples=10, stdevs=0.1, target=classes)

    Args:
        attribution_method: an explainer of this package, of Captum, or any object with their ``attribute``.
    """

    summary = "another explainer's map averaged over noisy inputs"
    cost = "nt_samples of the explainer's"
    per_call = "nt_samples_batch_size"

    @classmethod
    def for_model(cls, model: Any, layer: Any = None) -> NoiseTunnel:
        return cls(Saliency(model))

    @classmethod
    def defaults(cls, inputs: tuple[Tensor, ...]) -> dict[str, Any]:
        return {"stdevs": tuple(NOISE * spread_of(tensor) for tensor in inputs), "seed": 0}

    def __init__(self, attribution_method: Any) -> None:
        if not callable(getattr(attribution_method, "attribute", None)):
            raise TypeError(f"attribution_method: {type(attribution_method).__name__} has no method attribute")
        self.attribution_method = attribution_method
        forward_func = getattr(attribution_method, "forward_func", attribution_method.attribute)
        super().__init__(forward_func)

    @property
    def multiplies_by_inputs(self) -> bool:
        return bool(getattr(self.attribution_method, "multiplies_by_inputs", False))

    def has_convergence_delta(self) -> bool:
        supported = getattr(self.attribution_method, "has_convergence_delta", None)
        return bool(supported and supported())

    @attribution
    def attribute(
        self,
        inputs: Inputs,
        nt_type: str = "smoothgrad",
        nt_samples: int = 5,
        nt_samples_batch_size: int | None = None,
        stdevs: Any = 1.0,
        draw_baseline_from_distrib: bool = False,
        *,
        seed: int | None = None,
        show_progress: bool = False,
        **kwargs: Any,
    ) -> Call[Any]:
        """Attribution in the form that the explainer gives, in its shapes and dtypes.

        Args:
            inputs: tensor [B, ...] or tuple of them, floating point.
            nt_type: smoothgrad, smoothgrad_sq or vargrad (the variance without Bessel's correction).
            nt_samples: draws of noise.
            nt_samples_batch_size: draws per call of the explainer. When None, chosen from memory, but 1 where an
                additional tensor has as many entries as there are examples: only the caller knows whether to repeat it.
            stdevs: standard deviation of the noise: a number, a tensor that broadcasts to the input, or a tuple of
                these, one per input.
            draw_baseline_from_distrib: give every noisy example a row of its own, drawn from the baselines.
            seed: chooses the noise; None draws it from torch's global generator.
            show_progress: show a bar.
            **kwargs: arguments of the explainer; per-example ones (target, baselines, additional_forward_args,
                feature_mask) are repeated. With return_convergence_delta the result is (attribution, delta
                [B * nt_samples]), example by example.

        Raises:
            TypeError, ValueError: for arguments outside of the above.
        """
        create_graph = bool(kwargs.get("create_graph"))
        task = self.task(
            inputs,
            kwargs.get("target"),
            kwargs.get("additional_forward_args"),
            per_call=nt_samples_batch_size,
            named="nt_samples_batch_size",
            create_graph=create_graph,
            show_progress=show_progress,
        )
        for tensor in task.inputs:
            if not tensor.is_floating_point():
                raise TypeError(f"inputs: {tensor.dtype} takes no noise; pass a floating point tensor")
        if nt_type not in TYPES:
            raise ValueError(f"nt_type: {nt_type!r} is not one of {', '.join(TYPES)}")
        nt_samples = at_least_one("nt_samples", nt_samples)
        deviations = deviations_of(stdevs, len(task.inputs))
        random = generator(seed)
        noisy = _Noise(task.inputs, deviations, seeds_of(random, len(task.inputs)))
        expand = _Expansion(task, kwargs, draw_baseline_from_distrib, nt_samples, random)
        with_delta = bool(kwargs.get("return_convergence_delta")) and self.has_convergence_delta()

        def anytime() -> Anytime:
            if nt_type != "smoothgrad" or with_delta or create_graph:
                raise ValueError(
                    "tolerance, deadline: for nt_type='smoothgrad', without return_convergence_delta and create_graph"
                )
            found = _Moments(self, task, noisy, expand, nt_type, nt_samples, second=True).described().anytime
            assert found is not None
            return found()

        moments = _Moments(
            self, task, noisy, expand, nt_type, nt_samples, second=nt_type != "smoothgrad", with_delta=with_delta
        )
        return Call(task, moments.described().run, anytime)


class _Noise(NamedTuple):
    """Noisy copies of the inputs, the same for a sample in every chunk."""

    inputs: tuple[Tensor, ...]
    deviations: tuple[float | Tensor, ...]
    seeds: list[int]

    def batch(self, start: int, stop: int) -> tuple[Tensor, ...]:
        """Samples start .. stop of each input, sample-major."""
        return tuple(
            noise.batch(tensor, start, stop, std=deviation, seed=key)
            for tensor, deviation, key in zip(*self, strict=True)
        )


class _Moments:
    """The sweep over the samples, which keeps the moments of the attributions, and their deltas."""

    def __init__(
        self,
        tunnel: NoiseTunnel,
        task: Task,
        noisy: _Noise,
        expand: _Expansion,
        nt_type: str,
        samples: int,
        *,
        second: bool,
        with_delta: bool = False,
    ) -> None:
        self._method, self._task, self._noisy, self._expand = tunnel.attribution_method, task, noisy, expand
        self._type, self._samples, self._second, self._with_delta = nt_type, samples, second, with_delta
        self._state: list[Tensor] = []
        self._dtypes: list[torch.dtype] = []
        self._deltas: list[Tensor] = []
        self._form: Any = None

    def described(self) -> Call[Any]:
        return self._task.sweep(
            self._samples,
            self.work,
            self.keep,
            self.finish,
            chunk_sizes=self._task.chunk_sizes(self._samples, cost=2),
            context=lambda: _outside_of_inference(self._task.create_graph),
            estimate=self.estimate,
            limit=f"{self._samples} samples",
        )

    def work(self, start: int, stop: int) -> tuple[Any, list[Tensor], Tensor | None]:
        """(the attributions, their moments so far, their deltas)."""
        count = stop - start
        found = self._attributed(
            self._task.form(self._noisy.batch(start, stop), count), self._expand(start, stop), count
        )
        delta = None
        if self._with_delta:
            found, delta = found
        parts = _parts(found)
        for part in parts:
            if not isinstance(part, Tensor):
                kind = type(part).__name__
                raise TypeError(f"attribution_method: its attribution is a {kind}, not a tensor or a tuple of them")
            if count > 1 and (part.dim() == 0 or part.shape[0] != count * self._task.examples):
                raise ChunkTooLarge(f"attribution_method: {tuple(part.shape)} is not one attribution per example")
        folded = [
            noise.fold(
                part if part.is_floating_point() else part.to(torch.float32),
                count,
                start=start,
                partial=self._state[i] if self._state else None,
                second=self._second,
            )
            for i, part in enumerate(parts)
        ]
        return found, folded, None if delta is None else delta.detach().reshape(count, -1)

    def _attributed(self, noisy: Any, arguments: dict[str, Any], count: int) -> Any:
        if not hasattr(type(self._method).attribute, "describe"):
            return self._method.attribute(noisy, **arguments)
        call = describe(self._method, noisy, **arguments)
        # Copies may not share one score: a mean over them would scale their gradients.
        call.task.copies *= count * self._task.copies
        return call.run()

    def keep(self, start: int, stop: int, found: tuple[Any, list[Tensor], Tensor | None]) -> None:
        attributions, self._state, delta = found
        self._form, self._dtypes = attributions, [part.dtype for part in _parts(attributions)]
        if delta is not None:
            self._deltas.append(delta)

    def _like(self, values: list[Tensor]) -> Any:
        # Of an attribution that has no fractions the mean has.
        kept = [v.to(d if d.is_floating_point else v.dtype) for v, d in zip(values, self._dtypes, strict=True)]
        if isinstance(self._form, dict):
            return dict(zip(self._form, kept, strict=True))
        return as_result(kept, isinstance(self._form, tuple))

    def finish(self) -> Any:
        result = self._like([_moment(moments, self._type, self._samples) for moments in self._state])
        return (result, torch.cat(self._deltas).T.reshape(-1)) if self._with_delta else result

    def estimate(self, done: int) -> tuple[Any, Any, float, int]:
        means = [moments[0] for moments in self._state]
        # The second moment is about the mean; with one sample there is none.
        errors = [
            (moments[1] / (done * (done - 1))).sqrt() if done > 1 else torch.full_like(moments[0], torch.inf)
            for moments in self._state
        ]
        return self._like(means), self._like(errors), relative(tuple(means), tuple(errors)), done


@contextlib.contextmanager
def _outside_of_inference(create_graph: bool) -> Iterator[None]:
    with torch.inference_mode(False), torch.set_grad_enabled(create_graph):
        yield


def _parts(attributions: Any) -> tuple[Any, ...]:
    """The attributions in one of the forms of an explainer's result."""
    if isinstance(attributions, dict):
        return tuple(attributions.values())
    return attributions if isinstance(attributions, tuple) else (attributions,)


def spread_of(tensor: Tensor) -> Tensor:
    """Maximum minus minimum of each example, [B, 1, ...]."""
    flat = tensor.detach().flatten(1) if tensor.dim() > 1 else tensor.detach()[:, None]
    return (flat.amax(1) - flat.amin(1)).reshape(-1, *[1] * (tensor.dim() - 1))


def deviations_of(stdevs: Any, inputs: int) -> tuple[float | Tensor, ...]:
    """One standard deviation per input.

    Raises:
        ValueError: for a wrong number of them.
    """
    given = stdevs if isinstance(stdevs, tuple) else (stdevs,) * inputs
    if len(given) != inputs:
        raise ValueError(f"stdevs: {len(given)} given for {inputs} inputs; one each is needed")
    return given


def _moment(moments: Tensor, nt_type: str, samples: int) -> Tensor:
    mean = moments[0]
    if nt_type == "smoothgrad":
        return mean
    variance = moments[1] / samples
    return variance if nt_type == "vargrad" else variance + mean**2


class _Expansion:
    """The explainer's arguments for the samples of a chunk, sample-major."""

    def __init__(self, task: Task, kwargs: dict[str, Any], draw: bool, samples: int, random: torch.Generator) -> None:
        self._task, self._kwargs = task, kwargs
        self._draws: Draws | None = None
        if draw and kwargs.get("baselines") is not None:
            rows = distribution_of(kwargs["baselines"], task.inputs)
            self._draws = Draws(rows, samples, task.examples, random)

    def __call__(self, start: int, stop: int) -> dict[str, Any]:
        count = stop - start
        chosen = dict(self._kwargs)
        additional = as_arguments(chosen.get("additional_forward_args"))
        if additional:
            chosen["additional_forward_args"] = self._task.repeated(additional, count)
        if "target" in chosen:
            chosen["target"] = self._task.copied_target(count)
        for name in ("baselines", "feature_mask"):
            value = chosen.get(name)
            if isinstance(value, tuple):
                chosen[name] = self._task.repeated(value, count)
            elif value is not None:
                chosen[name] = self._task.repeated((value,), count)[0]
        if self._draws is not None:
            chosen["baselines"] = as_result(self._draws(start, stop), isinstance(self._kwargs["baselines"], tuple))
        return chosen
