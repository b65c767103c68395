"""The ops: what makes and folds the batches of the explainers, on whichever backend the tensors allow."""

from fastsal.ops import attention, cam, masks, noise, patches, path, ranks, windows
from fastsal.ops._backend import Backend, backend, backends_report, current_backend
from fastsal.ops._decompose import decompositions
from fastsal.ops._timing import Timing, device_seconds
from fastsal.ops._tune import Tuned, tune
from fastsal.ops._tune import save as save_tuning
from fastsal.ops._why import Choice, choices, why
from fastsal.reference._numerics import accumulation_dtype, wide_dtype

__all__ = [
    "Backend",
    "Choice",
    "Timing",
    "Tuned",
    "accumulation_dtype",
    "attention",
    "backend",
    "backends_report",
    "cam",
    "choices",
    "current_backend",
    "decompositions",
    "device_seconds",
    "masks",
    "noise",
    "patches",
    "path",
    "ranks",
    "save_tuning",
    "tune",
    "why",
    "wide_dtype",
    "windows",
]
