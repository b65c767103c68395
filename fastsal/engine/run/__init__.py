"""One call of the model, and many: sweeps, their batches, and CUDA graphs."""

from fastsal.engine.run.forward import detached, evaluation, owner, owners, run, scratch
from fastsal.engine.run.gradients import input_gradients
from fastsal.engine.run.graphs import Graph, host_may_wait, without_waiting
from fastsal.engine.run.managed import Managed
from fastsal.engine.run.plan import Plan, chunks_of
from fastsal.engine.run.sweep import ChunkTooLarge, Sweep, Swept, chunks, note, observed

__all__ = [
    "ChunkTooLarge",
    "Graph",
    "Managed",
    "Plan",
    "Sweep",
    "Swept",
    "chunks",
    "chunks_of",
    "detached",
    "evaluation",
    "host_may_wait",
    "input_gradients",
    "note",
    "observed",
    "owner",
    "owners",
    "run",
    "scratch",
    "without_waiting",
]
