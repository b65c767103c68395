"""What every study's page begins with."""

from __future__ import annotations

from benchmarks.machine import machine


def about(doc: str | None) -> str:
    """A module's docstring below its first line and its command."""
    return (doc or "").split("\n\n", 2)[2].strip()


def facts(*names: str) -> str:
    """Of this machine and what ran on it."""
    told = machine()
    return ", ".join(f"{name} {told[name]}" for name in names)
