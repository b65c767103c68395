"""Stage 1: what the machine is, and what it reaches: copy, fill and a product, by which later figures are judged."""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess
from typing import Any

import torch

from fastsal.ops import Timing, device_seconds
from tools.gpu_check.rows import Rows
from tools.gpu_check.stage import Limit

PACKAGES = ("numpy", "captum", "pytest", "pytest-xdist", "torchvision", "timm", "transformers")
QUERY = (
    "name,driver_version,pstate,temperature.gpu,power.draw,power.limit,clocks.sm,clocks.mem,clocks.max.sm,"
    "clocks.max.mem,memory.total,memory.used,mig.mode.current,compute_mode"
)


def run(rows: Rows, limit: Limit, rehearse: bool) -> None:
    """Writes a row of versions, of nvidia-smi before and after, of copy, fill and a bfloat16 product."""
    device = "cpu" if rehearse else "cuda"
    rows.add("versions", packages={name: _version(name) for name in PACKAGES}, **_properties(rehearse))
    _nvidia_smi(rows, "idle")
    copied, filled = bandwidths(device, 2**16 if rehearse else 2**28)
    rows.add("copy", **copied)
    rows.add("fill", **filled)
    side = 64 if rehearse else 8192
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    found = device_seconds(lambda: a @ b)
    rows.add("product", dtype="bfloat16", side=side, per_second=2 * side**3 / found.seconds, **found._asdict())
    _nvidia_smi(rows, "warm")


def bandwidths(device: str, elements: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Bytes per second of a copy (read and written) and of a fill (written) of random float32, with their seconds."""
    # Random: memory may pack zeros.
    source = torch.rand(elements, device=device)
    target = torch.empty_like(source)

    def row(found: Timing, moved: int) -> dict[str, Any]:
        return {"bytes": moved, "per_second": moved / found.seconds, **found._asdict()}

    return (
        row(device_seconds(lambda: target.copy_(source)), 2 * source.nbytes),
        row(device_seconds(lambda: target.fill_(0.37)), source.nbytes),
    )


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _properties(rehearse: bool) -> dict[str, Any]:
    if rehearse:
        return {}
    found = torch.cuda.get_device_properties(0)
    return {
        "capability": f"{found.major}.{found.minor}",
        "processors": found.multi_processor_count,
        "memory": found.total_memory,
        "l2_bytes": getattr(found, "L2_cache_size", None),
        "cudnn": torch.backends.cudnn.version(),
        "devices": torch.cuda.device_count(),
    }


def _nvidia_smi(rows: Rows, when: str) -> None:
    program = shutil.which("nvidia-smi")
    if program is None:
        rows.add("nvidia-smi", when=when, found=None)
        return
    command = [program, f"--query-gpu={QUERY}", "--format=csv,noheader"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    cards = [
        dict(zip(QUERY.split(","), (value.strip() for value in line.split(",")), strict=False))
        for line in answer.stdout.splitlines()
    ]
    rows.add("nvidia-smi", when=when, found=cards, status=answer.returncode)
