"""Calls of the explainers that alter the input, and of what ends a sweep early."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import fastsal
from tools.recorded.networks import (
    Digits,
    classifier,
    decoder,
    drawn,
    image,
    pair,
    quarters,
    shifted,
    smooth,
    two_inputs,
)
from tools.recorded.spelling import attribute, estimate, improve, standard_errors

DTYPES = (torch.float32, torch.float64, torch.bfloat16)
WINDOWS: dict[str, Any] = {"sliding_window_shapes": (3, 3, 4), "strides": (3, 2, 2)}
FEATURES = quarters(image())
PAIRS = (torch.arange(12).view(1, 3, 4) // 4, torch.tensor([[3, 3, 4, 4, 5]]))
PIXELS = torch.arange(12).view(1, 1, 3, 4).repeat_interleave(3, 2).repeat_interleave(3, 3)
LIMITED: dict[str, tuple[Any, dict[str, Any], str]] = {
    "rise": (fastsal.RISE, {"n_masks": 256, "grid_size": 3}, "perturbations_per_eval"),
    "smoothgrad": (fastsal.SmoothGrad, {"n_samples": 128, "abs": False}, "perturbations_per_eval"),
    "noise-tunnel": (fastsal.NoiseTunnel, {"nt_samples": 128, "stdevs": 0.3, "seed": 0}, "nt_samples_batch_size"),
    "kernel-shap": (
        fastsal.KernelShap,
        {"n_samples": 256, "feature_mask": PIXELS, "seed": 0},
        "perturbations_per_eval",
    ),
    "shapley-sampling": (
        fastsal.ShapleyValueSampling,
        {"n_samples": 48, "feature_mask": PIXELS, "seed": 0},
        "perturbations_per_eval",
    ),
    "integrated-gradients": (fastsal.IntegratedGradients, {"n_steps": 129}, "internal_batch_size"),
}
"""What stops at a tolerance: class, options, and what bounds its batches."""


def _limited(how: Callable[..., Any], name: str, size: int | None, **limits: Any) -> Any:
    kind, options, batch = LIMITED[name]
    model: Any = smooth()
    made = (fastsal.InputXGradient(model) if kind is fastsal.NoiseTunnel else model,)
    x = drawn(2, 1, 9, 12, dtype=torch.float64)
    return how(kind, made, x, target=1, **options, **limits, **({batch: size} if size else {}))


def _call(kind: Any, *, dtype: torch.dtype = torch.float32, dimensions: int = 2, batch: int = 3, **options: Any) -> Any:
    return attribute(
        kind, (classifier(dimensions, dtype),), image(dimensions, dtype, batch), **{"target": 1, **options}
    )


def _two(kind: Any, **options: Any) -> Any:
    target = torch.tensor([0, 1, 2])
    return attribute(kind, (two_inputs(),), pair(), target=target, additional_forward_args=shifted(), **options)


def _swapped(x: Tensor, mask: Tensor) -> Tensor:
    """Each feature's values of the next example."""
    return torch.where(mask, x.roll(1, 0), x)


class Ridge:
    """A linear model for surrogates, in closed form."""

    def fit(self, data: Any) -> None:
        """Solves for the weights of one batch of features, outputs and weights."""
        features, outputs, weights = (part.double() for part in next(iter(data)))
        left = features.T @ (features * weights[:, None]) + torch.eye(features.shape[1], dtype=torch.float64)
        self.weight = torch.linalg.solve(left, features.T @ (weights * outputs))

    def representation(self) -> Any:
        """The weights, [1, M]."""
        return self.weight[None]


def _lime_base() -> Any:
    random = torch.Generator().manual_seed(5)
    explainer = fastsal.LimeBase(
        nn.Sequential(nn.Flatten(), smooth()[1]).eval(),
        Ridge(),
        lambda original, altered, features, **_: float(features.sum() + 1),
        lambda original, **_: torch.bernoulli(torch.full((1, 12), 0.5), generator=random),
        True,
        lambda features, original, **_: original * features[0][PIXELS],
        None,
    )
    return explainer.attribute(drawn(1, 1, 9, 12, dtype=torch.float64), target=1, n_samples=30)


def _of_a_text(kind: Any, method: Any, **options: Any) -> Any:
    found = kind(method, Digits()).attribute(fastsal.TextTokenInput("1 2 3", Digits()), "4 5", **options)
    return found.seq_attr, found.token_attr


def _of_a_loader(**options: Any) -> Any:
    model = classifier()
    loader = torch.utils.data.DataLoader(TensorDataset(image(), torch.tensor([0, 1, 2])), batch_size=2)
    explainer = fastsal.DataLoaderAttribution(fastsal.FeatureAblation(model))
    return explainer.attribute(loader, (0, 2), feature_mask=FEATURES.expand(1, 3, -1, -1), **options)


def _right(found: Any, output: Tensor, given: Any) -> Tensor:
    """Scores of the examples' own classes, added up batch by batch."""
    total: Tensor = output.gather(1, given[1][:, None]).sum()
    return total if found is None else found + total


def _features(kind: Any, **options: Any) -> dict[str, Callable[[], Any]]:
    """A method of features, in dtypes, chunks and forms."""
    name = kind.__name__
    return {
        **{
            f"{name}/{str(dtype).removeprefix('torch.')}": partial(
                _call, kind, dtype=dtype, feature_mask=FEATURES, **options
            )
            for dtype in DTYPES
        },
        **{
            f"{name}/chunk-{size}": partial(
                _call, kind, feature_mask=FEATURES, target=[0, 1, 2], perturbations_per_eval=size, **options
            )
            for size in (1, 3)
        },
        f"{name}/two inputs": lambda: _two(kind, feature_mask=PAIRS, **options),
    }


CALLS: dict[str, Callable[[], Any]] = {
    **{
        f"Occlusion/{str(dtype).removeprefix('torch.')}, incremental {way}": partial(
            _call, fastsal.Occlusion, dtype=dtype, incremental=way, **WINDOWS
        )
        for dtype in DTYPES
        for way in (False, True)
    },
    **{
        f"Occlusion/chunk-{size}": partial(
            _call, fastsal.Occlusion, perturbations_per_eval=size, incremental=False, baselines=0.5, **WINDOWS
        )
        for size in (1, 3)
    },
    **{
        f"Occlusion/{dimensions}-D": partial(
            _call,
            fastsal.Occlusion,
            dimensions=dimensions,
            batch=2,
            sliding_window_shapes=(3, *[3] * dimensions),
            strides=(3, *[2] * dimensions),
            incremental=False,
        )
        for dimensions in (1, 3)
    },
    "Occlusion/baselines, targets": lambda: _call(
        fastsal.Occlusion, baselines=drawn(1, 3, 8, 9, seed=7), target=[0, 1, 2], incremental=False, **WINDOWS
    ),
    "Occlusion/two inputs": lambda: _two(
        fastsal.Occlusion,
        sliding_window_shapes=((1, 2), (2,)),
        strides=((1, 1), (1,)),
        baselines=(0.5, -0.5),
        incremental=False,
    ),
    "Occlusion/several rows for each example": lambda: _two(
        fastsal.Occlusion,
        sliding_window_shapes=((1, 2), (2,)),
        perturbations_per_eval=3,
        incremental=False,
    ),
    **_features(fastsal.FeatureAblation, incremental=False),
    "FeatureAblation/incremental": lambda: _call(fastsal.FeatureAblation, feature_mask=FEATURES, incremental=True),
    "FeatureAblation/each element": lambda: _call(fastsal.FeatureAblation, dimensions=1, incremental=False),
    **_features(fastsal.FeaturePermutation, seed=0),
    "FeaturePermutation/own function": lambda: fastsal.FeaturePermutation(classifier(), _swapped).attribute(
        image(), target=1, feature_mask=FEATURES
    ),
    **_features(fastsal.ShapleyValueSampling, seed=0, n_samples=5),
    **_features(fastsal.ShapleyValues),
    **_features(fastsal.Lime, seed=0, n_samples=20),
    **_features(fastsal.KernelShap, seed=0, n_samples=20),
    "Lime/coefficients": lambda: _call(
        fastsal.Lime, batch=1, feature_mask=FEATURES, n_samples=20, seed=1, return_input_shape=False
    ),
    "LimeBase": _lime_base,
    "DataLoaderAttribution": _of_a_loader,
    "LLMAttribution": lambda: _of_a_text(fastsal.LLMAttribution, fastsal.ShapleyValues(decoder())),
    "LLMGradientAttribution": lambda: _of_a_text(
        fastsal.LLMGradientAttribution, fastsal.LayerIntegratedGradients(decoder(), "embedding"), n_steps=4
    ),
    "DataLoaderAttribution/metric": lambda: _of_a_loader(reduce=_right, perturbations_per_pass=3, baselines=0.5),
    "DataLoaderAttribution/features": lambda: _of_a_loader(
        to_metric=lambda scores: scores.mean(0), return_input_shape=False
    ),
    **{
        f"RISE/{str(dtype).removeprefix('torch.')}": partial(_call, fastsal.RISE, dtype=dtype, n_masks=40, grid_size=3)
        for dtype in DTYPES
    },
    **{
        f"RISE/chunk-{size}": partial(_call, fastsal.RISE, n_masks=10, perturbations_per_eval=size, seed=3)
        for size in (1, 3)
    },
    **{
        f"RISE/{design}, {estimator}": partial(
            _call, fastsal.RISE, n_masks=32, grid_size=3, design=design, estimator=estimator
        )
        for design in ("independent", "antithetic", "balanced", "sobol")
        for estimator in ("plain", "centred", "regression")
    },
    "RISE/all outputs": lambda: _call(fastsal.RISE, target=None, n_masks=12, border="clamp", probability=0.3),
    "RISE/1-D": lambda: _call(fastsal.RISE, dimensions=1, n_masks=12, grid_size=3),
    "RISE/3-D": lambda: _call(fastsal.RISE, dimensions=3, batch=1, n_masks=12, grid_size=2),
    "RISE/baselines, more arguments": lambda: _call(
        fastsal.RISE,
        n_masks=12,
        baselines=drawn(3, 8, 9),
        additional_forward_args=(drawn(3, 6), 0.5),
        perturbations_per_eval=4,
        target=[1, 2, 3],
    ),
    **{f"{name}/tolerance": partial(_limited, estimate, name, 8, tolerance=0.3) for name in LIMITED},
    **{f"{name}/improving": partial(_limited, improve, name, 8) for name in LIMITED},
    **{f"{name}/deadline far away": partial(_limited, estimate, name, None, deadline=1e9) for name in LIMITED},
    "rise/standard errors": lambda: _limited(standard_errors, "rise", None),
    "Occlusion/refined": lambda: estimate(
        fastsal.Occlusion, (smooth(),), drawn(2, 1, 9, 12, dtype=torch.float64), (1, 3, 3), target=1, refine=0.3
    ),
}
