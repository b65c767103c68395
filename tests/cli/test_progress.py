"""How long a sweep will take is said from its first batches, and how far it is, in lines; limits end it early."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastsal
from fastsal import models
from fastsal.cli import progress
from tests.cli.conftest import Command
from tests.cli.test_commands import command, environment

__all__ = ["environment"]


class Clock:
    """Time that passes when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(progress.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(progress, "LONG", 20.0)


def test_an_estimate_from_the_first_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first chunk, which may warm up, is left out of the pace; it is said once."""
    clock, lines = Clock(monkeypatch), []  # type: ignore[var-annotated]
    watch = progress.Watch(lines.append, "a.png rise", "; --deadline S ends it earlier")
    clock.now += 9.0  # the first chunk: 9 s, the others 1 s each
    for done in range(100, 600, 100):
        watch.told("RISE", done, 8000)
        clock.now += 1.0
    assert lines[-1] == "a.png rise: 8000 passes, about 88 s in all; --deadline S ends it earlier"
    assert len(lines) == 1
    clock.now += progress.LONG
    watch._still()
    assert lines[-1].startswith("a.png rise: at work for ")
    assert " 6 %, about " in lines[-1]
    watch._still()
    assert len(lines) == 2


def test_short_sweeps_say_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, lines = Clock(monkeypatch), []  # type: ignore[var-annotated]
    watch = progress.Watch(lines.append, "a.png occlusion")
    for done in range(1, 11):
        clock.now += 1.0
        watch.told("Occlusion", done, 10)
        watch._still()
    assert lines == []


def test_what_is_no_sweep_says_that_it_is_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass that takes minutes, or a first chunk."""
    monkeypatch.setattr(progress, "LONG", 0.2)
    lines: list[str] = []
    with progress.Watch(lines.append, "a.png lrp").watching():
        time.sleep(1.3)
    assert lines == ["a.png lrp: at work for 1 s"]


@pytest.mark.parametrize(("seconds", "text"), [(4.4, "4 s"), (99, "99 s"), (100, "2 min"), (5940, "1.6 h")])
def test_durations(seconds: float, text: str) -> None:
    assert progress.duration(seconds) == text


def test_lines_reach_standard_error(fastsal: Command, canvas: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(progress, "LONG", 0.01)
    monkeypatch.setattr(progress, "_SURE", 0.0)
    result = fastsal(
        *("explain", canvas, "--method", "rise", "--batch-size", 8, "-O", "n_masks=400"),
        *("--out", tmp_path / "out", "--json"),
    )
    assert result.code == 0
    assert f"fastsal: {canvas.name} rise: 400 passes, about " in result.err
    assert "--deadline S or --tolerance T ends it earlier" in result.err
    assert json.loads(result.out)["images"]


@pytest.mark.parametrize("method", ["rise", "integrated-gradients", "smooth-grad", "kernel-shap"])
def test_a_deadline_ends_what_samples(fastsal: Command, canvas: Path, tmp_path: Path, method: str) -> None:
    began = time.monotonic()
    many = {"rise": "n_masks", "integrated-gradients": "n_steps"}.get(method, "n_samples")
    result = fastsal(
        *("explain", canvas, "--method", method, "--deadline", 1, "-O", f"{many}=100000", "--batch-size", 16),
        *("--out", tmp_path / "out", "--json"),
    )
    assert result.code == 0, result.err
    facts = result.document["images"][0]["methods"][method]
    assert facts["finite"]
    # All of them take minutes.
    assert facts["seconds"] < 20
    assert time.monotonic() - began < 60


def test_a_tolerance_takes_fewer(fastsal: Command, canvas: Path, tmp_path: Path) -> None:
    """The map is one of all the masks within the error; the exact methods beside it are as they were."""
    maps = {}
    for name, limit in (("rough", ("--tolerance", 0.5)), ("all", ())):
        arguments = ("explain", canvas, "--method", "rise,saliency", "-O", "n_masks=1500", "-O", "seed=3")
        result = fastsal(*arguments, "--out", tmp_path / name, *limit)
        assert result.code == 0, result.err
        for method in ("rise", "saliency"):
            maps[name, method] = np.load(tmp_path / name / f"{canvas.stem}.{method}.npy")
    assert np.array_equal(maps["rough", "saliency"], maps["all", "saliency"])
    assert not np.array_equal(maps["rough", "rise"], maps["all", "rise"])
    assert np.corrcoef(maps["rough", "rise"].ravel(), maps["all", "rise"].ravel())[0, 1] > 0.6


def test_explain_takes_limits() -> None:
    model, images = models.demo(), models.demo_canvases(1).images
    found = fastsal.explain(model, images, ["rise", "grad-cam"], deadline=0.5, n_masks=100_000, batch_size=16)
    assert found.maps["rise"].isfinite().all()
    assert found.seconds["rise"] < 20
    for limits in ({"deadline": 0}, {"tolerance": -1.0}):
        with pytest.raises(ValueError, match="is not above 0"):
            fastsal.explain(model, images, "grad-cam", **limits)  # type: ignore[arg-type]


@pytest.mark.parametrize("option", ["--deadline", "--tolerance"])
@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "soon"])
def test_limits_that_are_none(refused: Any, canvas: Path, option: str, value: str) -> None:
    assert f"argument {option}: must be a number above 0" in refused("explain", canvas, f"{option}={value}")


def test_help_is_quick(environment: dict[str, str]) -> None:
    """No torch is imported; the best of three is below half of what its import alone takes."""
    for arguments in (("--help",), ("--version",), ("explain", "--help")):
        seconds = []
        for _ in range(3):
            began = _seconds_of_children()
            subprocess.run(command(*arguments), env=environment, check=True, capture_output=True)
            seconds.append(_seconds_of_children() - began)
        assert min(seconds) < 0.3


def _seconds_of_children() -> float:
    """Of the processor, so that others on it do not count."""
    times = os.times()
    return times.children_user + times.children_system
