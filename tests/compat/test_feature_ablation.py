"""FeatureAblation where its scores, masks and results are of an uncommon kind, against Captum 0.9.0."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from captum import attr
from torch import Tensor, nn

import fastsal
from tests.explainers.networks import PeakBytes, TwoInputs, image, small

EXACT = {"rtol": 1e-10, "atol": 1e-12}


def both(forward: Any, inputs: Any, **options: Any) -> tuple[Any, Any]:
    ours = fastsal.FeatureAblation(forward).attribute(inputs, **options)
    return ours, attr.FeatureAblation(forward).attribute(inputs, **options)


def test_integer_scores_are_exact() -> None:
    """2^24 + 1 is no float32."""
    x = torch.tensor([[1, 2], [3, 4]])
    for size in (1, 2, None):
        found = fastsal.FeatureAblation(lambda z: z.sum(1) + 2**24).attribute(x, perturbations_per_eval=size)
        assert found.dtype == torch.int64
        assert torch.equal(found, x)
    assert torch.equal(attr.FeatureAblation(lambda z: z.sum(1) + 2**24).attribute(x), x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_results_take_the_dtype_of_the_output(dtype: torch.dtype) -> None:
    x = torch.tensor([[1.5, -2.0, 0.25], [3.0, 0.5, 1.0]])
    found, expected = both(lambda z: z.sum(1).to(dtype), x)
    assert found.dtype == expected.dtype == dtype
    torch.testing.assert_close(found, expected)


def test_scores_without_negative_numbers_have_differences_that_are() -> None:
    x = torch.tensor([[2.0, -1.0], [-2.0, 1.0]])
    for kind in (torch.bool, torch.uint8):
        found = fastsal.FeatureAblation(lambda z, kind=kind: (z.sum(1) > 0).to(kind)).attribute(x)
        assert torch.equal(found, torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))


def test_complex_scores() -> None:
    ours, theirs = both(lambda z: torch.complex(z.sum(1), z.prod(1)), torch.randn(3, 4, dtype=torch.float64))
    assert ours.dtype == theirs.dtype == torch.complex128
    torch.testing.assert_close(ours, theirs, **EXACT)


def test_results_are_contiguous_as_captums() -> None:
    x = torch.randn(3, 2, 4)
    masks = [None, torch.arange(4), torch.arange(24).reshape(3, 2, 4) % 5]
    for forward in (lambda z: z.flatten(1).sum(1), lambda z: z.flatten(1)[:, :2], lambda z: z.sum()):
        for mask in masks[: 2 if forward(x).dim() == 0 else 3]:
            for name in ("FeatureAblation", "ShapleyValueSampling"):
                assert getattr(fastsal, name)(forward).attribute(x, feature_mask=mask).is_contiguous()


@pytest.mark.parametrize("size", [1, 2, 5, None])
def test_outputs_with_several_rows_an_example(size: int | None) -> None:
    """A sequence model that flattens [B, T, ...]: dimension 0 grows with the batch and is not the batch."""
    x = torch.randn(3, 2, 4, dtype=torch.float64)

    def forward(z: Tensor) -> Tensor:
        return z.reshape(-1, 4).sin().cumsum(1)[:, 1:]

    found = fastsal.FeatureAblation(forward).attribute(x, perturbations_per_eval=size)
    assert found.shape == (3 * 2 * 3, 2, 4)
    torch.testing.assert_close(found, attr.FeatureAblation(forward).attribute(x), **EXACT)


@pytest.mark.parametrize(
    "forward",
    [lambda z: z.sum(0), lambda z: z.sum().reshape(1), lambda z: torch.ones(3, 2)],
    ids=["classes", "one", "constant"],
)
def test_outputs_that_do_not_grow_are_scored_one_at_a_time(forward: Any) -> None:
    x = torch.randn(3, 4, dtype=torch.float64)
    torch.testing.assert_close(*both(forward, x, perturbations_per_eval=1), **EXACT)
    torch.testing.assert_close(
        fastsal.FeatureAblation(forward).attribute(x), attr.FeatureAblation(forward).attribute(x), **EXACT
    )
    with pytest.raises(ValueError, match=r"perturbations_per_eval: for 2 copies the output has the shape .* must be 1"):
        fastsal.FeatureAblation(forward).attribute(x, perturbations_per_eval=2)


def test_ids_with_gaps_cost_no_pass_and_no_memory() -> None:
    x, rows = torch.randn(2, 6, dtype=torch.float64), 0

    def forward(z: Tensor) -> Tensor:
        nonlocal rows
        rows += len(z)
        return z.prod(1) + z.sum(1)

    mask = torch.tensor([[7, 10**12, 7, 255, 0, 10**12]])
    found = fastsal.FeatureAblation(forward).attribute(x, feature_mask=mask)
    # Four calls tell whether rows depend on each other, once: three of four copies, and the last of all again.
    assert rows == 2 * (4 + 1) + 2 * 5
    torch.testing.assert_close(found, attr.FeatureAblation(forward).attribute(x, feature_mask=mask), **EXACT)
    rows = 0
    dense = torch.tensor([[1, 3, 1, 2, 0, 3]])
    found = fastsal.ShapleyValues(forward).attribute(x, feature_mask=mask)
    assert rows == 2 * (2**4 + 1)  # more copies than were seen together
    torch.testing.assert_close(found, fastsal.ShapleyValues(forward).attribute(x, feature_mask=dense), **EXACT)
    rows = 0
    fastsal.ShapleyValueSampling(forward).attribute(x, feature_mask=mask, n_samples=3)
    assert rows == 2 * (3 * 4 + 1)


def test_an_id_in_several_inputs_is_one_feature_and_others_are_not() -> None:
    """f = a b: 0 without either, so a shared id costs one pass and both get f; so do ids of their own, in two."""
    a, b = torch.tensor([[2.0, 3.0]]), torch.tensor([[5.0, 7.0]])
    calls: list[int] = []

    def forward(a: Tensor, b: Tensor) -> Tensor:
        calls.append(len(a))
        return (a + b).prod(1)  # 7 * 10

    options: dict[str, Any] = {"perturbations_per_eval": 1}
    shared = (torch.tensor([[0, 1]]), torch.tensor([[0, 1]]))
    found = fastsal.FeatureAblation(forward).attribute((a, b), feature_mask=shared, **options)
    assert len(calls) == 3
    for part in found:
        assert torch.equal(part, torch.tensor([[70.0, 70.0]]))
    calls.clear()
    separate = (torch.tensor([[0, 1]]), torch.tensor([[2, 3]]))
    found = fastsal.FeatureAblation(forward).attribute((a, b), feature_mask=separate, **options)
    assert len(calls) == 5
    assert torch.equal(found[0], torch.tensor([[70.0 - 5 * 10, 70.0 - 7 * 7]]))
    assert torch.equal(found[1], torch.tensor([[70.0 - 2 * 10, 70.0 - 7 * 3]]))


def test_masks_of_each_example_in_several_inputs() -> None:
    """Captum takes them for one output only; ours gives all outputs what it gives each."""
    model, inputs = TwoInputs().double().eval(), (torch.randn(3, 3, 4).double(), torch.randn(3, 5).double())
    masks = (torch.randint(0, 4, (3, 3, 4)), torch.randint(2, 6, (3, 5)))
    theirs = [attr.FeatureAblation(model).attribute(inputs, target=k, feature_mask=masks) for k in range(4)]
    for size in (1, 3, None):
        ours = fastsal.FeatureAblation(model).attribute(inputs, feature_mask=masks, perturbations_per_eval=size)
        for i, found in enumerate(ours):
            torch.testing.assert_close(found, torch.stack([one[i] for one in theirs], 1).flatten(0, 1), **EXACT)


def test_a_nan_that_is_replaced_is_gone() -> None:
    x = torch.tensor([[float("nan"), 2.0]])
    found = fastsal.FeatureAblation(lambda z: z.nan_to_num(100.0).sum(1)).attribute(x)
    assert torch.equal(found, torch.tensor([[100.0, 2.0]]))


def test_an_image_without_a_mask_takes_memory_by_the_chunk() -> None:
    """48 x 48 x 3 features: a [features, features] table of bools alone would be 48 MB."""
    x = torch.rand(1, 3, 48, 48)
    with PeakBytes() as peak:
        found = fastsal.FeatureAblation(lambda z: z.flatten(1).sum(1)).attribute(x, perturbations_per_eval=256)
    torch.testing.assert_close(found, x, rtol=1e-2, atol=1e-3)  # differences of a float32 sum of 3,500
    assert peak.peak < 4 * 256 * x.numel() * 4


@pytest.mark.parametrize("name", ["FeatureAblation", "ShapleyValueSampling", "Occlusion"])
def test_baselines_that_do_not_broadcast(name: str) -> None:
    x, options = image(), {"sliding_window_shapes": (3, 4, 4)} if name == "Occlusion" else {}
    for shape in ((2, 3, 3, 8, 9), (3, 1, 2), (4,)):
        with pytest.raises(ValueError, match=r"baselines: shape .* does not broadcast to the input's \(3, 3, 8, 9\)"):
            getattr(fastsal, name)(small()).attribute(x, baselines=torch.zeros(shape), target=1, **options)


@pytest.mark.parametrize("size", [0, -1, 1.5, "2", True])
def test_numbers_at_a_time(size: Any) -> None:
    if size is True:  # an int in Python, and in Captum
        assert fastsal.FeatureAblation(nn.Flatten(0)).attribute(torch.ones(2, 1), perturbations_per_eval=size).all()
        return
    with pytest.raises((TypeError, ValueError), match="perturbations_per_eval"):
        fastsal.FeatureAblation(nn.Flatten(0)).attribute(torch.ones(2, 1), perturbations_per_eval=size)


def test_another_default_device_changes_nothing() -> None:
    x, mask = torch.randn(3, 4), torch.tensor([0, 0, 1, 2])
    for name in ("FeatureAblation", "FeaturePermutation", "ShapleyValueSampling", "ShapleyValues"):
        options = {"seed": 1} if name in ("FeaturePermutation", "ShapleyValueSampling") else {}
        explainer = getattr(fastsal, name)(lambda z: z.prod(1) + z.sum(1))
        expected = explainer.attribute(x, feature_mask=mask, **options)
        with torch.device("meta"):
            assert torch.equal(explainer.attribute(x, feature_mask=mask, **options), expected)
