"""Noise Tunnel: an explainer's attributions of noisy inputs, averaged as they come."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from fastsal.engine.run import ChunkTooLarge, Plan
from fastsal.explainers._old import Run, attribute_method, could_be_per_example, execute, limits_of
from fastsal.explainers.anytime import relative
from fastsal.explainers.arguments import Inputs, as_arguments, as_inputs, as_result, at_least_one, examples_of
from fastsal.explainers.base import Attribution, Estimating
from fastsal.explainers.gradient._distribution import Draws, distribution_of
from fastsal.explainers.input_gradient import altered_copies
from fastsal.explainers.scores import tile, tile_target
from fastsal.explainers.seeds import generator, seeds_of
from fastsal.ops import noise

TYPES = ("smoothgrad", "smoothgrad_sq", "vargrad")


class NoiseTunnel(Estimating, Attribution):
    """Moments of another explainer's attributions A of x + N(0, stdev²), over nt_samples draws.

    smoothgrad is their mean (Smilkov et al., "SmoothGrad", 2017), smoothgrad_sq the mean of their squares and vargrad
    their variance (Hooker et al., "A Benchmark for Interpretability Methods in Deep Neural Networks", NeurIPS 2019,
    section 2; Adebayo et al., "Local Explanation Methods for Deep Neural Networks Lack Sensitivity to Parameter
    Values", 2018). Costs nt_samples of the explainer's own; memory does not grow with nt_samples.

    Args:
        attribution_method: an explainer of this package, of Captum, or any object with their ``attribute``.
    """

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

    @attribute_method
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
        tolerance: float | None = None,
        deadline: float | None = None,
        show_progress: bool = False,
        **kwargs: Any,
    ) -> Any:
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
            tolerance: stop when the relative error of the mean (smoothgrad) is estimated to be below it, after
                nt_samples at the most, and return an :class:`Estimate`.
            deadline: stop before so many seconds have passed since the call, and return an :class:`Estimate`.
            show_progress: show a bar.
            **kwargs: arguments of the explainer; per-example ones (target, baselines, additional_forward_args,
                feature_mask) are repeated. With return_convergence_delta the result is (attribution, delta
                [B * nt_samples]), example by example.

        Raises:
            TypeError, ValueError: for arguments outside of the above.
        """
        limits = limits_of(tolerance, deadline)
        tensors, given_tuple = as_inputs(inputs)
        examples = examples_of(tensors)
        for tensor in tensors:
            if not tensor.is_floating_point():
                raise TypeError(f"inputs: {tensor.dtype} takes no noise; pass a floating point tensor")
        if nt_type not in TYPES:
            raise ValueError(f"nt_type: {nt_type!r} is not one of {', '.join(TYPES)}")
        nt_samples = at_least_one("nt_samples", nt_samples)
        if nt_samples_batch_size is not None:
            nt_samples_batch_size = at_least_one("nt_samples_batch_size", nt_samples_batch_size)
        deviations = deviations_of(stdevs, len(tensors))
        create_graph = bool(kwargs.get("create_graph"))
        plain = tensors if create_graph else tuple(t.detach() for t in tensors)
        random = generator(seed)
        seeds = seeds_of(random, len(tensors))
        expand = _Expansion(examples, kwargs, draw_baseline_from_distrib, tensors, nt_samples, random)
        if nt_samples_batch_size is None and could_be_per_example(expand.additional, examples):
            nt_samples_batch_size = 1
        row_bytes = sum(t[:1].numel() * t.element_size() for t in plain)
        plan = Plan(nt_samples, examples, 2 * row_bytes, plain[0].device, nt_samples_batch_size, self.forward_func)
        with_delta = bool(kwargs.get("return_convergence_delta")) and self.has_convergence_delta()
        if limits.estimating and (nt_type != "smoothgrad" or with_delta or create_graph):
            raise ValueError(
                "tolerance, deadline: for nt_type='smoothgrad', without return_convergence_delta and create_graph"
            )
        state: list[Tensor] = []
        dtypes: list[torch.dtype] = []
        deltas: list[Tensor] = []
        form = given_tuple

        def step(start: int, stop: int) -> Callable[[], None]:
            count = stop - start
            noisy = tuple(
                noise.batch(tensor, start, stop, std=deviation, seed=key)
                for tensor, deviation, key in zip(plain, deviations, seeds, strict=True)
            )
            with altered_copies(count):
                found = self.attribution_method.attribute(as_result(noisy, given_tuple), **expand(start, stop))
            delta = None
            if with_delta:
                found, delta = found
            parts = found if isinstance(found, tuple) else (found,)
            for part in parts:
                if not isinstance(part, Tensor):
                    kind = type(part).__name__
                    raise TypeError(f"attribution_method: its attribution is a {kind}, not a tensor or a tuple of them")
                if count > 1 and (part.dim() == 0 or part.shape[0] != count * examples):
                    raise ChunkTooLarge(f"attribution_method: {tuple(part.shape)} is not one attribution per example")
            folded = [
                noise.fold(
                    part if part.is_floating_point() else part.to(torch.float32),
                    count,
                    start=start,
                    partial=state[i] if state else None,
                    second=nt_type != "smoothgrad" or limits.estimating,
                )
                for i, part in enumerate(parts)
            ]

            def commit() -> None:
                nonlocal form
                state[:], dtypes[:], form = folded, [part.dtype for part in parts], isinstance(found, tuple)
                if delta is not None:
                    deltas.append(delta.detach().reshape(count, -1))

            return commit

        def like(values: list[Tensor]) -> Any:
            # Of an attribution that has no fractions the mean has.
            kept = [
                dtype if dtype.is_floating_point else value.dtype for value, dtype in zip(values, dtypes, strict=True)
            ]
            return as_result([value.to(dtype) for value, dtype in zip(values, kept, strict=True)], form)

        def finish() -> Any:
            result = like([_moment(moments, nt_type, nt_samples) for moments in state])
            return (result, torch.cat(deltas).T.reshape(-1)) if with_delta else result

        def estimate(done: int) -> tuple[Any, Any, float, int]:
            means = [moments[0] for moments in state]
            # The second moment is about the mean; with one sample there is none.
            errors = [
                (moments[1] / (done * (done - 1))).sqrt() if done > 1 else torch.full_like(moments[0], torch.inf)
                for moments in state
            ]
            return like(means), like(errors), relative(tuple(means), tuple(errors)), done

        return execute(
            Run(
                nt_samples,
                step,
                plan,
                "Noise Tunnel",
                show_progress,
                lambda: _outside_of_inference(create_graph),
                finish,
                estimate,
                f"{nt_samples} samples",
            ),
            limits,
        )


@contextlib.contextmanager
def _outside_of_inference(create_graph: bool) -> Iterator[None]:
    with torch.inference_mode(False), torch.set_grad_enabled(create_graph):
        yield


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

    def __init__(
        self,
        examples: int,
        kwargs: dict[str, Any],
        draw: bool,
        inputs: tuple[Tensor, ...],
        samples: int,
        random: torch.Generator,
    ) -> None:
        self.examples, self.kwargs = examples, kwargs
        self.additional = as_arguments(kwargs.get("additional_forward_args"))
        self.draws: Draws | None = None
        if draw and kwargs.get("baselines") is not None:
            self.draws = Draws(distribution_of(kwargs["baselines"], inputs), samples, examples, random)

    def __call__(self, start: int, stop: int) -> dict[str, Any]:
        count = stop - start
        chosen = dict(self.kwargs)
        if self.additional:
            chosen["additional_forward_args"] = tuple(tile(value, count, self.examples) for value in self.additional)
        if "target" in chosen:
            chosen["target"] = tile_target(chosen["target"], count, self.examples)
        for name in ("baselines", "feature_mask"):
            value = chosen.get(name)
            if isinstance(value, tuple):
                chosen[name] = tuple(tile(part, count, self.examples) for part in value)
            elif value is not None:
                chosen[name] = tile(value, count, self.examples)
        if self.draws is not None:
            chosen["baselines"] = as_result(self.draws(start, stop), isinstance(self.kwargs["baselines"], tuple))
        return chosen
