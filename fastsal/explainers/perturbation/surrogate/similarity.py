"""How near an altered input is to the original: LIME's exponential kernel."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastsal.explainers.perturbation.features import Baseline, Features

SMALLEST_NORM = 1e-8
"""Norm that a vector of zeros is taken to have in a cosine, as in torch.nn.CosineSimilarity."""


def _flat(inputs: Tensor | tuple[Tensor, ...]) -> Tensor:
    parts = inputs if isinstance(inputs, tuple) else (inputs,)
    return torch.cat([part.detach().to("cpu", torch.float64).reshape(-1) for part in parts])


class ExponentialKernel:
    """exp(-d^2 / (2 width^2)) of the distance d between the flattened inputs, in float64.

    Ribeiro, Singh, Guestrin, "Why Should I Trust You? Explaining the Predictions of Any Classifier" (KDD 2016),
    section 3.3, pi_x(z) with Captum's factor 2.

    Args:
        distance_mode: ``cosine`` (1 - cosine of the angle) or ``euclidean``.
        kernel_width: width.

    Raises:
        ValueError: for another mode.
    """

    def __init__(self, distance_mode: str = "cosine", kernel_width: float = 1.0) -> None:
        if distance_mode not in ("cosine", "euclidean"):
            raise ValueError(f"distance_mode: {distance_mode!r} is neither 'cosine' nor 'euclidean'")
        self.distance_mode, self.kernel_width = distance_mode, kernel_width

    def __call__(self, original_inp: Any, perturbed_inp: Any, _sample: Any = None, **_options: Any) -> float:
        """Weight of one altered input."""
        original, perturbed = _flat(original_inp), _flat(perturbed_inp)
        if self.distance_mode == "euclidean":
            return float(self._weight((original - perturbed).square().sum()))
        lengths = original.norm(), perturbed.norm()
        return float(self._weight(self._angle(original @ perturbed, *lengths).square()))

    def of_coalitions(
        self,
        inputs: tuple[Tensor, ...],
        baselines: tuple[Baseline, ...],
        features: Features,
        present: Tensor,
        together: bool,
    ) -> Tensor:
        """Weights [B, n] (or [1, n] of whole batches, when together) of coalitions, without making their inputs.

        Products of vectors that consist of parts of two are sums over the parts.

        Args:
            inputs, baselines, features: as of :func:`coalitions`.
            present: [1 or B, n, M], bool.
            together: take the batch as one input.
        """
        terms: list[Tensor] = []
        for tensor, baseline, ids in zip(inputs, baselines, features.ids, strict=True):
            x = tensor.to("cpu", torch.float64)
            b = torch.as_tensor(baseline, device="cpu").to(x).expand_as(x)
            pairs = [(x - b) ** 2] if self.distance_mode == "euclidean" else [x * x, x * b, b * b]
            places = ids.cpu().expand_as(x).flatten(1)
            sums = x.new_zeros(len(pairs), len(x), features.total)
            for total, values in zip(sums, pairs, strict=True):
                total.scatter_add_(1, places, values.flatten(1))
            terms.append(sums)
        parts = torch.stack(terms).sum(0)
        if together:
            parts = parts.sum(1, keepdim=True)
        chosen = present.to("cpu", torch.float64)

        def of(chosen: Tensor, part: Tensor) -> Tensor:
            return (chosen @ part[:, :, None])[:, :, 0]

        if self.distance_mode == "euclidean":
            return self._weight(of(1 - chosen, parts[0]))
        original, mixed, empty = parts
        kept = of(chosen, original)
        dot, length = kept + of(1 - chosen, mixed), (kept + of(1 - chosen, empty)).sqrt()
        return self._weight(self._angle(dot, original.sum(1, keepdim=True).sqrt(), length).square())

    def _angle(self, dot: Tensor, first: Tensor, second: Tensor) -> Tensor:
        return 1 - dot / (first.clamp_min(SMALLEST_NORM) * second.clamp_min(SMALLEST_NORM))

    def _weight(self, squared: Tensor) -> Tensor:
        return torch.exp(-squared / (2 * self.kernel_width**2))


def get_exp_kernel_similarity_function(distance_mode: str = "cosine", kernel_width: float = 1.0) -> ExponentialKernel:
    """Captum's name for :class:`ExponentialKernel`."""
    return ExponentialKernel(distance_mode, kernel_width)
