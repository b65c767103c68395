"""Wheel and sdist: their tag, what is in them, and that what comes out of them works."""

from __future__ import annotations

import email
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.packaging.building import Isolated, build

pytestmark = pytest.mark.slow

PACKAGES = {"fastsal": "fastsal", "fastsal_kernels": "kernels/fastsal_kernels"}
IMPORT_BOTH = """
import importlib.util, fastsal
print(fastsal.__file__)
print(importlib.util.find_spec("fastsal_kernels").origin)
"""


def _source_files(root: Path) -> set[str]:
    """Every file of both packages, named as in the wheel."""
    return {
        f"{name}/{file.relative_to(root / folder).as_posix()}"
        for name, folder in PACKAGES.items()
        for file in (root / folder).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }


def _contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_wheel_is_pure_python(wheel: Path) -> None:
    assert wheel.name.endswith("-py3-none-any.whl")
    contents = _contents(wheel)
    (metadata,) = (text for name, text in contents.items() if name.endswith(".dist-info/WHEEL"))
    assert email.message_from_bytes(metadata)["Root-Is-Purelib"] == "true"


def test_wheel_holds_both_packages_with_their_data(wheel: Path, root: Path) -> None:
    packaged = {name for name in _contents(wheel) if ".dist-info/" not in name}
    assert packaged == _source_files(root)
    assert {"fastsal/py.typed", "fastsal_kernels/py.typed"} <= packaged
    assert any(name.startswith("fastsal/models/") and name.endswith(".safetensors") for name in packaged)


def test_wheel_metadata(wheel: Path) -> None:
    contents = _contents(wheel)
    (text,) = (text for name, text in contents.items() if name.endswith(".dist-info/METADATA"))
    metadata = email.message_from_bytes(text)
    core = {
        requirement.split(";")[0].split(">")[0].strip().lower()
        for requirement in metadata.get_all("Requires-Dist", [])
        if "extra ==" not in requirement
    }
    assert core == {"torch", "triton", "numpy", "pillow", "safetensors", "tqdm"}
    assert metadata["License-Expression"] == "BSD-3-Clause"
    assert any(name.endswith("LICENSE") for name in contents)
    (scripts,) = (text for name, text in contents.items() if name.endswith("entry_points.txt"))
    assert b"fastsal=fastsal.cli:main" in scripts.replace(b" ", b"")


def test_installed_wheel_imports(wheel: Path, tmp_path: Path, isolated: Isolated) -> None:
    target = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", str(target)]
    subprocess.run([*install, str(wheel)], check=True, capture_output=True)
    for line in isolated(IMPORT_BOTH, target).splitlines():
        assert Path(line).is_relative_to(target)
    versions = isolated(
        "import fastsal, importlib.metadata as m; print(fastsal.__version__, m.version('fastsal'))", target
    )
    assert len(set(versions.split())) == 1


def test_sdist_builds_and_tests_like_the_checkout(sdist: Path, wheel: Path, root: Path, tmp_path: Path) -> None:
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    needed = ["pyproject.toml", "CMakeLists.txt", "LICENSE", "README.md", "Makefile", "constraints.txt"]
    for folder in ("tests", "benchmarks", "tools", "kernels/fastsal_gate", "kernels/native", *PACKAGES.values()):
        needed += [
            file.relative_to(root).as_posix()
            for file in (root / folder).rglob("*")
            if file.is_file() and "__pycache__" not in file.parts
        ]
    assert [name for name in needed if not (source / name).is_file()] == []
    (tmp_path / "again").mkdir()
    again = build(source, tmp_path / "again", "wheel")
    assert again.name == wheel.name
    assert _contents(again) == _contents(wheel)
