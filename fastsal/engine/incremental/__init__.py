"""Exact incremental inference: what a small change of the input changes, computed; the rest, kept."""

from fastsal.engine.incremental.layout import Group
from fastsal.engine.incremental.runner import Incremental
from fastsal.engine.incremental.tracing import NotTraceable, Traced, trace
from fastsal.engine.incremental.worth import share_in_maps, trace_seconds

__all__ = ["Group", "Incremental", "NotTraceable", "Traced", "share_in_maps", "trace", "trace_seconds"]
