"""The arithmetic of a model's passes: its own, or one that the caller asks for."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from fastsal._torch import check_torch
from fastsal.engine.run import tf32_is_on

PRECISIONS = ("float32", "tf32", "bfloat16", "float16")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
TOLERANCES = {None: 1e-4, "float32": 1e-4, "tf32": 2e-2, "bfloat16": 1e-1, "float16": 2e-2}
"""How far outputs may be from the plain model's, as a share of their spread; a hundred times what the roundings of
a deep network came to in tests, of bfloat16 five times."""


def checked_precision(precision: str | None) -> str | None:
    """A precision as given.

    Raises:
        ValueError: for one that is not known.
    """
    if precision is not None and precision not in PRECISIONS:
        raise ValueError(f"precision: {precision!r} is not one of {', '.join(PRECISIONS)}; None is the model's own")
    return precision


@contextlib.contextmanager
def float32_arithmetic(precision: str | None, device: torch.device) -> Iterator[None]:
    """Multiplications of float32 on a GPU: with TF32's 10 bits, with all bits, or (None) as the process has it.

    Raises:
        RuntimeError: for a PyTorch before 2.9, which has no such setting for one kind of operation.
    """
    if device.type != "cuda" or precision not in ("float32", "tf32"):
        yield
        return
    check_torch("2.9", f"precision: {precision!r} on a GPU")
    cudnn: Any = torch.backends.cudnn
    places: list[Any] = [torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn]
    before = [place.fp32_precision for place in places]
    apart = "highest" if before[0] == "tf32" else "high", set(before[1:]) != {"tf32"}
    older = _older(torch.get_float32_matmul_precision, apart[0]), _older(lambda: cudnn.allow_tf32, apart[1])
    try:
        _set_older("high" if precision == "tf32" else "highest", precision == "tf32")
        for place in places:
            place.fp32_precision = "tf32" if precision == "tf32" else "ieee"
        yield
    finally:
        _set_older(*older)
        for place, value in zip(places, before, strict=True):
            place.fp32_precision = value


def _older(flag: Callable[[], Any], apart: Any) -> Any:
    """An older flag, which is refused where it says other than the newer ones: what it says then."""
    try:
        return flag()
    except RuntimeError:
        return apart


def _set_older(matmul: str, cudnn: bool) -> None:
    """The flags that models and libraries still read."""
    torch.set_float32_matmul_precision(matmul)
    torch.backends.cudnn.allow_tf32 = cudnn


def tolerance(precision: str | None, device: torch.device) -> float:
    """How far outputs on a device may be from the plain model's; its own arithmetic may be TF32 there."""
    return TOLERANCES["tf32" if precision is None and device.type == "cuda" and tf32_is_on() else precision]


def keep_exact(layer: nn.Module, dtype: torch.dtype) -> None:
    """Let a layer of a replica, whose own dtype is finer than the rest's, take what the rest gives it."""

    def widen(_module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(as_dtype(value, dtype) for value in arguments)

    layer.register_forward_pre_hook(widen)


def as_dtype(value: Any, dtype: torch.dtype | None) -> Any:
    """A floating point tensor in a dtype; anything else as it is."""
    return value.to(dtype) if dtype is not None and isinstance(value, Tensor) and value.is_floating_point() else value
