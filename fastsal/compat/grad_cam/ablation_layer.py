"""pytorch-grad-cam's layers that ablate: as AblationCAM's ``ablation_layer`` they say where a layer's channels are.

fastsal finds these by itself, and runs the part of the model behind the layer; the methods are for programs that put
such a layer into a model themselves.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fastsal.compat.grad_cam.utils.svd_on_activations import get_2d_projection

FAR_BELOW = 1e7
"""How far under a layer's minimum an ablated channel is put, where that minimum is not 0."""


class AblationLayer(nn.Module):
    """Channels are dimension 1 of the layer's value, as in convolutional networks.

    Attributes:
        indices: the channel that each row of the next batch is without.
        activations: the next batch.
    """

    def __init__(self) -> None:
        super().__init__()
        self.indices: NDArray[np.int32] = np.zeros(0, np.int32)
        self.activations: Any = None

    def objectiveness_mask_from_svd(self, activations: NDArray[Any], threshold: float = 0.01) -> NDArray[np.bool_]:
        """Where the first principal component of activations [C, H, W] is above a share of its range, [H, W]."""
        projection = np.abs(get_2d_projection(activations[None])[0])
        projection = projection - projection.min()
        found: NDArray[np.bool_] = projection / projection.max() > threshold
        return found

    def activations_to_be_ablated(
        self, activations: NDArray[Any], ratio_channels_to_ablate: float = 1.0
    ) -> NDArray[np.int32]:
        """The channels to ablate, int32: all, or the share of them most inside and most outside of the objects.

        Args:
            activations: [C, H, W].
            ratio_channels_to_ablate: the share; 1 takes each channel once.
        """
        if ratio_channels_to_ablate == 1.0:
            self.indices = np.arange(activations.shape[0], dtype=np.int32)
            return self.indices
        inside = self.objectiveness_mask_from_svd(activations)
        sizes = np.abs(activations)
        sizes = sizes - sizes.min(axis=(1, 2), keepdims=True)
        sizes = sizes / sizes.max(axis=(1, 2), keepdims=True)
        order = np.argsort(np.float32((inside * sizes).sum((1, 2)) / sizes.sum((1, 2))))
        count = int(len(order) * ratio_channels_to_ablate)
        self.indices = np.concatenate([order[::-1][:count], order[:count]]).astype(np.int32)
        return self.indices

    def set_next_batch(self, input_batch_index: int, activations: Any, num_channels_to_ablate: int) -> None:
        """Take one example's value, once for each channel to ablate."""
        self.activations = _repeated(activations, input_batch_index, num_channels_to_ablate)

    def forward(self, x: Any) -> Any:
        """The batch without the channels, whatever comes in."""
        return self._ablated(self.activations)

    def _ablated(self, output: Tensor) -> Tensor:
        low = output.min()
        for row in range(len(output)):
            output[row, int(self.indices[row])] = 0 if low == 0 else low - FAR_BELOW
        return output


class AblationLayerVit(AblationLayer):
    """Channels are the last dimension of tokens [B, N, C]."""

    def forward(self, x: Any) -> Any:
        return self._ablated(self.activations.transpose(1, -1)).transpose(1, -1)


class AblationLayerFasterRCNN(AblationLayer):
    """Channels are those of a feature pyramid's levels "0" to "3" and "pool", 256 each, one after the other."""

    CHANNELS = 256
    LEVELS = ("0", "1", "2", "3", "pool")
    ABLATED = -1000

    def set_next_batch(
        self, input_batch_index: int, activations: Mapping[str, Tensor], num_channels_to_ablate: int
    ) -> None:
        self.activations = OrderedDict(
            (name, _repeated(level, input_batch_index, num_channels_to_ablate)) for name, level in activations.items()
        )

    def forward(self, x: Any) -> Any:
        for row in range(len(self.activations["pool"])):
            level, channel = divmod(int(self.indices[row]), self.CHANNELS)
            self.activations[self.LEVELS[level]][row, channel] = self.ABLATED
        return self.activations


def _repeated(value: Tensor, row: int, count: int) -> Tensor:
    return torch.repeat_interleave(value[row : row + 1], count, 0)
