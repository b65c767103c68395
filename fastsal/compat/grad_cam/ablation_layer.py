"""Names for AblationCAM's ``ablation_layer``: fastsal finds a layer's channels by itself, so they only say that."""

from __future__ import annotations


class AblationLayer:
    """Channels are dimension 1 of the layer's value, as in convolutional networks."""


class AblationLayerVit(AblationLayer):
    """Channels are the last dimension of tokens [B, N, C]."""
