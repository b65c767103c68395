"""What KernelShap draws: coalitions by the kernel's probabilities, one map a seed, no pair twice."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from captum import attr

import fastsal
from fastsal.explainers.perturbation.surrogate._coalitions import design
from tests.compat.test_kernel_shap import draw_coalitions, generator, interacting, network
from tests.explainers.networks import image, small


@pytest.mark.slow
def test_values_are_distributed_as_captums() -> None:
    x = torch.randn(1, 5, dtype=torch.float64)
    ours = torch.cat([fastsal.KernelShap(interacting).attribute(x, n_samples=25, seed=s) for s in range(250)])
    theirs = torch.cat([attr.KernelShap(interacting).attribute(x, n_samples=25) for _ in range(80)]).double()
    error = (ours.var(0) / 250 + theirs.var(0) / 80).sqrt()
    assert ((ours.mean(0) - theirs.mean(0)).abs() < 5 * error).all()
    assert (ours.std(0) < theirs.std(0)).all()


def test_sizes_and_members_have_the_kernels_probabilities() -> None:
    total, count = 7, 40_000
    chosen = design(60, 9, generator())
    assert torch.equal(chosen.present[2:20].sum(1), torch.tensor([1] * 9 + [8] * 9))
    assert (chosen.fixed, len(chosen.present)) == (20, 60)
    assert torch.equal(chosen.present[20::2], ~chosen.present[21::2])
    assert chosen.weights(60).sum() == pytest.approx(sum(8 / (k * (9 - k)) for k in range(1, 9)))
    present = draw_coalitions(count + 2, total, generator())
    assert present[0].all()
    assert not present[1].any()
    sizes = torch.arange(1, total, dtype=torch.float64)
    chances = (total - 1) / (sizes * (total - sizes))
    chances /= chances.sum()
    drawn = present[2:].sum(1)
    found = torch.bincount(drawn, minlength=total)[1:total] / count
    assert drawn.min() >= 1
    assert drawn.max() <= total - 1
    assert ((found - chances).abs() < 5 * (chances * (1 - chances) / count).sqrt()).all()
    for size in range(1, total):
        members = present[2:][drawn == size].double()
        error = (size / total * (1 - size / total) / len(members)) ** 0.5
        assert ((members.mean(0) - size / total).abs() < 5 * error).all()


def test_a_seed_gives_one_map_whatever_the_batch_size_and_the_batch() -> None:
    model, x = small(dtype=torch.float64), image(size=4, dtype=torch.float64)
    mask = torch.arange(20).reshape(1, 1, 4, 5) // 2
    state, explainer = torch.get_rng_state(), fastsal.KernelShap(model)
    options: dict[str, Any] = {"target": [2, 0, 3], "feature_mask": mask, "n_samples": 60}
    results = [explainer.attribute(x, perturbations_per_eval=n, seed=7, **options) for n in (None, 1, 7, 60)]
    assert torch.equal(torch.get_rng_state(), state)
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], rtol=1e-12, atol=1e-13)
    options.pop("target")
    alone = [explainer.attribute(x[i : i + 1], seed=7, target=t, **options) for i, t in enumerate((2, 0, 3))]
    torch.testing.assert_close(torch.cat(alone), results[0], rtol=1e-10, atol=1e-12)
    assert not torch.equal(results[0], explainer.attribute(x, seed=8, target=[2, 0, 3], **options))
    torch.manual_seed(3)
    first = explainer.attribute(x, target=1, **options)
    torch.manual_seed(3)
    assert torch.equal(first, explainer.attribute(x, target=1, **options))


def test_another_default_device_is_not_drawn_on() -> None:
    model, x = network(), torch.randn(2, 6)
    expected = fastsal.KernelShap(model).attribute(x, target=1, seed=3)
    with torch.device("meta"):
        assert torch.equal(fastsal.KernelShap(model).attribute(x, target=1, seed=3), expected)


def test_ids_that_no_element_has_take_no_share() -> None:
    x, weights = torch.ones(1, 3, dtype=torch.float64), torch.tensor([1.0, 2, 3], dtype=torch.float64)
    mask = torch.tensor([[0, 100, 7]])
    explainer = fastsal.KernelShap(lambda z: z @ weights)
    torch.testing.assert_close(explainer.attribute(x, feature_mask=mask, seed=0), weights[None])
    flat = explainer.attribute(x, feature_mask=mask, seed=0, return_input_shape=False)
    assert flat.shape == (1, 101)
    torch.testing.assert_close(flat[0, [0, 100, 7]], weights)


@pytest.mark.parametrize("name", ["Lime", "KernelShap"])
def test_the_draws_do_not_depend_on_the_default_dtype(name: str) -> None:
    explainer = getattr(fastsal, name)(lambda z: (z @ torch.tensor([1.0, 2, 3], dtype=torch.float64)) ** 2)
    x = torch.ones(1, 3, dtype=torch.float64)
    first = explainer.attribute(x, seed=0, n_samples=6)
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(explainer.attribute(x, seed=0, n_samples=6), first)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("name", ["Lime", "KernelShap"])
def test_masks_and_counts_are_read_as_everywhere(name: str) -> None:
    explainer, x = getattr(fastsal, name)(lambda z: z.sum(1)), torch.ones(1, 3)
    for mask, message in ((torch.tensor([[-1, 0, 1]]), "feature_mask: -1"), (x.bool(), "feature_mask: torch.bool")):
        with pytest.raises((TypeError, ValueError), match=message):
            explainer.attribute(x, feature_mask=mask)
    with pytest.raises(TypeError, match=r"n_samples: 10\.5"):
        explainer.attribute(x, n_samples=10.5)
    with pytest.raises(TypeError, match=r"perturbations_per_eval: 2\.5"):
        explainer.attribute(x, perturbations_per_eval=2.5)
    with pytest.raises(TypeError, match="interpretable_model: str"):
        fastsal.Lime(lambda z: z.sum(1), interpretable_model="lasso")
    with pytest.raises(TypeError, match="similarity_func: str"):
        fastsal.Lime(lambda z: z.sum(1), similarity_func="cosine")


@pytest.mark.parametrize(
    ("n_samples", "total"), [(20, 12), (200, 12), (1000, 12), (4093, 12), (90, 7), (125, 7), (60, 40)]
)
def test_no_pair_is_drawn_twice(n_samples: int, total: int) -> None:
    """Of a size that is not complete the drawn ones are others each time, also where they are nearly all."""
    for seed in range(3):
        present = design(n_samples, total, generator(seed)).present
        assert len(present) == n_samples
        assert len(present[2:].unique(dim=0)) == n_samples - 2
        assert torch.equal(present[-2], ~present[-1]) or n_samples % 2
