"""Models that write to what they are given: every pass gets its own copy, so that the map is that of a tidy model."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import fastsal
from tests.explainers.calls import PERTURBATION
from tests.explainers.networks import image, small, unchanged


class Tidy(nn.Module):
    """Standardised images and a network."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.net((x - 0.3) / 0.7)
        return found


class Writing(Tidy):
    """The same in place."""

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.net(x.sub_(0.3).div_(0.7))
        x.zero_()
        return found


@pytest.mark.parametrize("name", PERTURBATION)
def test_a_model_that_leaves_nothing_of_its_input(name: str) -> None:
    net, x = small(), image()
    expected = PERTURBATION[name](Tidy(net).eval(), x)
    with unchanged(net, x):
        found = PERTURBATION[name](Writing(net).eval(), x)
    torch.testing.assert_close(found, expected)


def test_a_model_that_writes_to_an_extra_argument() -> None:
    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = small()

        def forward(self, x: Tensor, shift: Tensor) -> Tensor:
            found: Tensor = self.net(x + shift.mul_(0.5))
            return found

    model, x, shift = Shifted().eval(), image(), torch.rand(1, 3, 1, 1)
    kept = shift.clone()
    plain = small()

    def tidy(z: Tensor) -> Tensor:
        found: Tensor = plain(z + 0.5 * kept)
        return found

    for name, options in (("IntegratedGradients", {"n_steps": 7}), ("RISE", {"n_masks": 9})):
        found = getattr(fastsal, name)(model).attribute(x, target=1, additional_forward_args=shift, **options)
        torch.testing.assert_close(found, getattr(fastsal, name)(tidy).attribute(x, target=1, **options))
        assert torch.equal(shift, kept)
