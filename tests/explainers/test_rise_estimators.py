"""RISE's designs and estimators: the same map, by fewer masks, with honest errors."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

import fastsal
from fastsal.explainers.perturbation.rise._designs import DESIGNS, Masks
from fastsal.explainers.perturbation.rise._estimators import ESTIMATORS
from fastsal.ops import masks

SIZE, GRID = [12, 10], [3, 4]
PAIRS = [
    # Of the statistical tests those of the default are fast enough to be run at any time.
    pytest.param(
        estimator,
        design,
        marks=() if (estimator, design) == ("regression", "sobol") else pytest.mark.slow,
        id=f"{estimator}-{design}",
    )
    for estimator in ESTIMATORS
    for design in DESIGNS
]


def run_of(design: str, count: int, probability: float, seed: int, replicates: int = 1) -> Masks:
    return Masks(masks.Masks(SIZE, GRID, probability, seed=seed), design, count * replicates, replicates)


def score(batch: Tensor) -> Tensor:
    """Two outputs, neither linear in the mask."""
    weight = torch.linspace(-1, 1, batch[0].numel(), dtype=batch.dtype).view(batch.shape[1:])
    total = (batch * weight).flatten(1).sum(1) / 10
    return torch.stack([total.tanh() + 2, (batch.flatten(1).mean(1) - 0.3).square() * 3], 1)


def image() -> Tensor:
    return torch.rand(2, 3, *SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 0.2


def explain(n_masks: int, seed: int = 0, **options: Any) -> Any:
    return fastsal.RISE(score).attribute(image(), n_masks=n_masks, grid_size=tuple(GRID), seed=seed, **options)


def errors(n_masks: int, seed: int = 0, **options: Any) -> Any:
    return fastsal.RISE(score).estimate(image(), n_masks=n_masks, grid_size=tuple(GRID), seed=seed, **options)


@cache
def converged() -> Tensor:
    """The map of all 2^12 grids at all 12 offsets: the masks of the probability 0.5, equally likely."""
    grids = (torch.arange(4096)[:, None] >> torch.arange(12)) & 1 == 1
    offsets = torch.cartesian_prod(torch.arange(4), torch.arange(3))
    rows, columns = masks.interpolation(SIZE, tuple(GRID))
    total = torch.zeros(2, 2, *SIZE, dtype=torch.float64)
    for y, x in offsets.tolist():
        made = rows[y] @ grids.view(-1, *GRID).double() @ columns[x].T
        scores = torch.stack([score(example * made[:, None]) for example in image()])  # [B, N, K]
        total += torch.einsum("bnk,nhw->bkhw", scores, made)
    return total / (len(grids) * len(offsets) * 0.5)


def by_definition(grids: Tensor, offsets: Tensor, estimator: str, p: float) -> Tensor:
    """Plain and centred estimates, with masks made by two small products each."""
    rows, columns = masks.interpolation(SIZE, tuple(GRID))
    made = torch.stack(
        [rows[y] @ grid.double() @ columns[x].T for grid, (y, x) in zip(grids, offsets.tolist(), strict=True)]
    )
    scores = torch.stack([score(image() * mask) for mask in made])  # [N, B, K]
    mean = scores.mean(0) if estimator == "centred" else torch.zeros_like(scores[0])
    return torch.einsum("nbk,nhw->bkhw", scores - mean, made) / (len(made) * p) + mean[:, :, None, None]


@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("estimator", ["plain", "centred"])
def test_by_definition(design: str, estimator: str) -> None:
    chosen = run_of(design, 70, 0.4, 5).drawn(70)
    expected = by_definition(*masks.opened(chosen, GRID), estimator, 0.4)
    got = explain(70, 5, design=design, estimator=estimator, probability=0.4)
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("probability", [0.5, 0.3])
def test_each_mask_keeps_each_cell_with_the_probability(design: str, probability: float) -> None:
    """Over many replicates; the offsets are uniform too."""
    replicates = 2000
    chosen = run_of(design, 6, probability, 1, replicates).drawn(6 * replicates)
    grids, offsets = masks.opened(chosen, GRID)
    share = grids.double().unflatten(0, (6, replicates)).mean(1)
    deviation = (probability * (1 - probability) / replicates) ** 0.5
    assert (share - probability).abs().max() < 5 * deviation
    for axis, (extent, cells) in enumerate(zip(SIZE, GRID, strict=True)):
        count = -(-extent // cells)
        frequency = torch.bincount(offsets[:, axis], minlength=count) / len(offsets)
        assert len(frequency) == count
        assert (frequency - 1 / count).abs().max() < 5 * (1 / count / replicates) ** 0.5


def test_designs_are_what_they_say() -> None:
    pairs, offsets = masks.opened(run_of("antithetic", 10, 0.5, 0).drawn(10), GRID)
    assert torch.equal(pairs[::2], ~pairs[1::2])
    assert torch.equal(offsets[::2], offsets[1::2])
    grids, _ = masks.opened(run_of("balanced", 128, 0.25, 0).drawn(128), GRID)
    assert (grids.unflatten(0, (2, 64)).sum(1) == 16).all()
    grids, _ = masks.opened(run_of("sobol", 256, 0.5, 0).drawn(256), GRID)
    assert (grids.sum(0) == 128).all()


@pytest.mark.parametrize(("estimator", "design"), PAIRS)
def test_the_estimand_is_the_papers(design: str, estimator: str) -> None:
    """The mean of many short runs is the map of many masks, within five standard errors of it."""
    truth = converged()
    runs = torch.stack([explain(64, seed, design=design, estimator=estimator) for seed in range(150)])
    error = runs.std(0) / len(runs) ** 0.5
    apart = (runs.mean(0) - truth).abs()
    # The centred mean is taken from the same scores, which moves it by a part of one in the number of masks.
    slack = truth.abs() / 64 if estimator != "plain" else 0.0
    assert (apart < 5 * error + slack + 2e-3).all()


def test_the_papers_way_bit_for_bit() -> None:
    expected = masks.fold(
        score(masks.batch(image()[:1], 0, 50, seed=3, grid_size=tuple(GRID))), 0, SIZE, seed=3, grid_size=tuple(GRID)
    ) / (50 * 0.5)
    got = fastsal.RISE(score).attribute(
        image()[:1],
        n_masks=50,
        grid_size=tuple(GRID),
        seed=3,
        perturbations_per_eval=50,
        design="independent",
        estimator="plain",
    )
    assert torch.equal(got[0], expected)


@pytest.mark.parametrize("design", ["antithetic", "balanced", "sobol"])
def test_batches_do_not_matter(design: str) -> None:
    whole = explain(50, design=design, estimator="regression")
    torch.testing.assert_close(explain(50, design=design, estimator="regression", perturbations_per_eval=7), whole)


@pytest.mark.long
@pytest.mark.parametrize(("estimator", "design"), PAIRS)
def test_standard_errors_cover(design: str, estimator: str) -> None:
    """95 % of Student's intervals with 15 degrees of freedom hold the truth, over seeds and pixels, within 3 %."""
    truth = converged()
    covered = []
    for seed in range(100):
        maps, error = errors(512, seed, design=design, estimator=estimator)[:2]
        covered.append(((maps - truth).abs() <= 2.131 * error).double().mean())
    assert 0.92 <= float(torch.stack(covered).mean()) <= 0.98


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"design": "latin"}, "design: 'latin' is not one of independent"),
        ({"estimator": "best"}, "estimator: 'best' is not one of plain"),
    ],
)
def test_errors_name_the_argument(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        explain(20, **options)


def test_errors_of_all_masks_need_two_for_each_replicate() -> None:
    with pytest.raises(ValueError, match="n_masks: 20 is below 32"):
        errors(20)
