"""The calls that are compared from commit to commit: every explainer is among them, and one bit is a difference."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import torch

import fastsal
from tools import recorded_calls


def test_every_explainer_is_recorded(root: Path) -> None:
    text = "\n".join(file.read_text() for file in (root / "tools" / "recorded").glob("*.py"))
    classes = [name for name in fastsal.__all__ if inspect.isclass(getattr(fastsal, name))]
    explainers = [name for name in classes if hasattr(getattr(fastsal, name), "attribute")]
    assert len(explainers) >= 47
    assert [name for name in explainers if name not in text] == []


def test_a_record_equals_itself_and_not_what_is_one_bit_off(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [str(tmp_path / name) for name in ("first.pt", "second.pt")]
    for file in files:
        assert recorded_calls.main(["--record", file, "--only", "saliency/float"]) == 0
    assert recorded_calls.main(["--compare", *files]) == 0
    assert "2 and 2 calls, 0 differences" in capsys.readouterr().out
    record = torch.load(files[1], weights_only=True)
    values = record["results"]["gradients: saliency/float32"][""]
    values.view(torch.int32).view(-1)[5] ^= 1
    torch.save(record, files[1])
    assert recorded_calls.main(["--compare", *files]) == 1
    assert "gradients: saliency/float32: off by" in capsys.readouterr().out


def test_dtypes_shapes_and_missing_calls_are_differences() -> None:
    one = {"a": {"": torch.zeros(2)}, "b": {"[0]": torch.zeros(2)}, "c": {"": torch.tensor(torch.nan)}}
    other = {"a": {"": torch.zeros(2, 1)}, "b": {"[0]": torch.zeros(2).double()}, "d": {"": torch.zeros(1)}}
    assert recorded_calls.differences(one, one) == []
    assert [line.split(":")[0] for line in recorded_calls.differences(one, other)] == ["a", "b[0]", "c", "d"]
