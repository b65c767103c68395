"""Calls of what runs explainers: explain, compile, prepare; models behind wrappers; metrics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import fastsal
from fastsal import metrics
from tools.recorded.networks import classifier, drawn, image, pair, shifted, two_inputs
from tools.recorded.spelling import explanation

NAMES = (
    "gradcam",
    "saliency",
    "input-x-gradient",
    "smoothgrad",
    "integrated-gradients",
    "deep-lift",
    "guided-backprop",
    "deconvolution",
    "rise",
    "gradcam++",
    "xgradcam",
    "layercam",
    "hirescam",
    "gradcam-element-wise",
    "finercam",
    "shapleycam",
    "smooth-gradcam++",
    "eigencam",
    "eigengradcam",
    "kpca-cam",
    "fem",
    "ablationcam",
    "scorecam",
    "ss-cam",
    "is-cam",
    "fullgrad",
    "random-cam",
)
"""The methods that had a name first; default occlusion, whose bits may change, is not among them."""
SHORT: dict[str, Any] = {"n_masks": 12, "n_steps": 4}


def _explained(method: Any, dtype: torch.dtype = torch.float32, **options: Any) -> Any:
    return explanation(fastsal.explain(classifier(dtype=dtype), image(dtype=dtype), method, **options))


def _compiled(kind: Any, *made: Any, target: Any = None, **options: Any) -> Any:
    compiled = fastsal.compile(kind(classifier(), *made), image(), target, **options)
    found = [compiled(x) if target is None else compiled(x, 2) for x in (image(), 2 * image())]
    return [(each.output, each.target, each.attribution) for each in found]


def _prepared(kind: Any, *made: Any, precision: str | None = None, **options: Any) -> Any:
    fast = fastsal.prepare(classifier(), image(), probe_seconds=0, precision=precision)
    return kind(fast, *made).attribute(image(), target=1, **options)


class Service:
    """Not callable itself; its method is."""

    def __init__(self, model: nn.Module) -> None:
        self.members = [model]

    def predict(self, x: Tensor) -> Tensor:
        """The scores."""
        scores: Tensor = self.members[0](x)
        return scores


def _behind(wrap: Callable[[nn.Module], Callable[..., Any]]) -> Any:
    """In training mode, which a search for the model has to find."""
    wrapped = wrap(classifier().train())
    return fastsal.Saliency(wrapped).attribute(image(), target=1), fastsal.explain(
        wrapped, image(), "rise", target=1, n_masks=8
    ).maps


def _scaled(inputs: Tensor) -> tuple[Tensor, Tensor]:
    change = 0.1 * drawn(*inputs.shape, seed=8)
    return change, inputs - change


def _less(inputs: Tensor, baselines: Tensor) -> tuple[Tensor, Tensor]:
    return inputs - baselines, 0.5 * (inputs + baselines)


def _curve(curve: Any) -> Any:
    return curve.scores, curve.fractions, curve.area


def _faithfulness(function: Any, **options: Any) -> Any:
    maps = {"saliency": fastsal.Saliency(classifier()).attribute(image(), target=1), "noise": drawn(3, 8, 9)}
    return {name: _curve(curve) for name, curve in function(classifier(), image(), maps, step=7, **options).items()}


SALIENCY = fastsal.Saliency
CALLS: dict[str, Callable[[], Any]] = {
    "explain/all": lambda: _explained(list(NAMES), **SHORT),
    "explain/all, float64": lambda: _explained(list(NAMES), torch.float64, **SHORT),
    "explain/target, layer": lambda: _explained(["gradcam", "scorecam", "saliency"], target=[3, 1, 0], layer="act"),
    "explain/occlusion": lambda: _explained(["occlusion", "gradcam"], incremental=False, score="output"),
    "explain/rise of outputs": lambda: _explained("rise", n_masks=12, score="output", seed=4),
    "explain/smoothed": lambda: _explained(["gradcam", "saliency"], aug_smooth=True, eigen_smooth=True, abs=False),
    "explain/two inputs": lambda: explanation(
        fastsal.explain(
            two_inputs(), pair(), ["saliency", "integrated-gradients"], n_steps=4, additional_forward_args=shifted()
        )
    ),
    "compile/gradcam": lambda: _compiled(fastsal.GradCAM, "last"),
    "compile/gradcam, target": lambda: _compiled(fastsal.GradCAM, "last", target=1),
    "compile/saliency": lambda: _compiled(SALIENCY),
    "compile/integrated gradients": lambda: _compiled(fastsal.IntegratedGradients, n_steps=5),
    "compile/smoothgrad": lambda: _compiled(fastsal.SmoothGrad, n_samples=5),
    "compile/rise": lambda: _compiled(fastsal.RISE, n_masks=20, grid_size=3),
    "compile/scorecam": lambda: _compiled(fastsal.ScoreCAM, "last", target=1),
    "compile/occlusion": lambda: _compiled(
        fastsal.Occlusion, sliding_window_shapes=(3, 4, 4), strides=(3, 2, 2), incremental=False
    ),
    "prepare/gradcam": lambda: _prepared(fastsal.GradCAM, "last"),
    "prepare/saliency": lambda: _prepared(SALIENCY),
    "prepare/rise": lambda: _prepared(fastsal.RISE, n_masks=20, grid_size=3),
    "prepare/rise, bfloat16": lambda: _prepared(fastsal.RISE, precision="bfloat16", n_masks=20, grid_size=3),
    "prepare/occlusion": lambda: _prepared(
        fastsal.Occlusion, sliding_window_shapes=(3, 4, 4), strides=(3, 2, 2), incremental=False
    ),
    "behind/DataParallel": lambda: _behind(nn.DataParallel),
    "behind/a function": lambda: _behind(lambda model: lambda x: model(x)),
    "behind/a method": lambda: _behind(lambda model: Service(model).predict),
    "behind/DataParallel, gradcam": lambda: fastsal.GradCAM(nn.DataParallel(classifier()), "module.last").attribute(
        image(), 1
    ),
    "layers": lambda: [list(layer.shape) for layer in fastsal.layers(classifier(), image())],
    "infidelity": lambda: metrics.infidelity(
        classifier(), _scaled, image(), SALIENCY(classifier()).attribute(image(), target=1), target=1
    ),
    "infidelity/normalised, baselines, chunks": lambda: metrics.infidelity(
        classifier(),
        _less,
        image(),
        drawn(3, 3, 8, 9, seed=6),
        baselines=0.25 * image(),
        target=[0, 1, 2],
        n_perturb_samples=5,
        max_examples_per_batch=6,
        normalize=True,
    ),
    "sensitivity_max": lambda: metrics.sensitivity_max(
        SALIENCY(classifier()).attribute, image(), target=1, seed=0, n_perturb_samples=5
    ),
    "sensitivity_max/chunks": lambda: metrics.sensitivity_max(
        fastsal.IntegratedGradients(classifier()).attribute,
        image(),
        target=[0, 1, 2],
        n_steps=4,
        seed=0,
        n_perturb_samples=4,
        max_examples_per_batch=3,
        norm_ord=1,
    ),
    "deletion": lambda: _faithfulness(metrics.deletion),
    "insertion": lambda: _faithfulness(metrics.insertion, target=1),
    "deletion/baselines, outputs": lambda: _faithfulness(
        metrics.deletion, baselines=0.5, softmax=False, additional_forward_args=(drawn(3, 6), 0.5)
    ),
    "grid_pointing": lambda: metrics.grid_pointing(drawn(3, 8, 8), torch.tensor([0, 3, 1]), 2),
    "pointing_game": lambda: metrics.pointing_game(drawn(3, 8, 9), drawn(3, 8, 9, seed=2) > 0, tolerance=1),
}
