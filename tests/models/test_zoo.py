"""The loaders of timm, torchvision and transformers, wired to stand-ins for the packages."""

from __future__ import annotations

import enum
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fastsal import models
from fastsal.models.zoo import hf_preprocess


def net() -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4))


def install(monkeypatch: pytest.MonkeyPatch, **modules: Any) -> None:
    for name, contents in modules.items():
        module = ModuleType(name.replace("__", "."))
        module.__dict__.update(contents)
        monkeypatch.setitem(sys.modules, module.__name__, module)


@pytest.mark.parametrize(
    ("package", "spec"), [("timm", "timm:a"), ("torchvision", "torchvision:a"), ("transformers", "hf:a/b")]
)
def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch, package: str, spec: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # what importing then finds is a ModuleNotFoundError
    extra = spec.partition(":")[0]
    with pytest.raises(ImportError, match=rf"need the package {package}: pip install 'fastsal\[{extra}\]'"):
        models.load(spec, device="cpu")


def fake_timm(monkeypatch: pytest.MonkeyPatch, **config: Any) -> list[Any]:
    calls = []

    def create_model(name: str, pretrained: bool) -> nn.Module:
        if name != "tiny":
            raise RuntimeError(f"Unknown model ({name})")
        calls.append(pretrained)
        model = net()
        model.pretrained_cfg = {"num_classes": 4, "label_names": ["a", "b", "c", "d"]}
        return model

    given = {
        "input_size": (3, 32, 40),
        "mean": (0.1, 0.2, 0.3),
        "std": (0.4, 0.5, 0.6),
        "crop_pct": 0.9,
        "interpolation": "bicubic",
        "crop_mode": "center",
    }
    data = {"resolve_model_data_config": lambda model: given | config}
    install(monkeypatch, timm={"create_model": create_model}, timm__data=data)
    return calls


def test_timm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls = fake_timm(monkeypatch)
    loaded = models.load("timm:tiny", device="cpu")
    assert loaded.preprocess == models.Preprocess((32, 40), (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), 0.9, "bicubic")
    assert loaded.class_names == ("a", "b", "c", "d")
    assert not loaded.model.training
    state = net().state_dict()
    save_file(state, tmp_path / "w.safetensors")
    loaded = models.load("timm:tiny", tmp_path / "w.safetensors", device="cpu")
    torch.testing.assert_close(loaded.model.state_dict(), state)
    assert calls == [True, False]
    with pytest.raises(ValueError, match="timm has no model 'huge'"):
        models.load("timm:huge", device="cpu")


def test_timm_odd_configurations(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_timm(monkeypatch, crop_mode="squash", interpolation="random", crop_pct=1.0)
    preprocess = models.load("timm:tiny", device="cpu").preprocess
    assert preprocess.squash
    assert preprocess.interpolation == "bilinear"


def test_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    preset = SimpleNamespace(
        crop_size=[224],
        resize_size=[232],
        mean=[0.1, 0.2, 0.3],
        std=[0.4, 0.5, 0.6],
        interpolation=enum.Enum("Mode", {"BILINEAR": "bilinear"}).BILINEAR,
    )
    weights = SimpleNamespace(transforms=lambda: preset, meta={"categories": ["a", "b", "c", "d"]})
    calls = []

    def get_model(name: str, weights: Any) -> nn.Module:
        calls.append(weights)
        return net()

    def get_model_weights(name: str) -> Any:
        if name != "tiny":
            raise ValueError(f"Unknown model {name}")
        return SimpleNamespace(DEFAULT=weights)

    contents = {"get_model": get_model, "get_model_weights": get_model_weights}
    install(monkeypatch, torchvision={}, torchvision__models=contents)
    loaded = models.load("torchvision:tiny", device="cpu")
    assert loaded.preprocess == models.Preprocess((224, 224), (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), 224 / 232)
    assert loaded.class_name(2) == "c"
    assert calls == [weights]
    with pytest.raises(ValueError, match="torchvision has no model 'huge'"):
        models.load("torchvision:huge", device="cpu")


class Classifier(nn.Module):
    """A transformers model as far as the loader sees it."""

    def __init__(self) -> None:
        super().__init__()
        self.net = net()
        self.config = SimpleNamespace(id2label={1: "b", 0: "a", 3: "d", 2: "c"})

    def forward(self, pixel_values: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self.net(pixel_values))


def fake_transformers(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    calls = []

    def from_pretrained(name: str) -> nn.Module:
        if name != "tiny":
            raise OSError(f"{name} is not a local folder\nand more lines")
        calls.append("pretrained")
        return Classifier()

    def from_config(config: Any) -> nn.Module:
        calls.append("config")
        return Classifier()

    def image_processor(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
        return {"size": {"height": 30, "width": 40}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}, {}

    install(
        monkeypatch,
        transformers={
            "AutoModelForImageClassification": SimpleNamespace(
                from_pretrained=from_pretrained, from_config=from_config
            ),
            "AutoConfig": SimpleNamespace(from_pretrained=lambda name: None),
            "ImageProcessingMixin": SimpleNamespace(get_image_processor_dict=image_processor),
        },
    )
    return calls


def test_hf(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls = fake_transformers(monkeypatch)
    loaded = models.load("hf:tiny", device="cpu")
    assert loaded.class_names == ("a", "b", "c", "d")
    assert loaded.preprocess == models.Preprocess((30, 40), (0.5,) * 3, (0.5,) * 3, 1.0, squash=True)
    assert loaded.model(torch.rand(2, 3, 30, 40)).shape == (2, 4)
    state = Classifier().state_dict()
    save_file(state, tmp_path / "w.safetensors")
    loaded = models.load("hf:tiny", tmp_path / "w.safetensors", device="cpu")
    torch.testing.assert_close(loaded.model.get_submodule("model").state_dict(), state)
    assert calls == ["pretrained", "config"]
    with pytest.raises(ValueError, match=r"cannot load 'huge' as an image classifier: huge is not a local folder$"):
        models.load("hf:huge", device="cpu")


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        # ViT: scaled to exactly this size.
        ({"size": {"height": 384, "width": 384}, "resample": 3}, ((384, 384), 1.0, "bicubic", True)),
        # Its older way to say it.
        ({"size": 224, "resample": 2}, ((224, 224), 1.0, "bilinear", False)),
        # DINOv2, EfficientNet, ...: the shorter side, then a crop.
        (
            {"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}, "do_center_crop": True},
            ((224, 224), 0.875, "bilinear", False),
        ),
        # ConvNeXt and ResNet: enlarged by 1 / crop_pct and cropped back.
        ({"size": {"shortest_edge": 224}, "crop_pct": 0.875}, ((224, 224), 0.875, "bilinear", False)),
        ({"size": {"shortest_edge": 384}, "crop_pct": 0.875}, ((384, 384), 1.0, "bilinear", False)),
        ({}, ((224, 224), 1.0, "bilinear", False)),
    ],
)
def test_hf_configurations(config: dict[str, Any], expected: tuple[object, ...]) -> None:
    found = hf_preprocess(config)
    assert (found.size, pytest.approx(found.crop), found.interpolation, found.squash) == expected


def test_hf_without_normalisation() -> None:
    found = hf_preprocess({"do_normalize": False, "image_mean": [0.5] * 3})
    assert (found.mean, found.std) == ((0.0,), (1.0,))


@pytest.mark.slow
def test_a_real_transformers_model(tmp_path: Path) -> None:
    """A small randomly initialised ViT saved to a folder; runs where transformers is installed."""
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=32, patch_size=8
    )
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(
        '{"image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 32},'
        ' "image_mean": [0.5, 0.5, 0.5]}'
    )
    loaded = models.load(f"hf:{tmp_path}", device="cpu")
    assert loaded.preprocess.size == (32, 32)
    assert loaded.preprocess.mean == (0.5, 0.5, 0.5)
    batch = loaded.inputs([models.read_image(path) for path in models.demo_photos()])
    assert loaded.model(batch).shape == (3, 2)
    assert loaded.class_names == ("LABEL_0", "LABEL_1")
