"""Models from files: exported archives and TorchScript."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastsal.models.archives import FAULTS, Unsafe, is_archive, opened
from fastsal.models.exported import as_data
from fastsal.models.weights import first_line


def load_model_file(path: Path, trust_code: bool = False) -> tuple[nn.Module, tuple[int, int] | None, bool]:
    """A whole model from a file: the module, its input's height and width where known, whether it has hookable layers.

    Nothing in the file is executed unless ``trust_code``: an exported archive is read as data, TorchScript is refused.

    Raises FileNotFoundError; ValueError, saying what would work, for anything that is not an exported or TorchScript
    archive, is damaged, or would execute code.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"model file {path} does not exist")
    kind = _kind(path)
    if kind == "export":
        return _exported(path, trust_code)
    if kind == "torchscript":
        if not trust_code:
            raise ValueError(
                f"{path} is TorchScript, which is a program and would run: trust_code (--trust-code) allows it; "
                f"torch.export.save writes a model as data (.pt2)"
            )
        return _torchscript(path), None, False
    if kind == "native":
        raise ValueError(
            f"{path} is a package of AOTInductor, native code without a model to explain: "
            f"fastsal.load(path, trust_code=True) runs one that fastsal.export wrote"
        )
    if kind == "weights":
        raise ValueError(
            f"{path} holds weights but no model: name the model with --model (module:callable, timm:NAME, ...) "
            f"and give this file with --weights"
        )
    if kind == "pickle":
        raise ValueError(
            f"{path} is a pickle of a whole model, which can run any code while it loads, so it is refused: save "
            f"torch.export.save(...) (.pt2), or a state dict to give with --weights"
        )
    if kind == "damaged":
        raise ValueError(f"{path} is damaged or truncated: export or copy it again")
    raise ValueError(f"{path} is no model file: expected an archive of torch.export (.pt2) or TorchScript (.pt)")


def _kind(path: Path) -> str:
    """What the file is, from its content: "export", "torchscript", "native", "weights", "pickle", "damaged" or "other".

    Raises Unsafe, a ValueError, for an archive whose members are not what they seem.
    """
    if path.suffix == ".safetensors":
        return "weights"
    if is_archive(path):
        try:
            with opened(path) as archive:
                entries = archive.namelist()
        except Unsafe:
            raise
        except FAULTS:
            return "damaged"
        names = {name.partition("/")[2] for name in entries}
        if "serialized_exported_program.json" in entries:  # of PyTorch 2.6
            return "export"
        if "constants.pkl" in names:
            return "torchscript"
        if any(name.startswith("data/aotinductor/") for name in (*names, *entries)):
            return "native"
        if "archive_format" in names or any(name.endswith("model.json") for name in names):
            return "export"
        if "data.pkl" not in names:
            return "other"
    else:
        with path.open("rb") as file:
            if file.read(1) != b"\x80":  # every pickle of protocol 2 and later starts with it
                return "other"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.load(path, map_location="meta", weights_only=True)
    except Exception:  # a refusal, or anything at all on a damaged file
        return "pickle"
    return "weights"


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without warnings, and without the tracebacks that PyTorch's reader logs of damaged files."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _exported(path: Path, trust_code: bool) -> tuple[nn.Module, tuple[int, int] | None, bool]:
    try:
        source: Any = path
        size = None
        if not trust_code:
            source, size = as_data(path)
        with _quietly():
            program = torch.export.load(source)
            # Not program.module(): hooks never fire on its one flat graph, and Grad-CAM needs layers.
            model = torch.export.unflatten(program)
    except Unsafe:
        raise
    except Exception as error:  # whatever the archive's reader raises, the file is at fault
        raise ValueError(f"{path} cannot be read as an archive of torch.export: {first_line(error)}") from None
    example = program.example_inputs
    first = example[0][0] if example and example[0] else None
    if isinstance(first, Tensor) and first.dim() == 4:
        size = (int(first.shape[2]), int(first.shape[3]))
    return model, size, True


def _torchscript(path: Path) -> nn.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            model: nn.Module = torch.jit.load(str(path), map_location="cpu")
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as TorchScript: {first_line(error)}") from None
    return model
