"""`load`: specs, devices, precisions, importable modules."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from fastsal import models
from fastsal.models.demo_net import DemoNet

MODULE = """
import torch
from torch import nn

def build():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))

ready = build()

def text():
    return "no model"

number = 3

class Box:
    make = staticmethod(build)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """A module in the current folder, under a name of this test alone."""
    name = f"made_for_{abs(hash(request.node.nodeid))}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [path for path in __import__("sys").path if path != ""])
    return name


def test_demo() -> None:
    loaded = models.load("demo", device="cpu")
    assert not loaded.model.training
    assert loaded.preprocess.size == (96, 96)
    assert loaded.class_name(7) == "7"
    assert loaded.class_name(70) == "70"
    batch = loaded.inputs([models.read_image(path) for path in models.demo_images()])
    torch.testing.assert_close(batch, models.demo_canvases(6).images)


@pytest.mark.parametrize("name", ["build", "ready", "Box.make"])
def test_module_from_the_current_folder(folder: str, name: str) -> None:
    loaded = models.load(f"{folder}:{name}", device="cpu")
    assert not any(module.training for module in loaded.model.modules())
    assert loaded.preprocess == models.Preprocess()
    assert loaded.model(loaded.inputs([Image.new("RGB", (50, 40))])).shape == (1, 5)


def test_what_a_module_may_not_be(folder: str) -> None:
    for spec, error, message in [
        (f"{folder}:text", TypeError, r"text\(\) must return a torch.nn.Module, got str"),
        (f"{folder}:number", TypeError, "neither a module nor callable"),
        (f"{folder}:absent", ValueError, "has no 'absent'"),
        ("no_such_module_here:build", ValueError, "there is no module 'no_such_module_here'"),
    ]:
        with pytest.raises(error, match=message):
            models.load(spec, device="cpu")


def test_a_missing_import_inside_the_module_is_its_own_error(folder: str, tmp_path: Path) -> None:
    (tmp_path / f"{folder}_broken.py").write_text("import a_package_that_is_not_there\n")
    with pytest.raises(ModuleNotFoundError, match="a_package_that_is_not_there"):
        models.load(f"{folder}_broken:build", device="cpu")


@pytest.mark.parametrize("spec", ["", "resnet50", "timm:", "a b:c"])
def test_unknown_specs(spec: str) -> None:
    with pytest.raises(ValueError, match=r"is not one of: demo|names no model"):
        models.load(spec, device="cpu")


def test_overrides(folder: str) -> None:
    loaded = models.load(
        f"{folder}:build", device="cpu", size=(32, 48), mean=(0.5,), std=(0.25,), class_names=["a", "b", "c", "d", "e"]
    )
    assert loaded.preprocess.size == (32, 48)
    assert (loaded.preprocess.mean, loaded.preprocess.std) == ((0.5,), (0.25,))
    assert loaded.class_name(1) == "b"


@pytest.mark.parametrize("precision", ["float64", "bfloat16", "float16"])
def test_precision(precision: str) -> None:
    loaded = models.load("demo", device="cpu", precision=precision)
    assert loaded.dtype == getattr(torch, precision)
    batch = loaded.inputs([Image.new("RGB", (96, 96))])
    assert batch.dtype == loaded.dtype
    assert loaded.model(batch).dtype == loaded.dtype


def test_unknown_precision_and_device() -> None:
    with pytest.raises(ValueError, match="precision must be one of float64, float32"):
        models.load("demo", precision="int8")
    for device in ("gpu", "cuda:99", "xla", "meta"):
        with pytest.raises(ValueError, match=f"device '{device}' cannot be used here"):
            models.load("demo", device=device)


def weights(seed: int = 1) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return DemoNet().state_dict()


@pytest.mark.parametrize("wrap", ["plain", "state_dict", "model", "parallel"])
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_weights(tmp_path: Path, wrap: str, suffix: str) -> None:
    state = weights()
    path = tmp_path / f"w.{suffix}"
    named = {f"module.{name}": tensor for name, tensor in state.items()} if wrap == "parallel" else dict(state)
    if suffix == "safetensors":
        save_file(named, path)
    else:
        torch.save({wrap: named, "epoch": 3} if wrap in ("state_dict", "model") else named, path)
    loaded = models.load("demo", path, device="cpu")
    torch.testing.assert_close(loaded.model.state_dict(), state)


def test_weights_that_do_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    for change, message in [
        ({"head.bias": None}, "the file lacks head.bias"),
        ({"tail.bias": torch.zeros(1)}, "has unknown tail.bias"),
        ({"head.bias": torch.zeros(3)}, r"head.bias is \(3,\) in the file and \(10,\) in the model"),
    ]:
        state = {name: tensor for name, tensor in {**weights(), **change}.items() if tensor is not None}
        save_file(state, path)
        with pytest.raises(ValueError, match=message):
            models.load("demo", path, device="cpu")


def test_weights_that_are_no_weights(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"weights file .* does not exist"):
        models.load("demo", tmp_path / "none.pt", device="cpu")
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"12345678 and so on")
    with pytest.raises(ValueError, match="cannot be read as safetensors"):
        models.load("demo", broken, device="cpu")
    text = tmp_path / "text.pt"
    text.write_text("root:x:0:0\n" * 20)
    with pytest.raises(ValueError, match=r"cannot be read|can run any code"):
        models.load("demo", text, device="cpu")
    whole = tmp_path / "whole.pt"
    torch.save(nn.Linear(2, 2), whole)
    with pytest.raises(ValueError, match="can run any code while it loads"):
        models.load("demo", whole, device="cpu")
    listed = tmp_path / "list.pt"
    torch.save([torch.zeros(1)], listed)
    with pytest.raises(ValueError, match="are no state dict"):
        models.load("demo", listed, device="cpu")
