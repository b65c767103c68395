"""What is remembered of launches: for other arguments another kernel, wherever Triton would compile one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


def test_launches_are_those_of_triton() -> None:
    pytest.importorskip("triton")
    root = Path(__file__).parents[2]
    paths = os.pathsep.join([str(root), str(root / "kernels"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths}
    environment.pop("TRITON_INTERPRET", None)
    ran = subprocess.run(
        [sys.executable, "-m", "tests.ops.launching"], cwd=root, env=environment, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout.splitlines()[-1])
    taken = found["taken"]
    names = {name.rsplit(" ", 1)[0] for name in taken if name[-1] in "01"}
    assert all(taken[f"{name} 0"] == taken[f"{name} 1"] for name in names)
    assert taken["first 0"] == taken["another number 0"]
    apart = [taken[f"{name} 0"] for name in sorted(names - {"another number"})] + [taken["block"], taken["warps"]]
    assert len(set(apart)) == len(apart) == 9
    for ours, tritons in found["launches"]:
        assert ours == tritons
