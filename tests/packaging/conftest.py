"""Builds of this checkout, and interpreters that see nothing of it but what a test names."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.packaging.building import Isolated, build


@pytest.fixture(scope="session")
def site_packages() -> list[str]:
    """Folders of the installed dependencies."""
    return [folder for folder in sys.path if Path(folder).name in ("site-packages", "dist-packages")]


@pytest.fixture
def isolated(tmp_path: Path, site_packages: list[str]) -> Isolated:
    """Runs code outside of the checkout, without the .pth files of an editable install; returns what it printed.

    ``path`` is what an installation would add to sys.path. The dependencies come after it.
    """

    def run(code: str, *path: Path) -> str:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("FASTSAL_", "PYTHON"))}
        environment["PYTHONPATH"] = os.pathsep.join([*map(str, path), *site_packages])
        result = subprocess.run(
            [sys.executable, "-S", "-c", code],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        return result.stdout.strip()

    return run


@pytest.fixture(scope="session")
def wheel(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    return build(root, tmp_path_factory.mktemp("wheel"), "wheel")


@pytest.fixture(scope="session")
def sdist(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution of this checkout."""
    return build(root, tmp_path_factory.mktemp("sdist"), "sdist")
