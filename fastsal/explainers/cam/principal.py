"""The first principal component of a layer's positions, batched and with a stable sign."""

from __future__ import annotations

import torch
from torch import Tensor

from fastsal.ops import wide_dtype


def principal_projection(values: Tensor, center: bool = True) -> Tensor:
    """Positions [N, *spatial] of values [N, C, *spatial], projected on the first right singular vector of [P, C].

    From the smaller of the two Gram matrices, of all examples at once. A singular vector has no sign of its own: here
    the projection is the one that goes with the sum over channels. A NaN or infinity gives zeros for its example.
    """
    spatial = values.shape[2:]
    raw = values.flatten(2).mT
    clean = raw.isfinite().flatten(1).all(1)[:, None, None]
    matrix = torch.where(clean, raw, 0)
    total = matrix.sum(2)
    if center:
        matrix = matrix - matrix.mean(1, keepdim=True)
    # Eigenvalues are squares: what float32 keeps of them is too little for close ones.
    wide = matrix.to(wide_dtype(matrix.device))
    if wide.shape[1] <= wide.shape[2]:
        _, vectors = torch.linalg.eigh(wide @ wide.mT)
        direction = (wide.mT @ vectors[..., -1:]).squeeze(-1)
        direction = direction / direction.norm(dim=1, keepdim=True).clamp_min(torch.finfo(direction.dtype).tiny)
    else:
        _, vectors = torch.linalg.eigh(wide.mT @ wide)
        direction = vectors[..., -1]
    projection = (wide @ direction[..., None]).squeeze(-1).to(values.dtype)
    centered = total - total.mean(1, keepdim=True)
    opposed = (projection * centered).sum(1, keepdim=True) < 0
    result: Tensor = torch.where(opposed, -projection, projection).unflatten(1, spatial)
    return result
