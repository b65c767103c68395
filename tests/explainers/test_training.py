"""Maps that are trained through: create_graph keeps the graph to the parameters and to the inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastsal
from tests.explainers.networks import unchanged

Explain = Callable[..., Tensor]


class Smooth(nn.Module):
    """Twice differentiable, with a ReLU for the guided methods."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.relu, self.body = nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 3, padding=1)
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.body(self.relu(self.stem(x)) ** 2).tanh()
        return self.head(hidden.mean((2, 3))) ** 2


EXPLAIN: dict[str, Explain] = {
    "saliency": lambda model, x, **o: fastsal.Saliency(model).attribute(x, 1, abs=False, **o),
    "input-x-gradient": lambda model, x, **o: fastsal.InputXGradient(model).attribute(x, 1, **o),
    "ig": lambda model, x, **o: fastsal.IntegratedGradients(model).attribute(x, target=1, n_steps=4, **o),
    "ig in parts": lambda model, x, **o: fastsal.IntegratedGradients(model).attribute(
        x, target=1, n_steps=4, internal_batch_size=2, **o
    ),
    "guided": lambda model, x, **o: fastsal.GuidedBackprop(model).attribute(x, 1, **o),
    "deconvolution": lambda model, x, **o: fastsal.Deconvolution(model).attribute(x, 1, **o),
    "smoothgrad": lambda model, x, **o: fastsal.SmoothGrad(model).attribute(
        x, 1, abs=False, n_samples=3, stdevs=0.1, seed=0, perturbations_per_eval=2, **o
    ),
    "vargrad": lambda model, x, **o: fastsal.NoiseTunnel(fastsal.Saliency(model)).attribute(
        x, "vargrad", 3, stdevs=0.1, seed=0, target=1, **o
    ),
    "gradient-shap": lambda model, x, **o: fastsal.GradientShap(model).attribute(
        x, torch.zeros(2, 1, 5, 5).double(), 3, 0.1, 1, seed=0, **o
    ),
    "gradcam": lambda model, x, **o: fastsal.GradCAM(model, "body").attribute(x, 1, normalize=False, **o),
    "layer-grad-cam": lambda model, x, **o: fastsal.LayerGradCam(model, "body").attribute(x, 1, **o),
    "layer-gradient-x-activation": lambda model, x, **o: fastsal.LayerGradientXActivation(model, "stem").attribute(
        x, 1, **o
    ),
    "guided-grad-cam": lambda model, x, **o: fastsal.GuidedGradCam(model, "body").attribute(x, 1, **o),
}
every = pytest.mark.parametrize("name", EXPLAIN)


def image() -> Tensor:
    return torch.randn(2, 1, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@every
def test_the_map_is_the_same_with_its_graph(name: str) -> None:
    model, x = Smooth().double().eval(), image()
    plain = EXPLAIN[name](model, x)
    assert not plain.requires_grad
    with unchanged(model, x):
        found = EXPLAIN[name](model, x, create_graph=True)
    assert found.requires_grad
    torch.testing.assert_close(found.detach(), plain, rtol=1e-10, atol=1e-12)
    with torch.no_grad():
        assert EXPLAIN[name](model, x, create_graph=True).requires_grad


@every
def test_the_derivative_by_a_weight_is_the_difference_quotient(name: str) -> None:
    model, x = Smooth().double().eval(), image()
    weight = model.stem.weight
    (found,) = torch.autograd.grad((EXPLAIN[name](model, x, create_graph=True) ** 2).sum(), weight)
    direction = torch.randn(weight.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    step, ends = 1e-6, []
    for sign in (1, -1):
        with torch.no_grad():
            weight += sign * step * direction
        ends.append((EXPLAIN[name](model, x) ** 2).sum())
        with torch.no_grad():
            weight -= sign * step * direction
    expected = (ends[0] - ends[1]) / (2 * step)
    if name not in ("guided", "deconvolution", "guided-grad-cam"):  # their maps are no gradient of anything
        torch.testing.assert_close((found * direction).sum(), expected, rtol=1e-5, atol=1e-9)
    assert found.isfinite().all()
    assert found.any()


@every
def test_the_derivative_by_the_input(name: str) -> None:
    model, x = Smooth().double().eval(), image().requires_grad_()
    with unchanged(model, x):
        found = EXPLAIN[name](model, x, create_graph=True)
    (gradient,) = torch.autograd.grad((found**2).sum(), x)
    assert gradient.isfinite().all()
    assert gradient.any()
    assert not EXPLAIN[name](model, x).requires_grad


@pytest.mark.parametrize(("name", "weight"), [("saliency", 10.0), ("ig", 10.0), ("gradcam", 1000.0)])
def test_right_for_the_right_reasons(name: str, weight: float) -> None:
    """Ross, Hughes, Doshi-Velez, 2017, equation 1: training keeps the map off a region that gives the class away."""

    def confounded() -> tuple[Tensor, Tensor, Tensor]:
        generator = torch.Generator().manual_seed(3)
        labels = torch.randint(0, 2, (64,), generator=generator)
        x = 0.3 * torch.randn(64, 1, 5, 5, generator=generator)
        x[:, 0, 3, 3] += labels.float()
        forbidden = torch.zeros(1, 1, 5, 5)
        forbidden[..., :2, :] = 1
        x[:, 0, 0, 0] += 3 * labels  # the confounder
        return x, labels, forbidden

    def share(strength: float) -> float:
        x, labels, forbidden = confounded()
        torch.manual_seed(0)
        model: Any = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(200, 2))
        optimizer = torch.optim.Adam(model.parameters(), 0.02)
        calls: dict[str, Callable[..., Tensor]] = {
            "saliency": lambda **o: fastsal.Saliency(model).attribute(x, labels, **o),
            "ig": lambda **o: fastsal.IntegratedGradients(model).attribute(x, None, labels, n_steps=4, **o),
            "gradcam": lambda **o: fastsal.GradCAM(model, "1").attribute(x, labels, normalize=False, **o),
        }
        for _ in range(30):
            reasons = (calls[name](create_graph=True) * forbidden).pow(2).sum((1, 2, 3)).mean()
            loss = nn.functional.cross_entropy(model(x), labels) + strength * reasons
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        found = calls[name]().abs()
        return float((found * forbidden).sum() / found.sum())

    assert share(weight) < 0.5 * share(0.0)
