"""A package in Python."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor

from fastsal._torch import aoti_model_package_loader, check_torch
from fastsal.deploy._metadata import Metadata, check_runs_here, read_metadata
from fastsal.explanation import Explained


class Package:
    """A loaded package; made by :func:`load`.

    Attributes:
        metadata: what it says of itself.
    """

    def __init__(self, path: str, metadata: Metadata, device_index: int = -1) -> None:
        self.metadata = metadata
        self._device = torch.device(f"cuda:{_index(device_index)}" if metadata.device == "cuda" else "cpu")
        self._runner = aoti_model_package_loader(path, device_index)

    def __call__(self, inputs: Tensor, target: int | Tensor | None = None) -> Explained:
        """Prediction and map.

        Args:
            inputs: [B, ...] in the shape and dtype and on the device of ``metadata``.
            target: None explains the class with the highest output; an int for all examples, or int64 [B].

        Raises:
            TypeError, ValueError: for another input or target. A target on a GPU is not read: where it is out of range
                the example's map is NaN.
        """
        self._check(inputs)
        column = self._column(target, len(inputs))
        with torch.inference_mode(False), torch.no_grad():
            output, attribution = self._runner.run([inputs.detach().contiguous(), column])
            chosen = torch.where(column < 0, output.argmax(1), column)
        return Explained(output, chosen, attribution)

    def _check(self, inputs: Any) -> None:
        known = self.metadata
        if not isinstance(inputs, Tensor):
            raise TypeError(f"inputs: {type(inputs).__name__} is not a tensor")
        if inputs.dtype != known.dtype or inputs.device != self._device:
            raise TypeError(
                f"inputs: {inputs.dtype} on {inputs.device}, the package takes {known.dtype} on {self._device}"
            )
        low, high = known.batch
        if tuple(inputs.shape[1:]) != known.input_shape or not low <= inputs.shape[0] <= high:
            batch = str(low) if low == high else f"{low} to {high}"
            wanted = ", ".join([f"B = {batch}", *map(str, known.input_shape)])
            raise ValueError(f"inputs: shape {tuple(inputs.shape)}, the package takes [{wanted}]")

    def _column(self, target: Any, examples: int) -> Tensor:
        outputs = self.metadata.outputs
        if target is None:
            return torch.full((examples,), -1, dtype=torch.int64, device=self._device)
        column = torch.as_tensor(target)
        if column.is_floating_point() or column.dtype == torch.bool or column.dim() > 1:
            raise TypeError(f"target: {column.dtype} of shape {tuple(column.shape)} is neither an int nor [B] of ints")
        if column.numel() not in (1, examples):
            raise ValueError(f"target: {column.numel()} entries for {examples} examples")
        if column.device.type == "cpu" and not bool(((column >= -outputs) & (column < outputs)).all()):
            raise ValueError(f"target: {target!r} is out of range for an output of {outputs}")
        column = torch.where(column < 0, column + outputs, column)
        return column.to(self._device, torch.int64).reshape(-1).expand(examples).contiguous()


def _index(device_index: int) -> int:
    return torch.cuda.current_device() if device_index < 0 else device_index


def load(path: str | os.PathLike[str], *, device_index: int = -1, trust_code: bool = False) -> Package:
    """A package that :func:`export` wrote, ready to be called.

    >>> output, target, maps = fastsal.load("gradcam.pt2", trust_code=True)(images)  # doctest: +SKIP

    It is compiled code, which runs as it is loaded: nothing in the file can show who made it.

    Args:
        path: of the file.
        device_index: which GPU, for a package of a CUDA device; -1 is the current one.
        trust_code: that the file's native code may run, your own's too.

    Raises:
        FileNotFoundError: where there is none.
        ValueError: without ``trust_code``; for a damaged or altered file, one that fastsal did not make, one of another
            format, PyTorch or device.
        RuntimeError: for a PyTorch before 2.11.
    """
    check_torch("2.11", "fastsal.load")
    metadata = read_metadata(path)
    check_runs_here(metadata, os.fspath(path))
    if not trust_code:
        raise ValueError(
            f"path: {os.fspath(path)!r} is native code, which would run while it is loaded; pass trust_code=True for a "
            f"package of your own or of somebody whom you trust"
        )
    return Package(os.fspath(path), metadata, device_index)
