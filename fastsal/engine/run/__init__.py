"""One call of the model, and many: sweeps, their batches, and CUDA graphs."""

from fastsal.engine.run.forward import evaluation, owner, owners, run, scratch
from fastsal.engine.run.graphs import Graph, host_may_wait, without_waiting
from fastsal.engine.run.managed import Managed
from fastsal.engine.run.plan import Plan, chunks_of
from fastsal.engine.run.sweep import ChunkTooLarge, Swept, chunks, note, observed, sweep

__all__ = [
    "ChunkTooLarge",
    "Graph",
    "Managed",
    "Plan",
    "Swept",
    "chunks",
    "chunks_of",
    "evaluation",
    "host_may_wait",
    "note",
    "observed",
    "owner",
    "owners",
    "run",
    "scratch",
    "sweep",
    "without_waiting",
]
