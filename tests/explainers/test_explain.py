"""explain(): the prediction and the maps of one run, and the names that the command line reads."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastsal
from fastsal.explainers.registry import find
from fastsal.explainers.registry import options as options_of
from tests.explainers.networks import TwoInputs, image, small

SMALL: dict[str, dict[str, Any]] = {
    "rise": {"n_masks": 12},
    "integrated-gradients": {"n_steps": 4},
    "layer-integrated-gradients": {"n_steps": 4},
    "shapley-value-sampling": {"n_samples": 2},
    "gradient-shap": {"n_samples": 4},
    "smooth-grad": {"n_samples": 4},
}
METHODS = [name for name in fastsal.methods() if find(name).reads != "attention"]
"""Of a network without attention."""


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("target", [None, 2, [0, 1, 2]], ids=str)
def test_every_method(name: str, target: Any) -> None:
    model, x = small(), image()
    explained = fastsal.explain(model, x, name, target, **SMALL.get(name, {}))
    torch.testing.assert_close(explained.output, model(x).detach())
    assert list(explained.maps) == list(explained.seconds) == [name]
    shapes = {"input": (3, 3, 8, 9), "positions": (3, 1, 8, 9), "layer": (3, 6, 4, 5)}
    expected = (3, 1, 4, 5) if name == "layer-grad-cam" else shapes[find(name).shape]
    assert explained.maps[name].shape == expected
    assert explained.maps[name].isfinite().all()
    assert explained.seconds[name] > 0
    assert not explained.output.requires_grad
    if target is None:
        assert torch.equal(torch.as_tensor(explained.target), model(x).argmax(1))


def test_all_methods_at_once_are_the_single_ones() -> None:
    model, x = small(), image()
    names, few_of_all = METHODS, {"n_masks": 12, "n_steps": 4}
    for order in (names, names[::-1]):
        together = fastsal.explain(model, x, order, **few_of_all)
        for name in names:
            few = {key: value for key, value in few_of_all.items() if key in options_of(name)}
            single = fastsal.explain(model, x, name, **few)
            torch.testing.assert_close(together.maps[name], single.maps[name])


def test_perturbations_score_probabilities_unless_told_otherwise() -> None:
    model, x = small(), image()

    def probabilities(z: Tensor) -> Tensor:
        return model(z).softmax(1)

    for forward, options in ((probabilities, {}), (model, {"score": "output"})):
        rise = fastsal.explain(model, x, "rise", target=1, n_masks=12, **options).maps["rise"]
        torch.testing.assert_close(rise, fastsal.RISE(forward).attribute(x, target=1, n_masks=12))
        windows = {"sliding_window_shapes": (3, 4, 4), "strides": (3, 2, 2)}
        occlusion = fastsal.explain(model, x, "occlusion", target=1, **windows, **options).maps["occlusion"]
        torch.testing.assert_close(occlusion, fastsal.Occlusion(forward).attribute(x, target=1, **windows))


def test_batch_size_is_of_no_effect_on_the_maps() -> None:
    model, x = small(dtype=torch.float64), image(dtype=torch.float64)
    for name in METHODS:
        maps = [
            fastsal.explain(model, x, name, batch_size=size, **SMALL.get(name, {})).maps[name] for size in (None, 1, 7)
        ]
        torch.testing.assert_close(maps[1], maps[0])
        torch.testing.assert_close(maps[2], maps[0])


def test_layers_lists_what_has_extent_in_order() -> None:
    model, x = small(), image()
    found = fastsal.layers(model, x)
    assert [(name, tuple(shape)[1:]) for name, shape, _ in found] == [
        ("stem", (5, 8, 9)),
        ("norm", (5, 8, 9)),
        ("act", (5, 8, 9)),
        ("body", (6, 4, 5)),
        ("last", (6, 4, 5)),
    ]
    blocks = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert [layer.name for layer in fastsal.layers(blocks, x)] == ["0.0", "0.1", "0"]
    default = fastsal.explain(model, x, "gradcam", target=1).maps["gradcam"]
    torch.testing.assert_close(default, fastsal.GradCAM(model, model.last).attribute(x, target=1))


def test_tuples_of_inputs() -> None:
    model, inputs = TwoInputs().eval(), (torch.randn(3, 3, 4), torch.randn(3, 5))
    names = ["saliency", "integrated-gradients", "guided-backprop", "occlusion"]
    explained = fastsal.explain(model, inputs, names, n_steps=4)
    for name in names:
        assert [tensor.shape for tensor in explained.maps[name]] == [tensor.shape for tensor in inputs]


def test_unknown_names_are_answered_with_the_nearest() -> None:
    model, x = small(), image()
    with pytest.raises(ValueError, match=r"gradcamm.*grad-cam"):
        fastsal.explain(model, x, "gradcamm")
    with pytest.raises(ValueError, match="method"):
        fastsal.explain(model, x, [])
    with pytest.raises(TypeError, match=r"n_maks.*n_masks"):
        fastsal.explain(model, x, "rise", n_maks=3)
    with pytest.raises(ValueError, match="score"):
        fastsal.explain(model, x, "rise", n_masks=2, score="logit")
    with pytest.raises(ValueError, match=r"layer.*lats.*last"):
        fastsal.explain(model, x, layer="lats")
    with pytest.raises(ValueError, match="target"):
        fastsal.explain(model, x, "saliency", target=17)
    with pytest.raises(ValueError, match="target"):
        fastsal.explain(nn.Conv2d(3, 2, 3), x, "saliency")
    with pytest.raises(TypeError, match="dict"):
        fastsal.explain(lambda z: {"scores": z}, x, "saliency")


def test_options_are_those_of_attribute() -> None:
    for name in METHODS:
        found = options_of(name)
        assert not {"self", "inputs", "target", "return_convergence_delta"} & set(found)
    assert {"n_masks", "seed", "probability", "baselines", "score"} <= set(options_of("rise"))
    assert {"sliding_window_shapes", "strides", "score"} <= set(options_of("occlusion"))
    assert {"n_steps", "method"} <= set(options_of("integrated-gradients"))
    with pytest.raises(ValueError, match="rise"):
        options_of("rize")


def test_no_examples_have_no_maps_and_one_is_too_few_to_exchange_features() -> None:
    model = small()
    assert fastsal.explain(model, image()[:0], "saliency", target=1).maps["saliency"].shape == image()[:0].shape
    with pytest.raises(ValueError, match="inputs: 1 example for feature-permutation, which needs at least 2"):
        fastsal.explain(model, image()[:1], "feature-permutation", target=1)


@pytest.mark.parametrize("names", [["saliency", "rise"], ["rise", "saliency"], ["rise"]])
def test_a_function_as_target_is_asked_once_for_all_methods(names: list[str]) -> None:
    """Of the prediction: probabilities, which a perturbation method scores, would have it choose otherwise."""
    model, x = small(), image()

    def above(output: Tensor) -> Tensor:
        return (output > 0).long().argmax(1)

    chosen = above(model(x))
    found = fastsal.explain(model, x, names, target=above, n_masks=8)
    assert torch.equal(found.target, chosen)
    given = fastsal.explain(model, x, names, target=chosen, n_masks=8)
    assert all(torch.equal(found.maps[name], given.maps[name]) for name in names)


def test_targets_are_told_in_words() -> None:
    assert repr(fastsal.targets.Logit(1)) == "Logit(category=1)"
    assert repr(fastsal.targets.Segmentation(2, torch.ones(8, 9))) == "Segmentation(category=2, mask=tensor [8, 9])"
