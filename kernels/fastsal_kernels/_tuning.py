"""Block sizes of kernels by architecture and size of the input, from a table: nothing is tried out in a user's process.

``tuning.json`` is shipped. Its part ``any`` was chosen by registers, spills and store widths of the compiled kernels;
parts like ``sm_90`` are measured. ``fastsal tune`` writes such a part for a machine's GPU to the user's own table,
which goes before the shipped one. Only kernels whose results do not depend on their blocks are in it.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch

Setting = dict[str, int]
Table = dict[str, dict[str, dict[str, Setting]]]
"""Architecture, kernel, power of two of the input's elements (or ``*``)."""

_forced: dict[str, Setting] = {}
_assumed: str | None = None


def own_table() -> Path:
    """Where the user's table is: ``FASTSAL_TUNING``, or a file in the cache folder."""
    given = os.environ.get("FASTSAL_TUNING")
    if given:
        return Path(given)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "fastsal" / "tuning.json"


@cache
def _shipped() -> Table:
    table: Table = json.loads(Path(__file__).with_name("tuning.json").read_text())
    return table


@cache
def _own() -> Table:
    try:
        table: Table = json.loads(own_table().read_text())
    except (OSError, ValueError):
        return {}
    return table if isinstance(table, dict) else {}


@cache
def architecture_of(index: int) -> str:
    """``sm_90`` and the like, of a CUDA device."""
    major, minor = torch.cuda.get_device_capability(index)
    return f"sm_{major}{minor}"


def setting(kernel: str, elements: int, device: torch.device) -> Setting:
    """A kernel's blocks for an input of so many elements, on a device."""
    if kernel in _forced:
        return _forced[kernel]
    architecture = _assumed
    if architecture is None and device.type == "cuda":
        architecture = architecture_of(torch.cuda.current_device() if device.index is None else device.index)
    return _looked_up(kernel, bucket(elements), architecture)


def bucket(elements: int) -> int:
    """The power of two that is the least not below the number."""
    return max(elements - 1, 0).bit_length()


@cache
def _looked_up(kernel: str, size: int, architecture: str | None) -> Setting:
    usual = _shipped()["any"][kernel]["*"]
    for table in (_own(), _shipped()):
        found = _nearest(table.get(architecture or "", {}).get(kernel), size)
        if found is not None and set(found) == set(usual) and all(_positive(value) for value in found.values()):
            return found
    return usual


def _nearest(sizes: Mapping[str, Any] | None, size: int) -> Setting | None:
    if not sizes:
        return None
    found: Setting = sizes[min(sizes, key=lambda name: (abs((int(name) if name.isdigit() else 20) - size), name))]
    return found


def _positive(value: Any) -> bool:
    return isinstance(value, int) and value > 0


@contextlib.contextmanager
def forced(kernel: str, blocks: Setting) -> Iterator[None]:
    """One kernel with other blocks, inside a ``with`` block."""
    before = _forced.get(kernel)
    _forced[kernel] = blocks
    try:
        yield
    finally:
        if before is None:
            del _forced[kernel]
        else:
            _forced[kernel] = before


@contextlib.contextmanager
def assumed(architecture: str) -> Iterator[None]:
    """Every kernel with the blocks of an architecture, whatever the tensors are on."""
    global _assumed
    before, _assumed = _assumed, architecture
    try:
        yield
    finally:
        _assumed = before


def forget() -> None:
    """Read the tables anew."""
    for function in (_own, _looked_up):
        function.cache_clear()
