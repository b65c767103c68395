"""Run benchmarks, keep the figures with device, versions and date, and print them as tables.

python -m benchmarks [--only EXPRESSION] [--out FILE]

Without --only the device's file is written anew; with it, rows that were not measured again stay, where they are of the
same device and versions.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from benchmarks.machine import machine
from benchmarks.tables import KINDS

HERE = Path(__file__).resolve().parent


def collect(report: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Rows by kind, of pytest-benchmark's report."""
    found: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
    for entry in report["benchmarks"]:
        row = {"group": entry["group"], **entry["extra_info"]}
        parameters = dict(entry["params"] or {})
        if "ways" in row:
            found["comparisons"].append(row)
        elif "points" in row:
            found["scaling"].append(row)
        elif "host_seconds" in row:
            found["launches"].append(row)
        elif "ratio" in row:
            found["explainers"].append(row)
        elif "speedup" in row:
            found["peers"].append({**row, **parameters})
        else:
            row["way"] = parameters.pop("way", "")
            row["case"] = " ".join(f"{name}={value}" for name, value in parameters.items())
            row.setdefault("seconds", entry["stats"]["median"])
            found["ops"].append(row)
    return found


def identity(row: dict[str, Any]) -> tuple[Any, ...]:
    """What a row is of, whenever it was measured."""
    return tuple(row.get(key) for key in ("group", "case", "way", "model", "op", "passes"))


def merged(
    earlier: dict[str, Any], about: dict[str, Any], found: dict[str, list[dict[str, Any]]]
) -> dict[str, list[dict[str, Any]]]:
    """What was found, beside earlier rows of the same device and versions that were not measured again."""
    same = all(earlier.get("machine", {}).get(key) == about[key] for key in about if key != "date")
    if not same:
        return found
    result = {}
    for kind, rows in found.items():
        again = {identity(row): row for row in rows}
        kept = [again.pop(identity(row), row) for row in earlier.get(kind, [])]
        result[kind] = kept + [row for row in rows if identity(row) in again]
    return result


def main() -> int:
    """Entry point; pytest's exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--only", default="", help="benchmarks to run, as of pytest -k")
    parser.add_argument("--out", type=Path, help="where the JSON goes; benchmarks/results/DEVICE.json otherwise")
    options = parser.parse_args()
    about = machine()
    name = re.sub(r"[^a-z0-9]+", "-", about["device"].lower()).strip("-")
    out = options.out or HERE / "results" / f"{name}.json"
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "raw.json"
        selection = ["-k", options.only] if options.only else []
        status = pytest.main(
            [str(HERE), "-q", "-p", "no:cacheprovider", "-o", "python_functions=bench_*", "-o", "addopts=",
             "--import-mode=importlib", "--benchmark-columns=median", f"--benchmark-json={raw}", *selection]
        )  # fmt: skip
        if not raw.exists() or not raw.read_text():
            return int(status) or 1
        found = collect(json.loads(raw.read_text()))
    for rows in found.values():
        for row in rows:
            row["date"] = about["date"]
    earlier = json.loads(out.read_text()) if options.only and out.exists() else {}
    out.parent.mkdir(parents=True, exist_ok=True)
    kept = {"machine": about, **merged(earlier, about, found)}
    out.write_text(json.dumps(kept, indent=1) + "\n")
    print("\n" + ", ".join(f"{key} {value}" for key, value in about.items()))
    for kind, (heading, table) in KINDS.items():
        if found[kind]:
            print(f"\n{heading}\n\n{table(found[kind])}")
    print(f"\nwritten to {out}")
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
