"""How a model is run: the sweep (generate, score, fold) and the tap (one pass that is read on the way)."""

from fastsal.engine.forward import evaluation, owner, owners, run, scratch
from fastsal.engine.plan import Plan
from fastsal.engine.reading import Reading, read, replaced
from fastsal.engine.sweep import ChunkTooLarge, sweep
from fastsal.engine.tap import Tap, layers, resolve_layer, tap

__all__ = [
    "ChunkTooLarge",
    "Plan",
    "Reading",
    "Tap",
    "evaluation",
    "layers",
    "owner",
    "owners",
    "read",
    "replaced",
    "resolve_layer",
    "run",
    "scratch",
    "sweep",
    "tap",
]
