"""How a model is run: the sweep (generate, score, fold) and the tap (one pass that is read on the way)."""

from fastsal.engine.first_layer import FirstLayer, first_layer
from fastsal.engine.forward import evaluation, owner, owners, run, scratch
from fastsal.engine.graphs import Graph, host_may_wait, without_waiting
from fastsal.engine.grid import Grid, grid_of
from fastsal.engine.layers import Layer, default_layer, layers, resolve_layer
from fastsal.engine.plan import Plan, chunks_of
from fastsal.engine.prepare import prepare
from fastsal.engine.prepared import Prepared, Step, unprepared
from fastsal.engine.reading import UNRELATED, Reading, read, replaced
from fastsal.engine.sweep import ChunkTooLarge, Swept, chunks, observed, sweep
from fastsal.engine.tap import Tap, tap
from fastsal.engine.watch import Watch

__all__ = [
    "UNRELATED",
    "ChunkTooLarge",
    "FirstLayer",
    "Graph",
    "Grid",
    "Layer",
    "Plan",
    "Prepared",
    "Reading",
    "Step",
    "Swept",
    "Tap",
    "Watch",
    "chunks",
    "chunks_of",
    "default_layer",
    "evaluation",
    "first_layer",
    "grid_of",
    "host_may_wait",
    "layers",
    "observed",
    "owner",
    "owners",
    "prepare",
    "read",
    "replaced",
    "resolve_layer",
    "run",
    "scratch",
    "sweep",
    "tap",
    "unprepared",
    "without_waiting",
]
