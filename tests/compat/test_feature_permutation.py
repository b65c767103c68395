"""FeaturePermutation: its orders, and what a perm_func may do."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest
import torch
from captum import attr
from torch import Tensor, nn

import fastsal
from tests.explainers.networks import unchanged


def test_an_order_depends_on_seed_and_feature_alone() -> None:
    x = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    maps = [
        fastsal.FeaturePermutation(lambda z: z.square().sum(1)).attribute(x, seed=4, perturbations_per_eval=size)
        for size in (1, 2, 3, 5, None)
    ]
    assert all(torch.equal(found, maps[0]) for found in maps)
    first = fastsal.FeaturePermutation(lambda z: z.square().sum(1)).attribute(x[:, :2], seed=4)
    torch.testing.assert_close(first, maps[0][:, :2])
    assert not torch.equal(fastsal.FeaturePermutation(lambda z: z.square().sum(1)).attribute(x, seed=5), maps[0])


def test_every_order_but_their_own_is_as_likely() -> None:
    """Three examples have five; 1000 features, so 200 +- 12.6 of each: within 5 standard errors."""
    x = torch.arange(3.0)[:, None].expand(3, 1000)
    taken = x - fastsal.FeaturePermutation(lambda z: z).attribute(x, seed=0).reshape(3, 1000, 1000).diagonal(0, 1, 2)
    seen = [tuple(column) for column in taken.T.int().tolist()]
    counts = {order: seen.count(order) for order in permutations(range(3))}
    assert counts.pop((0, 1, 2)) == 0
    assert all(abs(count - 200) < 5 * (1000 * 0.2 * 0.8) ** 0.5 for count in counts.values())


def test_a_feature_in_several_inputs_is_shuffled_together() -> None:
    """f = |a - b| is 0 while the pairs stay together; Captum draws an order for each input and parts them."""
    a = torch.arange(6.0)[:, None]
    one = torch.zeros(1, 1, dtype=torch.int64)

    def apart(a: Tensor, b: Tensor) -> Tensor:
        return (a - b).abs().flatten()

    for seed in range(5):
        for found in fastsal.FeaturePermutation(apart).attribute((a, a), feature_mask=(one, one), seed=seed):
            assert not found.any()
    torch.manual_seed(0)
    assert attr.FeaturePermutation(apart).attribute((a, a), feature_mask=(one, one))[0].any()


def test_one_score_for_the_batch() -> None:
    """An error of the whole batch, as permutation importance has it (Fisher et al. 2019, equation 3)."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(500, 3, generator=generator, dtype=torch.float64)
    y = 2 * x[:, 0] + x[:, 1]

    def error(z: Tensor) -> Tensor:
        return (2 * z[:, 0] + z[:, 1] - y).square().mean()

    found = fastsal.FeaturePermutation(error).attribute(x, seed=0)
    # E (w (x' - x))^2 = 2 w^2 var(x); mean over 500 has a relative standard error of about 2 / 500^0.5 = 0.09.
    expected = -2 * torch.tensor([[4.0, 1.0, 0.0]], dtype=torch.float64) * x.var(0)
    torch.testing.assert_close(found, expected, rtol=0.45, atol=0)
    number = fastsal.FeaturePermutation(lambda z: float(error(z))).attribute(x, seed=0)
    torch.testing.assert_close(number, found)


def test_integers_and_masks_of_each_example() -> None:
    tokens = torch.arange(12).reshape(4, 3)
    mask = torch.tensor([[0, 0, 1], [0, 1, 1], [1, 0, 0], [0, 0, 0]])

    def roll(z: Tensor, where: Tensor) -> Tensor:
        assert z.dtype == torch.int64
        assert where.shape == z.shape
        return torch.where(where, z.roll(1, 0), z)

    for size in (1, 2):
        options: dict[str, Any] = {"feature_mask": mask, "perturbations_per_eval": size}
        theirs = attr.FeaturePermutation(lambda z: z.double().prod(1), roll).attribute(tokens, **options)
        ours = fastsal.FeaturePermutation(lambda z: z.double().prod(1), roll).attribute(tokens, **options)
        torch.testing.assert_close(ours, theirs)


def test_a_function_that_writes_into_what_it_is_given() -> None:
    model, x = nn.Linear(4, 1), torch.randn(3, 4)

    def in_place(z: Tensor, mask: Tensor) -> Tensor:
        z.copy_(torch.where(mask, z.roll(1, 0), z))
        return z

    with unchanged(model, x):
        found = fastsal.FeaturePermutation(model, in_place).attribute(x, target=0)
    pure = fastsal.FeaturePermutation(model, lambda z, m: torch.where(m, z.roll(1, 0), z)).attribute(x, target=0)
    torch.testing.assert_close(found, pure)


def test_what_a_function_returns_takes_the_inputs_dtype() -> None:
    model, x = nn.Linear(4, 1), torch.randn(3, 4)

    def wide(z: Tensor, mask: Tensor) -> Tensor:
        return torch.where(mask, z.double().roll(1, 0), z.double())

    ours = fastsal.FeaturePermutation(model, wide).attribute(x, target=0)
    torch.testing.assert_close(ours, attr.FeaturePermutation(model, wide).attribute(x, target=0))
    for wrong in (lambda z, _: z[:1], lambda z, _: None):
        with pytest.raises(ValueError, match=r"perm_func: it returned .* for an input \(3, 4\)"):
            fastsal.FeaturePermutation(model, wrong).attribute(x, target=0)
    with pytest.raises(TypeError, match="perm_func: int is not callable"):
        fastsal.FeaturePermutation(model, 3)  # type: ignore[arg-type]


def test_the_default_function_by_itself() -> None:
    from fastsal.explainers.perturbation.occlusion.feature_permutation import permute_feature

    x = torch.arange(8.0).reshape(4, 2)
    found = permute_feature(x, torch.tensor([[True, False]]), torch.Generator().manual_seed(0))
    assert sorted(found[:, 0].tolist()) == x[:, 0].tolist() != found[:, 0].tolist()
    assert torch.equal(found[:, 1], x[:, 1])
    with pytest.raises(ValueError, match="one example has none to exchange"):
        permute_feature(x[:1], torch.tensor([[True, False]]))
