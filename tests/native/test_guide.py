"""The guide to deployment: its files are written and its commands run, in order, in a new folder."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
GUIDE = ROOT / "docs" / "deploy.md"
FILES = {"python": "export.py", "cpp": "service.cpp", "cmake": "CMakeLists.txt"}


@pytest.mark.native
@pytest.mark.skipif(shutil.which("cmake") is None, reason="cmake is not installed")
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
@pytest.mark.skipif(torch.__version__ < (2, 11), reason="fastsal.export needs PyTorch 2.11")
def test_every_command_of_the_guide(tmp_path: Path) -> None:
    (tmp_path / "fastsal").symlink_to(ROOT)
    folder = Path(sys.executable).parent
    environment = {
        **os.environ,
        "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
        "VIRTUAL_ENV": str(folder.parent),
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'kernels'}",
        "CMAKE_BUILD_PARALLEL_LEVEL": "2",
    }
    printed = ""
    for kind, text in re.findall(r"^```(\w+)\n(.*?)^```", GUIDE.read_text(), flags=re.S | re.M):
        if kind != "sh":
            (tmp_path / FILES[kind]).write_text(text)
            continue
        for command in text.strip().splitlines():
            if command.startswith(". "):  # this process's environment stands for it
                continue
            ran = subprocess.run(
                ["sh", "-c", command],
                cwd=tmp_path,
                env=environment,
                capture_output=True,
                text=True,
                timeout=900,
                check=False,
            )
            assert ran.returncode == 0, f"{command}\n{ran.stdout[-3000:]}{ran.stderr[-3000:]}"
            printed += ran.stdout
    assert '"method": "GradCAM"' in printed
    assert '"p99_ms"' in printed
    assert "map of 96 x 96" in printed
    assert (tmp_path / "map.pgm").read_bytes().startswith(b"P5\n96 96\n255\n")
