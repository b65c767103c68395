"""The benchmarks' own arithmetic: rows by kind, figures kept apart, exponents, and a report that can be written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import report, tables
from benchmarks.__main__ import collect, merged
from benchmarks.measure import PeakBytes, growth, in_turn
from benchmarks.published import rise
from tests.explainers.networks import small

ABOUT = {"device": "a", "torch": "2", "date": "today"}


class Fixture:
    """What the measuring functions use of pytest-benchmark's fixture."""

    def __init__(self) -> None:
        self.extra_info: dict[str, Any] = {}

    def pedantic(self, work: Any, **_options: Any) -> None:
        work()


def entry(group: str, params: dict[str, Any] | None = None, **facts: Any) -> dict[str, Any]:
    return {"group": group, "params": params, "extra_info": facts, "stats": {"median": 2.0}}


def test_rows_are_told_apart() -> None:
    found = collect(
        {
            "benchmarks": [
                entry("a", {"way": "plain", "images": 1}, floor_bytes=8, floor_seconds=1.0),
                entry("b", ways=[], case="c"),
                entry("d", ratio=1.0, passes="1 forward"),
                entry("e", points=[]),
                entry("f", host_seconds=1.0, empty_seconds=0.5, op="x"),
                entry("g", {"model": "m"}, speedup=2.0),
            ]
        }
    )
    assert {kind: [row["group"] for row in rows] for kind, rows in found.items()} == {
        "ops": ["a"],
        "comparisons": ["b"],
        "explainers": ["d"],
        "scaling": ["e"],
        "launches": ["f"],
        "peers": ["g"],
    }
    assert found["ops"][0] | {"way": "plain", "case": "images=1", "seconds": 2.0} == found["ops"][0]


def test_figures_of_other_versions_are_not_kept() -> None:
    row, other = {"group": "a", "case": "1", "seconds": 1.0}, {"group": "a", "case": "2", "seconds": 1.0}
    again = dict(row, seconds=3.0)
    found = {kind: [] for kind in tables.KINDS} | {"ops": [again]}
    earlier = {"machine": dict(ABOUT, date="before"), "ops": [row, other]}
    assert merged(earlier, ABOUT, found)["ops"] == [again, other]
    assert merged({**earlier, "machine": dict(ABOUT, torch="1")}, ABOUT, found)["ops"] == [again]
    assert merged({}, ABOUT, found)["ops"] == [again]


def test_the_exponent_of_a_cost() -> None:
    points = [{"at": at, "seconds": 3 * at**1.5} for at in (4, 16, 64)]
    assert tables.exponent(points, "seconds") == pytest.approx(1.5)


@pytest.mark.slow
def test_a_report_has_every_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    turns, grown = Fixture(), Fixture()
    in_turn(turns, {"ours": lambda: sum(range(2000)), "theirs": lambda: sum(range(9000))}, 3, {"case": "x"}, True)
    growth(grown, "items", {n: (lambda n=n: torch.ones(n * 1000).sum()) for n in (1, 4)}, 2)  # type: ignore[misc]
    ours, theirs = turns.extra_info["ways"]
    assert ours["ratio"] == 1.0
    assert theirs["ratio_least"] <= theirs["ratio"] <= theirs["ratio_most"]
    assert [point["at"] for point in grown.extra_info["points"]] == [1, 4]
    assert grown.extra_info["points"][1]["peak_bytes"] >= 16_000
    rows = collect(
        {
            "benchmarks": [
                entry("a", {"way": "plain"}, floor_bytes=8, floor_seconds=1.0),
                entry("b", prepared=["model: a replica"], **turns.extra_info),
                entry("d", ratio=1.0, ratio_least=0.9, ratio_most=1.1, ratio_of_best=1.0, passes="1", seconds=1.0,
                      floor_seconds=1.0),
                entry("e", **grown.extra_info),
                entry("f", host_seconds=1.0, empty_seconds=0.5, op="x"),
                entry("g", {"model": "m"}, speedup=2.0, speedup_over_best=None, peer_best_size=None, seconds=1.0,
                      peer_seconds=2.0, over_floor=1.0, over_floor_of_fastest=1.0, peak_bytes=8, peer_peak_bytes=8),
            ]
        }
    )  # fmt: skip
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "one.json").write_text(json.dumps({"machine": ABOUT, **rows}))
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    monkeypatch.setattr(report, "HERE", tmp_path)
    monkeypatch.setattr(report, "README", readme)
    text = report.write().read_text()
    begun, ended = readme.read_text().split(report.BEGIN)
    assert begun == "before\n"
    assert ended.endswith(f"{report.END}\nafter\n")
    assert "old" not in ended
    assert tables.summary(rows["comparisons"], report.IN_README) in ended
    for heading, _ in tables.KINDS.values():
        assert f"### {heading}" in text
    assert "- x: model: a replica" in text
    assert len(list((tmp_path / "plots").glob("one-*.png"))) == 4


def test_rise_as_published_is_rise() -> None:
    """Of a score that is the sum of the first channel, the map is what the masks have in common with it."""
    x = torch.rand(1, 3, 21, 21)
    found = rise(lambda batch: batch[:, 0].sum((1, 2))[:, None], x, 4000, 7, 0.5, 64)  # type: ignore[arg-type]
    assert found.shape == (1, 21, 21)
    # E[score m / p] is about E[score] wherever masks are nearly uncorrelated.
    assert float(found.mean()) == pytest.approx(float(x[:, 0].sum()) * 0.5, rel=0.1)


def test_peak_bytes_counts_what_is_held() -> None:
    with PeakBytes() as peak:
        small()(torch.zeros(1, 3, 8, 8))
        torch.ones(1000)
    assert peak.peak >= 4000


def test_the_readme_has_the_rows_of_the_report() -> None:
    """What the README says of speed is what was measured."""
    readme, written = report.README.read_text(), (report.README.parent / "benchmarks" / "REPORT.md").read_text()
    for file in (report.README.parent / "benchmarks" / "results").glob("*.json"):
        kept = json.loads(file.read_text())
        rows = kept["comparisons"]
        assert tables.summary(rows, report.IN_README) in readme
        assert len(tables.summary(rows, report.IN_README).splitlines()) == 2 + len(report.IN_README)
        assert tables.ways(rows) in written
