"""The Lasso behind Lime: scikit-learn's coefficients, or another optimum of the same size."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from sklearn.linear_model import Lasso as SkLasso

from fastsal.explainers.perturbation.surrogate.fits import Lasso, lasso
from tests.compat.test_lime import CLOSE, check, tight


@pytest.mark.parametrize("alpha", [0.001, 0.01, 0.3, 10.0])
@pytest.mark.parametrize(("count", "total"), [(25, 20), (200, 50), (60, 50), (25, 60), (1, 4), (40, 1)])
def test_the_lasso_is_scikit_learns(count: int, total: int, alpha: float) -> None:
    random = np.random.default_rng(count + total)
    features = (random.random((count, total)) < 0.5).astype(float)
    features[:, 0] = 1.0  # a column that is always the same
    outputs = (features @ random.normal(size=(total, 3)) + 0.3 * random.normal(size=(count, 3))).T.copy()
    weights = random.random((3, count)) ** 4
    found, intercepts = lasso(features, outputs, weights, alpha)
    for g in range(3):
        model = SkLasso(alpha=alpha, tol=1e-14, max_iter=1_000_000)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.fit(features, outputs[g], sample_weight=weights[g])
        np.testing.assert_allclose(found[g], model.coef_, rtol=1e-7, atol=1e-9)
        np.testing.assert_allclose(intercepts[g], model.intercept_, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(("count", "total", "kinds"), [(10, 200, 2), (6, 40, 2), (25, 3000, 2), (30, 80, 9)])
def test_one_of_several_optima_is_an_optimum(count: int, total: int, kinds: int) -> None:
    random = np.random.default_rng(total)
    features = random.integers(0, kinds, (count, total)).astype(float)
    features[:, 7] = features[:, 3]
    features[:, 8] = 1 - features[:, 3]
    outputs, weights = random.normal(size=(2, count)), random.random((2, count)) + 0.1
    found, intercepts = lasso(features, outputs, weights, 0.01)
    for g in range(2):
        share = weights[g] / weights[g].sum()
        residual = outputs[g] - features @ found[g] - intercepts[g]
        # The conditions of Karush, Kuhn and Tucker.
        slope = features.T @ (share * residual)
        assert abs((share * residual).sum()) < 1e-12
        assert np.abs(slope).max() < 0.01 * (1 + 1e-8)
        np.testing.assert_allclose(slope[found[g] != 0], 0.01 * np.sign(found[g][found[g] != 0]), rtol=1e-7)


def test_the_lasso_as_an_interpretable_model() -> None:
    features, outputs, weights = torch.rand(30, 4), torch.rand(30), torch.rand(30)
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(features, outputs, weights), batch_size=7)
    ours, theirs = Lasso(alpha=0.003), tight(0.003)
    for model in (ours, theirs):
        model.fit(data)
    check(ours.representation(), theirs.representation(), CLOSE)
    check(ours.bias(), theirs.bias(), CLOSE)
    check(ours(features), theirs(features).detach(), CLOSE)
    for refused in (Lasso().representation, Lasso().bias, lambda: Lasso(alpha=-1.0)):
        with pytest.raises(ValueError, match=r"there has been no fit|alpha: "):
            refused()
