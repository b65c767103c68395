"""Run every benchmark, keep the figures with device, versions and date, and print them as a table.

python -m benchmarks [--only TEXT] [--out FILE]
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

HERE = Path(__file__).resolve().parent


def machine() -> dict[str, Any]:
    """What a figure depends on beside the code."""
    cuda = torch.cuda.is_available()
    device = torch.cuda.get_device_name() if cuda else _processor()
    try:
        import triton

        version = triton.__version__
    except ImportError:
        version = None
    return {
        "device": device,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": version,
        "cuda": torch.version.cuda if cuda else None,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def _processor() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found.group(1).strip() if found else platform.processor() or platform.machine()


def op_table(rows: list[dict[str, Any]]) -> str:
    """Ops: milliseconds of each implementation, and how far the bytes alone are."""
    lines = [
        "| op | way | ms (median) | bytes that must move | floor ms (bytes / copy bandwidth) | over the floor |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        floor, time = 1e3 * row["floor_seconds"], 1e3 * row["seconds"]
        lines.append(
            f"| {row['group']} {row['case']} | {row['way']} | {time:.3f} | {row['floor_bytes']:,} | {floor:.3f} "
            f"| {time / floor:.1f} x |"
        )
    return "\n".join(lines)


def explainer_table(rows: list[dict[str, Any]]) -> str:
    """Explainers: seconds beside those of the bare model passes, both measured in turn."""
    lines = [
        "| explainer | passes | s | bare passes, s | ratio (median of pairs) | least to most | ratio of the fastest "
        "| of peak memory |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        memory = f"{row['ratio_of_peak_bytes']:.3f}" if "ratio_of_peak_bytes" in row else ""
        lines.append(
            f"| {row['group']} | {row['passes']} | {row['seconds']:.3f} | {row['floor_seconds']:.3f} "
            f"| {row['ratio']:.3f} | {row['ratio_least']:.3f} to {row['ratio_most']:.3f} | {row['ratio_of_best']:.3f} "
            f"| {memory} |"
        )
    return "\n".join(lines)


def peer_table(rows: list[dict[str, Any]]) -> str:
    """Explainers beside Captum's: how many times faster, and over the bare passes."""
    columns = (
        "explainer, model",
        "s",
        "Captum, s",
        "Captum at its best, s (per eval)",
        "times faster",
        "than its best",
        "over bare passes: median, fastest",
        "peak MB",
        "Captum's, at its best",
    )
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for row in rows:
        best = row["peer_best_size"] is not None
        cells = (
            f"{row['group']}, {row['model']}",
            f"{row['seconds']:.3f}",
            f"{row['peer_seconds']:.3f}",
            f"{row['peer_best_seconds']:.3f} ({row['peer_best_size']})" if best else "",
            f"{row['speedup']:.2f}",
            f"{row['speedup_over_best']:.2f}" if best else "",
            f"{row['over_floor']:.3f}, {row['over_floor_of_fastest']:.3f}",
            f"{row['peak_bytes'] / 1e6:.1f}",
            f"{row['peer_peak_bytes'] / 1e6:.1f}" + (f", {row['peer_best_peak_bytes'] / 1e6:.1f}" if best else ""),
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def collect(report: dict[str, Any]) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]]:
    """(ops, explainers, peers) of pytest-benchmark's report."""
    ops, explainers, peers = [], [], []
    for entry in report["benchmarks"]:
        row = {"group": entry["group"], **entry["extra_info"]}
        if "ratio" in row:
            explainers.append(row)
            continue
        if "speedup" in row:
            peers.append({**row, **entry["params"]})
            continue
        parameters = dict(entry["params"] or {})
        row["way"] = parameters.pop("way", "")
        row["case"] = " ".join(f"{name}={value}" for name, value in parameters.items())
        row["seconds"] = entry["stats"]["median"]
        ops.append(row)
    return ops, explainers, peers


def main() -> int:
    """Entry point; pytest's exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--only", default="", help="benchmarks whose name contains this text")
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
        ops, explainers, peers = collect(json.loads(raw.read_text()))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(
        json.dumps({"machine": about, "ops": ops, "explainers": explainers, "peers": peers}, indent=1) + "\n"
    )
    print("\n" + ", ".join(f"{key} {value}" for key, value in about.items()))
    if ops:
        print("\n" + op_table(ops))
    if explainers:
        print("\n" + explainer_table(explainers))
    if peers:
        print("\n" + peer_table(peers))
    print(f"\nwritten to {out}")
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
