"""Nothing in a file is executed without the word: each attack is refused in one line; with the word it would run."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import torch
from torch import nn

from fastsal import models
from fastsal.models.exported import _is_arithmetic
from fastsal.models.files import load_model_file
from tests.fuzz import attacks

REAL = ("sample-inputs", "input-name", "old-weights", "pickled-weight")
"""Attacks that do run in this PyTorch's own reader; by others it is broken, or they are of other releases."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hostile")


@pytest.fixture(scope="module")
def source(folder: Path) -> Path:
    return attacks.exported(folder / "harmless.pt2")


@pytest.fixture(scope="module")
def hostile(folder: Path, source: Path) -> dict[str, Path]:
    mark = folder / "mark"
    return attacks.archives(source, folder, mark) | attacks.others(folder, mark)


def read(path: Path) -> models.LoadedModel:
    return models.load(str(path), device="cpu")


def weighed(path: Path) -> models.LoadedModel:
    return models.load("demo", path, device="cpu")


def test_no_attack_runs(folder: Path, hostile: dict[str, Path]) -> None:
    for name, path in hostile.items():
        for use in (read, weighed):
            if use is read and name in ("sample-inputs", "guards"):
                # What is left of these is data: the code in them is not part of what was read.
                use(path).model(torch.rand(2, 3, 16, 16))
            else:
                with pytest.raises(ValueError, match=r"^[^\n]+$"):
                    use(path)
            assert not attacks.cleared(folder / "mark"), name


@pytest.mark.parametrize("name", REAL)
def test_the_attacks_are_real(folder: Path, hostile: dict[str, Path], name: str) -> None:
    with contextlib.suppress(ValueError):
        load_model_file(hostile[name], trust_code=True)
    assert attacks.cleared(folder / "mark")


def test_torchscript_is_a_program(folder: Path, hostile: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match=r"is TorchScript, which is a program .*trust_code \(--trust-code\) allows it"):
        models.load(str(hostile["script.pt"]), device="cpu")
    loaded = models.load(str(hostile["script.pt"]), device="cpu", trust_code=True)
    loaded.model(torch.rand(1, 3, 16, 16))
    assert attacks.cleared(folder / "mark")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("outside", "which would be written outside of its folder"),
        ("absolute", "which would be written outside of its folder"),
        ("drive", "which would be written outside of its folder"),
        ("twice", "twice, so that two readers would see two files"),
        ("native", "is a package of AOTInductor, native code"),
        ("os-system", r"calls 'torch\.os\.system', .* trust_code \(--trust-code\) allows it"),
        ("expression", "has the expression"),
        ("pickled-weight", "has '0.weight' as a pickle"),
        ("default-factory", "of the class 'collections.defaultdict'"),
    ],
)
def test_what_the_refusals_say(hostile: dict[str, Path], name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        models.load(str(hostile[name]), device="cpu")


class Parts(nn.Module):
    """What networks are made of: attention, recurrence, no_grad, constants, resizing, equations, several outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, 4)
        self.attention = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
        self.shared = nn.Linear(16, 16)
        self.recurrent = nn.GRU(16, 16, batch_first=True)
        self.head = nn.Linear(16, 7)
        self.scale = torch.full((3,), 0.5)
        self.register_buffer("shift", torch.ones(16))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        with torch.no_grad():
            x = x * self.scale[:, None, None]
        x = nn.functional.interpolate(x, scale_factor=2.0, mode="bilinear")
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = self.shared(self.shared(self.attention(tokens))) + self.shift
        tokens, _ = self.recurrent(torch.where((tokens > 0) & (tokens < 3), tokens, 0.1 * tokens))
        return {"logits": self.head(torch.einsum("bti,ij->bj", tokens, torch.eye(16)))}


def test_what_is_data_is_read(tmp_path: Path) -> None:
    """The values are those of the model that was exported, and of PyTorch's own reader."""
    model, x = Parts().eval(), torch.rand(2, 3, 16, 16)
    torch.export.save(torch.export.export(model, (x,)), tmp_path / "parts.pt2")
    read, size, has_layers = load_model_file(tmp_path / "parts.pt2")
    assert (size, has_layers) == ((16, 16), True)
    expected = model(x)["logits"]
    torch.testing.assert_close(read(x)["logits"], expected)
    torch.testing.assert_close(load_model_file(tmp_path / "parts.pt2", trust_code=True)[0](x)["logits"], expected)


def test_a_size_that_varies_is_the_examples(tmp_path: Path) -> None:
    height = torch.export.Dim("height", min=8, max=64)
    program = torch.export.export(attacks.network(), (torch.rand(1, 3, 24, 16),), dynamic_shapes=({2: height},))
    torch.export.save(program, tmp_path / "m.pt2")
    model, size, _ = load_model_file(tmp_path / "m.pt2")
    assert size == (24, 16)
    assert model(torch.rand(1, 3, 40, 16)).shape == (1, 5)


@pytest.mark.parametrize(
    ("text", "fine"),
    [
        ("Symbol('s77', positive=True, integer=True)", True),
        ("Mul(Integer(64), Add(Symbol('s5', integer=True), Integer(-1)))", True),
        ("FloorDiv(s0 + 2, 4)", True),
        ("Pow(Symbol('s1'), Integer(2))", True),
        ("9**9**9**9", False),
        ("Pow(Integer(9), Pow(Integer(9), Integer(9)))", False),
        ("__import__('os')", False),
        ("Symbol('s0').subs", False),
        ("exec('1')", False),
        ("[1 for _ in s0]", False),
        ('Symbol("s0\'); import os")', False),
        ("lambda: 1", False),
        ("(" * 5000, False),
    ],
)
def test_expressions(text: str, fine: bool) -> None:
    assert _is_arithmetic(text) == fine
