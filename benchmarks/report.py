"""REPORT.md: the kept figures of every device as tables and plots; a few rows go into the README too.

python -m benchmarks.report
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.tables import KINDS, Row, summary

HERE = Path(__file__).resolve().parent
README = HERE.parent / "README.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
IN_README = {
    "GradCAM: resnet50, batch 1": ("GradCAM", "torchcam"),
    "Occlusion: resnet50, 49 windows": ("plain model", "Captum"),
    "Occlusion, incremental: mobilenetv2, 224 x 224, window 16, stride 8, 729 positions": ("plain sweep, 4", "Captum"),
    "RISE: resnet50, 48 masks": ("plain model", "as published"),
    "Occlusion: vit-b/16, 16 windows": ("plain model", "Captum"),
}
"""Comparisons that the README shows, and the beginnings of the names of the ways that stand there beside the first."""
NOTES = {
    "comparisons": "Each round runs all ways in turn, beginning with another one; ratios are of the same round. "
    "`make bench-report` makes all of it, `python -m benchmarks --only bench_prepared` this part.",
    "explainers": "Explainer and bare passes in turn. `python -m benchmarks --only bench_floor`, `bench_cam`.",
    "peers": "`python -m benchmarks --only bench_captum`.",
    "scaling": "Fastest of three; an exponent of 1 is linear in the axis. `python -m benchmarks --only bench_scaling`.",
    "ops": "Floor: bytes over the bandwidth of a plain copy, measured in the same run; work in a CPU's cache can be "
    "faster. `python -m benchmarks --only benchmarks/ops`.",
    "launches": "A warm call on four elements; empty is the allocation of its result. "
    "`python -m benchmarks --only bench_launch`.",
}


def write() -> Path:
    """Makes the report and its plots; returns the report's path."""
    measured: list[str] = []
    parts = [
        "# Benchmarks\n",
        "Written by `make bench-report`; not edited. Figures of one device are of its own file in `results/`.\n",
    ]
    for file in sorted((HERE / "results").glob("*.json")):
        kept = json.loads(file.read_text())
        about = kept["machine"]
        parts.append(f"## {about['device']}\n")
        machine = ", ".join(f"{key} {value}" for key, value in about.items() if value is not None)
        parts.append(machine + "\n")
        measured += [f"{machine[0].upper()}{machine[1:]}.\n", summary(kept.get("comparisons", []), IN_README)]
        for kind, (heading, table) in KINDS.items():
            rows = kept.get(kind, [])
            if not rows:
                continue
            parts += [f"### {heading}\n", NOTES[kind] + "\n", table(rows) + "\n"]
            picture = _plot(kind, rows, file.stem)
            if picture is not None:
                parts.append(f"![{heading}]({picture.relative_to(HERE)})\n")
            parts += _preparations(rows) if kind == "comparisons" else []
    report = HERE / "REPORT.md"
    report.write_text("\n".join(parts))
    readme = README.read_text()
    before, after = readme.split(BEGIN)[0], readme.split(END)[1]
    README.write_text(before + BEGIN + "\n" + "\n".join(measured) + "\n" + END + after)
    return report


def _preparations(rows: list[Row]) -> list[str]:
    """What was prepared, once for each model."""
    seen: dict[str, list[str]] = {}
    for row in rows:
        if "prepared" in row:
            seen.setdefault(row["case"].split(",")[0], row["prepared"])
    lines = [f"- {model}: " + "; ".join(steps) for model, steps in seen.items()]
    return ["Preparations, as `print(prepared)` says them:\n", "\n".join(lines) + "\n"] if lines else []


def _plot(kind: str, rows: list[Row], device: str) -> Path | None:
    draw = {"scaling": _scaling, "ops": _ops, "comparisons": _comparisons, "explainers": _explainers}.get(kind)
    if draw is None:
        return None
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure = draw(plt, rows)
    target = HERE / "plots" / f"{device}-{kind}.png"
    target.parent.mkdir(exist_ok=True)
    figure.savefig(target, dpi=80, bbox_inches="tight", metadata={"Software": None})
    plt.close(figure)
    return target


def _scaling(plt: Any, rows: list[Row]) -> Any:
    """Time and memory over each axis, both logarithmic, with a straight line of exponent 1 from the first point."""
    figure, axes = plt.subplots(2, len(rows), figsize=(2.6 * len(rows), 5.2), squeeze=False)
    for column, row in enumerate(rows):
        at = [point["at"] for point in row["points"]]
        for line, (what, unit) in enumerate((("seconds", "s"), ("peak_bytes", "peak bytes"))):
            values, axis = [point[what] for point in row["points"]], axes[line][column]
            axis.loglog(at, values, "o-")
            axis.loglog(at, [values[0] * x / at[0] for x in at], ":", color="0.6", label="linear")
            axis.set_ylabel(unit)
        axes[0][column].set_title(row["group"], fontsize=9)
        axes[1][column].set_xlabel(row["axis"])
    axes[0][0].legend(fontsize=8)
    figure.tight_layout()
    return figure


def _bars(plt: Any, labels: list[str], values: list[float], title: str, mark: float) -> Any:
    figure, axis = plt.subplots(figsize=(8, 0.28 * len(labels) + 1))
    axis.barh(range(len(labels)), values)
    axis.axvline(mark, color="0.3", linewidth=1)
    axis.set_yticks(range(len(labels)), labels, fontsize=8)
    axis.invert_yaxis()
    axis.set_title(title, fontsize=10)
    return figure


def _ops(plt: Any, rows: list[Row]) -> Any:
    labels = [f"{row['group']} {row['case']} {row['way']}" for row in rows]
    shares = [row["floor_seconds"] / row["seconds"] for row in rows]
    return _bars(plt, labels, shares, "floor of bytes by time (1: a plain copy's bandwidth)", 1.0)


def _comparisons(plt: Any, rows: list[Row]) -> Any:
    labels = [f"{row['group']}, {row['case']}: {way['way']}" for row in rows for way in row["ways"]]
    values = [way["ratio"] for row in rows for way in row["ways"]]
    return _bars(plt, labels, values, "seconds by the first way's", 1.0)


def _explainers(plt: Any, rows: list[Row]) -> Any:
    labels = [f"{row['group']}, {row['passes']}" for row in rows]
    return _bars(plt, labels, [row["ratio"] for row in rows], "seconds by the bare passes'", 1.0)


if __name__ == "__main__":
    print(write())
