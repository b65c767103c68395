"""What the command line refuses: one line on standard error, exit code 2, no traceback."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fastsal import models
from tests.cli.conftest import Command

Refused = Callable[..., str]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--method", "gradcm"), "unknown method 'gradcm'; did you mean grad-cam"),
        (("--method", "zzz"), "unknown method 'zzz'; known: "),
        (("--method", ","), "--method names no method"),
        (("--target", "10"), "--target 10 is out of range: the model has 10 outputs, 0 to 9"),
        (("--target", "cat"), "--target must be auto or the number of an output"),
        (("--target=-1",), "--target must be auto or"),
        (("--layer", "blok2"), "the model has no layer 'blok2'; did you mean block2"),
        (("--layer", "head"), "gradcam: "),
        (("--model", "nonsense"), "model 'nonsense' is not one of: demo"),
        (("--model", "none.pt2"), "none.pt2 does not exist"),
        (("--weights", "none.safetensors"), "none.safetensors does not exist"),
        (("--device", "abacus"), "device 'abacus' cannot be used here"),
        (("--precision", "int3"), "precision must be one of float64, float32"),
        (("--batch-size", "0"), "argument --batch-size: must be a whole number, at least 1"),
        (("--size", "x"), "argument --size: must be a whole number"),
        (("--mean", "1,2"), "argument --mean: must be one number or three"),
        (("--std", "0"), "std must be positive"),
        (("--alpha", "2"), "--alpha must be between 0 and 1"),
        (("--class-names", "none.txt"), "none.txt is not there"),
        (("-O", "normalise=1"), "no method here takes the option 'normalise'; did you mean normalize"),
        (("-O", "rise.seed=1"), "'rise.seed=1' is for a method that is not asked for"),
        (("-O", "seed"), "--option must be KEY=VALUE or METHOD.KEY=VALUE"),
        (("--nonsense",), "unrecognized arguments: --nonsense"),
    ],
)
def test_arguments(refused: Refused, canvas: Path, tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    assert message in refused("explain", canvas, "--out", tmp_path / "out", *arguments)
    assert not list((tmp_path / "out").glob("*")) if (tmp_path / "out").exists() else True


def test_images(refused: Refused, tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("no image")
    assert "notes.txt is not an image that Pillow can read" in refused("explain", text, "--out", tmp_path)
    assert "none.png is not there" in refused("explain", tmp_path / "none.png")
    assert "is a folder, not an image" in refused("explain", tmp_path)


def test_output_folder(refused: Refused, canvas: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "cannot be a folder" in refused("explain", canvas, "--out", tmp_path / "file")
    assert "cannot be a folder" in refused("explain", canvas, "--out", tmp_path / "file" / "below")


def test_commands(refused: Refused) -> None:
    assert "COMMAND" in refused()
    assert "invalid choice: 'explian'" in refused("explian")
    assert "IMAGE" in refused("explain")


def test_a_missing_package(refused: Refused, canvas: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    assert "pip install 'fastsal[timm]'" in refused("explain", canvas, "--model", "timm:resnet50")


def test_torchscript_has_no_layers(refused: Refused, fastsal: Command, canvas: Path, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.trace(models.demo(), torch.rand(1, 3, 96, 96)), tmp_path / "m.pt")
    arguments = ("explain", canvas, "--model", tmp_path / "m.pt", "--size", "96", "--mean", "0", "--std", "1")
    assert "is TorchScript, which is a program and would run" in refused(*arguments, "--out", tmp_path / "out")
    arguments = (*arguments, "--trust-code")
    message = refused(*arguments, "--out", tmp_path / "out")
    assert "a TorchScript archive does not allow" in message
    assert fastsal(*arguments, "--method", "saliency", "--out", tmp_path / "out").code == 0


def test_what_the_model_itself_refuses(
    refused: Refused, canvas: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "refusing_models.py").write_text(
        "from torch import nn\ndef flat():\n    return nn.Linear(5, 2)\ndef maps():\n    return nn.Conv2d(3, 2, 3)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    assert "the model fails on an input of shape (1, 3, 224, 224)" in refused(
        "explain", canvas, "--model", "refusing_models:flat"
    )
    assert "must return one row of scores for an image, [1, classes], got (1, 2, 222, 222)" in refused(
        "explain", canvas, "--model", "refusing_models:maps"
    )


def test_traceback_on_request(fastsal: Command, canvas: Path) -> None:
    from fastsal.cli.errors import Refused as Error

    with pytest.raises(Error, match="no layer 'nowhere'"):
        fastsal("explain", canvas, "--layer", "nowhere", "--traceback")
