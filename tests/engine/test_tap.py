"""The tap reads what the ordinary way reads, without a graph over the trunk."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastsal.engine import tap
from tests.explainers.networks import image, small, unchanged


def ordinary(model: nn.Module, layer: nn.Module, x: Tensor, column: int) -> tuple[Tensor, Tensor, Tensor]:
    box: list[Tensor] = []
    handle = layer.register_forward_hook(lambda module, inputs, output: box.append(output))
    output = model(x)
    handle.remove()
    (gradient,) = torch.autograd.grad(output[:, column].sum(), box[-1])
    return output, box[-1], gradient


@pytest.mark.parametrize("layer", ["stem", "norm", "act", "body", "last", "drop"])
@pytest.mark.parametrize("frozen", [False, True])
def test_it_reads_what_the_ordinary_way_reads(layer: str, frozen: bool) -> None:
    model, x = small(dtype=torch.float64), image(dtype=torch.float64)
    expected = ordinary(model, getattr(model, layer), x, 2)
    model.requires_grad_(not frozen)
    with unchanged(model, x):
        found = tap(model, getattr(model, layer), (x,), (), lambda output: output[:, 2])
    for ours, theirs in zip(found, expected, strict=True):
        assert not ours.requires_grad
        torch.testing.assert_close(ours, theirs.detach(), rtol=1e-12, atol=1e-12)


def test_the_trunk_has_no_graph_and_the_tail_has() -> None:
    seen: dict[str, bool] = {}

    def note(name: str) -> Any:
        return lambda module, inputs, output: seen.__setitem__(name, output.requires_grad)

    model = small()
    handles = [module.register_forward_hook(note(name)) for name, module in model.named_children()]
    tap(model, model.body, (image(),), (), lambda output: output[:, 0])
    for handle in handles:
        handle.remove()
    assert seen["stem"] is seen["norm"] is seen["act"] is False
    assert seen["last"] is seen["drop"] is seen["head"] is True
    assert torch.is_grad_enabled()


def test_an_activation_in_place_after_the_layer() -> None:
    model, reference, x = small(in_place=True), small(in_place=False), image()
    for layer in ("norm", "body"):
        found = tap(model, getattr(model, layer), (x,), (), lambda output: output[:, 1])
        _, activations, gradients = ordinary(reference, getattr(reference, layer), x, 1)
        torch.testing.assert_close(found.activations, activations.detach())
        torch.testing.assert_close(found.gradients, gradients)
        assert (found.activations < 0).any()


def test_the_hook_goes_also_when_it_is_the_selection_that_fails() -> None:
    model, x = small(), image()

    def select(output: Tensor) -> Tensor:
        raise KeyError

    with unchanged(model, x), pytest.raises(KeyError):
        tap(model, model.body, (x,), (), select)
    for layer in (model.head, nn.ReLU()):  # outputs [B, K] can be tapped; a layer that does not run cannot
        with unchanged(model, x):
            if layer is model.head:
                tap(model, layer, (x,), (), lambda output: output[:, 1])
            else:
                with pytest.raises(ValueError, match="layer"):
                    tap(model, layer, (x,), (), lambda output: output[:, 1])
