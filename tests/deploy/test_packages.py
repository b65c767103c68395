"""Packages from strangers: what is damaged or altered is one line, and none runs without the word."""

from __future__ import annotations

import json
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

import fastsal
from fastsal.deploy import read_metadata
from tests.deploy.packages import altered
from tests.fuzz.hostile_files import METADATA

pytestmark = pytest.mark.skipif(torch.__version__ < (2, 11), reason="fastsal.load needs PyTorch 2.11")
INSIDE = "m/data/aotinductor/model/x_metadata.json"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """As far as it is looked at before its code runs."""
    path = tmp_path / "package.pt2"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/data/aotinductor/model/x.wrapper.so", b"\x7fELF")
        archive.writestr(INSIDE, json.dumps(METADATA))
    return path


def test_native_code_needs_the_word(package: Path) -> None:
    """One's own too; what it says of itself is read without."""
    assert read_metadata(package).method == "Saliency"
    with pytest.raises(ValueError, match=r"is native code, which would run while it is loaded; pass trust_code=True"):
        fastsal.load(package)


@pytest.mark.parametrize("name", METADATA)
def test_a_text_that_is_missing(package: Path, tmp_path: Path, name: str) -> None:
    left = {key: text for key, text in METADATA.items() if key != name}
    with zipfile.ZipFile(tmp_path / "less.pt2", "w") as archive:
        archive.writestr(INSIDE, json.dumps(left))
    message = f"was altered .* its metadata lacks '{name}'"
    if name == "fastsal_format":
        message = "was not made by fastsal.export"
    with pytest.raises(ValueError, match=message):
        fastsal.load(tmp_path / "less.pt2", trust_code=True)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("batch", "8-1"),
        ("batch", "many"),
        ("input_dtype", "int4"),
        ("device", "abacus"),
        ("input_shape", "3,x"),
        ("input_shape", "3,-1"),
        ("outputs", "0"),
        ("options", "[]"),
        ("options", "{"),
        ("layers", "[1]"),
        ("torch", "new"),
        ("map_shape", None),
    ],
)
def test_a_text_that_was_altered(package: Path, tmp_path: Path, name: str, text: Any) -> None:
    with pytest.raises(ValueError, match=r"^path: '[^\n]*altered.pt2' was altered after its export: [^\n]*$"):
        fastsal.load(altered(package, tmp_path, **{name: text}), trust_code=True)


@pytest.mark.parametrize("member", ["m/../../outside", "/absolute", "C:\\drive", "m\\..\\outside", INSIDE])
def test_members_outside_of_the_folder_or_twice(package: Path, member: str) -> None:
    with zipfile.ZipFile(package, "a") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a name that is there already
        archive.writestr(member, b"x")
    with pytest.raises(ValueError, match=r"outside of its folder|twice, so that two readers"):
        fastsal.load(package, trust_code=True)


def test_a_bomb(tmp_path: Path) -> None:
    """A member that unpacks to far more than the archive is not unpacked."""
    with zipfile.ZipFile(tmp_path / "bomb.pt2", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("m/zeros", bytes(80 * 2**20))
        archive.writestr(INSIDE, json.dumps(METADATA))
    with pytest.raises(ValueError, match="would unpack to many times its size"):
        fastsal.load(tmp_path / "bomb.pt2", trust_code=True)
