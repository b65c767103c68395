"""The first principal component of a layer's positions, batched and with a stable sign."""

from __future__ import annotations

import torch
from torch import Tensor

from fastsal.engine.run import host_may_wait
from fastsal.ops import wide_dtype

_SQUARINGS = 24


def principal_projection(values: Tensor, center: bool = True) -> Tensor:
    """Positions [N, *spatial] of values [N, C, *spatial], projected on the first right singular vector of [P, C].

    From the smaller of the two Gram matrices, of all examples at once. A singular vector has no sign of its own: here
    the projection is the one that goes with the sum over channels. An example with a NaN or infinity gets NaN.
    """
    spatial = values.shape[2:]
    raw = values.flatten(2).mT
    clean = finite_examples(raw)
    matrix = torch.where(clean, raw, 0)
    total = matrix.sum(2)
    if center:
        matrix = matrix - matrix.mean(1, keepdim=True)
    # Eigenvalues are squares: what float32 keeps of them is too little for close ones.
    wide = matrix.to(wide_dtype(matrix.device))
    if wide.shape[1] <= wide.shape[2]:
        direction = _unit((wide.mT @ _principal_vector(wide @ wide.mT)[..., None]).squeeze(-1))
    else:
        direction = _principal_vector(wide.mT @ wide)
    projection = (wide @ direction[..., None]).squeeze(-1).to(values.dtype)
    centered = total - total.mean(1, keepdim=True)
    opposed = (projection * centered).sum(1, keepdim=True) < 0
    signed = torch.where(opposed, -projection, projection)
    result: Tensor = signed.where(clean[:, 0], torch.nan).unflatten(1, spatial)
    return result


def finite_examples(values: Tensor) -> Tensor:
    """Which examples of [N, P, C] are finite throughout, [N, 1, 1]: there is no eigenvector of the others."""
    return values.isfinite().flatten(1).all(1)[:, None, None]


def _unit(vectors: Tensor) -> Tensor:
    result: Tensor = vectors / vectors.norm(dim=1, keepdim=True).clamp_min(torch.finfo(vectors.dtype).tiny)
    return result


def _principal_vector(gram: Tensor) -> Tensor:
    """The unit eigenvector [N, n] of the largest eigenvalue of Gram matrices [N, n, n].

    Where the host may not wait it does not ask the device whether ``eigh`` succeeded: each squaring squares the ratio
    of eigenvalues, so after 24 of them all but the largest are gone, unless they are within 1e-6 of it.
    """
    if host_may_wait():
        vector: Tensor = torch.linalg.eigh(gram)[1][..., -1]
        return vector
    tiny = torch.finfo(gram.dtype).tiny
    for _ in range(_SQUARINGS):
        gram = gram / gram.diagonal(dim1=1, dim2=2).sum(1).clamp_min(tiny)[:, None, None]  # their sum is the trace
        gram = gram @ gram
    largest = gram.diagonal(dim1=1, dim2=2).argmax(1)
    return _unit(gram.gather(2, largest[:, None, None].expand(-1, gram.shape[1], 1)).squeeze(2))
