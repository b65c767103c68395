"""Calls of the explainers that are made of the input's gradient."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

import fastsal
from tools.recorded.networks import classifier, drawn, image, pair, references, shifted, two_inputs
from tools.recorded.spelling import attribute

DTYPES = (torch.float32, torch.float64, torch.bfloat16)
TWO_INPUTS: dict[str, Any] = {"target": torch.tensor([0, 1, 2]), "additional_forward_args": shifted()}


def _dtypes(name: str, kind: Any, *inputs: Any, **options: Any) -> dict[str, Callable[[], Any]]:
    def call(dtype: torch.dtype) -> Callable[[], Any]:
        return lambda: attribute(kind, (classifier(dtype=dtype),), image(dtype=dtype), *inputs, target=1, **options)

    return {f"{name}/{str(dtype).removeprefix('torch.')}": call(dtype) for dtype in DTYPES}


def _chunks(name: str, kind: Any, option: str, *inputs: Any, **options: Any) -> dict[str, Callable[[], Any]]:
    def call(size: int | None) -> Callable[[], Any]:
        return lambda: attribute(kind, (classifier(),), image(), *inputs, target=1, **options, **{option: size})

    return {f"{name}/chunk-{size}": call(size) for size in (1, 3, None)}


def _trained_through() -> Tensor:
    """The gradient of a map by the model's weights."""
    model = classifier()
    maps = attribute(fastsal.Saliency, (model,), image(), target=1, abs=False, create_graph=True)
    maps.square().sum().backward()
    return torch.cat([each.grad.flatten() for each in model.parameters() if each.grad is not None])


def _in_training_mode() -> Tensor:
    explainer = fastsal.Saliency(classifier().train())
    with torch.inference_mode():
        maps: Tensor = explainer.attribute(image(), target=1)
    return maps


def _half(multipliers: tuple[Tensor, ...], inputs: tuple[Tensor, ...], starts: tuple[Tensor, ...]) -> Any:
    return tuple(0.5 * m * (x - b) for m, x, b in zip(multipliers, inputs, starts, strict=True))


def _tunnel(inner: Any, *arguments: Any, **options: Any) -> Any:
    explainer: Any = fastsal.NoiseTunnel(inner(classifier()))
    return explainer.attribute(image(), *arguments, target=1, seed=0, stdevs=0.5, **options)


def _tunnel_of_a_layer() -> Any:
    model = classifier()
    explainer = fastsal.NoiseTunnel(fastsal.LayerGradCam(model, model.last))
    return explainer.attribute(image(), nt_samples=4, stdevs=0.3, seed=1, target=2)


def _path(*arguments: Any, **options: Any) -> Any:
    return IG(classifier()).attribute(image(), *arguments, **options)


def _rule(kind: Any, **options: Any) -> Any:
    return attribute(kind, (classifier(),), image(), target=[0, 1, 2], **options)


IG = fastsal.IntegratedGradients
CALLS: dict[str, Callable[[], Any]] = {
    **_dtypes("saliency", fastsal.Saliency),
    "saliency/signed, target tensor": lambda: fastsal.Saliency(classifier()).attribute(
        image(), torch.tensor([0, 3, 1]), abs=False
    ),
    "saliency/1-D": lambda: fastsal.Saliency(classifier(1)).attribute(image(1), target=1),
    "saliency/3-D": lambda: fastsal.Saliency(classifier(3)).attribute(image(3), target=1),
    "saliency/two inputs": lambda: fastsal.Saliency(two_inputs()).attribute(pair(), **TWO_INPUTS),
    "saliency/through": _trained_through,
    "saliency/training and inference mode": _in_training_mode,
    "saliency/targets": lambda: fastsal.Saliency(classifier()).attribute(
        image(), target=[fastsal.targets.Probability(1), fastsal.targets.Logit(0), lambda output: output.square().sum()]
    ),
    **_dtypes("input-x-gradient", fastsal.InputXGradient),
    "input-x-gradient/two inputs": lambda: fastsal.InputXGradient(two_inputs()).attribute(pair(), **TWO_INPUTS),
    **_dtypes("integrated-gradients", IG, n_steps=9),
    **_chunks("integrated-gradients", IG, "internal_batch_size", n_steps=7),
    **{
        f"integrated-gradients/{rule}": partial(
            _path, drawn(1, 3, 8, 9, seed=5), 2, n_steps=8, method=rule, return_convergence_delta=True
        )
        for rule in ("riemann_left", "riemann_middle", "riemann_trapezoid", "gausslegendre")
    },
    "integrated-gradients/two inputs": lambda: IG(two_inputs(), multiply_by_inputs=False).attribute(
        pair(), (0.5, drawn(1, 5)), n_steps=6, return_convergence_delta=True, **TWO_INPUTS
    ),
    **{
        f"integrated-gradients/first layer once {once}": partial(_path, target=1, n_steps=6, first_layer_once=once)
        for once in (False, "auto")
    },
    **_dtypes("smoothgrad", fastsal.SmoothGrad, n_samples=9),
    **_chunks("smoothgrad", fastsal.SmoothGrad, "perturbations_per_eval", n_samples=7, seed=3),
    "smoothgrad/stdevs, two inputs": lambda: fastsal.SmoothGrad(two_inputs()).attribute(
        pair(), abs=False, n_samples=6, stdevs=(0.5, 0.1), **TWO_INPUTS
    ),
    **{
        f"noise-tunnel/{kind}": partial(_tunnel, fastsal.InputXGradient, kind, nt_samples=6)
        for kind in ("smoothgrad", "smoothgrad_sq", "vargrad")
    },
    "noise-tunnel/chunk-1": lambda: _tunnel(fastsal.Saliency, nt_samples=5, nt_samples_batch_size=1),
    "noise-tunnel/chunk-3": lambda: _tunnel(fastsal.Saliency, nt_samples=5, nt_samples_batch_size=3),
    "noise-tunnel/integrated gradients": lambda: _tunnel(
        IG, nt_samples=4, n_steps=4, baselines=references(image()), draw_baseline_from_distrib=True
    ),
    "noise-tunnel/deep-lift": lambda: _tunnel(fastsal.DeepLift, nt_samples=4),
    "noise-tunnel/occlusion": lambda: _tunnel(
        fastsal.Occlusion, nt_samples=3, sliding_window_shapes=(3, 4, 4), strides=(3, 2, 2), incremental=False
    ),
    "noise-tunnel/guided": lambda: _tunnel(fastsal.GuidedBackprop, "smoothgrad_sq", nt_samples=4),
    "noise-tunnel/layer": _tunnel_of_a_layer,
    "gradient-shap/delta": lambda: fastsal.GradientShap(classifier()).attribute(
        image(), references(image()), n_samples=5, stdevs=0.1, target=1, seed=0, return_convergence_delta=True
    ),
    **_chunks("gradient-shap", fastsal.GradientShap, "perturbations_per_eval", references(image()), seed=2),
    "gradient-shap/two inputs": lambda: fastsal.GradientShap(two_inputs(), False).attribute(
        pair(), tuple(map(references, pair())), seed=2, **TWO_INPUTS
    ),
    **_dtypes("deep-lift", fastsal.DeepLift),
    "deep-lift/delta, function": lambda: fastsal.DeepLift(classifier()).attribute(
        image(), 0.25, target=1, return_convergence_delta=True, custom_attribution_func=_half
    ),
    "deep-lift/two inputs": lambda: fastsal.DeepLift(two_inputs(), multiply_by_inputs=False).attribute(
        pair(), **TWO_INPUTS
    ),
    "deep-lift-shap/delta": lambda: fastsal.DeepLiftShap(classifier()).attribute(
        image(), references(image()), target=1, return_convergence_delta=True
    ),
    "deep-lift-shap/chunk-1": lambda: attribute(
        fastsal.DeepLiftShap, (classifier(),), image(), references(image()), target=1, internal_batch_size=1
    ),
    "deep-lift-shap/two inputs": lambda: fastsal.DeepLiftShap(two_inputs()).attribute(
        pair(), tuple(map(references, pair())), **TWO_INPUTS
    ),
    "guided-backprop": lambda: _rule(fastsal.GuidedBackprop),
    "guided-backprop/absolute": lambda: _rule(fastsal.GuidedBackprop, abs=True),
    "deconvolution": lambda: _rule(fastsal.Deconvolution),
    "full-grad": lambda: _rule(fastsal.FullGrad),
    "full-grad/not normalised, float64": lambda: fastsal.FullGrad(classifier(dtype=torch.float64)).attribute(
        image(dtype=torch.float64), target=1, normalize=False
    ),
}
