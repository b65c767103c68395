"""docs/your-card.md: what ``python -m tools.gpu_check`` found on a card, as tables.

python -m benchmarks.card DIR [--out FILE]

DIR is the folder of the check's ``--out``; figures of a rehearsal are refused, since they are a CPU's.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parents[1] / "docs" / "your-card.md"
BEGIN = "<!-- measured: python -m benchmarks.card -->"
Row = dict[str, Any]


def tables(rows: list[Row]) -> str:
    """The rows as Markdown: the card, explanations, models, ops.

    Raises:
        ValueError: for rows of a rehearsal, or none.
    """
    if not rows:
        raise ValueError("no rows: run python -m tools.gpu_check --out DIR first")
    if any(row["rehearsed"] for row in rows):
        raise ValueError("these rows are a rehearsal's, of a CPU; run python -m tools.gpu_check --out DIR on a card")
    about = rows[-1]
    facts = ", ".join(
        f"{key} {about[key]}" for key in ("device", "torch", "triton", "python", "date") if about.get(key)
    )
    parts = [f"{facts[0].upper()}{facts[1:]}."]
    speeds = [f"{row['kind']} {row['per_second'] / 1e12:.2f} TB/s" for row in rows if row["kind"] in ("copy", "fill")]
    parts += [f"{', '.join(speeds)}."] if speeds else []
    errors = [row for row in rows if row["kind"] == "error"]
    tests = [row for row in rows if row["kind"] == "tests"]
    for row in tests:
        counts = ", ".join(f"{row[each]} {each}" for each in ("passed", "failed", "error", "skipped") if row.get(each))
        parts.append(f"Tests of the stage {row['stage']}: {counts}.")
    parts += (
        ["Errors:\n\n" + "\n".join(f"- {row['stage']}, {row['of']}: {row['error']}" for row in errors)]
        if errors
        else []
    )
    for kind, (head, line) in TABLES.items():
        found = [line(row) for row in rows if row["kind"] == kind and not row.get("variant")]
        if found:
            parts.append("\n".join([_line(head), _line(["---"] * len(head)), *map(_line, found)]))
    return "\n\n".join(parts)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _milliseconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{1e3 * seconds:.3f}"


def _explainer(row: Row) -> list[str]:
    ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}"
    memory = "" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 2**20:.0f}"
    mine = [row["name"], _milliseconds(row["seconds"]), row["passes"], ratio]
    return [*mine, _milliseconds(row["captum_seconds"]), memory]


def _model(row: Row) -> list[str]:
    return [
        row["model"],
        str(row["rows"]),
        row["way"],
        _milliseconds(row["seconds"]),
        _milliseconds(row["device_seconds"]),
    ]


def _op(row: Row) -> list[str]:
    host = "" if row["host_seconds"] is None else f"{1e6 * row['host_seconds']:.1f}"
    what = " ".join(filter(None, [row["op"], row["case"], row["dtype"], row["layout"]]))
    return [what, f"{1e6 * row['seconds']:.1f}", f"{row['of_copy']:.2f}", host]


TABLES: dict[str, tuple[list[str], Callable[[Row], list[str]]]] = {
    "explainer": (["explanation", "ms", "the least passes", "over these", "Captum's best, ms", "MiB"], _explainer),
    "model": (["model", "rows", "way", "ms", "of the device, ms"], _model),
    "op": (["op", "us", "of a copy's bandwidth", "of the host, us"], _op),
}


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("folder", type=Path, help="that of the check's --out")
    parser.add_argument("--out", type=Path, default=PAGE, help="the page (default: %(default)s)")
    options = parser.parse_args()
    lines = (options.folder / "results.jsonl").read_text().splitlines()
    found = tables([json.loads(line) for line in lines if line.endswith("}")])
    before = options.out.read_text().split(BEGIN)[0] if options.out.exists() else "# Your card\n\n"
    options.out.write_text(f"{before}{BEGIN}\n\n{found}\n")
    print(options.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
