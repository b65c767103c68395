"""pytorch-grad-cam's FullGrad: fastsal's gradients, each channel scaled on its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fastsal import explainers
from fastsal.compat.grad_cam._rendering import min_max, resized, scaled
from fastsal.compat.grad_cam.base_cam import BaseCAM, Targets, as_array, read_targets
from fastsal.explainers.cam.base import ActivationMap, ReshapeTransform
from fastsal.explainers.cam.principal import principal_projection
from fastsal.explainers.task import Task

FUNCTIONS = {4: "conv2d", 5: "conv3d"}
"""Whose biases count beside batch normalisation's, by the dimensions of the input."""
SHRINK = 8
"""How many times smaller the maps are that eigen_smooth projects."""


class _Products(explainers.FullGrad):
    def products(self, task: Task) -> Iterator[Tensor]:
        """|input x gradient|, then |bias x gradient| by layer, each [B, C, *spatial]."""
        x = task.inputs[0]
        leaf, met, first, gradients = self.gradients(task)
        yield (leaf * first).abs()
        for added, gradient in zip(met, gradients, strict=True):
            if added.name not in (FUNCTIONS[x.dim()], "batch_norm") or added.output.dim() != x.dim():
                continue
            # What has no parameter for a bias is left out, a batch normalisation's running mean too.
            if added.bias is not None and added.total is not None and gradient is not None:
                yield (added.total.to(gradient).reshape(1, -1, *[1] * (x.dim() - 2)) * gradient).abs()


class FullGrad(BaseCAM):
    """Srinivas and Fleuret, "Full-Gradient Representation for Neural Network Visualization" (NeurIPS 2019).

    The input's gradient and every bias's, each channel scaled to [0, 1], resized and summed. (:class:`fastsal.FullGrad`
    scales a layer's channels together, which keeps their proportions.)

    Args:
        model: a torch.nn.Module.
        target_layers: of no effect: all convolutions and batch normalisations that have a bias count.
        reshape_transform: of no effect.
    """

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module | str] = (),
        reshape_transform: ReshapeTransform | None = None,
    ) -> None:
        self.model, self.target_layers, self.reshape_transform = model, list(target_layers), reshape_transform
        self.outputs: Any = None

    def explainer(self) -> ActivationMap:
        raise TypeError("FullGrad: it reads no layer's activations, so that no other method can be made of it")

    def forward(self, input_tensor: Tensor, targets: Targets = None, eigen_smooth: bool = False) -> NDArray[np.float32]:
        """A call without aug_smooth."""
        x = self.as_input(input_tensor)
        size = x.shape[2:]
        method = _Products(self.model)
        task = method.task(x, read_targets(targets, len(x)))
        products = method.products(task)
        channels = [_each_scaled(next(products))]
        self.outputs = task.output
        channels += [resized(_each_scaled(product).sum(1), size)[:, None] for product in products]
        stacked = torch.cat([each.float() for each in channels], 1)
        if eigen_smooth:
            small = resized(min_max(stacked.flatten(0, 1)), [max(1, extent // SHRINK) for extent in size])
            return as_array(scaled(scaled(principal_projection(small.unflatten(0, stacked.shape[:2])), size)))
        return as_array(scaled(stacked.sum(1)))


def _each_scaled(values: Tensor) -> Tensor:
    """[B, C, *spatial], every channel from 0 to 1."""
    return min_max(values.flatten(0, 1)).view_as(values)
