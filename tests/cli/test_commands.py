"""`fastsal demo`, `doctor`, `--help` and `--version`; progress, interruption and closed pipes."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from fastsal import models
from fastsal._version import __version__
from fastsal.cli import explain
from fastsal.explainers.registry import family, registered
from tests.cli.conftest import Command


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "fastsal.cli", *map(str, arguments)]


@pytest.fixture
def environment(root: Path) -> dict[str, str]:
    paths = [str(root), str(root / "kernels"), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}


def test_version_and_help(fastsal: Command) -> None:
    assert fastsal("--version").out == f"fastsal {__version__}\n"
    for arguments in (("--help",), ("explain", "--help"), ("demo", "--help"), ("doctor", "--help"), ("tune", "--help")):
        result = fastsal(*arguments)
        assert result.code == 0
        assert "usage: fastsal" in result.out


def test_doctor(fastsal: Command) -> None:
    document = fastsal("doctor", "--json").document
    assert document["fastsal"] == __version__
    assert document["packages"]["torch"] == importlib.metadata.version("torch")
    assert document["devices"][0]["device"] == "cpu"
    assert {backend["name"] for backend in document["backends"]} == {"triton", "reference", "interpret"}
    assert {each["op"] for each in document["ops"]} >= {"cam.map", "windows.fold"}
    text = fastsal("doctor").out
    for each in document["ops"]:
        assert f"{each['op']:<18}{each['backend']}: {each['reason']}" in text
    for backend in document["backends"]:
        assert backend["reason"] in text
    if not torch.cuda.is_available():
        assert "triton       not used: " in text


@pytest.mark.slow
def test_demo(fastsal: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On two canvases: every method's files are there, and the last lines name the sheets."""
    images = models.demo_images()[:2]
    monkeypatch.setattr(models, "demo_images", lambda: images)
    result = fastsal("demo", "--out", tmp_path)
    assert (result.code, result.err) == (0, "")
    sheets = [tmp_path / f"{image.stem}.sheet.png" for image in images]
    sheets += [tmp_path / kind / f"{images[0].stem}.sheet.png" for kind in ("cams", "sweeps")]
    assert [line.strip() for line in result.out.splitlines()[-4:]] == [str(sheet) for sheet in sheets]
    assert all(sheet.is_file() for sheet in sheets)
    for explainer in registered():
        if explainer.reads == "attention" or family(explainer) == "layer":
            continue  # of transformers, of a layer's size
        if explainer.name in ("feature-permutation", "cam"):
            continue  # of several examples, of a layer right before the pooling
        places = [tmp_path / kind / f"{images[0].stem}.{explainer.name}.npy" for kind in ("", "cams", "sweeps")]
        assert any(place.is_file() for place in places)


@pytest.mark.slow
def test_progress_bar_on_a_terminal_only(canvas: Path, tmp_path: Path, environment: dict[str, str]) -> None:
    pty, fcntl, termios = (pytest.importorskip(name) for name in ("pty", "fcntl", "termios"))
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))  # a new one has no columns
    arguments = command("explain", canvas, canvas, "--method", "gradcam,saliency", "--out", tmp_path)
    environment.pop("TQDM_DISABLE", None)
    done = subprocess.run(
        arguments, env=environment, stdout=subprocess.PIPE, stderr=slave, text=True, check=True, timeout=60
    )
    os.set_blocking(master, False)
    shown = os.read(master, 65536).decode()
    os.close(slave)
    os.close(master)
    assert "0/4" in shown
    assert len(done.stdout.splitlines()) == 3


def test_interruption(canvas: Path, tmp_path: Path, environment: dict[str, str]) -> None:
    """Ctrl-C ends a long run with code 130 and one line, no traceback."""
    arguments = command("explain", canvas, "--method", "gradcam,rise", "-O", "n_masks=1000000", "--out", tmp_path)
    running = subprocess.Popen(
        arguments,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell starts what runs in its background with SIGINT ignored, which is inherited.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert running.stdout is not None
    assert running.stdout.readline().startswith("layer:")  # the sweep follows at once
    time.sleep(0.5)
    err = ""
    for _ in range(3):  # Python ignores one that arrives inside a destructor or a callback
        running.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            err = running.communicate(timeout=30)[1]
            break
    running.kill()  # of no effect on one that has ended
    assert running.returncode == 130
    assert "interrupted" in err
    assert "Traceback" not in err


@pytest.mark.slow
def test_a_reader_that_leaves(canvas: Path, tmp_path: Path, environment: dict[str, str]) -> None:
    line = " ".join(f"'{part}'" for part in command("explain", canvas, canvas, "--out", tmp_path)) + " | head -c 1"
    done = subprocess.run(["bash", "-c", line], env=environment, capture_output=True, text=True, check=True)
    assert done.stderr == ""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full, a device that takes nothing")
@pytest.mark.slow
def test_an_output_that_takes_nothing(canvas: Path, tmp_path: Path, environment: dict[str, str]) -> None:
    with open("/dev/full", "w") as full:
        arguments = command("explain", canvas, "--method", "saliency", "--out", tmp_path)
        done = subprocess.run(arguments, env=environment, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert done.stderr == "fastsal: error: standard output cannot be written: No space left on device\n"


NOISY = """
import atexit, os, sys
from torch import nn
atexit.register(lambda: print("at the end"))
def net():
    print("printed")
    sys.__stdout__.write("past the redirection")
    os.write(1, b"from C")
    os.system("echo from a child")
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4))
"""


@pytest.mark.slow
def test_standard_output_is_the_commands_alone(canvas: Path, tmp_path: Path, environment: dict[str, str]) -> None:
    (tmp_path / "noisy.py").write_text(NOISY)
    arguments = command("explain", canvas, "--model", "noisy:net", "--method", "saliency", "--size", 16, "--json")
    done = subprocess.run(arguments, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["images"]
    assert done.stdout.count("\n") == 1
    for said in ("printed", "past the redirection", "from C", "from a child", "at the end"):
        assert said in done.stderr


def test_interruption_in_this_process(fastsal: Command, canvas: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(explain, "load_model", interrupt)
    result = fastsal("explain", canvas)
    assert (result.code, result.out) == (130, "")
    assert result.err.strip() == "fastsal: interrupted"


def test_json_is_one_document(canvas: Path, tmp_path: Path, environment: dict[str, str]) -> None:
    arguments = command("explain", canvas, "--out", tmp_path, "--json")
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["images"]
    assert done.stderr == ""
