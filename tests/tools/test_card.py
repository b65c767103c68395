"""The page of a card: what the check's rows become, and the tests on a device rehearsed here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import card

ABOUT: dict[str, Any] = {"device": "a card", "torch": "2.11.0", "triton": "3.6.0", "date": "2026-01-02"}
ROWS: list[dict[str, Any]] = [
    {"kind": "copy", "stage": "facts", "per_second": 3.0e12},
    {"kind": "tests", "stage": "kernels", "passed": 470, "failed": 2},
    {"kind": "error", "stage": "kernels", "of": "tests/ops/test_cam.py::test_x", "error": "failed"},
    {
        "kind": "explainer",
        "stage": "explainers",
        "name": "Grad-CAM",
        "seconds": 0.0015,
        "ratio": 1.07,
        "passes": "1 forward",
        "captum_seconds": None,
        "peak_bytes": 2**24,
        "launched": None,
    },
    {
        "kind": "model",
        "stage": "models",
        "model": "resnet50",
        "rows": 256,
        "way": "eager, tf32",
        "seconds": 0.09,
        "device_seconds": 0.088,
    },
    {
        "kind": "op",
        "stage": "ops",
        "op": "cam.map",
        "case": "2048x7x7",
        "dtype": "float32",
        "layout": "nchw",
        "variant": "",
        "seconds": 8e-6,
        "of_copy": 0.04,
        "host_seconds": 1.2e-5,
    },
    {"kind": "op", "stage": "ops", "op": "path.fold", "variant": "block=128"},
]


def rows(rehearsed: bool = False) -> list[dict[str, Any]]:
    return [{**row, **ABOUT, "rehearsed": rehearsed} for row in ROWS]


def test_the_page_has_each_kind_of_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows()) + '{"kind": "o')
    page = tmp_path / "page.md"
    page.write_text(f"# Your card\n\nWords.\n\n{card.BEGIN}\n\nNo card.\n")
    monkeypatch.setattr(sys, "argv", ["card", str(tmp_path), "--out", str(page)])
    assert card.main() == 0
    found = page.read_text()
    assert found.startswith("# Your card\n\nWords.\n")
    assert "No card." not in found
    for line in (
        "Device a card, torch 2.11.0, triton 3.6.0, date 2026-01-02.",
        "copy 3.00 TB/s.",
        "Tests of the stage kernels: 470 passed, 2 failed.",
        "- kernels, tests/ops/test_cam.py::test_x: failed",
        "| Grad-CAM | 1.500 | 1 forward | 1.07 |  | 16 |",
        "| resnet50 | 256 | eager, tf32 | 90.000 | 88.000 |",
        "| cam.map 2048x7x7 float32 nchw | 8.0 | 0.04 | 12.0 |",
    ):
        assert line in found, line
    assert "path.fold" not in found  # a variant is no user's


def test_figures_of_a_rehearsal_are_refused() -> None:
    with pytest.raises(ValueError, match="a rehearsal's, of a CPU"):
        card.tables(rows(rehearsed=True))
    with pytest.raises(ValueError, match="no rows"):
        card.tables([])


@pytest.mark.long
def test_the_tests_on_a_device_pass_where_the_device_is_the_cpu(root: Path) -> None:
    """So that what fails on a card is the card's, not the test's."""
    environment = {**os.environ, "FASTSAL_REHEARSE": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/gpu"]
    found = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout[-3000:]
