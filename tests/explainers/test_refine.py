"""Occlusion from coarse to fine: exact where it looks, and as far off elsewhere as it says."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastsal
from fastsal.explainers.perturbation.occlusion._refine import refined


def bump(centre: tuple[int, int], width: float, size: int = 48) -> Tensor:
    rows, columns = torch.meshgrid(*[torch.arange(size, dtype=torch.float64)] * 2, indexing="ij")
    return torch.exp(-((rows - centre[0]) ** 2 + (columns - centre[1]) ** 2) / (2 * width**2))


class Local(nn.Module):
    """Two outputs that look at one place each, and a little at all of the image."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(seed)
        places = torch.randint(10, 38, (2, 2), generator=random).tolist()
        self.weight = torch.stack([bump((y, x), 4.0) for y, x in places])
        self.weight = self.weight + 0.002 * torch.randn(2, 48, 48, dtype=torch.float64, generator=random)
        self.rows = 0

    def forward(self, x: Tensor) -> Tensor:
        self.rows += len(x)
        return torch.einsum("nchw,khw->nk", x, self.weight).tanh()


GEOMETRY: dict[str, Any] = {"sliding_window_shapes": (1, 8, 8), "strides": (1, 2, 2)}


def pixels(batch: int = 1) -> Tensor:
    return torch.rand(batch, 1, 48, 48, dtype=torch.float64, generator=torch.Generator().manual_seed(9)) / 50


def explain(model: nn.Module, target: Any = 0, **options: Any) -> Any:
    explainer = fastsal.Occlusion(model)
    run = explainer.estimate if "refine" in options else explainer.attribute
    return run(pixels(), target=target, **GEOMETRY, **options)


def test_fewer_windows_and_the_same_map_where_it_matters() -> None:
    model = Local()
    plain = explain(model)
    whole, model.rows = model.rows, 0
    found = explain(model, refine=0.2)
    assert model.rows == found.samples + 1
    assert found.samples < whole / 2
    # Elements that only scored windows cover.
    exact = found.error == 0
    assert exact.double().mean() > 0.05
    torch.testing.assert_close(found.attribution[exact], plain[exact], rtol=1e-9, atol=1e-12)
    strongest = plain.flatten().topk(50).indices
    assert exact.flatten()[strongest].all()
    assert (found.attribution - plain).square().mean().sqrt() < 0.05 * plain.std()


def test_the_stated_error_is_honest() -> None:
    """The root mean square of what interpolation misses is, over networks, within a third of what was stated."""
    ratios = []
    for seed in range(40):
        model = Local(seed)
        kept: dict[str, Tensor] = {}
        counts = (1, 21, 21)

        def score(positions: Tensor, model: nn.Module = model, kept: dict[str, Tensor] = kept) -> Tensor:
            if "all" not in kept:
                x = pixels()
                rows = fastsal.ops.windows.batch(x, 0, 441, window=(1, 8, 8), stride=(1, 2, 2))
                kept["all"] = model(x) - model(rows)
            return kept["all"][positions]

        found = refined(score, counts, (1, 8, 8), (1, 2, 2), 0.2, seed)
        inexact = found.error[:, 0] > 0
        true = (found.changes - kept["all"])[inexact].square().mean(0)
        ratios.append(torch.stack([true, found.error[inexact].square().mean(0)]))
        torch.testing.assert_close(found.changes[~inexact], kept["all"][~inexact], rtol=1e-9, atol=1e-12)
    true, stated = torch.stack(ratios).mean(0).sqrt()
    assert ((true / stated > 0.75) & (true / stated < 1.33)).all()


def test_a_small_share_scores_all_windows() -> None:
    found = explain(Local(), refine=1e-9)
    torch.testing.assert_close(found.attribution, explain(Local()), rtol=1e-9, atol=1e-12)
    assert found.samples == 441
    assert not found.error.any()
    assert found.relative_error == 0


def test_windows_side_by_side_have_nothing_to_refine() -> None:
    x = pixels()
    options: dict[str, Any] = {"target": 0, "sliding_window_shapes": (1, 8, 8), "strides": (1, 8, 8)}
    found = fastsal.Occlusion(Local()).estimate(x, refine=0.5, **options)
    torch.testing.assert_close(found.attribution, fastsal.Occlusion(Local()).attribute(x, **options))
    assert found.samples == 36


def test_several_outputs_and_examples() -> None:
    """A window is scored for all where one output of one example needs it."""
    model, x = Local(), pixels(3)
    plain = fastsal.Occlusion(model).attribute(x, **GEOMETRY)
    found = fastsal.Occlusion(model).estimate(x, refine=0.3, **GEOMETRY)
    assert found.attribution.shape == plain.shape == (6, 1, 48, 48)
    assert (found.attribution - plain).square().mean().sqrt() < 0.05 * plain.std()
    exact = found.error == 0
    torch.testing.assert_close(found.attribution[exact], plain[exact], rtol=1e-9, atol=1e-12)


def test_with_incremental_inference() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.Tanh(),
        nn.Conv2d(8, 8, 3, 2, 1),
        nn.Tanh(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 3),
    ).double()
    x = torch.randn(1, 3, 40, 40, dtype=torch.float64)
    results = [
        fastsal.Occlusion(model).estimate(x, (3, 8, 8), (3, 2, 2), target=1, refine=0.3, incremental=setting)
        for setting in (True, False)
    ]
    torch.testing.assert_close(results[0].attribution, results[1].attribution, rtol=1e-9, atol=1e-12)
    assert results[0].samples == results[1].samples


def test_a_score_that_is_not_finite_is_looked_at() -> None:
    class Holes(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            total = x.mean((1, 2, 3))
            return torch.where(x[:, 0, 20, 20] == 0, torch.nan, total)[:, None]

    found = explain(Holes(), refine=0.9)
    plain = explain(Holes())
    assert torch.equal(found.attribution.isnan(), plain.isnan())


def test_tuples_and_refusals() -> None:
    x = pixels()
    found = fastsal.Occlusion(Local()).estimate((x,), target=0, refine=0.5, **GEOMETRY)
    assert isinstance(found.attribution, tuple)
    assert isinstance(found.error, tuple)
    for refine in (0, 1, -0.1, float("nan")):
        with pytest.raises(ValueError, match=r"refine: .* is not between 0 and 1"):
            explain(Local(), refine=refine)
    for refine in ("0.5", True):
        with pytest.raises(TypeError, match=r"refine: .* is not a number"):
            explain(Local(), refine=refine)
    with pytest.raises(ValueError, match="refine: for one input, 2 are given"):
        fastsal.Occlusion(lambda a, b: a.flatten(1) + b.flatten(1)).estimate(
            (x, x), ((1, 8, 8), (1, 8, 8)), target=0, refine=0.5
        )
