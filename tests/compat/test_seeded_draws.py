"""Behind Captum's names Gradient SHAP and Feature Permutation draw as Captum does: a program's seeds give its maps."""

from __future__ import annotations

from typing import Any

import captum.attr
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fastsal.compat import captum as compat


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(4, 5), nn.Linear(3, 5), nn.Linear(5, 2)
        self.joint = nn.Tanh()

    def forward(self, a: Tensor, b: Tensor) -> Any:
        return self.head(self.joint(self.first(a) * self.second(b)))


CALLS: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "GradientShap": ((), {"target": 1, "return_convergence_delta": True}),
    "LayerGradientShap": (("joint",), {"target": 1, "return_convergence_delta": True}),
    "NeuronGradientShap": (("joint",), {"neuron_selector": 2}),
}


def explained(package: Any, name: str, model: TwoInputs, inputs: Any, baselines: Any, **options: Any) -> Any:
    layers, given = CALLS[name]
    explainer = getattr(package, name)(model, *(getattr(model, each) for each in layers))
    np.random.seed(3)
    torch.manual_seed(4)
    return explainer.attribute(inputs, baselines=baselines, **given, **options)


@pytest.mark.parametrize("stdevs", [0.0, 0.3, (0.0, 0.5)])
@pytest.mark.parametrize("name", CALLS)
def test_the_same_seeds_give_the_same_map(name: str, stdevs: Any) -> None:
    torch.manual_seed(0)
    model = TwoInputs().eval()
    inputs, baselines = (torch.randn(3, 4), torch.randn(3, 3)), (torch.randn(6, 4), torch.randn(9, 3))
    options = {"n_samples": 7, "stdevs": stdevs}
    theirs = explained(captum.attr, name, model, inputs, baselines, **options)
    after = np.random.uniform()
    for per_call in (None, 2):
        ours = explained(compat, name, model, inputs, baselines, perturbations_per_eval=per_call, **options)
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
        assert np.random.uniform() == after


def test_a_seed_of_ours_leaves_the_global_generators_alone() -> None:
    model, x = nn.Linear(4, 1), torch.randn(2, 4)
    np.random.seed(0)
    torch.manual_seed(0)
    found = [
        compat.GradientShap(model).attribute(x, torch.randn(5, 4, generator=torch.Generator().manual_seed(1)), seed=6)
        for _ in range(2)
    ]
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)
    untouched = np.random.uniform(), torch.rand(())
    np.random.seed(0)
    torch.manual_seed(0)
    assert untouched == (np.random.uniform(), torch.rand(()))


@pytest.mark.parametrize("per_call", [1, None])
@pytest.mark.parametrize("masked", [False, True])
def test_the_same_seed_gives_the_same_permutations(masked: bool, per_call: int | None) -> None:
    model, inputs = TwoInputs().eval(), (torch.randn(5, 4), torch.randn(5, 3))
    mask = (torch.tensor([0, 0, 1, 2]), torch.tensor([3, 5, 5])) if masked else None
    torch.manual_seed(7)
    theirs = captum.attr.FeaturePermutation(model).attribute(inputs, target=1, feature_mask=mask)
    after = torch.rand(())
    torch.manual_seed(7)
    explainer = compat.FeaturePermutation(model)
    ours = explainer.attribute(inputs, target=1, feature_mask=mask, perturbations_per_eval=per_call)
    assert torch.rand(()) == after
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_permutations_of_inputs_of_other_lengths() -> None:
    def model(a: Tensor, b: Tensor) -> Any:
        return a.sum() + a[0, 0] * b[:3].sum()

    inputs = torch.randn(4, 2), torch.randn(9)
    torch.manual_seed(1)
    theirs = captum.attr.FeaturePermutation(model).attribute(inputs)
    torch.manual_seed(1)
    torch.testing.assert_close(compat.FeaturePermutation(model).attribute(inputs), theirs, rtol=1e-4, atol=1e-6)
