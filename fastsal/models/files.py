"""Models and weights from files: exported archives, TorchScript, safetensors and state dicts."""

from __future__ import annotations

import os
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn


def load_model_file(path: Path) -> tuple[nn.Module, tuple[int, int] | None, bool]:
    """A whole model from a file: the module, its input's height and width where known, whether it has hookable layers.

    Raises FileNotFoundError; ValueError, saying what would work, for anything that is not an exported or TorchScript
    archive.
    """
    if not path.is_file():
        raise FileNotFoundError(f"model file {path} does not exist")
    kind = _kind(path)
    if kind == "export":
        return _exported(path)
    if kind == "torchscript":
        return _torchscript(path), None, False
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
    raise ValueError(f"{path} is no model file: expected an archive of torch.export (.pt2) or TorchScript (.pt)")


def _kind(path: Path) -> str:
    """What the file is, from its content: "export", "torchscript", "weights", "pickle" or "other"."""
    if path.suffix == ".safetensors":
        return "weights"
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            entries = archive.namelist()
        names = {name.partition("/")[2] for name in entries}
        if "serialized_exported_program.json" in entries:  # of PyTorch 2.6
            return "export"
        if "constants.pkl" in names:
            return "torchscript"
        if "archive_format" in names or any(name.endswith("model.json") for name in names):
            return "export"
        if "data.pkl" not in names:
            return "other"
    elif path.read_bytes()[:1] != b"\x80":  # every pickle of protocol 2 and later starts with it
        return "other"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.load(path, map_location="meta", weights_only=True)
    except Exception:  # a refusal, or anything at all on a damaged file
        return "pickle"
    return "weights"


def _exported(path: Path) -> tuple[nn.Module, tuple[int, int] | None, bool]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.load(path)
            # Not program.module(): hooks never fire on its one flat graph, and Grad-CAM needs layers.
            model = torch.export.unflatten(program)
    except Exception as error:  # whatever the archive's reader raises, the file is at fault
        raise ValueError(f"{path} cannot be read as an archive of torch.export: {_first_line(error)}") from None
    example = program.example_inputs
    first = example[0][0] if example is not None and example[0] else None
    size = (int(first.shape[2]), int(first.shape[3])) if isinstance(first, Tensor) and first.dim() == 4 else None
    return model, size, True


def _torchscript(path: Path) -> nn.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            model: nn.Module = torch.jit.load(str(path), map_location="cpu")
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as TorchScript: {_first_line(error)}") from None
    return model


def load_weights(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Loads a state dict into the model, in place; every parameter must be there, and nothing else.

    The file is .safetensors, or one of torch.save read with weights_only. A state dict inside a checkpoint is found
    under "state_dict", "model_state_dict" or "model"; the "module." that DataParallel puts before names is dropped.

    Raises FileNotFoundError; ValueError for another file, or names or shapes that do not fit.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"weights file {path} does not exist")
    state = _state_dict(path)
    if state and all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    own = model.state_dict()
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    if missing or unexpected:
        parts = [f"lacks {_some(missing)}"] * bool(missing) + [f"has unknown {_some(unexpected)}"] * bool(unexpected)
        raise ValueError(f"weights {path} do not fit the model: the file {' and '.join(parts)}")
    for name, tensor in state.items():
        if tensor.shape != own[name].shape:
            shapes = f"{tuple(tensor.shape)} in the file and {tuple(own[name].shape)} in the model"
            raise ValueError(f"weights {path} do not fit the model: {name} is {shapes}")
    model.load_state_dict(state)


def _state_dict(path: Path) -> dict[str, Tensor]:
    loaded: object
    try:
        if path.suffix == ".safetensors":
            loaded = load_file(path)
        else:
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise ValueError(f"weights {path} cannot be read as safetensors: {error}") from None
    except pickle.UnpicklingError:
        raise ValueError(
            f"weights {path} hold more than tensors, and such a pickle can run any code while it loads, so it is "
            f"refused: save model.state_dict() alone, best as safetensors"
        ) from None
    except Exception as error:  # a file that is no checkpoint may fail in the reader in any way
        raise ValueError(f"weights {path} cannot be read: {_first_line(error)}") from None
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    if not isinstance(loaded, Mapping) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise ValueError(f"weights {path} are no state dict: expected names with tensors, got {type(loaded).__name__}")
    return dict(loaded)


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
