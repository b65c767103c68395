"""What the packaging tests share beside fixtures."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

Isolated = Callable[..., str]


def build(source: Path, out: Path, kind: str) -> Path:
    """The one file that ``python -m build`` makes of ``source``; kind is wheel or sdist."""
    command = [sys.executable, "-m", "build", "--no-isolation", f"--{kind}", "--outdir", str(out), str(source)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    (built,) = out.iterdir()
    return built
