"""The check of a card: rows as they come, a stage that fails, a budget that is kept."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest
import torch

from tools.gpu_check import cases, kernels
from tools.gpu_check.__main__ import STAGES, Stage, check, main
from tools.gpu_check.rows import FILE, Rows, describe, read
from tools.gpu_check.table import LINES, table

FACTS = {"device", "python", "torch", "triton", "date", "stage", "kind", "rehearsed"}


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of modules that stages are made of."""
    folder = tmp_path / "modules"
    folder.mkdir()
    bodies = {
        "good": "rows.add('figure', value=1)",
        "raises": "rows.add('figure', value=2); raise ValueError('planted')",
        "dies": "rows.add('figure', value=3); import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
        "hangs": "rows.add('figure', value=4); import time; time.sleep(600)",
    }
    for name, body in bodies.items():
        (folder / f"planted_{name}.py").write_text(f"def run(rows, limit, rehearse):\n    {body}\n")
    (folder / "planted_broken.py").write_text("import a_package_that_is_not_there\n")
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return folder


@pytest.mark.slow
def test_a_stage_that_fails_leaves_the_others(planted: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    names = ("raises", "dies", "broken", "good")
    found = check(out, {name: Stage(f"planted_{name}", 60) for name in names}, budget=400, rehearse=True)
    assert [(each["stage"], each["status"], each["rows"], each["errors"]) for each in found] == [
        ("raises", "failed", 1, 1),
        ("dies", "failed", 1, 1),
        ("broken", "failed", 0, 1),
        ("good", "passed", 1, 0),
    ]
    rows = read(out)
    assert [row["value"] for row in rows if row["kind"] == "figure"] == [2, 3, 1]
    errors = {row["stage"]: row["error"] for row in rows if row["kind"] == "error"}
    assert errors["raises"] == "ValueError: planted"
    assert errors["dies"].startswith("ended with status -9")
    assert "a_package_that_is_not_there" in errors["broken"]
    for row in rows:
        assert set(row) >= FACTS
        assert row["rehearsed"] is True
        assert row["torch"] == torch.__version__
    summary = json.loads((out / "summary.json").read_text())
    assert summary["stages"] == found
    assert "planted" in (out / "raises.log").read_text()
    shown = table(found, rows)
    assert "error in raises, stage: ValueError: planted" in shown


@pytest.mark.slow
def test_the_budget_is_kept(planted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tools.gpu_check.__main__.GRACE", 0.5)
    out, began = tmp_path / "out", time.monotonic()
    stages = {"hangs": Stage("planted_hangs", 600), "good": Stage("planted_good", 60)}
    found = check(out, stages, budget=9, rehearse=True)
    assert time.monotonic() - began < 20
    assert [each["status"] for each in found] == ["failed", "left out"]
    errors = [row["error"] for row in read(out) if row["kind"] == "error"]
    assert errors == ["ended after 9 s", "left out: the budget of 9 s is spent"]


def test_rows_are_on_the_disk_at_once(tmp_path: Path) -> None:
    rows = Rows(tmp_path, "a")
    rows.add("figure", value=1)
    rows.add("error", of="b", error=describe(ValueError("x" * 900)))
    with (tmp_path / FILE).open("a") as file:
        file.write('{"stage": "a", "ki')  # what is left of a process that was ended
    found = read(tmp_path)
    assert [row["kind"] for row in found] == ["figure", "error"]
    assert len(found[1]["error"]) < 600
    assert read(tmp_path / "nowhere") == []


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("tests/ops/test_cam.py::test_kernel_values[a b-c] PASSED     [ 12%]", ("a b-c", "PASSED")),
        ("[gw3] [  4%] FAILED tests/ops/test_cam.py::test_kernel_values[a b-c] ", ("a b-c", "FAILED")),
        ("tests/ops/test_cam.py::test_kernel_values[a b-c] SKIPPED (no CUDA device) [ 12%]", ("a b-c", "SKIPPED")),
        ("tests/ops/test_cam.py::test_kernel_values[a b-c] ", None),
        ("===== 3 passed in 4.00s =====", None),
        ("FAILED tests/ops/test_cam.py::test_kernel_values[a b-c] - AssertionError: no", None),
    ],
)
def test_outcomes_of_pytest(line: str, expected: tuple[str, str] | None) -> None:
    found = kernels.outcome(line)
    if expected is None:
        assert found is None
    else:
        assert found == (f"tests/ops/test_cam.py::test_kernel_values[{expected[0]}]", expected[1])


def test_every_case_runs() -> None:
    for case in cases.cases(tiny=True):
        case.make("cpu")()
        assert case.floor_bytes > 0


def test_variants_change_what_they_name() -> None:
    found = list(cases._variants(cases.LAYERS))
    assert {case.op for case in found} == {"cam.map", "masks.batch", "noise.fold", "path.batch", "path.fold"}
    for case in found:
        for enter in case.under:
            with enter():
                pass


def test_every_op_has_a_case() -> None:
    from fastsal.ops._define import OPS

    modules = {op.reference.__module__.rpartition(".")[2] for op in OPS}
    assert {case.op.partition(".")[0] for case in cases.cases(tiny=True)} == modules


def test_the_table_fits_a_screen() -> None:
    row = {"kind": "op", "variant": "", "case": "", "dtype": "float32", "layout": "nchw", "rows": 64}
    rows = [{**row, "op": f"op{index}", "seconds": 1e-5, "of_copy": 0.5} for index in range(99)]
    shown = table([{"stage": "ops", "status": "passed", "seconds": 1.0, "rows": 99, "errors": 0}], rows).splitlines()
    assert len(shown) == LINES
    assert any("op0 float32 nchw" in line and "64: 10.0 (0.50)" in line for line in shown)


def test_unknown_stages_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu_check", "--out", str(tmp_path), "--stages", "facts,dance"])
    with pytest.raises(SystemExit):
        main()
    assert f"--stages: dance; there are {','.join(STAGES)}" in capsys.readouterr().err
