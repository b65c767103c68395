"""What Captum's tutorials do, with Captum's import and with ours: the same code, the same numbers."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from captum import attr
from sklearn.datasets import load_breast_cancer
from torch import Tensor, nn

import fastsal
from fastsal import models

Namespace = Any


def same(tutorial: Callable[[Namespace], Any], **tolerance: float) -> Any:
    """Runs a tutorial with both packages, and compares what it returns; gives ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        theirs = tutorial(attr)
        torch.manual_seed(0)
        ours = tutorial(fastsal)
    flat = [value if isinstance(value, tuple) else (value,) for value in (ours, theirs)]
    for one, other in zip(*flat, strict=True):
        torch.testing.assert_close(one.detach().to(other.dtype), other.detach(), **tolerance)
    return ours


CLOSE = {"rtol": 1e-3, "atol": 1e-5}
"""float32 networks, whose batches of other sizes round otherwise."""


@pytest.fixture(scope="module")
def canvas() -> tuple[nn.Module, Tensor, int]:
    loaded = models.load("demo", device="cpu")
    x = loaded.inputs([models.read_image(models.demo_images()[0])])
    with torch.no_grad():
        return loaded.model, x, int(loaded.model(x).argmax())


def test_image_classification(canvas: tuple[nn.Module, Tensor, int]) -> None:
    """Integrated Gradients, its noise tunnel, Gradient SHAP and Occlusion of a trained network on a photograph."""
    model, x, label = canvas

    def integrated(captum: Namespace) -> Tensor:
        return captum.IntegratedGradients(model).attribute(x, target=label, n_steps=20)

    def occluded(captum: Namespace) -> Tensor:
        return captum.Occlusion(model).attribute(
            x, strides=(3, 16, 16), target=label, sliding_window_shapes=(3, 24, 24), baselines=0
        )

    def quiet_tunnel(captum: Namespace) -> Tensor:
        tunnel = captum.NoiseTunnel(captum.IntegratedGradients(model))
        return tunnel.attribute(
            x, nt_samples=2, nt_type="smoothgrad_sq", target=label, stdevs=0.0, n_steps=4, internal_batch_size=8
        )

    def shap(captum: Namespace) -> Tensor:
        baselines = torch.cat([x * 0, x * 0])
        found = captum.GradientShap(lambda z: (z * x).sum((1, 2, 3))).attribute(
            x, n_samples=5, stdevs=0.0, baselines=baselines
        )
        return found

    for tutorial in (integrated, occluded, quiet_tunnel, shap):
        same(tutorial, **CLOSE)


@pytest.fixture(scope="module")
def table() -> tuple[nn.Module, Tensor, Tensor]:
    """A classifier of the breast cancer table: 30 measurements, in three groups of ten."""
    values, labels = load_breast_cancer(return_X_y=True)
    x = torch.tensor(values, dtype=torch.float32)
    x = (x - x.mean(0)) / x.std(0)
    y = torch.tensor(labels)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(30, 12), nn.Sigmoid(), nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 2), nn.Softmax(1))
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(60):
        optimizer.zero_grad()
        F.nll_loss(model(x).clamp_min(1e-6).log(), y).backward()
        optimizer.step()
    model.eval()
    assert (model(x).argmax(1) == y).float().mean() > 0.95
    return model, x[:6], y[:6]


def test_tabular(table: tuple[nn.Module, Tensor, Tensor]) -> None:
    """The Titanic tutorial and its kin: Integrated Gradients with delta, ablation by groups, importance of a layer."""
    model, x, y = table
    groups = torch.arange(30) % 10  # mean, error and worst of each measurement are one feature

    def integrated(captum: Namespace) -> Any:
        found, delta = captum.IntegratedGradients(model).attribute(
            x, target=1, return_convergence_delta=True, n_steps=64
        )
        return found, delta

    def lifted(captum: Namespace) -> Any:
        # One by one: Captum's rule for softmax takes the mean over the whole batch.
        found = [
            captum.DeepLift(model).attribute(row[None], x.mean(0, keepdim=True), target=int(y[i]))
            for i, row in enumerate(x)
        ]
        return torch.cat(found)

    def ablated(captum: Namespace) -> Tensor:
        return captum.FeatureAblation(model).attribute(x, target=y, feature_mask=groups[None], perturbations_per_eval=5)

    def valued(captum: Namespace) -> Tensor:
        few = torch.arange(30) % 4
        return captum.ShapleyValues(model).attribute(x, target=y, feature_mask=few)

    def neurons(captum: Namespace) -> Tensor:
        return captum.LayerGradientXActivation(model, model[1]).attribute(x, target=1)

    for tutorial in (integrated, lifted, ablated, valued, neurons):
        same(tutorial, **CLOSE)
    shapley = fastsal.ShapleyValueSampling(model).attribute(x, target=y, feature_mask=groups, n_samples=4, seed=0)
    total = torch.stack([shapley[:, groups == i].mean(1) for i in range(10)]).sum(0)
    change = (model(x) - model(torch.zeros_like(x))).gather(1, y[:, None])[:, 0]
    torch.testing.assert_close(total, change.detach(), rtol=1e-4, atol=1e-5)


class QuestionAnswering(nn.Module):
    """An image and a question's tokens into answers, as in the visual question answering tutorial."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.see = nn.Sequential(nn.Conv2d(3, 6, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.embedding = nn.Embedding(30, 8)
        self.read = nn.LSTM(8, 8, batch_first=True)
        self.answer = nn.Linear(24 + 8, 5)

    def forward(self, image: Tensor, tokens: Tensor, lengths: Tensor | None = None) -> Tensor:
        return self.of_embeddings(image, self.embedding(tokens), lengths)

    def of_embeddings(self, image: Tensor, embedded: Tensor, lengths: Tensor | None = None) -> Tensor:
        rows, _state = self.read(embedded)
        last = rows[:, -1] if lengths is None else rows[torch.arange(len(rows)), lengths - 1]
        return self.answer(torch.cat([self.see(image), last], 1))


def test_multi_modal() -> None:
    """Images and questions together, as a tuple of inputs and as a list of layers."""
    model = QuestionAnswering().eval()
    image, tokens, lengths = torch.rand(2, 3, 12, 12), torch.randint(1, 30, (2, 5)), torch.tensor([5, 3])

    def inputs(captum: Namespace) -> Any:
        embedded = model.embedding(tokens).detach()
        return captum.IntegratedGradients(model.of_embeddings).attribute(
            (image, embedded), baselines=(0, embedded * 0), target=[1, 3], additional_forward_args=lengths, n_steps=16
        )

    def layers(captum: Namespace) -> Any:
        found = captum.LayerIntegratedGradients(model, [model.see[0], model.embedding]).attribute(
            (image, tokens), (torch.zeros_like(image), torch.zeros_like(tokens)), 2, lengths, n_steps=16
        )
        return tuple(found)

    def occluded(captum: Namespace) -> Any:
        return captum.Occlusion(model).attribute(
            (image, tokens), ((3, 4, 4), (1,)), ((3, 4, 4), (1,)), target=2, additional_forward_args=lengths
        )

    def ablated(captum: Namespace) -> Any:
        masks = torch.arange(9).reshape(1, 1, 3, 3).repeat_interleave(4, 2).repeat_interleave(4, 3), torch.arange(9, 14)
        return captum.FeatureAblation(model).attribute(
            (image, tokens), target=2, additional_forward_args=lengths, feature_mask=masks
        )

    for tutorial in (inputs, layers, occluded, ablated):
        same(tutorial, **CLOSE)


class Reader(nn.Module):
    """A small transformer with start and end scores, as in the question answering tutorial with BERT."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.positions = nn.Embedding(40, 16), nn.Embedding(12, 16)
        layer = nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0, batch_first=True, activation="gelu")
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(16, 2)

    def forward(self, tokens: Tensor, position_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.words(tokens) + self.positions(position_ids)
        hidden = self.encoder(hidden, src_key_padding_mask=attention_mask == 0)
        start, end = self.head(hidden).unbind(-1)
        return start, end


def test_text_through_layer_integrated_gradients() -> None:
    """Words and positions, through their embeddings, with a forward function that selects start or end scores."""
    model = Reader().eval()
    tokens = torch.randint(3, 40, (1, 9))
    reference = torch.full_like(tokens, 1)
    reference[:, [0, 5, 8]] = 2
    positions, mask = torch.arange(9)[None], torch.ones(1, 9)

    def scores(tokens: Tensor, position_ids: Tensor, attention_mask: Tensor, position: int = 0) -> Tensor:
        return model(tokens, position_ids, attention_mask)[position].max(1).values

    def words(captum: Namespace) -> Any:
        explainer = captum.LayerIntegratedGradients(scores, model.words)
        return explainer.attribute(
            tokens,
            baselines=reference,
            additional_forward_args=(positions, mask, 1),
            n_steps=12,
            return_convergence_delta=True,
        )

    def both(captum: Namespace) -> Any:
        explainer = captum.LayerIntegratedGradients(scores, [model.words, model.positions])
        found = explainer.attribute(
            (tokens, positions),
            baselines=(reference, torch.zeros_like(positions)),
            additional_forward_args=(mask, 0),
            n_steps=12,
            internal_batch_size=4,
        )
        return tuple(found)

    def activations(captum: Namespace) -> Any:
        return captum.LayerActivation(scores, model.encoder.layers[0]).attribute(tokens, (positions, mask))

    for tutorial in (words, both, activations):
        same(tutorial, **CLOSE)


def test_time_series() -> None:
    """[B, channels, time] through a convolution, explained by channel and by segment of time."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(2, 6, 5), nn.ReLU(), nn.AdaptiveMaxPool1d(4), nn.Flatten(), nn.Linear(24, 3)).eval()
    x = torch.randn(3, 2, 40)
    segments = (torch.arange(40) // 10)[None] + 4 * torch.arange(2)[:, None]

    def ablated(captum: Namespace) -> Any:
        return captum.FeatureAblation(model).attribute(x, x.mean(2, keepdim=True), 1, feature_mask=segments[None])

    def occluded(captum: Namespace) -> Any:
        return captum.Occlusion(model).attribute(x, (1, 8), (1, 3), target=[0, 1, 2])

    def lifted(captum: Namespace) -> Any:
        return captum.DeepLift(model).attribute(x, target=1)

    for tutorial in (ablated, occluded, lifted):
        same(tutorial, **CLOSE)
