"""Class activation maps of Hugging Face's own architectures, small and with random weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import fastsal

transformers: Any = pytest.importorskip("transformers", reason="transformers is not installed")

SMALL = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}
PATCHES = {"image_size": 64, "patch_size": 8, "num_labels": 5}
# Model, the default layer, and the grid that it must be read as: (positions a side, tokens before them).
MODELS: dict[str, tuple[Callable[[Any], Any], str, tuple[int, int] | None]] = {
    "vit": (lambda t: t.ViTForImageClassification(t.ViTConfig(**SMALL, **PATCHES)), "layernorm_before", (8, 1)),
    "deit": (lambda t: t.DeiTForImageClassification(t.DeiTConfig(**SMALL, **PATCHES)), "layernorm_before", (8, 2)),
    "dinov2 with registers": (
        lambda t: t.Dinov2WithRegistersForImageClassification(t.Dinov2WithRegistersConfig(**SMALL, **PATCHES)),
        "layernorm",
        (8, 5),
    ),
    "swin": (
        lambda t: t.SwinForImageClassification(
            t.SwinConfig(image_size=64, patch_size=2, embed_dim=16, depths=[2, 2], num_heads=[2, 4], window_size=4)
        ),
        "layernorm",
        (16, 0),
    ),
    "convnext": (
        lambda t: t.ConvNextForImageClassification(t.ConvNextConfig(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 2, 1])),
        "stages.3",
        None,
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_default_layers_and_grids(name: str) -> None:
    build, layer, grid = MODELS[name]
    torch.manual_seed(0)
    model, x = build(transformers).eval(), torch.randn(2, 3, 64, 64)
    explainer = fastsal.GradCAM(model)
    found = explainer.attribute(x, 1)
    assert found.shape == (2, 1, 64, 64)
    assert explainer.layer_names[0].endswith(layer)
    if grid is not None:
        side, extra = grid

        def reshape(value: Tensor) -> Tensor:
            assert math.isqrt(value.shape[1] - extra) == side
            return value[:, extra:].mT.unflatten(2, (side, side))

        named = fastsal.GradCAM(model, explainer.layer_names[0], reshape_transform=reshape)
        torch.testing.assert_close(named.attribute(x, 1), found)
    for method in ("AblationCAM", "ScoreCAM", "LayerCAM", "EigenCAM"):
        assert getattr(fastsal, method)(model).attribute(x, 1).isfinite().all()


@pytest.mark.parametrize("name", ["vit", "deit", "dinov2 with registers"])
def test_le_grad(name: str) -> None:
    torch.manual_seed(0)
    model, x = MODELS[name][0](transformers).eval(), torch.randn(2, 3, 64, 64)
    found = fastsal.LeGrad(model).attribute(x, 1, upsample=False)
    assert found.shape == (2, 1, 8, 8)
    assert found.max() > 0.99


def test_every_use_of_a_shared_block() -> None:
    """ALBERT runs one block three times: its states are what the model itself returns."""
    torch.manual_seed(0)
    config = transformers.AlbertConfig(
        vocab_size=40,
        embedding_size=8,
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=32,
    )
    model, ids = transformers.AlbertForSequenceClassification(config).eval(), torch.randint(1, 40, (2, 6))
    layer = "albert.encoder.albert_layer_groups.0"
    found = fastsal.LayerActivation(model, layer).attribute(ids)
    with torch.no_grad():
        states = model(ids, output_hidden_states=True).hidden_states[1:]
    for ours, theirs in zip(found, states, strict=True):
        torch.testing.assert_close(ours, theirs)
    paths, delta = fastsal.LayerIntegratedGradients(model, layer).attribute(
        ids, target=1, return_convergence_delta=True
    )
    change = (model(ids).logits - model(ids * 0).logits)[:, 1]
    torch.testing.assert_close(sum(each.flatten(1).sum(1) for each in paths), change, rtol=1e-3, atol=1e-6)
    assert delta.abs().max() < 1e-5


def test_choices_folded_into_the_batch() -> None:
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    model, ids = transformers.BertForMultipleChoice(config).eval(), torch.randint(1, 40, (2, 3, 7))
    found, delta = fastsal.LayerIntegratedGradients(model, "bert.embeddings").attribute(
        ids, target=1, return_convergence_delta=True
    )
    assert found.shape == (6, 7, 16)
    change = (model(ids).logits - model(ids * 0).logits)[:, 1]
    torch.testing.assert_close(found.unflatten(0, (2, 3)).flatten(1).sum(1), change, rtol=1e-3, atol=1e-6)
    assert not found.unflatten(0, (2, 3))[:, [0, 2]].any()  # the score of a choice is of it alone
    assert delta.abs().max() < 1e-5
