"""Linear models of a model's scores: LIME's Lasso, Kernel SHAP's constrained least squares, and the user's own."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from fastsal.engine.run import tell

Array = npt.NDArray[np.float64]

WARM_ROUNDS = 10
"""Rounds of coordinate descent before the exact solver takes over; a few more or less change nothing but the time."""
SLACK = 1e-9
"""Rounding that the optimality conditions may be off by, relative to alpha."""
ROUNDING = 1e-14
"""The same, relative to the outputs; and what is left of a column whose effect the intercept has."""


class Lasso:
    """Minimises sum_i w_i (y_i - b - x_i c)^2 / (2 sum_i w_i) + alpha |c|_1 over b and c, in float64.

    Tibshirani, "Regression Shrinkage and Selection via the Lasso" (1996), equation 1, in its Lagrangian form; the same
    problem as scikit-learn's ``Lasso(alpha)`` with ``sample_weight``. It has the methods that :class:`LimeBase` asks
    of an interpretable model.
    """

    def __init__(self, alpha: float = 0.01) -> None:
        if not alpha >= 0:
            raise ValueError(f"alpha: {alpha} is below 0")
        self.alpha = alpha
        self._coefficients: Tensor | None = None
        self._intercepts: Tensor | None = None

    def fit(self, train_data: DataLoader[Any], **_options: Any) -> None:
        """Fit to batches (features [n, M], outputs [n], weights [n])."""
        features, outputs, weights = (torch.cat(parts) for parts in zip(*train_data, strict=True))
        self.solve(features, outputs[None], weights[None])

    def solve(self, features: Tensor, outputs: Tensor, weights: Tensor) -> None:
        """Fit several outputs [G, n], each with weights [G, n], to the same features [n, M]."""
        x, y, w = (value.detach().to("cpu", torch.float64).numpy() for value in (features, outputs, weights))
        self._coefficients, self._intercepts = map(torch.from_numpy, lasso(x, y, w, self.alpha))

    def representation(self) -> Tensor:
        """Coefficients [G, M] of the last fit."""
        if self._coefficients is None:
            raise ValueError("representation: there has been no fit")
        return self._coefficients

    def bias(self) -> Tensor:
        """Intercepts [G] of the last fit."""
        if self._intercepts is None:
            raise ValueError("bias: there has been no fit")
        return self._intercepts

    def __call__(self, features: Tensor) -> Tensor:
        """Predictions [n, G] for features [n, M]."""
        return features.to(torch.float64) @ self.representation().T + self.bias()


def lasso(features: Array, outputs: Array, weights: Array, alpha: float) -> tuple[Array, Array]:
    """(coefficients [G, M], intercepts [G]) of the Lasso, exact to rounding.

    Cyclic coordinate descent on all outputs at once (Friedman, Hastie, Tibshirani, "Regularization Paths for
    Generalized Linear Models via Coordinate Descent", 2010, equation 5) finds most signs; then each output's optimum is
    the solution of a linear system. Of several optima (which need fewer samples than features) it is one. Outputs
    that are not finite get NaN.

    Args:
        features: [n, M].
        outputs: [G, n].
        weights: [G, n], not negative.
        alpha: penalty.

    Raises:
        ValueError: for weights that are negative, not finite, or add up to 0.
    """
    sums = weights.sum(1, keepdims=True)
    if not (np.isfinite(weights).all() and (weights >= 0).all() and (sums > 0).all()):
        raise ValueError("similarity_func: the samples' weights must be finite, not below 0, and not all 0")
    shares = weights / sums
    usable = np.asarray(np.isfinite(outputs).all(1))
    outputs = np.where(usable[:, None], outputs, 0)
    centre = features.mean(0)
    columns = np.ascontiguousarray((features - centre).T)
    means = shares @ columns.T
    level = (shares * outputs).sum(1, keepdims=True)
    coefficients = _descend(columns, shares, means, outputs - level, alpha)
    for g in range(len(outputs)):
        coefficients[g] = _solve(columns, shares[g], means[g], outputs[g] - level[g], coefficients[g], alpha)
    intercepts = level[:, 0] - (coefficients * (means + centre)).sum(1)
    coefficients[~usable], intercepts[~usable] = np.nan, np.nan
    return coefficients, intercepts


def _descend(columns: Array, shares: Array, means: Array, targets: Array, alpha: float) -> Array:
    """Coefficients [G, M] after some rounds of coordinate descent, fewer if no sign changes any more."""
    curvature = shares @ (columns.T**2) - means**2
    flat = curvature <= ROUNDING * (columns**2).max(1)
    residual, coefficients = targets.copy(), np.zeros_like(means)
    for _ in range(WARM_ROUNDS):
        before = np.sign(coefficients)
        pull = np.abs((shares * residual) @ columns.T)
        strength = np.where(coefficients != 0, np.inf, np.where((pull > alpha) & ~flat, pull, 0)).max(0)
        # All that are not 0, and of those that should not be, the strongest: an optimum needs no more than samples.
        strongest = np.argsort(-strength, kind="stable")[: np.isinf(strength).sum() + columns.shape[1]]
        for j in np.sort(strongest[strength[strongest] > 0]):
            slope = (shares * residual) @ columns[j] + curvature[:, j] * coefficients[:, j]
            shrunk = np.sign(slope) * np.maximum(np.abs(slope) - alpha, 0)
            change = np.where(flat[:, j], 0, shrunk / np.where(flat[:, j], 1, curvature[:, j])) - coefficients[:, j]
            if change.any():
                residual -= change[:, None] * (columns[j] - means[:, j, None])
                coefficients[:, j] += change
        if (np.sign(coefficients) == before).all():
            break
    return coefficients


def _solve(columns: Array, share: Array, mean: Array, target: Array, guess: Array, alpha: float) -> Array:
    """The optimum [M] of one output by an active-set search from a guess.

    Lee, Battle, Raina, Ng, "Efficient sparse coding algorithms" (NeurIPS 2006), algorithm 1, with steps that end where
    the first coefficient reaches 0: with the signs known the problem is quadratic, each step lowers the objective, and
    the signs that can be are finitely many.
    """
    found, sign = guess.copy(), np.sign(guess)
    scale = np.abs(target).max(initial=0)
    for _ in range(10 * (len(columns) + len(target))):
        support = np.flatnonzero(sign)
        part = columns[support] - mean[support, None]
        residual = target - found[support] @ part
        pull = columns @ (share * residual) - mean * (share * residual).sum()
        downhill = pull[support] - alpha * sign[support]
        tolerance = SLACK * alpha + ROUNDING * scale
        if (np.abs(downhill) > tolerance).any():
            matrix = (part * share) @ part.T
            step, _, rank, _ = np.linalg.lstsq(matrix, downhill, rcond=1e-12)
            beyond = downhill - matrix @ step
            longest = 1.0
            if rank < len(support) and np.abs(beyond).max() > tolerance:
                step, longest = beyond, np.inf  # the penalty falls in a direction that changes no prediction
            shrinking = step * sign[support] < 0
            ends = np.full(len(support), np.inf)
            ends[shrinking] = -found[support][shrinking] / step[shrinking]
            length = min(longest, ends.min())
            found[support] += length * step
            gone = support[ends <= length]
            found[gone], sign[gone] = 0, 0
            continue
        outside = np.where(sign == 0, np.abs(pull), 0)
        enters = int(outside.argmax())
        if outside[enters] <= alpha + tolerance:
            return found
        sign[enters] = np.sign(pull[enters])
    tell("Lasso: rounding keeps it from converging; its coefficients are approximate")
    return found


def shapley_regression(
    present: Tensor, outputs: Tensor, empty: Tensor, full: Tensor, weights: Tensor | None = None
) -> Tensor:
    """Coefficients [G, M] that add up to full - empty and fit the outputs of coalitions best.

    Lundberg, Lee, "A Unified Approach to Interpreting Model Predictions" (NeurIPS 2017), theorem 2: the two ends have
    an infinite weight, so they are constraints; the kernel's other weights are given, or in how they are drawn. The
    constraint is solved for: c = (full - empty) / M + d, and a row without its mean has the same product with d, which
    adds up to 0. Where the coalitions leave c open, it is the one of least norm. Outputs that are not finite get NaN.

    Args:
        present: [n, M], neither empty nor full coalitions.
        outputs: [G, n], float64.
        empty, full: [G], float64.
        weights: [n], float64; None for equal ones.
    """
    rows, left, even, usable = _constrained(present, outputs, empty, full, weights)
    if not len(rows):
        return even.expand(-1, present.shape[1]).clone()
    # gelsd: rows without their mean never have full rank. Rows of this kind have no singular values near 1e-10.
    rest = torch.linalg.lstsq(rows, left.T, rcond=1e-10, driver="gelsd").solution.T
    solution: Tensor = even + rest - rest.mean(1, keepdim=True)
    return solution.where(usable[:, None], torch.nan)


def shapley_jackknife(
    present: Tensor,
    outputs: Tensor,
    empty: Tensor,
    full: Tensor,
    groups: int,
    weights: Tensor | None = None,
    fixed: int = 0,
) -> Tensor:
    """Standard errors [G, M] of :func:`shapley_regression`: the spread of its fits without each group of coalitions.

    Quenouille, "Notes on bias in estimation" (1956), and Tukey, "Bias and confidence in not-quite large samples"
    (1958). Fits come from the normal equations, from which a group is taken away. Infinite where a fit without one of
    the groups is open.

    Args:
        present, outputs, empty, full, weights: as of :func:`shapley_regression`.
        groups: of coalitions in their order, pairs kept together.
        fixed: the first so many are not drawn, and in every fit.
    """
    players = present.shape[1]
    pairs = max(0, len(present) - fixed) // 2
    if players == 1:
        return torch.zeros_like(empty)[:, None]
    rows, left, _, usable = _constrained(present, outputs, empty, full, weights)
    ends = [fixed + 2 * (pairs * index // groups) for index in range(groups + 1)]
    ends[-1] = max(ends[-1], len(present))
    parts = list(pairwise(ends))
    squares = torch.stack([rows[a:b].T @ rows[a:b] for a, b in parts])
    products = torch.stack([rows[a:b].T @ left.T[a:b] for a, b in parts])
    # The direction that no row has, filled in: solutions add up to 0 with it.
    # A group's part of the weight is the others' then.
    scale = groups / (groups - 1)
    certain = rows[:fixed].T @ rows[:fixed]
    without = certain + scale * (squares.sum(0) - squares) + squares.new_ones(players, players)
    factors, failed = torch.linalg.cholesky_ex(without)
    diagonal = factors.diagonal(dim1=1, dim2=2)
    if min(b - a for a, b in parts) == 0 or failed.any() or (diagonal.amin(1) < 1e-6 * diagonal.amax(1)).any():
        return torch.full((len(outputs), players), torch.inf, dtype=torch.float64, device=present.device)
    certain = rows[:fixed].T @ left.T[:fixed]
    each = torch.cholesky_solve(certain + scale * (products.sum(0) - products), factors)
    error = ((groups - 1) * (each - each.mean(0)).square().mean(0)).sqrt().T
    return error.where(usable[:, None], torch.nan)


def _constrained(
    present: Tensor, outputs: Tensor, empty: Tensor, full: Tensor, weights: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(rows without their means, what they have to explain [G, n], even shares [G, 1], whether all is finite [G])."""
    shares = present.to(torch.float64).mean(1)
    change = full - empty
    left = outputs - empty[:, None] - change[:, None] * shares
    usable = left.isfinite().all(1) & change.isfinite()
    rows = present.to(torch.float64) - shares[:, None]
    if weights is not None:
        root = weights.sqrt()
        rows, left = rows * root[:, None], left * root
    return rows, left.where(usable[:, None], 0.0), (change / present.shape[1])[:, None], usable


def fit_surrogate(model: Any, features: Tensor, outputs: Tensor, weights: Tensor, device: torch.device) -> Any:
    """The representation of an interpretable model after a fit to features [n, M], outputs [n], weights [n].

    A model that is not ours gets float32, which is what Captum's are written for, as one batch of a DataLoader.
    """
    if isinstance(model, Lasso):
        model.solve(features, outputs[None], weights[None])
        return model.representation()
    data = TensorDataset(*(value.to(device, torch.float32) for value in (features, outputs, weights)))
    # Without a generator of its own a DataLoader draws a number from the caller's, on the default device.
    own = torch.Generator(torch.get_default_device())
    model.fit(DataLoader(data, batch_size=len(features), generator=own))
    return model.representation()
