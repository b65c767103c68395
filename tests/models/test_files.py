"""Whole models from files, and the files that are refused."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from fastsal import models
from fastsal.models.demo_net import DemoNet


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "demo.pt2"
    batch = torch.export.Dim("batch", min=1, max=1024)
    program = torch.export.export(models.demo(), (torch.rand(2, 3, 96, 96),), dynamic_shapes=({0: batch},))
    torch.export.save(program, path)
    return path


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scripted") / "demo.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.trace(models.demo(), torch.rand(1, 3, 96, 96)), path)
    return path


def test_exported_archive(exported: Path) -> None:
    loaded = models.load(str(exported), device="cpu")
    assert loaded.has_layers
    assert loaded.preprocess.size == (96, 96)
    images = models.demo_canvases(5).images
    torch.testing.assert_close(loaded.model(images), models.demo()(images))


def test_exported_layers_can_be_hooked(exported: Path) -> None:
    """The reason for unflattening: a hook on a layer fires, and gradients flow behind it."""
    model = models.load(str(exported), device="cpu").model
    own = models.demo()
    seen = []
    handle = model.get_submodule("block2").register_forward_hook(lambda m, i, o: seen.append(o))
    image = models.demo_canvases(1).images
    output = model(image)
    handle.remove()
    expected = own.block2(own.block1(own.down2(own.down1(own.stem(image)))))
    torch.testing.assert_close(seen[0], expected)
    assert torch.autograd.grad(output[0, 3], seen[0])[0].abs().sum() > 0


def test_torchscript_archive(scripted: Path) -> None:
    loaded = models.load(str(scripted), device="cpu", trust_code=True, size=(96, 96), mean=(0.0,), std=(1.0,))
    assert not loaded.has_layers
    images = models.demo_canvases(2).images
    torch.testing.assert_close(loaded.model(images), models.demo()(images))


class Bomb:
    """What a malicious file may hold: code that runs while it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> object:
        return open, (str(self.path), "w")


@pytest.mark.parametrize("way", ["torch", "legacy", "pickle"])
def test_a_pickle_of_a_model_is_refused_and_not_run(tmp_path: Path, way: str) -> None:
    path, traces = tmp_path / "model.pt", tmp_path / "ran"
    if way == "pickle":
        path.write_bytes(pickle.dumps(Bomb(traces)))
    else:
        torch.save(Bomb(traces), path, _use_new_zipfile_serialization=way == "torch")
    with pytest.raises(ValueError, match=r"pickle of a whole model, which can run any code .* torch\.export\.save"):
        models.load(str(path), device="cpu")
    assert not traces.exists()


def test_a_whole_module_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    torch.save(nn.Linear(2, 2), path)
    with pytest.raises(ValueError, match="pickle of a whole model"):
        models.load(str(path), device="cpu")


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_weights_alone_are_no_model(tmp_path: Path, name: str) -> None:
    from safetensors.torch import save_file

    state = DemoNet().state_dict()
    if name.endswith("safetensors"):
        save_file(state, tmp_path / name)
    else:
        torch.save(state, tmp_path / name)
    with pytest.raises(ValueError, match=r"holds weights but no model: .* --weights"):
        models.load(str(tmp_path / name), device="cpu")


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x05\x06" + bytes(18), b"\x80\x04broken"])
def test_other_files(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.pt2"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"is no model file|is a pickle"):
        models.load(str(path), device="cpu")


def test_broken_archives(exported: Path, scripted: Path, tmp_path: Path) -> None:
    import zipfile

    for source, message in [(exported, "archive of torch.export"), (scripted, "as TorchScript")]:
        path = tmp_path / source.name
        with zipfile.ZipFile(source) as whole, zipfile.ZipFile(path, "w") as part:
            for name in whole.namelist():
                data = whole.read(name)
                broken = name.endswith(("model.json", "exported_program.json", ".py", "model_spec.json"))
                part.writestr(name, b"{" if broken else data)
        with pytest.raises(ValueError, match=message):
            models.load(str(path), device="cpu", trust_code=True)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="does not exist"):
        models.load(str(tmp_path / "none.pt2"), device="cpu")
