"""Forms that Captum takes and that are rare: a number for each example or for all, one example, fractions."""

from __future__ import annotations

from typing import Any

import captum.attr
import pytest
import torch
from torch import Tensor, nn

import fastsal
from fastsal.compat import captum as compat
from tests.explainers.networks import image, small


def difference(a: Tensor, b: Tensor) -> Tensor:
    """Of two inputs with a number for each example."""
    return (a.relu() - b.relu()) * torch.arange(1.0, 1 + len(a))


@pytest.mark.parametrize("baselines", [None, (torch.tensor([0.5, 1.0, 2.0]), 0.25)])
def test_occlusion_of_a_number_for_each_example(baselines: Any) -> None:
    inputs = torch.tensor([-10.0, 3.0, 4.0]), torch.tensor([-5.0, 1.0, 8.0])
    options = {"sliding_window_shapes": ((), ()), "baselines": baselines}
    ours = fastsal.Occlusion(difference).attribute(inputs, **options)
    theirs = captum.attr.Occlusion(difference).attribute(inputs, **options)
    for found, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(found, expected)
    alone = fastsal.Occlusion(lambda x: x**2).attribute(inputs[0], ())
    assert torch.equal(alone, inputs[0] ** 2)
    with pytest.raises(ValueError, match="sliding_window_shapes"):
        fastsal.Occlusion(lambda x: x**2).attribute(inputs[0], (1, 1))


SCALARS = ["NeuronGradient", "NeuronGuidedBackprop", "NeuronDeconvolution", "NeuronIntegratedGradients"]


@pytest.mark.parametrize("name", SCALARS)
def test_a_selector_of_one_number_for_all(name: str) -> None:
    """Of one example, as Captum; of several the sum over them, whose gradients are each example's own."""
    model = small()
    x = image(batch=1)
    options = {"n_steps": 7} if name == "NeuronIntegratedGradients" else {}
    ours = getattr(fastsal, name)(model, model.last).attribute(x, lambda value: value.sum(), **options)
    theirs = getattr(captum.attr, name)(model, model.last)
    expected = theirs.attribute(x, lambda value: value.flatten(1).sum(1), **options)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)
    if name == "NeuronGradient":
        several = image(batch=3)
        explainer = fastsal.NeuronGradient(model, model.last)
        found = explainer.attribute(several, lambda value: value.sum())
        torch.testing.assert_close(found, explainer.attribute(several, lambda value: value.flatten(1).sum(1)))


def test_a_neuron_of_a_layer_that_runs_twice() -> None:
    """The value of the last run, whose gradient goes through the first: by hand, and on a graph that is kept."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.head = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Any:
            return self.head(torch.tanh(self.layer(torch.tanh(self.layer(x)))))

    torch.manual_seed(0)
    model, x = Twice().eval(), torch.randn(3, 4)
    leaf = x.clone().requires_grad_()
    value = model.layer(torch.tanh(model.layer(leaf)))[:, 1]
    (expected,) = torch.autograd.grad(value.sum(), leaf)
    explainer = fastsal.NeuronGradient(model, "layer")
    torch.testing.assert_close(explainer.attribute(x, 1), expected)
    kept = explainer.attribute(x.requires_grad_(), 1, create_graph=True)
    (second,) = torch.autograd.grad(kept.square().sum(), x)
    assert second.abs().sum() > 0
    assert torch.is_grad_enabled()


def test_what_is_behind_a_neuron_takes_no_graph() -> None:
    recorded: list[bool] = []

    class Watched(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            recorded.append(torch.is_grad_enabled())
            return x

    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), Watched(), nn.Linear(4, 2)).eval()
    fastsal.NeuronGradient(model, "1").attribute(torch.randn(2, 4), 0)
    assert not any(recorded)
    with pytest.raises(ValueError, match="neuron_selector: 9 is out of range"):
        fastsal.NeuronGradient(model, "1").attribute(torch.randn(2, 4), 9)
    assert torch.is_grad_enabled()


class Unused(nn.Module):
    """With a layer that runs, and on which nothing depends."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.aside, self.head = nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Any:
        x = self.first(x)
        self.aside(x)
        return self.head(x)


def test_a_layer_that_the_target_does_not_use() -> None:
    model, x = Unused().eval(), torch.randn(2, 4)
    explainer = fastsal.LayerDeepLift(model, "aside")
    found = explainer.attribute(x, target=0, grad_kwargs={"materialize_grads": True})
    assert torch.equal(found, torch.zeros(2, 3))
    with pytest.raises(ValueError, match="layer"):
        explainer.attribute(x, target=0)
    with pytest.raises(ValueError, match="grad_kwargs: 'is_grads_batched'"):
        explainer.attribute(x, target=0, grad_kwargs={"is_grads_batched": True})


def test_permutation_of_one_example() -> None:
    model = small()
    with pytest.warns(UserWarning, match="one example has none to exchange"):
        found = fastsal.FeaturePermutation(model).attribute(image(batch=1), target=1, feature_mask=torch.arange(9) // 3)
    assert not found.any()
    inputs = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0, 9.0], [5.0, 6.0, 9.5]])
    mask = torch.tensor([0, 1]), torch.tensor([0, 2, 2])
    explainer = fastsal.FeaturePermutation(lambda a, b: b.prod(1) * a.sum())
    with pytest.warns(UserWarning, match="one example"):
        first, second = explainer.attribute(inputs, feature_mask=mask)
    assert not first.any()
    assert not second[:, 0].any()  # its feature is in the one example too
    assert second[:, 1:].all()
    explainer._min_examples_per_batch_grouped = 1
    with pytest.raises(ValueError, match="pass at least two"):
        explainer.attribute(inputs, feature_mask=mask)


def test_a_fraction_in_the_place_of_integers() -> None:
    inputs = torch.tensor([[0, 1], [3, 4]]), torch.tensor([[0.1, 0.2], [0.3, 0.2]]), torch.tensor([[0], [1]])
    baselines = 0.2, 3.1, torch.tensor([[0.4], [0.6]])

    def summed(*given: Tensor) -> Tensor:
        return torch.cat(given, 1).square().sum(1)

    ours = fastsal.FeatureAblation(summed).attribute(inputs, baselines=baselines)
    theirs = captum.attr.FeatureAblation(summed).attribute(inputs, baselines=baselines)
    for found, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(found, expected.to(found))
    with pytest.raises(ValueError, match="baselines: a fraction does not fit"):
        fastsal.ShapleyValues(summed).attribute(inputs, baselines=baselines)


def test_errors_of_the_delta_are_captums_too() -> None:
    explainer = compat.GradientShap(small())
    x = image(batch=2)
    maps = explainer.attribute(x, image(batch=4), target=1)
    with pytest.raises(AssertionError, match="has neither 1 nor 4 examples"):
        explainer.compute_convergence_delta(maps, x, image(batch=4), target=1)


@pytest.mark.parametrize("samples", [7, 8, 20, 1000])
def test_all_sets_from_eight_samples_on(samples: int) -> None:
    """Three features have eight sets, each as often; nothing is drawn."""
    x = torch.randn(2, 3)
    found = [fastsal.Lime(lambda z: z.prod(1) + z[:, 0]).attribute(x, n_samples=samples, seed=seed) for seed in (0, 1)]
    assert torch.equal(*found) == (samples >= 8)


@pytest.mark.parametrize("baselines", [True, False, torch.tensor([[True, False, True, False]])])
@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.bool])
def test_bool_baselines_are_0_and_1(baselines: Any, dtype: torch.dtype) -> None:
    x = torch.tensor([[0.0, 3.0, 1.0, 2.0], [5.0, 0.0, 0.0, 1.0]]).to(dtype)

    def model(z: Tensor) -> Tensor:
        return (z.float() * torch.arange(1.0, 5.0)).sum(1) ** 2

    for name in ("FeatureAblation", "ShapleyValues"):
        ours = getattr(fastsal, name)(model).attribute(x, baselines=baselines)
        theirs = getattr(captum.attr, name)(model).attribute(x, baselines=baselines)
        torch.testing.assert_close(ours.float(), theirs.float(), rtol=1e-4, atol=1e-4)
    if dtype == torch.float32 and isinstance(baselines, bool):
        ours, same = (
            fastsal.IntegratedGradients(model).attribute(x, baselines=each, n_steps=9)
            for each in (baselines, float(baselines))
        )
        assert torch.equal(ours, same)
