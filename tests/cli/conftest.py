"""The command line in this process, and a few images to give it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fastsal import models
from fastsal.cli import main, progress


@dataclass(frozen=True)
class Result:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """The JSON document on standard output."""
        found: dict[str, Any] = json.loads(self.out)
        return found


Command = Callable[..., Result]


@pytest.fixture
def fastsal(capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a command with its arguments, and gives its exit code and output."""

    def run(*arguments: object) -> Result:
        capsys.readouterr()
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return run


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No lines of progress, which a busy machine would have; their tests set what is long."""
    monkeypatch.setattr(progress, "LONG", math.inf)


@pytest.fixture
def canvas() -> Path:
    """A packaged canvas with the digit 3."""
    return next(path for path in models.demo_images() if path.stem.endswith("digit-3"))


@pytest.fixture
def refused(fastsal: Command) -> Callable[..., str]:
    """Runs a command that must be refused: exit code 2, one line on standard error, nothing on standard output."""

    def run(*arguments: object) -> str:
        result = fastsal(*arguments)
        assert result.code == 2
        assert result.out == ""
        assert result.err.count("\n") == 1
        assert result.err.startswith("fastsal")
        assert "Traceback" not in result.err
        return result.err

    return run
