"""Which backend runs an op, and why not its kernel: asked for a call, or for all ops on this machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastsal._torch import TorchDispatchMode
from fastsal.ops import attention, cam, masks, noise, patches, path, ranks, windows
from fastsal.ops._define import OPS

_BY_OVERLOAD = {op.overload: op for op in OPS}


class Choice(NamedTuple):
    """Which backend runs an op.

    Attributes:
        op: its module in ``fastsal.ops`` and its name: ``cam.map``.
        backend: one of those of :func:`fastsal.ops.backends_report`, or "none" where it fails.
        reason: a sentence: why it is the reference, or what chose another.
    """

    op: str
    backend: str
    reason: str


class _Asking(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: dict[Choice, None] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        op = _BY_OVERLOAD.get(func)
        if op is not None:
            self.found[Choice(op.name, *op.choice(*args))] = None
        return func(*args, **(kwargs or {}))


def why(call: Callable[..., Any], *args: Any, **kwargs: Any) -> list[Choice]:
    """Which backend runs each op of a call, and why where it is not the kernel.

    ``why(ops.cam.map, activations, gradients)`` asks for one op, ``why(explainer.attribute, image, target=3)`` for all
    that an explanation comes to. The call is made, and its result dropped. That a CUDA tensor takes the reference is
    also logged, by ``logging.getLogger("fastsal.ops")`` at the level DEBUG.

    Args:
        call: a function that runs ops on the thread that calls it.
        args, kwargs: its arguments.

    Returns:
        What was chosen, each once, in the order of the first time.
    """
    with _Asking() as asking:
        call(*args, **kwargs)
    return list(asking.found)


def small_calls(device: torch.device | str) -> dict[str, Callable[[], Tensor]]:
    """A call of each op that costs next to nothing but the launch, by the name of its public function."""
    x = torch.zeros(1, 1, 2, 2, device=device)
    one, field, index = torch.ones(1, device=device), torch.ones_like(x), torch.zeros(1, 2, 2, device=device).long()
    made, drawn = windows.Windows((1, 2, 2), 1), masks.Masks((2, 2))
    image, colormap = (torch.zeros(shape, dtype=torch.uint8, device=device) for shape in ((1, 2, 2, 3), (256, 3)))
    return {
        "attention.extreme": lambda: attention.extreme(x, x, lse=x[..., 0]),
        "attention.gradient_received": lambda: attention.gradient_received(x, x),
        "attention.logsumexp": lambda: attention.logsumexp(x, x),
        "attention.received": lambda: attention.received(x, x, lse=x[..., 0]),
        "attention.relevance": lambda: attention.relevance(x, x, x, x, lse=x[..., 0]),
        "cam.map": lambda: cam.map(x, field, (2, 2)),
        "cam.overlay": lambda: cam.overlay(x, field, image, colormap),
        "masks.accumulate": lambda: drawn.accumulate(one[None], 0),
        "masks.batch": lambda: drawn.batch(x, 0, 1),
        "noise.batch": lambda: noise.batch(x, 0, 1, std=0.1, seed=0),
        "noise.fold": lambda: noise.fold(x, 1),
        "patches.gather": lambda: patches.gather(x, index[:, 0], 2),
        "path.batch": lambda: path.batch(x, one),
        "path.fold": lambda: path.fold(x, one),
        "ranks.batch": lambda: ranks.batch(x, field, index, index[0, 0, :1]),
        "windows.batch": lambda: made.batch(x, 0, 1),
        "windows.fold": lambda: made.fold(one.expand(4, 1)),
    }


def choices() -> list[Choice]:
    """Which backend each op takes for a small float32 tensor on this machine's GPU, or on the CPU where it has none.

    Each kernel runs once; one that does not even compile is told with its error as the reason.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    found = []
    for name, call in small_calls(device).items():
        try:
            found += why(call)
        except Exception as error:
            found.append(Choice(name, "none", f"{type(error).__name__}: {error}"))
    return found
