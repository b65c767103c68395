"""Smooth Grad-CAM++: the derivatives of Grad-CAM++ averaged over noisy inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from fastsal.engine.reading import read
from fastsal.explainers.arguments import Inputs, at_least_one
from fastsal.explainers.base import attribution
from fastsal.explainers.call import Call
from fastsal.explainers.cam.grad_cam_plus_plus import plus_plus_weights
from fastsal.explainers.cam.records import LayerValues, Rendering
from fastsal.explainers.cam.swept import SweptMap, deviation
from fastsal.explainers.scores import Target
from fastsal.explainers.seeds import as_seed
from fastsal.explainers.task import Task
from fastsal.ops import accumulation_dtype, noise


class SmoothGradCAMPlusPlus(SweptMap):
    """Omeiza et al., "Smooth Grad-CAM++" (2019), equations 5 to 7.

    alpha = D2 / (2 D2 + sum(A) D3), w_c = sum of alpha relu(D1), where D1, D2 and D3 are the means of the gradient, its
    square and its cube over noisy inputs, and A is the activation of the clean one. Costs one forward pass, and for
    each sample one forward pass and a backward pass to the layer; memory does not grow with the samples.

    >>> maps = fastsal.SmoothGradCAMPlusPlus(model, "last").attribute(images, target=classes)

    Args:
        model: a torch.nn.Module, or a callable around one.
        layer: one of its modules, its dotted name, or a list of these, whose maps are fused. None takes the last layer
            that has positions and influence on the target, at the first call.
        reshape_transform: function of a layer's value that returns [B, C, *spatial], or a
            :class:`fastsal.Geometry` that says where its positions are. None finds that out.
    """

    summary = "Grad-CAM++ with derivatives averaged over noisy inputs"
    cost = "1 forward, and n_samples forward and backward to the layer"

    @attribution
    def attribute(
        self,
        inputs: Inputs,
        target: Target = None,
        additional_forward_args: Any = None,
        *,
        n_samples: int = 4,
        stdevs: float = 0.3,
        seed: int | None = 0,
        perturbations_per_eval: int | None = None,
        show_progress: bool = False,
        targets: Sequence[Target] | None = None,
        relu_attributions: bool = True,
        upsample: bool = True,
        normalize: bool = True,
        fuse: str | None = None,
        eigen_smooth: bool = False,
        aug_smooth: bool = False,
        create_graph: bool = False,
    ) -> Call[Any]:
        """Maps [B, 1, *spatial], in the size of the input or of the layer; on the device, in the finer of the layer's
        dtype and the first input's. Where the layer looks at several inputs there is one for each of these, in the form
        of the inputs: None stands for an input that it does not look at.

        Args:
            inputs: tensor [B, C, *spatial], tuple of tensors, or mapping.
            target: which output to explain, one for all or one per example; also one of :mod:`fastsal.targets`.
            additional_forward_args: further arguments of the model; per-example tensors are repeated.
            n_samples: noisy inputs.
            stdevs: standard deviation of the noise, in units of the input.
            seed: chooses the noise; None draws it from torch's global generator.
            perturbations_per_eval: noisy copies per model call. When None, chosen from memory, but 1 where an
                additional tensor has as many entries as there are examples: only the caller knows whether to repeat it.
            show_progress: show a bar.
            targets: refused: call it for each.
            relu_attributions: keep what speaks for the target only.
            upsample: resize to the input, linearly with half-pixel centres; the (largest) layer's size otherwise.
            normalize: to [0, 1] per map, from the extremes of the resized map.
            fuse: of several layers' normalised maps: ``mean``, ``max`` or ``product``; None takes the method's own.
            eigen_smooth: instead of the sum over channels, their first principal component (Muhammad and Yeasin,
                "Eigen-CAM", IJCNN 2020).
            aug_smooth: the mean of six maps: of the input and its mirror image, times 0.9, 1 and 1.1, at six times the
                cost.
            create_graph: refused: no graph is kept of so many passes.

        Raises:
            TypeError, ValueError: for arguments outside of the above, or a layer without positions.
        """
        self.refuse(targets, create_graph)
        task = self.task(
            inputs, target, additional_forward_args, per_call=perturbations_per_eval, show_progress=show_progress
        )
        how = Rendering(relu_attributions, upsample, normalize, fuse, eigen_smooth, aug_smooth)
        samples, std, key = at_least_one("n_samples", n_samples), deviation(stdevs), as_seed(seed)

        def weigh(task: Task, values: LayerValues) -> list[Tensor | None]:
            moments = self._moments(task, values, samples, std, key)
            return [
                plus_plus_weights(activations, first.relu(), second, third)
                for activations, (first, second, third) in zip(values.activations, moments, strict=True)
            ]

        return self.described(task, weigh, how)

    def _moments(self, task: Task, values: LayerValues, samples: int, std: float, key: int) -> list[list[Tensor]]:
        """Means of the gradient, its square and its cube, per layer."""
        by_run = any(view.use >= 0 for view in values.views)
        state: list[list[Tensor]] = []

        def work(start: int, stop: int) -> list[list[Tensor]]:
            count = stop - start
            noisy = noise.batch(task.inputs[values.input], start, stop, std=std, seed=key)
            gradients = read(
                task.forward_func,
                self.layers,
                *task.batch(count, {values.input: noisy}),
                task.select(count),
                every_use=by_run,
            ).gradients
            added = []
            for index, view in enumerate(values.views):
                g = self._places.arrange(view, gradients[view.layer][view.use], task.inputs)
                g = g.to(accumulation_dtype(g.dtype))
                before = state[index] if state else [None] * 3
                added.append(
                    [
                        noise.fold(power, count, start=start, partial=partial, second=False)
                        for power, partial in zip((g, g**2, g**3), before, strict=True)
                    ]
                )
            return added

        def keep(start: int, stop: int, added: list[list[Tensor]]) -> None:
            state[:] = added

        task.swept(samples, work, keep, chunk_sizes=task.chunk_sizes(samples, cost=2)).run()
        return [[moment[0] for moment in moments] for moments in state]
