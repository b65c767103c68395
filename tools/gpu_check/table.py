"""The last lines that a check prints: 90 at most, some 10,000 characters."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

LINES = 90


def table(stages: list[dict[str, Any]], rows: list[dict[str, Any]]) -> str:
    """Stages, bandwidths, the first errors, explainers, models, and ops by number of rows."""
    lines = [f"{'stage':10} {'status':9} {'seconds':>7} {'rows':>5} {'errors':>6}"]
    lines += [
        f"{each['stage']:10} {each['status']:9} {each['seconds']:7.1f} {each['rows']:5} {each['errors']:6}"
        for each in stages
    ]
    for row in rows:
        if row["kind"] in ("copy", "fill"):
            lines.append(f"{row['kind']}: {row['per_second'] / 1e12:.3f} TB/s")
        elif row["kind"] == "product":
            lines.append(f"product {row['dtype']}: {row['per_second'] / 1e12:.1f} TFLOP/s")
    errors = [row for row in rows if row["kind"] == "error"]
    lines += [f"error in {row['stage']}, {row['of']}: {row['error']}"[:150] for row in errors[:8]]
    return "\n".join((lines + _explainers(rows) + _models(rows) + _blocks(rows) + _ops(rows))[:LINES])


def _explainers(rows: list[dict[str, Any]]) -> list[str]:
    lines = []
    for row in rows:
        if row["kind"] == "explainer":
            ratio = "" if row["ratio"] is None else f" {row['ratio']:6.3f} x {row['passes']}"
            captum = "" if row["captum_seconds"] is None else f", Captum {1e3 * row['captum_seconds']:.2f}"
            launched = "" if row["launched"] is None else f", {row['launched']}"
            lines.append(f"{row['name'][:44]:44} {1e3 * row['seconds']:9.3f}{ratio}{captum}{launched}")
    return ["explainers: milliseconds, over the bare passes", *lines] if lines else []


def _models(rows: list[dict[str, Any]]) -> list[str]:
    lines = [
        f"{row['model']:9} {row['rows']:4} rows {row['way'][:62]:62} {1e3 * row['seconds']:9.3f} "
        f"{1e3 * row['device_seconds']:9.3f}"
        for row in rows
        if row["kind"] == "model"
    ]
    return ["models: milliseconds as felt, and of the device", *lines] if lines else []


def _blocks(rows: list[dict[str, Any]]) -> list[str]:
    return [
        f"blocks of {row['kernel']}: {row['gain']:.2f} x with {row['blocks']}"
        for row in rows
        if row["kind"] == "blocks" and row["kernel"]
    ]


def _ops(rows: list[dict[str, Any]]) -> list[str]:
    by_case: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for row in rows:
        if row["kind"] == "op" and not row["variant"]:
            # Rows tell apart the cases of a sweep, layers those of cam.map, and shapes those of attention.
            name = row["case"] if row["op"].startswith(("cam.", "attention.")) else ""
            share = f"{row['rows']}: {1e6 * row['seconds']:.1f} ({row['of_copy']:.2f})"
            by_case[(row["op"], name, row["dtype"], row["layout"])].append(share)
    lines = [f"{' '.join(filter(None, key)):45} {', '.join(found)}" for key, found in by_case.items()]
    return ["rows: microseconds (share of a copy's bytes per second)", *lines] if lines else []
