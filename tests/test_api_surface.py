"""The interface is what was agreed: a change of a public name or signature shows in tests/api_surface.json."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tools import api_surface


def test_the_interface_is_the_one_that_is_kept(root: Path) -> None:
    """In a process of its own, since what other tests import or replace could show."""
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join([str(root), str(root / "kernels")]))
    command = [sys.executable, "-m", "tools.api_surface", "--check"]
    result = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"run python -m tools.api_surface if this is wanted:\n{result.stdout}{result.stderr}"


def test_signatures_are_as_they_are_written() -> None:
    def made(value: int, *, name: str = "a", function: object = test_signatures_are_as_they_are_written) -> int:
        return value

    assert (
        api_surface.signature(made)
        == "(value: int, *, name: str = 'a', function: object = test_signatures_are_as_they_are_written) -> int"
    )
