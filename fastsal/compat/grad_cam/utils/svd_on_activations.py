"""pytorch-grad-cam's projections of activations on their first principal component, with a sign that is settled."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fastsal import explainers
from fastsal.explainers.cam.principal import principal_projection


def get_2d_projection(activation_batch: NDArray[Any]) -> NDArray[np.float32]:
    """The first principal component of each layer's positions, float32 [B, H, W].

    In the sign in which it goes with the sum over channels (there it is what LAPACK happens to give).

    Args:
        activation_batch: [B, C, H, W]; NaN counts as 0.
    """
    return _array(principal_projection(_tensor(activation_batch)))


def get_2d_projection_with_sign_correction(activation_batch: NDArray[Any]) -> NDArray[np.float32]:
    """The same, in the sign in which the largest value is positive."""
    found = get_2d_projection(activation_batch)
    each = (-1, *[1] * (found.ndim - 1))
    flat = found.reshape(len(found), -1)
    return np.where((-flat.min(1) > flat.max(1)).reshape(each), -found, found)


def get_2d_projection_kernel(
    activation_batch: NDArray[Any], kernel: str = "sigmoid", gamma: float | None = None
) -> NDArray[np.float32]:
    """The first kernel principal component of each layer's positions, float32 [B, H, W].

    Args:
        activation_batch: [B, C, H, W]; NaN counts as 0.
        kernel, gamma: as of :class:`fastsal.KPCACAM`.
    """
    method = explainers.KPCACAM(nn.Identity(), kernel=kernel, gamma=gamma)
    return _array(method.weighted(_tensor(activation_batch), None)[0][:, 0])


def _tensor(activation_batch: NDArray[Any]) -> torch.Tensor:
    return torch.from_numpy(np.nan_to_num(activation_batch, nan=0.0, posinf=np.inf, neginf=-np.inf))


def _array(maps: torch.Tensor) -> NDArray[np.float32]:
    found: NDArray[np.float32] = maps.float().cpu().numpy()
    return found
