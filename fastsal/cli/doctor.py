"""``fastsal doctor``: what is installed, what it runs on, which backend takes each op, and why it is not another."""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
import sys
from typing import Any

import torch

from fastsal import ops
from fastsal._version import __version__
from fastsal.cli.console import Console
from fastsal.cli.native import native_report, native_text

_CORE = ("torch", "triton", "numpy", "Pillow", "safetensors", "tqdm")
# package: the extra that brings it
_OPTIONAL = {"matplotlib": "plot", "timm": "timm", "torchvision": "torchvision", "transformers": "hf"}


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Prints the report."""
    native = arguments.native is not None
    found = native_report(arguments.native) if native else report()
    console.line(native_text(found) if native else text(found))
    console.document(found)
    return 0


def report() -> dict[str, Any]:
    """The facts, ready for JSON."""
    return {
        "fastsal": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "executable": sys.executable,
        "packages": {name: _version(name) for name in (*_CORE, *_OPTIONAL)},
        "cuda_build": torch.version.cuda,
        "devices": _devices(),
        "selected_backend": ops.current_backend(),
        "backends": [each._asdict() for each in ops.backends_report()],
        "ops": [each._asdict() for each in ops.choices()],
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _devices() -> list[dict[str, Any]]:
    devices: list[dict[str, Any]] = [
        {"device": "cpu", "name": platform.processor() or platform.machine(), "threads": torch.get_num_threads()}
    ]
    for index in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(index)
        devices.append(
            {
                "device": f"cuda:{index}",
                "name": facts.name,
                "capability": f"{facts.major}.{facts.minor}",
                "memory_gib": round(facts.total_memory / 2**30, 1),
            }
        )
    if torch.backends.mps.is_available():
        devices.append({"device": "mps", "name": "Apple GPU"})
    return devices


def text(found: dict[str, Any]) -> str:
    """The facts as lines."""
    lines = [f"fastsal {found['fastsal']}, Python {found['python']}, {found['platform']}", "", "packages"]
    for name, version in found["packages"].items():
        missing = "not installed" + (f" (pip install 'fastsal[{_OPTIONAL[name]}]')" if name in _OPTIONAL else "")
        build = ""
        if name == "torch":
            build = f", CUDA {found['cuda_build']}" if found["cuda_build"] else ", CPU build"
        lines.append(f"  {name:<13}{version + build if version else missing}")
    lines += ["", "devices"]
    for device in found["devices"]:
        extras = [f"{key.replace('_gib', ' GiB')} {device[key]}" for key in device if key not in ("device", "name")]
        lines.append(f"  {device['device']:<13}{', '.join([device['name'], *extras])}")
    lines += ["", f"backends (selected: {found['selected_backend']})"]
    for backend in found["backends"]:
        lines.append(f"  {backend['name']:<13}{'usable' if backend['usable'] else 'not used'}: {backend['reason']}")
    lines += ["", "ops, of a small float32 tensor"]
    for op in found["ops"]:
        lines.append(f"  {op['op']:<18}{op['backend']}: {op['reason']}")
    return "\n".join(lines)
