"""Wrong arguments: one clear error each, which names the argument."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import fastsal
from tests.explainers.networks import image, small, unchanged

EXPLAINERS: dict[str, Callable[..., Any]] = {
    "saliency": lambda model, x, **o: fastsal.Saliency(model).attribute(x, **o),
    "ig": lambda model, x, **o: fastsal.IntegratedGradients(model).attribute(x, **{"n_steps": 3, **o}),
    "guided": lambda model, x, **o: fastsal.GuidedBackprop(model).attribute(x, **o),
    "gradcam": lambda model, x, **o: fastsal.GradCAM(model, getattr(model, "last", None)).attribute(x, **o),
    "occlusion": lambda model, x, **o: fastsal.Occlusion(model).attribute(
        x, **{"sliding_window_shapes": (3, 4, 4), **o}
    ),
    "rise": lambda model, x, **o: fastsal.RISE(model).attribute(x, **{"n_masks": 4, **o}),
}
every = pytest.mark.parametrize("name", EXPLAINERS)
ANY = (TypeError, ValueError)


@every
@pytest.mark.parametrize(
    "target",
    [4, -5, (9,), (1, 2), [0, 1], [0, 1, 7], torch.tensor([0, 4, 1]), torch.tensor([0, 1]), [(0,), (1,)]],
    ids=str,
)
def test_targets_out_of_range_or_number(name: str, target: Any) -> None:
    model, x = small(), image()
    with unchanged(model, x), pytest.raises(ValueError, match="target"):
        EXPLAINERS[name](model, x, target=target)


@every
@pytest.mark.parametrize(
    "target", ["1", 1.0, True, torch.tensor(1.5), torch.tensor([0.5, 1.0, 2.0]), {"a": 1}], ids=repr
)
def test_targets_of_another_kind(name: str, target: Any) -> None:
    with pytest.raises(TypeError, match="target"):
        EXPLAINERS[name](small(), image(), target=target)


@pytest.mark.parametrize("name", ["saliency", "ig", "guided", "gradcam"])
def test_a_target_is_needed_for_a_gradient(name: str) -> None:
    with pytest.raises(ValueError, match="target"):
        EXPLAINERS[name](small(), image())


@every
@pytest.mark.parametrize(
    "inputs", [[image()], image().numpy(), None, "image", (image(), None)], ids=lambda v: type(v).__name__
)
def test_inputs_of_another_kind(name: str, inputs: Any) -> None:
    with pytest.raises(TypeError, match="inputs"):
        EXPLAINERS[name](small(), inputs, target=1)


@every
def test_inputs_without_a_batch(name: str) -> None:
    with pytest.raises(ValueError, match="inputs"):
        EXPLAINERS[name](small(), torch.tensor(1.0), target=0)


@pytest.mark.parametrize("name", ["saliency", "guided"])
def test_integers_have_no_gradient(name: str) -> None:
    with pytest.raises(TypeError, match=r"inputs.*int64.*floating point"):
        EXPLAINERS[name](small(), torch.ones(2, 3, 8, 8, dtype=torch.int64), target=1)


@pytest.mark.parametrize("name", ["ig", "occlusion", "rise"])
def test_baselines(name: str) -> None:
    for baselines in ((0, 0), torch.zeros(2, 3, 8, 9), torch.zeros(3, 4, 8, 9)):
        with pytest.raises(ValueError, match="baseline"):
            EXPLAINERS[name](small(), image(), target=1, baselines=baselines)
    for baselines in ("0", [0.0]):
        with pytest.raises(TypeError, match="baseline"):
            EXPLAINERS[name](small(), image(), target=1, baselines=baselines)


@every
def test_outputs_that_are_no_tensor(name: str) -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = small()
            self.last = self.inner.last

        def forward(self, x: torch.Tensor) -> Any:
            return {"scores": self.inner(x)}

    with pytest.raises(TypeError, match=r"dict.*wrap"):
        EXPLAINERS[name](Named().eval(), image(), target=1)


@every
def test_models_that_cannot_be_called(name: str) -> None:
    with pytest.raises(TypeError, match=r"forward_func|model"):
        EXPLAINERS[name](None, image())


def test_integrated_gradients() -> None:
    ig = fastsal.IntegratedGradients(small())
    with pytest.raises(ValueError, match=r"method.*simpson.*gausslegendre"):
        ig.attribute(image(), target=1, method="simpson")
    for method, steps in (("gausslegendre", 0), ("riemann_left", 1)):
        with pytest.raises(ValueError, match="n_steps"):
            ig.attribute(image(), target=1, method=method, n_steps=steps)
    with pytest.raises(ValueError, match="internal_batch_size"):
        ig.attribute(image(), target=1, internal_batch_size=0)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"sliding_window_shapes": 3}, "sliding_window_shapes"),
        ({"sliding_window_shapes": (3, 4)}, "window"),
        ({"sliding_window_shapes": (4, 4, 4)}, "window"),
        ({"sliding_window_shapes": (3, 0, 4)}, "window"),
        ({"sliding_window_shapes": ((3, 4, 4), (1,))}, "sliding_window_shapes"),
        ({"strides": (3, 5, 1)}, "strides"),
        ({"strides": (1, 1)}, "stride"),
        ({"strides": 0}, "stride"),
        ({"perturbations_per_eval": 0}, "perturbations_per_eval"),
    ],
    ids=str,
)
def test_occlusion(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ANY, match=text):
        EXPLAINERS["occlusion"](small(), image(), target=1, **options)


def test_occlusion_of_one_score_for_all_takes_one_window_at_a_time() -> None:
    model = small()
    with pytest.raises(ValueError, match="perturbations_per_eval"):
        EXPLAINERS["occlusion"](lambda x: model(x).sum(), image(), perturbations_per_eval=4)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"n_masks": 0}, "n_masks"),
        ({"probability": 0.0}, "probability"),
        ({"probability": 1.5}, "probability"),
        ({"grid_size": 0}, "grid_size"),
        ({"border": "wrap"}, "border"),
        ({"seed": 2**70}, "seed"),
        ({"perturbations_per_eval": 0}, "perturbations_per_eval"),
    ],
    ids=str,
)
def test_rise(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ANY, match=text):
        EXPLAINERS["rise"](small(), image(), target=1, **options)


def test_gradcam_layers() -> None:
    model, x = small(), image()
    with pytest.raises(ValueError, match=r"layer.*'lats'.*last"):
        fastsal.GradCAM(model, "lats")
    with pytest.raises(TypeError, match="layer"):
        fastsal.GradCAM(model, 3)  # type: ignore[arg-type]
    with unchanged(model, x):
        with pytest.raises(ValueError, match="layer"):
            fastsal.GradCAM(model, nn.Conv2d(3, 3, 3)).attribute(x, target=1)
        with pytest.raises(ValueError, match=r"layer|activations|upsample"):
            fastsal.GradCAM(model, "head").attribute(x, target=1)


def test_gradcam_at_a_layer_without_influence_or_of_several_outputs() -> None:
    class Side(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.main, self.side, self.rnn = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3), nn.LSTM(4, 4, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.side(x)
            rows, _ = self.rnn(self.main(x).flatten(2).mT)
            return rows.mean(1)

    model, x = Side().eval(), image()
    with unchanged(model, x):
        with pytest.raises(ValueError, match="layer"):
            fastsal.GradCAM(model, "side").attribute(x, target=1)
        with pytest.raises(ANY, match=r"layer.*tuple"):
            fastsal.GradCAM(model, "rnn").attribute(x, target=1)


def test_gradcam_finds_no_layer_in_a_table_model() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    with pytest.raises(ValueError, match="layer"):
        fastsal.GradCAM(model).attribute(torch.randn(2, 4), target=1)
