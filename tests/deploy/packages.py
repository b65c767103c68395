"""Packages that are not what they were, for the Python and the C++ loader's tests."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path


def altered(package: Path, folder: Path, **changes: str) -> Path:
    """A copy whose metadata says something else."""
    copy = folder / "altered.pt2"
    with zipfile.ZipFile(package) as source, zipfile.ZipFile(copy, "w") as target:
        for item in source.infolist():
            content = source.read(item)
            if item.filename.endswith("_metadata.json"):
                content = json.dumps({**json.loads(content), **changes}).encode()
            target.writestr(item, content)
    return copy
