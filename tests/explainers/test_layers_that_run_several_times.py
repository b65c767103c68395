"""Layers that run several times in one pass, and layers whose value has several rows for each example."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from captum import attr
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import fastsal
from tests.explainers.networks import image, small, unchanged


class Pair(nn.Module):
    """A question and an answer of another length, through one embedding and one recurrent layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.rnn, self.head = nn.Embedding(60, 8), nn.GRU(8, 8, batch_first=True), nn.Linear(16, 3)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return self.head(torch.cat([self.rnn(self.table(text))[1][-1] for text in (first, second)], 1))


class Loop(nn.Module):
    """A state [B, 6] that one layer changes again and again, and the sum of all states."""

    def __init__(self, saves: bool = False, times: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner, self.cell, self.head = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 2)
        self.saves, self.times = saves, times

    def step(self, state: Tensor) -> Tensor:
        return self.cell(state).tanh()

    def forward(self, x: Tensor) -> Tensor:
        state, total = self.inner(x), torch.zeros(())
        for _ in range(self.times):
            state = checkpoint(self.step, state, use_reentrant=False) if self.saves else self.step(state)
            total = total + state
        return self.head(total)


class Twins(nn.Module):
    """One encoder for two images."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 5, 3, padding=1))
        self.head = nn.Linear(10, 3)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return self.head(torch.cat([self.encoder(each).relu().mean((2, 3)) for each in (first, second)], 1))


class Document(nn.Module):
    """Documents [B, S, T] of sentences that are folded into the batch, behind or before it."""

    def __init__(self, sentences_first: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.rnn, self.head = nn.Embedding(60, 8), nn.GRU(8, 8, batch_first=True), nn.Linear(8, 2)
        self.sentences_first = sentences_first

    def forward(self, ids: Tensor) -> Tensor:
        batch, sentences, words = ids.shape
        if self.sentences_first:
            rows = self.table(ids.transpose(0, 1).reshape(sentences * batch, words))
            found = self.rnn(rows)[1][-1].reshape(sentences, batch, -1).transpose(0, 1)
        else:
            found = self.rnn(self.table(ids.reshape(batch * sentences, words)))[1][-1].reshape(batch, sentences, -1)
        weights = torch.linspace(1, 2, sentences, dtype=found.dtype)[:, None]
        return self.head((weights * found).tanh().mean(1))


class TimeFirst(nn.Module):
    """Words [B, T] that are embedded as [T, B, C], beside a table of positions that knows no batch."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.positions = nn.Embedding(20, 6), nn.Embedding(10, 6)
        self.rnn, self.head = nn.GRU(6, 5), nn.Linear(5, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        embedded = self.table(tokens.t()) + self.positions(torch.arange(tokens.shape[1]))[:, None]
        return self.head(self.rnn(embedded)[1][-1])


def words(*shape: int) -> Tensor:
    return torch.randint(1, 20, shape, generator=torch.Generator().manual_seed(3))


def by_hand(behind: Callable[..., Tensor], stops: tuple[Tensor, ...], starts: tuple[Tensor, ...]) -> list[Tensor]:
    """The integral of a function of a layer's values along the path between them, with 64 midpoints."""
    totals = [torch.zeros_like(stop) for stop in stops]
    for alpha in (torch.arange(64) + 0.5) / 64:
        points = [torch.lerp(a, b, alpha.to(a)).requires_grad_() for a, b in zip(starts, stops, strict=True)]
        found = torch.autograd.grad(behind(*points).sum(), points)
        totals = [total + each / 64 for total, each in zip(totals, found, strict=True)]
    return [total * (b - a) for total, a, b in zip(totals, starts, stops, strict=True)]


def test_each_text_of_a_shared_embedding_has_its_own_path() -> None:
    model, first, second = Pair().double().eval(), words(2, 9), words(2, 6)
    explainer = fastsal.LayerIntegratedGradients(model, model.table)
    with unchanged(model, first, second):
        found, delta = explainer.attribute((first, second), target=1, return_convergence_delta=True)
    assert [tuple(each.shape) for each in found] == [(2, 9, 8), (2, 6, 8)]

    def behind(a: Tensor, b: Tensor) -> Tensor:
        return model.head(torch.cat([model.rnn(each)[1][-1] for each in (a, b)], 1))[:, 1]

    with torch.no_grad():
        stops, starts = (tuple(map(model.table, pair)) for pair in ((first, second), (first * 0, second * 0)))
        change = behind(*stops) - behind(*starts)
    for ours, expected in zip(found, by_hand(behind, stops, starts), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(sum(each.flatten(1).sum(1) for each in found), change, rtol=1e-5, atol=1e-7)
    assert delta.abs().max() < 1e-6
    for rows in (1, 5):
        for ours, other in zip(
            found, explainer.attribute((first, second), target=1, internal_batch_size=rows), strict=True
        ):
            torch.testing.assert_close(other, ours)


def test_every_step_of_a_loop() -> None:
    model, x = Loop().double().eval(), torch.randn(2, 4).double()
    state = model.inner(x)
    values = []
    for _ in range(3):
        values.append(model.cell(state))
        state = values[-1].tanh()
    gradients = torch.autograd.grad(model.head(sum(value.tanh() for value in values))[:, 1].sum(), values)
    with unchanged(model, x):
        found = fastsal.LayerActivation(model, "cell").attribute(x)
        products = fastsal.LayerGradientXActivation(model, "cell").attribute(x, 1)
        maps = fastsal.LayerGradCam(model, "cell").attribute(x, 1)
        paths, delta = fastsal.LayerIntegratedGradients(model, "cell").attribute(
            x, target=1, return_convergence_delta=True
        )
    assert len(found) == len(products) == len(maps) == len(paths) == 3
    for ours, value in zip(found, values, strict=True):
        torch.testing.assert_close(ours, value.detach())
    for ours, value, gradient in zip(products, values, gradients, strict=True):
        torch.testing.assert_close(ours, (value * gradient).detach())
    for ours, product in zip(maps, products, strict=True):
        torch.testing.assert_close(ours, product.sum(1, keepdim=True))
    assert delta.abs().max() < 1e-6
    both = fastsal.LayerActivation(model, ["inner", "cell"]).attribute(x)
    assert isinstance(both[0], Tensor)
    assert [each.shape for each in both[1]] == [(2, 6)] * 3


@pytest.mark.parametrize("name", ["LayerActivation", "LayerGradientXActivation", "LayerIntegratedGradients"])
def test_checkpointed_steps_are_not_further_uses(name: str) -> None:
    """What is run again for the gradient gives the value that it had, or is refused."""
    x = torch.randn(2, 4)
    options: dict[str, Any] = {} if name == "LayerActivation" else {"target": 1}
    for times in (1, 3):
        plain, saving = Loop(times=times).eval(), Loop(saves=True, times=times).eval()
        # A path along both would have no way from the first to the target, as the second's value is given.
        layers = ["cell"] if name == "LayerIntegratedGradients" else ["inner", "cell"]
        expected = getattr(fastsal, name)(plain, layers).attribute(x, **options)
        explainer = getattr(fastsal, name)(saving, layers)
        if name == "LayerIntegratedGradients" and times > 1:
            with pytest.raises(ValueError, match="layer: it runs several times, and activation checkpointing"):
                explainer.attribute(x, **options)
        else:
            torch.testing.assert_close(explainer.attribute(x, **options), expected)


def test_another_number_of_steps_for_the_baseline() -> None:
    class Until(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            for _ in range(2 if x.abs().sum() > 0 else 1):
                x = self.cell(x)
            return x

    with pytest.raises(ValueError, match=r"layer: its values have the shapes .* for the baselines"):
        fastsal.LayerIntegratedGradients(Until(), "cell").attribute(torch.ones(1, 3), target=0)


@pytest.mark.parametrize("method", ["GradCAM", "LayerCAM", "EigenCAM", "ScoreCAM", "AblationCAM"])
def test_an_encoder_for_two_images_has_a_map_of_each(method: str) -> None:
    model, images = Twins().eval(), (image(batch=2), image(batch=2, seed=2))
    explainer = getattr(fastsal, method)(model, "encoder")
    with unchanged(model):
        if method == "AblationCAM":  # which takes a channel from one value of the layer
            with pytest.raises(ValueError, match=r"layer: the model ran it 2 times"):
                explainer.attribute(images, target=1)
        else:
            both = explainer.attribute(images, target=1)
            assert [each.shape[2:] for each in both] == [each.shape[2:] for each in images]
    maps = fastsal.LayerGradCam(model, "encoder").attribute(images, 1)
    for index, map_ in enumerate(maps):
        activations = model.encoder(images[index]).detach()
        weights = torch.autograd.grad(
            model.head(
                torch.cat(
                    [
                        (leaf := activations.requires_grad_()).relu().mean((2, 3))
                        if i == index
                        else model.encoder(images[i]).relu().mean((2, 3))
                        for i in range(2)
                    ],
                    1,
                )
            )[:, 1].sum(),
            leaf,
        )[0].mean((2, 3), keepdim=True)
        torch.testing.assert_close(map_, (weights * activations).sum(1, keepdim=True).detach())
    small = {"upsample": False, "normalize": False, "relu_attributions": False}
    for each, map_ in zip(fastsal.GradCAM(model, "encoder").attribute(images, target=1, **small), maps, strict=True):
        torch.testing.assert_close(each, map_)


@pytest.mark.parametrize("method", ["GradCAM", "EigenCAM"])
def test_the_last_use_of_a_shared_relu_takes_in_the_others(method: str) -> None:
    shared = nn.ReLU()
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3), shared, nn.Conv2d(4, 4, 3), shared, nn.Flatten(), nn.LazyLinear(3)]
    model, x = nn.Sequential(*layers).eval(), image()
    model(x)
    separate = nn.Sequential(*layers[:3], nn.ReLU(), *layers[4:])
    found = getattr(fastsal, method)(model, shared).attribute(x, target=1)
    torch.testing.assert_close(found, getattr(fastsal, method)(separate, "3").attribute(x, target=1))


@pytest.mark.parametrize("sentences_first", [False, True])
@pytest.mark.parametrize("rows", [None, 2, 7])
def test_sentences_folded_into_the_batch(sentences_first: bool, rows: int | None) -> None:
    """Captum's numbers where its copies are the model's rows; where they are not, those of each document alone."""
    model, ids = Document(sentences_first).double().eval(), words(2, 3, 5)
    explainer = fastsal.LayerIntegratedGradients(model, model.table)
    options: dict[str, Any] = {"target": 1, "n_steps": 20}
    found = explainer.attribute(ids, internal_batch_size=rows, **options)
    assert found.shape == (6, 5, 8)
    change = (model(ids) - model(ids * 0))[:, 1]
    if sentences_first:
        other = Document().double().eval()
        right = attr.LayerIntegratedGradients(other, other.table).attribute(ids, **options)
        right = right.unflatten(0, (2, 3)).transpose(0, 1).flatten(0, 1)
        with pytest.raises(ValueError, match="return_convergence_delta: which part"):
            explainer.attribute(ids, return_convergence_delta=True, **options)
    else:
        right = attr.LayerIntegratedGradients(model, model.table).attribute(ids, **options)
        totals, delta = explainer.attribute(ids, return_convergence_delta=True, **options)
        torch.testing.assert_close(totals.unflatten(0, (2, 3)).flatten(1).sum(1) - change, delta)
    torch.testing.assert_close(found, right, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(found.sum(), change.sum(), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_examples_in_another_dimension_and_values_without_them(batch: int) -> None:
    """As many words as examples too: what tells them apart is the pass, not the shape."""
    model, tokens = TimeFirst().double().eval(), words(batch, 5)
    options: dict[str, Any] = {"target": 2, "n_steps": 20}
    found, delta = fastsal.LayerIntegratedGradients(model, ["table", "positions"]).attribute(
        tokens, return_convergence_delta=True, **options
    )
    assert found[0].shape == (5, batch, 6)
    assert not found[1].any()
    for row in range(batch):
        stop, start = (model.table(each[row : row + 1].t()).detach() for each in (tokens, tokens * 0))

        def behind(value: Tensor) -> Tensor:
            positions = model.positions(torch.arange(5))[:, None]
            return model.head(model.rnn(value + positions)[1][-1])[:, 2]

        (expected,) = by_hand(behind, (stop,), (start,))
        torch.testing.assert_close(found[0][:, row : row + 1], expected, rtol=1e-3, atol=1e-5)
    change = (model(tokens) - model(tokens * 0))[:, 2]
    torch.testing.assert_close(found[0].sum((0, 2)) - change, delta)
    means = fastsal.LayerIntegratedGradients(model, "positions", multiply_by_inputs=False).attribute(tokens, **options)
    assert means.shape == (5, 6)
    assert means.any()
    with pytest.raises(ValueError, match="layer: its value does not depend on the inputs"):
        fastsal.LayerIntegratedGradients(model, "positions").attribute(tokens, **options)


def test_a_model_whose_rows_depend_on_each_other_runs_one_copy_at_a_time() -> None:
    class Relative(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.stem, self.head = nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            found = self.stem(x / x.abs().max())
            return self.head(found.tanh() / found.abs().max())

    model, x = Relative().double().eval(), torch.randn(2, 4).double()
    found = fastsal.LayerIntegratedGradients(model, "stem").attribute(x, torch.randn(2, 4).double() * 3, 1, n_steps=9)
    assert found.shape == (2, 6)
    assert found.isfinite().all()
    calls: list[int] = []
    handle = model.head.register_forward_hook(lambda _m, _a, output: calls.append(len(output)))
    fastsal.LayerIntegratedGradients(model, "stem").attribute(x, torch.randn(2, 4).double() * 3, 1, n_steps=9)
    handle.remove()
    assert calls[-9:] == [2] * 9


def test_guided_grad_cam_of_a_layer_with_several_maps() -> None:
    model, images = Twins().eval(), (image(batch=2), image(batch=2, seed=2))
    with pytest.raises(ValueError, match="layer: it has several tensors, or runs several times"):
        fastsal.GuidedGradCam(model, "encoder").attribute(images, 1)
    assert fastsal.GuidedGradCam(small(), "body").attribute(image(), 1).shape == image().shape
