"""torchcam's extractors of gradients by the layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastsal import explainers
from fastsal.compat.torchcam.methods.core import Classes, Extractor, Targets, Weighed
from fastsal.explainers.cam.base import ReshapeTransform
from fastsal.explainers.cam.one_pass import GradientMap
from fastsal.explainers.scores import one_score_each


class _Gradient(Extractor):
    """A method whose formula fastsal has under ``source``; the backward pass ends at the layers."""

    needs_scores = True
    source: type[GradientMap]

    def weigh(self, class_idx: Classes, scores: Any, targets: Targets, retain_graph: bool = False) -> Weighed:
        values, activations = list(self._values), [self._read(index).detach() for index in range(len(self._values))]
        total = one_score_each(scores, self._target(class_idx, targets, len(activations[0])), len(activations[0])).sum()
        if not total.requires_grad or not all(isinstance(value, Tensor) and value.requires_grad for value in values):
            raise RuntimeError("scores: they have no graph; run the model with gradients enabled, hooks in place")
        self._one_map_each(total)
        gradients = torch.autograd.grad(total, values, retain_graph=retain_graph, allow_unused=True)
        explainer = self.source(self.model, list(self.target_names))
        fields: list[Tensor | None] = []
        for name, a, gradient in zip(self.target_names, activations, gradients, strict=True):
            if gradient is None:
                raise RuntimeError(f"scores: they do not depend on what was read of layer {name}")
            fields.append(explainer.field(a, self._arranged(gradient)))
        return Weighed(explainer, activations, fields)


class GradCAM(_Gradient):
    """:class:`fastsal.GradCAM`."""

    source = explainers.GradCAM


class GradCAMpp(_Gradient):
    """:class:`fastsal.GradCAMPlusPlus`, with the published denominator."""

    source = explainers.GradCAMPlusPlus


class XGradCAM(_Gradient):
    """:class:`fastsal.XGradCAM`."""

    source = explainers.XGradCAM


class LayerCAM(_Gradient):
    """:class:`fastsal.LayerCAM`; several layers' maps m are fused as tanh(2 m) (equation 9)."""

    source = explainers.LayerCAM

    @staticmethod
    def _before_fusion(maps: Tensor) -> Tensor:
        return torch.tanh(2 * maps)


class SmoothGradCAMpp(Extractor):
    """:class:`fastsal.SmoothGradCAMPlusPlus`, which runs the model on the inputs of its last pass.

    Args:
        model: a torch.nn.Module.
        target_layer: module of it, dotted name, or a list of these; None takes the last one with positions, which a
            pass of zeros finds.
        input_shape: of one example, for that pass.
        enable_hooks: whether passes are read from the start.
        reshape_transform: function of a layer's value that returns [N, C, *spatial].
        num_samples: noisy inputs.
        std: standard deviation of the noise, which is drawn from torch's global generator.
    """

    needs_input = True

    def __init__(
        self,
        model: nn.Module,
        target_layer: nn.Module | str | Sequence[nn.Module | str] | None = None,
        num_samples: int = 4,
        std: float = 0.3,
        input_shape: Sequence[int] = (3, 224, 224),
        enable_hooks: bool = True,
        reshape_transform: ReshapeTransform | None = None,
    ) -> None:
        super().__init__(model, target_layer, input_shape, enable_hooks, reshape_transform)
        self.num_samples, self.std = num_samples, std

    def weigh(self, class_idx: Classes, scores: Any, targets: Targets) -> Weighed:
        arrange = None if self._transform is None else self._arranged
        explainer = explainers.SmoothGradCAMPlusPlus(self.model, list(self.target_names), reshape_transform=arrange)
        options = {"n_samples": self.num_samples, "stdevs": self.std, "seed": None}
        x, *rest = self._inputs
        with self._hooks_off():
            found = explainer.read(x, self._target(class_idx, targets, len(x)), tuple(rest), **options)
        return Weighed(explainer, found.activations, found.fields)
