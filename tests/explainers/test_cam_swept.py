"""Class activation maps that run the model on altered copies, against loops over them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastsal
from tests.explainers.by_hand import CLOSE, RAW, layer_values, spatial_sum
from tests.explainers.networks import image, small, unchanged


def upsampled(a: Tensor, size: torch.Size) -> Tensor:
    maps = F.interpolate(a, size, mode="bilinear", align_corners=False)
    low, high = maps.flatten(2).amin(2)[..., None, None], maps.flatten(2).amax(2)[..., None, None]
    return (maps - low) / (high - low + 1e-8)


@pytest.mark.parametrize("rows", [None, 1, 4, 100])
def test_score_cams_scores(rows: int | None) -> None:
    model, x = small(dtype=torch.float64), image(dtype=torch.float64)
    target = [2, 0, 3]
    a, _ = layer_values(model, model.last, x, lambda out: out[:, 0])
    masks = upsampled(a, x.shape[2:])

    def weighted(scores: Tensor) -> Tensor:
        return (scores.softmax(1)[..., None, None] * a).sum(1)

    def scores(share: float) -> Tensor:
        each = [model(x * share * masks[:, c : c + 1]).detach()[range(3), target] for c in range(6)]
        return torch.stack(each, 1)

    found = fastsal.ScoreCAM(model, "last").attribute(x, target, perturbations_per_eval=rows, **RAW)
    torch.testing.assert_close(found[:, 0], weighted(scores(1)), **CLOSE)
    found = fastsal.ISCAM(model, "last").attribute(x, target, perturbations_per_eval=rows, n_samples=3, **RAW)
    torch.testing.assert_close(found[:, 0], weighted((scores(1 / 3) + scores(2 / 3) + scores(1)) / 3), **CLOSE)
    noise: dict[str, Any] = {"n_samples": 3, "stdevs": 0.5, "seed": 4}
    found = fastsal.SSCAM(model, "last").attribute(x, target, perturbations_per_eval=rows, **noise, **RAW)
    each = []
    for c in range(6):
        noisy = fastsal.ops.noise.batch(masks[:, c : c + 1], 0, 3, std=0.5, seed=4 + c).unflatten(0, (3, 3))
        each.append(sum(model(x * noisy[n]).detach()[range(3), target] for n in range(3)) / 3)
    torch.testing.assert_close(found[:, 0], weighted(torch.stack(each, 1)), **CLOSE)


@pytest.mark.parametrize("rows", [None, 1, 4])
@pytest.mark.parametrize("layer", ["last", "body", "act", "stem"])
def test_ablation_cams_shares(layer: str, rows: int | None) -> None:
    """Behind ``last`` all is affine; before it the tail runs."""
    model, x = small(dtype=torch.float64, in_place=True), image(dtype=torch.float64)
    target, part = [2, 0, 3], getattr(model, layer)
    a, _ = layer_values(model, part, x, lambda out: out[:, 0])
    clean = model(x)[range(3), target]
    shares = []
    for c in range(a.shape[1]):

        def ablate(_module: nn.Module, _args: Any, output: Tensor, c: int = c) -> Tensor:
            output = output.clone()
            output[:, c] = 0
            return output

        handle = part.register_forward_hook(ablate)
        shares.append((clean - model(x)[range(3), target]) / clean)
        handle.remove()
    weights = torch.stack(shares, 1)[..., None, None].detach()
    with unchanged(model, x):
        found = fastsal.AblationCAM(model, layer).attribute(x, target, perturbations_per_eval=rows, **RAW)
    torch.testing.assert_close(found[:, 0], (weights * a).sum(1), **CLOSE)


def test_ablation_runs_the_tail_alone() -> None:
    model, x = small(), image(batch=1)
    counts = {"stem": 0, "body": 0}
    for name in counts:
        original = getattr(model, name).forward

        def counted(value: Tensor, name: str = name, original: Any = original) -> Tensor:
            counts[name] += value.shape[0]
            return original(value)

        getattr(model, name).forward = counted
    fastsal.AblationCAM(model, "act").attribute(x, 1)
    assert counts["body"] >= 5
    assert counts["stem"] == 2  # for the activations, and for what is kept before the layer
    fastsal.AblationCAM(model, "last").attribute(x, 1)
    assert counts["stem"] == 3


def test_smooth_grad_cam_plus_plus() -> None:
    model, x = small(dtype=torch.float64), image(dtype=torch.float64)
    target = fastsal.targets.Probability(1)
    found = [
        fastsal.SmoothGradCAMPlusPlus(model, "body").attribute(
            x, target, n_samples=5, stdevs=0.2, seed=3, perturbations_per_eval=rows, **RAW
        )
        for rows in (None, 1, 2)
    ]
    a, _ = layer_values(model, model.body, x, lambda out: out[:, 0])
    noisy = fastsal.ops.noise.batch(x, 0, 5, std=0.2, seed=3).unflatten(0, (5, 3))
    g = torch.stack([layer_values(model, model.body, each, lambda out: out.softmax(1)[:, 1])[1] for each in noisy])
    second, third = (g**2).mean(0), (g**3).mean(0)
    alpha = second / (2 * second + spatial_sum(a) * third + 1e-6)
    expected = (spatial_sum(alpha * g.mean(0).relu()) * a).sum(1)
    for each in found:
        torch.testing.assert_close(each[:, 0], expected, **CLOSE)


def test_random_cam_is_drawn_from_its_seed() -> None:
    model, x = small(), image()
    maps = [fastsal.RandomCAM(model, "last").attribute(x, seed=seed, **RAW) for seed in (0, 0, 1)]
    assert torch.equal(maps[0], maps[1])
    assert not torch.equal(maps[0], maps[2])
