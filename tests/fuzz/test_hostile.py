"""A few seconds of what ``make fuzz`` runs for as long as one likes."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.fuzz import command_lines, hostile_files

SEED = 14


def test_files(tmp_path: Path) -> None:
    files = hostile_files.Files(tmp_path)
    outcomes = {files.one(random.Random(f"{SEED}/{index}")) for index in range(150)}
    assert outcomes == {"read", "refused"}


def test_command_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with command_lines.inside(tmp_path) as commands:
        codes = {commands.one(random.Random(f"{SEED}/{index}")) for index in range(60)}
    assert codes == {"0", "1", "2"}
