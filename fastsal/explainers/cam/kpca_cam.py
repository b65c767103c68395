"""KPCA-CAM: the first kernel principal component of the activations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastsal.explainers.cam.base import Stated
from fastsal.explainers.cam.one_pass import OnePassMap
from fastsal.explainers.cam.principal import finite_examples
from fastsal.ops import accumulation_dtype, wide_dtype

KERNELS = ("sigmoid", "rbf", "cosine", "linear")


class KPCACAM(OnePassMap):
    """Karmani et al., "KPCA-CAM" (2024): kernel PCA of a layer's positions, as scikit-learn's KernelPCA.

    Explains the layer, not a target. Costs one forward pass and an eigenvector of a matrix of the layer's positions.

    >>> maps = fastsal.KPCACAM(model, "last").attribute(images)

    Args:
        model: a torch.nn.Module, or a callable around one.
        layer: one of its modules, its dotted name, or a list of these, whose maps are fused. None takes the last layer
            that has positions, at the first call.
        reshape_transform: function of a layer's value that returns [B, C, *spatial], or a
            :class:`fastsal.Geometry` that says where its positions are. None finds that out.
        kernel: ``sigmoid`` (tanh(gamma x y + 1)), ``rbf`` (exp(-gamma |x - y|^2)), ``cosine`` or ``linear``.
        gamma: None takes one over the number of channels.
    """

    name = "kpca-cam"
    summary = "first kernel principal component of a layer; of no target"

    def __init__(
        self,
        model: Callable[..., Any],
        layer: nn.Module | str | Sequence[nn.Module | str] | None = None,
        *,
        reshape_transform: Stated = None,
        kernel: str = "sigmoid",
        gamma: float | None = None,
    ) -> None:
        super().__init__(model, layer, reshape_transform=reshape_transform)
        if kernel not in KERNELS:
            raise ValueError(f"kernel: {kernel!r} is not one of {', '.join(KERNELS)}")
        self.kernel, self.gamma = kernel, gamma

    def weighted(
        self, activations: Tensor, field: Tensor | None, eigen_smooth: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        raw = activations.flatten(2).mT.to(wide_dtype(activations.device))
        clean = finite_examples(raw)
        matrix = torch.where(clean, raw, 0)
        matrix = matrix - matrix.mean(1, keepdim=True)
        gram = self._gram(matrix)
        gram = gram - gram.mean(1, keepdim=True) - gram.mean(2, keepdim=True) + gram.mean((1, 2), keepdim=True)
        values, vectors = torch.linalg.eigh(gram)
        vector = vectors[..., -1]
        # scikit-learn's choice of sign: the largest entry is positive.
        largest = vector.gather(1, vector.abs().argmax(1, keepdim=True))
        projection = vector * largest.sign() * values[:, -1:].clamp_min(0).sqrt()
        projection = projection.where(clean[:, 0], torch.nan)
        return projection.unflatten(1, activations.shape[2:])[:, None].to(accumulation_dtype(activations.dtype)), None

    def _gram(self, matrix: Tensor) -> Tensor:
        gamma = 1 / matrix.shape[2] if self.gamma is None else self.gamma
        if self.kernel == "rbf":
            return torch.exp(-gamma * torch.cdist(matrix, matrix, compute_mode="donot_use_mm_for_euclid_dist") ** 2)
        if self.kernel == "cosine":
            matrix = torch.nn.functional.normalize(matrix, dim=2)
        product = matrix @ matrix.mT
        return torch.tanh(gamma * product + 1) if self.kernel == "sigmoid" else product
