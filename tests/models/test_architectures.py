"""Real architectures of torchvision and timm, with random weights: loaded, explained, prepared, traced."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import fastsal
from fastsal import models

TORCHVISION = (
    "resnet18",
    "mobilenet_v3_small",
    "squeezenet1_1",
    "shufflenet_v2_x0_5",
    "efficientnet_b0",
    "regnet_y_400mf",
)
TIMM = ("resnet10t", "mobilenetv3_small_050", "convnext_atto", "regnetx_002", "vit_tiny_patch16_224")
SIDE = 96


def built(package: str, name: str) -> tuple[nn.Module, torch.Tensor]:
    """The model in evaluation mode, its batch norms with statistics of their own, and two images."""
    torch.manual_seed(0)
    if package == "timm":
        options = {"img_size": SIDE} if name.startswith("vit") else {}
        model = pytest.importorskip("timm", reason="timm is not installed").create_model(name, num_classes=7, **options)
    else:
        models_of = pytest.importorskip("torchvision.models", reason="torchvision is not installed")
        model = models_of.get_model(name, weights=None, num_classes=7)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
        if isinstance(module, nn.Linear) and not module.weight.any():  # some begin with a head of zeros
            nn.init.normal_(module.weight, std=0.1)
    return model.eval(), torch.randn(2, 3, SIDE, SIDE)


every = pytest.mark.parametrize(
    ("package", "name"), [("torchvision", name) for name in TORCHVISION] + [("timm", name) for name in TIMM]
)


@every
def test_explained(package: str, name: str) -> None:
    model, x = built(package, name)
    for explainer in (fastsal.GradCAM(model), fastsal.LayerCAM(model), fastsal.Saliency(model)):
        found = explainer.attribute(x, 1)
        assert found.shape[2:] == x.shape[2:]
        assert found.isfinite().all()
        alone = explainer.attribute(x[1:], 1)
        torch.testing.assert_close(found[1:], alone, rtol=1e-3, atol=1e-4 * float(found.abs().max()))


@every
def test_prepared(package: str, name: str) -> None:
    model, x = built(package, name)
    with torch.no_grad():
        expected = model(x)
        found = fastsal.prepare(model, x)(x)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


@every
def test_traced(package: str, name: str) -> None:
    """Occlusion that computes what a window changes alone is plain Occlusion."""
    model, x = built(package, name)
    options: dict[str, Any] = {"target": 1, "sliding_window_shapes": (3, 24, 24), "strides": (3, 24, 24)}
    plain = fastsal.Occlusion(model).attribute(x[:1], incremental=False, **options)
    found = fastsal.Occlusion(model).attribute(x[:1], incremental=True, **options)
    # Of outputs that random weights leave all but the same.
    torch.testing.assert_close(found, plain, rtol=1e-3, atol=1e-5 * float(model(x).abs().max()))


@pytest.mark.parametrize(
    ("package", "name", "crop"), [("timm", "mobilenetv3_small_050", 0.875), ("torchvision", "resnet18", 224 / 256)]
)
def test_loaded(package: str, name: str, crop: float, tmp_path: Path) -> None:
    module = pytest.importorskip(package, reason=f"{package} is not installed")
    source = module.create_model(name) if package == "timm" else module.models.get_model(name)
    torch.save(source.state_dict(), tmp_path / "weights.pt")
    loaded = models.load(f"{package}:{name}", tmp_path / "weights.pt", device="cpu")
    torch.testing.assert_close(loaded.model.state_dict(), source.state_dict())
    assert loaded.preprocess.size == (224, 224)
    assert loaded.preprocess.crop == pytest.approx(crop)
    assert loaded.class_names is not None
    assert "goldfish" in loaded.class_names[1]
    with pytest.raises(ValueError, match=f"{package} has no model 'no_such_model'"):
        models.load(f"{package}:no_such_model", device="cpu")
