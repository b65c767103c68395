"""Models that are reached through something else: closures, compiled, exported or frozen ones, and unusual forms."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fastsal
from fastsal.explainers.registry import find
from tests.explainers.networks import TwoInputs, image, small, unchanged


class Wrapper:
    """A callable object, not a module, around a model's method."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model.forward

    def __call__(self, x: Tensor) -> Tensor:
        return self.model(x)


class Service:
    """Not callable itself; its method is."""

    def __init__(self, model: nn.Module) -> None:
        self.members = [model]

    def predict(self, x: Tensor) -> Tensor:
        return self.members[0](x)


def _scores(model: nn.Module) -> Callable[..., Any]:
    def logits(x: Tensor) -> Tensor:
        return model(x)

    return lambda x: logits(x)


WRAPS: dict[str, Callable[[nn.Module], Callable[..., Any]]] = {
    "closure": lambda model: lambda x: model(x),
    "partial": lambda model: functools.partial(model),
    "method": lambda model: model.forward,
    "object": Wrapper,
    "method of a service": lambda model: Service(model).predict,
    "function that calls a function": _scores,
    "generator inside": lambda model: lambda x: torch.cat([*(model(part) for part in [x])]),
    "default argument": lambda model: lambda x, net=model: net(x),
    "dict": lambda model, models={}: (models.update(m=model), lambda x: models["m"](x))[1],
    "closure in closure": lambda model: WRAPS["closure"](WRAPS["partial"](model)),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS)
def test_evaluation_mode_reaches_through_callables(wrap: Callable[[nn.Module], Any]) -> None:
    model, x = small(dropout=0.5), image()
    saliency = fastsal.Saliency(model).attribute(x, target=1)
    rise = fastsal.explain(model, x, "rise", target=1, n_masks=8).maps["rise"]
    model.train()
    with unchanged(model, x):
        torch.testing.assert_close(fastsal.Saliency(wrap(model)).attribute(x, target=1), saliency)
        torch.testing.assert_close(fastsal.explain(wrap(model), x, "rise", target=1, n_masks=8).maps["rise"], rise)


@pytest.mark.parametrize("where", ["wrapper", "inside", "method"])
def test_compiled_models(where: str) -> None:
    torch._dynamo.reset()
    model, x = small(), image()
    names = [name for name in fastsal.methods() if find(name).reads != "attention"]
    options: dict[str, Any] = {"n_masks": 8, "n_steps": 4, "target": 1}
    expected = fastsal.explain(model, x, names, **options).maps
    compiled: Any = model
    if where == "method":
        model.compile(backend="eager")
    else:
        compiled = torch.compile(model, backend="eager")
        compiled = nn.Sequential(compiled) if where == "inside" else compiled
    compiled(x)
    with torch.no_grad():
        compiled(x)
    found = fastsal.explain(compiled, x, names, **options).maps
    for name in names:
        torch.testing.assert_close(found[name], expected[name])
    torch.testing.assert_close(fastsal.GradCAM(compiled, model.last).attribute(x, target=1), expected["grad-cam"])
    if where == "wrapper":
        for layer in ("last", "_orig_mod.last"):
            torch.testing.assert_close(fastsal.GradCAM(compiled, layer).attribute(x, target=1), expected["grad-cam"])


def test_exported_models_keep_their_relus() -> None:
    model, x = small(), image()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported = torch.export.unflatten(torch.export.export(model, (x,)))
    for explainer in (fastsal.GuidedBackprop, fastsal.Deconvolution):
        expected = explainer(model).attribute(x, target=1)
        torch.testing.assert_close(explainer(exported).attribute(x, target=1), expected)


def test_frozen_torchscript_has_no_training_flag() -> None:
    model, x = small(), image()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        frozen = torch.jit.freeze(torch.jit.script(model))
    found = fastsal.Saliency(frozen).attribute(x, target=1)
    torch.testing.assert_close(found, fastsal.Saliency(model).attribute(x, target=1))


def test_an_infinite_gradient_stops_at_a_closed_gate() -> None:
    class Root(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(x).sqrt().sum(1)

    found = fastsal.GuidedBackprop(Root()).attribute(torch.tensor([[-1.0, 4.0]]))
    assert found.tolist() == [[0.0, 0.25]]


def test_a_layer_with_two_names() -> None:
    model = small()
    model.alias = model.last
    found = fastsal.GradCAM(model, "alias").attribute(image(), target=1)
    torch.testing.assert_close(found, fastsal.GradCAM(model, "last").attribute(image(), target=1))


def test_a_linear_map_of_tokens_is_no_default_layer() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch, self.mix, self.head = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 8), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.mix(self.patch(x).flatten(2).mT).relu().mean(1))

    model = Tokens().eval()
    assert [(name, shape) for name, shape, _ in fastsal.layers(model, image())] == [
        ("patch", (1, 8, 2, 2)),
        ("mix", (1, 8, 2, 2)),
    ]
    assert fastsal.GradCAM(model).attribute(image(), target=1).shape == (3, 1, 8, 9)


@pytest.mark.parametrize("name", ["Occlusion", "IntegratedGradients"])
def test_sweeps_need_examples_and_the_same_number_of_them(name: str) -> None:
    options: dict[str, Any] = {"sliding_window_shapes": ((2, 2), (2,))} if name == "Occlusion" else {}
    for rows in ((3, 1), (0, 0)):
        inputs = (torch.randn(rows[0], 3, 4), torch.randn(rows[1], 5))
        with pytest.raises(ValueError, match="inputs"):
            getattr(fastsal, name)(TwoInputs()).attribute(inputs, target=1, **options)


def test_rise_masks_one_input_and_needs_rows() -> None:
    with pytest.raises(ValueError, match=r"inputs.*additional_forward_args"):
        fastsal.RISE(small()).attribute((image(), image()), target=1, n_masks=2)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="forward_func"):
        fastsal.RISE(lambda x: x.sum()).attribute(image(), n_masks=2)


def test_occlusion_of_unusual_forms() -> None:
    model, x = small(), image()
    expected = fastsal.Occlusion(model).attribute(x, (3, 4, 4), (3, 2, 2), target=[0, 1, 2])
    found = fastsal.Occlusion(model).attribute(x, tuple(np.array([3, 4, 4])), (3, np.int64(2), 2), target=np.arange(3))
    assert torch.equal(found, expected)
    # One score in the shape of a batch of one looks like a score an example until two rows give one score too.
    shared = fastsal.Occlusion(lambda z: model(z).sum().reshape(1)).attribute(x[:1], (3, 4, 4))
    torch.testing.assert_close(shared, fastsal.Occlusion(lambda z: model(z).sum(1)).attribute(x[:1], (3, 4, 4)))
    with pytest.raises(ValueError, match=r"baselines.*int64"):
        fastsal.Occlusion(lambda z: z.float()).attribute(torch.ones(1, 4).long(), (1,), baselines=0.5, target=0)


def test_integrated_gradients_of_integers() -> None:
    found = fastsal.IntegratedGradients(lambda z: (z**2).sum(1)).attribute(torch.full((1, 4), 3), n_steps=3)
    torch.testing.assert_close(found, torch.full((1, 4), 9.0))


def test_explain_takes_one_score_each_additional_arguments_and_underscores() -> None:
    x = image()
    explained = fastsal.explain(lambda z: z.square().sum((1, 2, 3)), x, ["saliency", "integrated_gradients"], n_steps=2)
    assert explained.target is None
    torch.testing.assert_close(explained.maps["integrated-gradients"], x.square())
    model, inputs, shift = TwoInputs().eval(), (torch.randn(3, 3, 4), torch.randn(3, 5)), torch.randn(3, 8)
    found = fastsal.explain(model, inputs, "saliency", target=1, additional_forward_args=shift)
    torch.testing.assert_close(found.output, model(*inputs, shift).detach())
    expected = fastsal.Saliency(model).attribute(inputs, target=1, additional_forward_args=shift)
    torch.testing.assert_close(found.maps["saliency"], expected)


def test_errors_that_are_not_of_inference_mode_are_left_alone() -> None:
    with torch.inference_mode():
        model = small()
    with pytest.raises(RuntimeError, match="channels"):
        fastsal.Occlusion(model).attribute(torch.randn(1, 2, 8, 8), (2, 4, 4), target=1)
