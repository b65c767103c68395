"""Rules that approximate the integral over [0, 1] by n points: positions and weights in float64."""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor

from fastsal._torch import disable_current_modes, len_torch_dispatch_stack
from fastsal.engine.run import freed

METHODS = ("riemann_right", "riemann_left", "riemann_middle", "riemann_trapezoid", "gausslegendre")


def checked_rule(method: str, n_steps: int) -> None:
    """
    Raises:
        ValueError: for an unknown method, or too few steps for it.
    """
    if method not in METHODS:
        raise ValueError(f"method: {method!r} is not one of {', '.join(METHODS)}")
    least = 1 if method == "gausslegendre" else 2
    if n_steps < least:
        raise ValueError(f"n_steps: {n_steps} is below {least}, the fewest that {method} needs")


def rule(method: str, n_steps: int) -> tuple[list[float], list[float]]:
    """(positions, weights) of a rule; the weights add up to 1.

    Raises:
        ValueError: for an unknown method, or too few steps for it.
    """
    checked_rule(method, n_steps)
    if method == "gausslegendre":
        positions, weights = _gauss_legendre(n_steps)
        return list(positions), list(weights)
    shares = [1 / n_steps] * n_steps
    if method == "riemann_trapezoid":
        shares[0] /= 2
        shares[-1] /= 2
        return np.linspace(0, 1, n_steps).tolist(), shares
    ends = {
        "riemann_left": (0, 1 - 1 / n_steps),
        "riemann_middle": (1 / (2 * n_steps), 1 - 1 / (2 * n_steps)),
        "riemann_right": (1 / n_steps, 1),
    }
    return np.linspace(*ends[method], n_steps).tolist(), shares


def rule_on(method: str, n_steps: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """The rule as tensors [n_steps], which are not to be written to.

    They are kept, since a copy to a GPU makes the host wait and cannot be part of a CUDA graph.
    """
    with torch.inference_mode(False):
        if len_torch_dispatch_stack() == 0:
            return _on_device(method, n_steps, dtype, device)
        with disable_current_modes():  # what a mode makes may be its own kind of tensor
            return _on_device(method, n_steps, dtype, device)


@freed
@functools.lru_cache(maxsize=16)
def _on_device(method: str, n_steps: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    positions, weights = rule(method, n_steps)
    return torch.tensor(positions, dtype=dtype, device=device), torch.tensor(weights, dtype=dtype, device=device)


@freed
@functools.lru_cache(maxsize=16)
def _gauss_legendre(n_steps: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Kept, since the eigenvalues behind it cost more than a small network's passes."""
    positions, weights = np.polynomial.legendre.leggauss(n_steps)
    return tuple(((1 + positions) / 2).tolist()), tuple((weights / 2).tolist())
