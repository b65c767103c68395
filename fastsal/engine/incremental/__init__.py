"""Exact incremental inference: what a small change of the input changes, computed; the rest, kept."""

from fastsal.engine.incremental.asked import Asked, Changes, Scorer
from fastsal.engine.incremental.layout import Group, Layout, laid_out
from fastsal.engine.incremental.memory import Memory
from fastsal.engine.incremental.policy import Outcome, attempt
from fastsal.engine.incremental.recording import record
from fastsal.engine.incremental.runner import Incremental
from fastsal.engine.incremental.tracing import NotTraceable, Traced, trace

__all__ = [
    "Asked",
    "Changes",
    "Group",
    "Incremental",
    "Layout",
    "Memory",
    "NotTraceable",
    "Outcome",
    "Scorer",
    "Traced",
    "attempt",
    "laid_out",
    "record",
    "trace",
]
