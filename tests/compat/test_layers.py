"""The explainers of a layer give Captum 0.9.0's numbers, for modules, names, lists, inputs and outputs."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from captum import attr
from torch import Tensor, nn

import fastsal
from tests.explainers.networks import TwoInputs, image, small, unchanged

EXACT = {"rtol": 1e-10, "atol": 1e-12}
LAYERS = ["stem", "norm", "act", "body", "last", "head"]


def check(ours: Any, theirs: Any, **tolerance: float) -> None:
    assert type(ours) is type(theirs)
    if isinstance(ours, (tuple, list)):
        for pair in zip(ours, theirs, strict=True):
            check(*pair, **tolerance)
        return
    assert not ours.requires_grad
    torch.testing.assert_close(ours, theirs.detach(), **(tolerance or EXACT))


class Words(nn.Module):
    """Tokens [B, T] through an embedding, a recurrent layer that returns tuples, and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(20, 6)
        self.rnn = nn.GRU(6, 5, batch_first=True)
        self.norm = nn.LayerNorm(5)
        self.head = nn.Linear(5, 3)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        embedded = self.embedding(tokens)
        if mask is not None:
            embedded = embedded * mask[..., None]
        rows, _last = self.rnn(embedded)
        return self.head(self.norm(rows).mean(1))


class Pairs(nn.Module):
    """A layer of two tensors, and a residual branch beside a layer."""

    class Split(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x.sin(), x.cos()

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.split, self.second, self.head = (
            nn.Linear(4, 6),
            self.Split(),
            nn.Linear(6, 6),
            nn.Linear(6, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.split(self.first(x))
        hidden = a * b
        return self.head(hidden + self.second(hidden))


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("at_input", [False, True])
@pytest.mark.parametrize("name", ["LayerGradCam", "LayerActivation", "LayerGradientXActivation"])
def test_one_layer(name: str, at_input: bool, layer: str) -> None:
    model, x = small(dtype=torch.float64), image(dtype=torch.float64)
    options: dict[str, Any] = {"attribute_to_layer_input": at_input}
    if name != "LayerActivation":
        options["target"] = [1, 3, 0]
    theirs = getattr(attr, name)(model, getattr(model, layer)).attribute(x, **options)
    with unchanged(model, x):
        check(getattr(fastsal, name)(model, getattr(model, layer)).attribute(x, **options), theirs)
        check(getattr(fastsal, name)(model, layer).attribute(x, **options), theirs)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("summed", [False, True])
def test_layer_grad_cam_options(relu: bool, summed: bool) -> None:
    model, x = small(dtype=torch.float64), image(dtype=torch.float64)
    options = {"relu_attributions": relu, "attr_dim_summation": summed, "grad_kwargs": {"retain_graph": True}}
    theirs = attr.LayerGradCam(model, model.body).attribute(x, 2, **options)
    check(fastsal.LayerGradCam(model, model.body).attribute(x, 2, **options), theirs)


def test_interpolate() -> None:
    maps = torch.randn(2, 1, 3, 4)
    for size, mode in ((7, "nearest"), ((6, 9), "nearest"), ((6, 9), "bilinear")):
        theirs = attr.LayerAttribution.interpolate(maps, size, mode)
        for owner in (fastsal.LayerAttribution, fastsal.LayerGradCam(small(), "body")):
            assert torch.equal(owner.interpolate(maps, size, mode), theirs)


@pytest.mark.parametrize("at_input", [False, True])
@pytest.mark.parametrize("name", ["LayerActivation", "LayerGradientXActivation"])
def test_lists_of_layers(name: str, at_input: bool) -> None:
    model, x = small(dtype=torch.float64), image(dtype=torch.float64)
    options: dict[str, Any] = {"attribute_to_layer_input": at_input}
    if name != "LayerActivation":
        options["target"] = 1
    for layers in (["stem"], ["norm", "last"], ["body", "stem", "head"]):
        theirs = getattr(attr, name)(model, [getattr(model, layer) for layer in layers]).attribute(x, **options)
        check(getattr(fastsal, name)(model, layers).attribute(x, **options), theirs)


@pytest.mark.parametrize("name", ["LayerActivation", "LayerGradientXActivation", "LayerGradCam"])
def test_layers_of_several_tensors(name: str) -> None:
    model, x = Pairs().double().eval(), torch.randn(3, 4).double()
    target = {} if name == "LayerActivation" else {"target": 1}
    theirs = getattr(attr, name)(model, model.split).attribute(x, **target)
    check(getattr(fastsal, name)(model, model.split).attribute(x, **target), theirs)


def test_the_gradient_of_a_layer_input_counts_the_residual_beside_it() -> None:
    model, x = Pairs().double().eval(), torch.randn(3, 4).double()
    options = {"target": 1, "attribute_to_layer_input": True}
    theirs = attr.LayerGradientXActivation(model, model.second).attribute(x, **options)
    check(fastsal.LayerGradientXActivation(model, model.second).attribute(x, **options), theirs)
    ours = fastsal.LayerGradientXActivation(model, model.second, multiply_by_inputs=False).attribute(x, **options)
    check(ours, attr.LayerGradientXActivation(model, model.second, multiply_by_inputs=False).attribute(x, **options))


@pytest.mark.parametrize("layer", ["stem", "act", "body", "head"])
@pytest.mark.parametrize("at_input", [False, True])
@pytest.mark.parametrize("multiply", [False, True])
def test_layer_integrated_gradients(layer: str, at_input: bool, multiply: bool) -> None:
    model, x = small(dtype=torch.float64), image(dtype=torch.float64)
    options = {"target": [1, 3, 0], "n_steps": 7, "attribute_to_layer_input": at_input}
    for baselines in (None, 0.5, torch.rand(1, 3, 8, 9).double()):
        captum = attr.LayerIntegratedGradients(model, getattr(model, layer), multiply_by_inputs=multiply)
        ours = fastsal.LayerIntegratedGradients(model, layer, multiply_by_inputs=multiply)
        with unchanged(model, x):
            found, delta = ours.attribute(x, baselines, return_convergence_delta=True, **options)
        theirs, expected = captum.attribute(x, baselines, return_convergence_delta=True, **options)
        # Captum rounds its weights to float32.
        check(found, theirs, rtol=1e-6, atol=1e-8)
        check(delta, expected, rtol=1e-6, atol=1e-6)


def test_layer_integrated_gradients_of_lists_and_tuples() -> None:
    model, x = Pairs().double().eval(), torch.randn(3, 4).double()
    for layer in (model.split, [model.split], [model.split, model.second]):
        theirs = attr.LayerIntegratedGradients(model, layer).attribute(x, target=1, n_steps=5)
        for rows in (None, 3, 7):
            ours = fastsal.LayerIntegratedGradients(model, layer)
            check(ours.attribute(x, target=1, n_steps=5, internal_batch_size=rows), theirs, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("rows", [None, 2, 9])
def test_words_through_an_embedding(rows: int | None) -> None:
    """Captum's text tutorials: tokens have no gradient, their embeddings do; the padding is the baseline."""
    model = Words().double().eval()
    tokens, padding = torch.randint(1, 20, (2, 7)), torch.zeros(1, 7, dtype=torch.int64)
    mask = torch.ones(2, 7).double()
    options = {"target": 2, "additional_forward_args": mask, "n_steps": 20, "internal_batch_size": rows}
    theirs, expected = attr.LayerIntegratedGradients(model, model.embedding).attribute(
        tokens, padding, return_convergence_delta=True, **options
    )
    with unchanged(model, tokens, padding, mask):
        found, delta = fastsal.LayerIntegratedGradients(model, model.embedding).attribute(
            tokens, padding, return_convergence_delta=True, **options
        )
    check(found, theirs, rtol=1e-6, atol=1e-8)
    assert delta.abs().max() < 1e-2
    check(delta, expected, rtol=1e-3, atol=1e-7)
    with pytest.raises(ValueError, match="layer: its value"):
        fastsal.LayerIntegratedGradients(model, model.embedding).attribute(tokens, attribute_to_layer_input=True)


def test_layers_of_two_inputs() -> None:
    model, inputs = TwoInputs().double().eval(), (torch.randn(3, 3, 4).double(), torch.randn(3, 5).double())
    options = {"target": [0, 1, 3], "additional_forward_args": torch.randn(3, 8).double()}
    for name, tolerance in (
        ("LayerGradientXActivation", EXACT),
        ("LayerIntegratedGradients", {"rtol": 1e-6, "atol": 1e-8}),
    ):
        theirs = getattr(attr, name)(model, model.relu).attribute(inputs, **options)
        check(getattr(fastsal, name)(model, model.relu).attribute(inputs, **options), theirs, **tolerance)


@pytest.mark.parametrize("layer", ["stem", "body", "last"])
@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_guided_grad_cam(layer: str, mode: str) -> None:
    model, x = small(dtype=torch.float64), image(dtype=torch.float64)
    for at_input in (False, True):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = attr.GuidedGradCam(model, getattr(model, layer)).attribute(x, 1, None, mode, at_input)
        with unchanged(model, x):
            check(fastsal.GuidedGradCam(model, layer).attribute(x, 1, None, mode, at_input), theirs)


def test_guided_grad_cam_refuses_a_layer_without_the_inputs_dimensions() -> None:
    with pytest.raises(ValueError, match=r"layer: its map .* cannot be resized"):
        fastsal.GuidedGradCam(small(), "head").attribute(image(), 1)


def test_data_parallel_models_run_on_one_device() -> None:
    model, x = small(), image()
    wrapped = nn.DataParallel(model)
    expected = fastsal.LayerGradCam(model, model.body).attribute(x, 1)
    assert torch.equal(fastsal.LayerGradCam(wrapped, wrapped.module.body, device_ids=[0]).attribute(x, 1), expected)


def test_refusals() -> None:
    model, x = small(), image()
    with pytest.raises(ValueError, match=r"layer: the model has none named 'bodi'.*body"):
        fastsal.LayerActivation(model, ["stem", "bodi"])
    with pytest.raises(TypeError, match=r"layer: list given, but LayerGradCam explains one"):
        fastsal.LayerGradCam(model, [model.body])
    with pytest.raises(ValueError, match="layer: the list is empty"):
        fastsal.LayerActivation(model, [])
    with pytest.raises(ValueError, match="layer: the model did not run it"):
        fastsal.LayerActivation(lambda z: model.stem(z), model.head).attribute(x)
