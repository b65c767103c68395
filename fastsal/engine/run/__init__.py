"""One call of the model, and many: sweeps, their batches, and CUDA graphs."""

from fastsal.engine.run.caches import Bounded, clear_caches, freed
from fastsal.engine.run.capturable import Capturable, NotCapturable
from fastsal.engine.run.chunk_sizes import ChunkSizes, chunks_of
from fastsal.engine.run.comparing import difference
from fastsal.engine.run.forward import detached, evaluation, find, one_example, run, scratch
from fastsal.engine.run.gradients import input_gradients, leaves_autograd
from fastsal.engine.run.graphs import Graph, host_may_wait, without_waiting
from fastsal.engine.run.independence import Rows, compare_last, output_tensors, rows_of, seen_together
from fastsal.engine.run.managed import Managed
from fastsal.engine.run.modules import calling, hookable, module_of, modules_of
from fastsal.engine.run.own import Bounds, Undone, bounded, undisturbed
from fastsal.engine.run.random_states import keeping_random_states
from fastsal.engine.run.sweep import Sweep, Swept, chunks, note, observed, watched
from fastsal.engine.run.telling import tell
from fastsal.engine.run.tf32 import tf32_is_on
from fastsal.engine.run.too_large import ChunkTooLarge, is_too_large
from fastsal.engine.run.unused import changes

__all__ = [
    "Bounded",
    "Bounds",
    "Capturable",
    "ChunkSizes",
    "ChunkTooLarge",
    "Graph",
    "Managed",
    "NotCapturable",
    "Rows",
    "Sweep",
    "Swept",
    "Undone",
    "bounded",
    "calling",
    "changes",
    "chunks",
    "chunks_of",
    "clear_caches",
    "compare_last",
    "detached",
    "difference",
    "evaluation",
    "find",
    "freed",
    "hookable",
    "host_may_wait",
    "input_gradients",
    "is_too_large",
    "keeping_random_states",
    "leaves_autograd",
    "module_of",
    "modules_of",
    "note",
    "observed",
    "one_example",
    "output_tensors",
    "rows_of",
    "run",
    "scratch",
    "seen_together",
    "tell",
    "tf32_is_on",
    "undisturbed",
    "watched",
    "without_waiting",
]
