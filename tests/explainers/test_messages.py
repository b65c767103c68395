"""Errors that name what is wrong, where it used to be named as something else, and what then runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

import fastsal
from fastsal import targets
from tests.explainers.networks import image, small


class Packed(nn.Module):
    """A recurrent model of series of several lengths, which come as a list."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rnn, self.head = nn.GRU(3, 6, batch_first=True), nn.Linear(6, 2)

    def forward(self, x: Tensor, lengths: Any) -> Tensor:
        packed = pack_padded_sequence(x, torch.as_tensor(lengths), batch_first=True, enforce_sorted=False)
        return self.head(self.rnn(packed)[1][-1])


class Weighed(nn.Module):
    """Scores that a list weighs by example, without a word where there are more rows than weights."""

    def forward(self, x: Tensor, weights: Any) -> Tensor:
        rows = torch.as_tensor(weights, dtype=x.dtype)
        return (x.sin() * rows.repeat(len(x) // len(rows) + 1)[: len(x), None]).cumsum(1)


@pytest.mark.parametrize("kind", [list, np.array, tuple])
@pytest.mark.parametrize("name", ["IntegratedGradients", "FeatureAblation", "SmoothGrad", "GradientShap"])
def test_a_list_with_an_entry_for_each_example_goes_with_the_examples(name: str, kind: Callable[[Any], Any]) -> None:
    """It cannot be repeated for altered copies, so there is one copy at a time: each example has its own entry."""
    model, x, lengths = Packed().double().eval(), torch.randn(3, 7, 3).double(), [7, 3, 5]
    options: dict[str, Any] = {"target": 1}
    if name == "GradientShap":
        options["baselines"] = torch.zeros(1, 7, 3).double()
    if name == "SmoothGrad":
        options["stdevs"] = 0.0
    found = getattr(fastsal, name)(model).attribute(x, additional_forward_args=(kind(lengths),), **options)
    for row, length in enumerate(lengths):
        assert not found[row, length:].any()
        assert found[row, :length].any()
    if name in ("IntegratedGradients", "FeatureAblation"):
        if name == "FeatureAblation":
            options["perturbations_per_eval"] = 1
        expected = getattr(fastsal, name)(model).attribute(
            x, additional_forward_args=(torch.tensor(lengths),), **options
        )
        torch.testing.assert_close(found, expected)


def test_a_list_that_a_model_repeats_as_it_likes() -> None:
    x, weights = torch.randn(3, 4).double(), [1.0, -2.0, 5.0]
    found = fastsal.IntegratedGradients(Weighed()).attribute(x, target=2, additional_forward_args=(weights,), n_steps=9)
    alone = [
        fastsal.IntegratedGradients(Weighed()).attribute(
            x[i : i + 1], target=2, additional_forward_args=(weights[i : i + 1],), n_steps=9
        )
        for i in range(3)
    ]
    torch.testing.assert_close(found, torch.cat(alone))


@pytest.mark.parametrize("shape", [(3, 4), (3,), (3, 1, 2, 2, 2, 2)])
def test_rise_of_what_has_no_positions(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"inputs: shape .* is not \[B, C, \*spatial\].*FeatureAblation"):
        fastsal.RISE(lambda x: x.flatten(1).sum(1) if x.dim() > 1 else x).attribute(torch.rand(shape), n_masks=4)


def test_ids_in_a_gradient_method() -> None:
    model = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(20, 2)).eval()
    ids = torch.randint(0, 9, (2, 5))
    with pytest.raises(TypeError, match=r"inputs: torch.int64 is taken as floating point.*LayerIntegratedGradients"):
        fastsal.IntegratedGradients(model).attribute(ids, target=1)

    class Picked(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.eye(9)[x].sum(1)

    with pytest.raises(TypeError, match="LayerIntegratedGradients"):
        fastsal.IntegratedGradients(Picked()).attribute(ids, target=1)
    with pytest.raises(TypeError, match=r"inputs: torch.int64 has no gradient.*name a layer behind it"):
        fastsal.Saliency(model).attribute(ids, target=1)
    # Pixels that are whole numbers are taken as floating point, and a model that then fails says why itself.
    pixels = torch.randint(0, 255, (2, 3, 8, 9))
    assert fastsal.IntegratedGradients(small()).attribute(pixels, target=1).is_floating_point()
    with pytest.raises(RuntimeError, match="channels"):
        fastsal.IntegratedGradients(small()).attribute(torch.rand(2, 4, 8, 9), target=1)


@pytest.mark.parametrize("method", ["saliency", "grad-cam", "integrated-gradients", "rise", "occlusion"])
def test_a_head_that_squeezes_the_batch_of_one(method: str) -> None:
    model = small()
    squeezed = nn.Sequential(model, nn.Flatten(0))
    for target in (None, 1):
        with pytest.raises(ValueError, match="has no batch dimension; was it squeezed"):
            fastsal.explain(squeezed, image(batch=1), method, target=target)
    with pytest.raises(ValueError, match="squeezed"):
        fastsal.Saliency(lambda x: model(x).squeeze()).attribute(image(batch=1), target=1)
    with pytest.raises(ValueError, match="squeezed"):
        fastsal.RISE(lambda x: model(x).squeeze()).attribute(
            image(batch=1), target=1, n_masks=4, perturbations_per_eval=1
        )


class Two(nn.Module):
    """Two outputs for all examples, as a tuple or a list."""

    def __init__(self, kind: Callable[[Any], Any]) -> None:
        super().__init__()
        self.inner, self.kind = small(), kind

    def forward(self, x: Tensor) -> Any:
        scores = self.inner(x)
        return self.kind([scores, scores[:, :2].exp()])


@pytest.mark.parametrize("kind", [tuple, list])
@pytest.mark.parametrize("target", [targets.Logit(1), [targets.Logit(1), targets.Logit(0)], 1])
def test_two_outputs_are_not_two_examples(kind: Callable[[Any], Any], target: Any) -> None:
    for name in ("Saliency", "GradCAM", "Occlusion"):
        options: dict[str, Any] = {"sliding_window_shapes": (3, 4, 4)} if name == "Occlusion" else {}
        arguments = ("inner.last",) if name == "GradCAM" else ()
        with pytest.raises((TypeError, ValueError), match=f"forward_func: its output is a {kind.__name__}"):
            getattr(fastsal, name)(Two(kind), *arguments).attribute(image(batch=2), target=target, **options)


def test_a_part_for_each_example_is_read() -> None:
    """Lists of dicts (detectors), and of tensors of several lengths."""
    model = small()

    def detector(x: Tensor) -> list[dict[str, Tensor]]:
        return [{"scores": row.softmax(0)} for row in model(x)]

    def lists(x: Tensor) -> list[Tensor]:
        return [row[: 3 + index] for index, row in enumerate(model(x))]

    x = image(batch=2)
    expected = fastsal.Saliency(lambda z: model(z).softmax(1)).attribute(x, target=1)
    found = fastsal.Saliency(detector).attribute(x, target=[lambda part: part["scores"][1]] * 2)
    torch.testing.assert_close(found, expected)
    found = fastsal.Saliency(lists).attribute(x, target=targets.Logit(1))
    torch.testing.assert_close(found, fastsal.Saliency(model).attribute(x, target=1))
