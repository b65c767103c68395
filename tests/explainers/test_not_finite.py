"""An example that is not finite throughout: the others' maps are as without it, and its own does not hide it."""

from __future__ import annotations

import math

import pytest
import torch

from tests.explainers.calls import CALLS, MODULE
from tests.explainers.networks import image, small

EXCHANGED = ("feature-permutation",)
"""Examples exchange their features."""
REFUSED = ("lime",)
"""Its weights are of the distance to the example."""
TELL = ("EigenCAM", "EigenGradCAM", "KPCACAM", "gradcam", "FEM", "HiResCAM", "layer-activation", "layer-ig", "lrp")


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("name", [name for name in CALLS if name not in (*EXCHANGED, *REFUSED)])
def test_others_are_as_without_it(name: str, value: float) -> None:
    model, x = small(), image()
    expected = CALLS[name](model, x)[[0, 2]]
    x[1, :, 3, 3] = value
    found = CALLS[name](model, x)[[0, 2]]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=float(1e-5 * expected.abs().max()))


@pytest.mark.parametrize("name", TELL)
def test_its_own_map_tells(name: str) -> None:
    model, x = small(), image()
    x[1, :, 3, 3] = math.nan
    assert MODULE[name](model, x)[1].isnan().any()
