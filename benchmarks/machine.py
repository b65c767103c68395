"""What a figure depends on beside the code: the device, versions and the date."""

from __future__ import annotations

import datetime
import platform
import re
from pathlib import Path
from typing import Any

import torch


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
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
    }


def _processor() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found.group(1).strip() if found else platform.processor() or platform.machine()
