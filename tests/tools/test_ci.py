"""What continuous integration runs: stages in order, the first that fails ends it, seconds of each at the end."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

STAGES = [
    *("install", "tests", "native", "long", "lint", "kernel gate", "docs", "install models", "models", "small models"),
    "card rehearsal",
]


def run(root: Path, folder: Path, failing: str) -> tuple[int, str]:
    """Exit status and output with a make that only fails, for one target."""
    make = folder / "make"
    make.write_text(f'#!/bin/sh\ntest "$1" != "{failing}" || exit 3\n')
    make.chmod(0o755)
    environment = {**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
    result = subprocess.run(
        ["bash", str(root / ".ci" / "run")], env=environment, capture_output=True, text=True, check=False
    )
    return result.returncode, result.stdout


@pytest.mark.parametrize(("failing", "count"), [("", len(STAGES)), ("lint", 5)])
def test_stages(root: Path, tmp_path: Path, failing: str, count: int) -> None:
    status, output = run(root, tmp_path, failing)
    rows = re.findall(r"^(\S.*?) +(\d+)  (passed|failed \(3\))$", output, re.MULTILINE)
    assert [name for name, _, _ in rows] == STAGES[:count]
    assert [result for _, _, result in rows].count("failed (3)") == bool(failing)
    assert status == (3 if failing else 0)
    assert re.search(r"^all together +\d+$", output, re.MULTILINE)


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_the_tests_of_models_are_found_by_their_skips(root: Path) -> None:
    result = subprocess.run(["make", "-n", "_model-tests"], cwd=root, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    found = set(re.findall(r"tests/\S+", result.stdout))
    skips = re.compile(r"importorskip\(\s*['\"](?:cv2|pytorch_grad_cam|timm|torchvision|transformers)\b")
    assert found == {
        str(file.relative_to(root)) for file in (root / "tests").rglob("test_*.py") if skips.search(file.read_text())
    }
    assert "tests/explainers/test_hugging_face.py" in found


def test_every_target_is_there(root: Path) -> None:
    targets = re.findall(r"^stage .*?make ([\w-]+)$", (root / ".ci" / "run").read_text(), re.MULTILINE)
    assert len(targets) == len(STAGES)
    makefile = (root / "Makefile").read_text()
    assert [name for name in targets if not re.search(rf"^{name}:.*## ", makefile, re.MULTILINE)] == []
