"""What needs a newer PyTorch says so when it is called."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import fastsal
from fastsal._torch import check_torch
from fastsal.engine.prepare.precision import float32_arithmetic


@pytest.mark.parametrize("version", ["2.6.0", "2.10.1+cu128", "2.9.0a0+git123"])
def test_older_ones_are_refused(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setattr(torch, "__version__", version)
    with pytest.raises(RuntimeError, match=r"it needs PyTorch 2\.11 or newer, this is .*: pip install 'torch>=2\.11'"):
        check_torch("2.11", "it")


@pytest.mark.parametrize("version", ["2.11.0", "2.13.0+cpu", "3.0"])
def test_newer_ones_are_taken(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setattr(torch, "__version__", version)
    check_torch("2.11", "it")


def test_what_needs_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch, "__version__", "2.6.0")
    model, x = nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), torch.zeros(1, 3, 2, 2)
    with pytest.raises(RuntimeError, match=r"fastsal\.export needs PyTorch 2\.11"):
        fastsal.export(fastsal.Saliency(model), x, tmp_path / "a.pt2")
    with pytest.raises(RuntimeError, match=r"fastsal\.load needs PyTorch 2\.11"):
        fastsal.load(tmp_path / "a.pt2")
    with (
        pytest.raises(RuntimeError, match=r"precision: 'tf32' on a GPU needs PyTorch 2\.9"),
        float32_arithmetic("tf32", torch.device("cuda")),
    ):
        pass
