"""Smooth Grad-CAM++: the derivatives of Grad-CAM++ averaged over noisy inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastsal.engine.reading import read
from fastsal.engine.run import Plan
from fastsal.explainers._old import could_be_per_example, sweep
from fastsal.explainers.arguments import Inputs, as_arguments, as_inputs, at_least_one, examples_of
from fastsal.explainers.cam.base import CamReading, ReshapeTransform
from fastsal.explainers.cam.grad_cam_plus_plus import plus_plus_weights
from fastsal.explainers.cam.swept import SweptMap
from fastsal.explainers.scores import Target, one_score_each, resolved, tile, tile_target
from fastsal.explainers.seeds import as_seed
from fastsal.ops import accumulation_dtype, noise


class SmoothGradCAMPlusPlus(SweptMap):
    """Omeiza et al., "Smooth Grad-CAM++" (2019), equations 5 to 7.

    alpha = D2 / (2 D2 + sum(A) D3), w_c = sum of alpha relu(D1), where D1, D2 and D3 are the means of the gradient, its
    square and its cube over noisy inputs, and A is the activation of the clean one. Costs one forward pass, and for
    each sample one forward pass and a backward pass to the layer; memory does not grow with the samples.

    Args:
        model, layer, reshape_transform: as of :class:`fastsal.GradCAM`.
        num_samples: noisy inputs.
        std: standard deviation of the noise, in units of the input.
        seed: chooses the noise; None draws it from torch's global generator.
        perturbations_per_eval: noisy copies per model call; chosen from memory when None.
        show_progress: show a bar.
    """

    needs_gradients = False

    def __init__(
        self,
        model: Callable[..., Any],
        layer: nn.Module | str | Sequence[nn.Module | str] | None = None,
        *,
        reshape_transform: ReshapeTransform | None = None,
        num_samples: int = 4,
        std: float = 0.3,
        seed: int | None = 0,
        perturbations_per_eval: int | None = None,
        show_progress: bool = False,
    ) -> None:
        super().__init__(
            model,
            layer,
            reshape_transform=reshape_transform,
            perturbations_per_eval=perturbations_per_eval,
            show_progress=show_progress,
        )
        self.num_samples, self.std, self.seed = at_least_one("num_samples", num_samples), std, seed

    def field(self, activations: Tensor, gradients: Tensor) -> Tensor:
        return activations  # replaced by the weights

    def read(
        self,
        inputs: Inputs,
        target: Target = None,
        additional_forward_args: Any = None,
        *,
        targets: Sequence[Target] | None = None,
        create_graph: bool = False,
    ) -> CamReading:
        if targets is not None or create_graph:
            raise ValueError(f"{'create_graph' if create_graph else 'targets'}: not offered by SmoothGradCAMPlusPlus")
        found = super().read(inputs, None, additional_forward_args)
        moments = self._moments(
            as_inputs(inputs)[0], resolved(target, found.output), as_arguments(additional_forward_args)
        )
        fields = [
            plus_plus_weights(activations, first.relu(), second, third)
            for activations, (first, second, third) in zip(found.activations, moments, strict=True)
        ]
        return CamReading(found.output, found.activations, fields)

    def _moments(
        self, tensors: tuple[Tensor, ...], target: Target, additional: tuple[Any, ...]
    ) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Means of the gradient, its square and its cube, per layer."""
        examples, x, key = examples_of(tensors), tensors[0].detach(), as_seed(self.seed)
        given = self.perturbations_per_eval
        if given is None and could_be_per_example(additional, examples):
            given = 1
        row_bytes = sum(t[:1].numel() * t.element_size() for t in tensors)
        plan = Plan(self.num_samples, examples, 2 * row_bytes, x.device, given, self.forward_func)
        state: list[list[Tensor]] = []

        def step(start: int, stop: int) -> Callable[[], None]:
            count = stop - start
            noisy = noise.batch(x, start, stop, std=self.std, seed=key)
            others = tuple(tile(tensor, count, examples) for tensor in tensors[1:])
            extra = tuple(tile(value, count, examples) for value in additional)
            chosen = tile_target(target, count, examples)
            gradients = read(
                self.forward_func,
                self.layers,
                (noisy, *others),
                extra,
                lambda output: one_score_each(output, chosen, count * examples),
            ).gradients
            added = []
            for index, (gradient,) in enumerate(gradients):
                g = self._arrange(gradient, tensors)
                g = g.to(accumulation_dtype(g.dtype))
                before = state[index] if state else [None] * 3
                added.append(
                    [
                        noise.fold(power, count, start=start, partial=partial, second=False)
                        for power, partial in zip((g, g**2, g**3), before, strict=True)
                    ]
                )

            def commit() -> None:
                state[:] = added

            return commit

        with torch.inference_mode(False):
            sweep(self.num_samples, step, plan, show_progress=self.show_progress, description="Smooth Grad-CAM++")
        return [(first[0], second[0], third[0]) for first, second, third in state]
