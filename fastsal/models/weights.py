"""State dicts from files, what they tell of the model's classes, and random weights for the control."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

_NAMES = (
    "class_names",
    "classes",
    "CLASSES",
    "categories",
    "names",
    "labels",
    "class_to_idx",
    "idx_to_class",
    "id2label",
)
"""Under which checkpoints keep the names of classes."""


class Weights:
    """A state dict and what its file says beside it.

    Attributes:
        path: of the file.
        state: tensors by name, without the ``module.`` that DataParallel puts before each.
        class_names: of the outputs, where the file has them.
    """

    def __init__(self, path: Path, state: dict[str, Tensor], class_names: tuple[str, ...] | None) -> None:
        self.path, self.state, self.class_names = path, state, class_names

    def classes(self, model: nn.Module) -> int | None:
        """The number of outputs that these weights are for, where only that keeps them from fitting the model."""
        own = model.state_dict()
        if own.keys() != self.state.keys():
            return None
        pairs = [
            (own[name].shape, tensor.shape) for name, tensor in self.state.items() if own[name].shape != tensor.shape
        ]
        numbers = {(tuple(a[:1]), tuple(b[:1])) for a, b in pairs if a[1:] == b[1:]}
        if len(numbers) != 1 or any(a[1:] != b[1:] for a, b in pairs):
            return None
        ((_, (number,)),) = numbers
        return number

    def load(self, model: nn.Module) -> None:
        """Into the model, in place; every parameter must be there, and nothing else.

        Raises ValueError for names or shapes that do not fit.
        """
        own = model.state_dict()
        missing, unexpected = sorted(own.keys() - self.state.keys()), sorted(self.state.keys() - own.keys())
        if missing or unexpected:
            parts = [f"lacks {_some(missing)}"] * bool(missing) + [f"has unknown {_some(unexpected)}"] * bool(
                unexpected
            )
            raise ValueError(f"weights {self.path} do not fit the model: the file {' and '.join(parts)}")
        for name, tensor in self.state.items():
            if tensor.shape != own[name].shape:
                shapes = f"{tuple(tensor.shape)} in the file and {tuple(own[name].shape)} in the model"
                raise ValueError(f"weights {self.path} do not fit the model: {name} is {shapes}")
        try:
            model.load_state_dict(self.state)
        except (RuntimeError, ValueError, TypeError) as error:
            raise ValueError(f"weights {self.path} do not fit the model: {first_line(error)}") from None


def read_weights(path: str | os.PathLike[str]) -> Weights:
    """The state dict of a file: .safetensors, or one of torch.save read with weights_only.

    Inside a checkpoint it is found under "state_dict", "model_state_dict" or "model".

    Raises FileNotFoundError; ValueError for another file.
    """
    path = Path(path)
    if not os.path.isfile(path):
        raise FileNotFoundError(f"weights file {path} does not exist")
    loaded: Any
    told: Any
    try:
        if path.suffix == ".safetensors":
            loaded = load_file(path)
            with safe_open(path, framework="pt") as file:
                told = file.metadata() or {}
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                told = loaded = torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise ValueError(f"weights {path} cannot be read as safetensors: {error}") from None
    except pickle.UnpicklingError:
        raise ValueError(
            f"weights {path} hold more than tensors, and such a pickle can run any code while it loads, so it is "
            f"refused: save model.state_dict() alone, best as safetensors"
        ) from None
    except Exception as error:  # a file that is no checkpoint may fail in the reader in any way
        raise ValueError(f"weights {path} cannot be read: {first_line(error)}") from None
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    named = isinstance(loaded, Mapping) and all(isinstance(name, str) for name in loaded)
    if not named or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise ValueError(f"weights {path} are no state dict: expected names with tensors, got {type(loaded).__name__}")
    state = dict(loaded)
    if state and all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    return Weights(path, state, _told_names(told))


def _told_names(told: Any) -> tuple[str, ...] | None:
    """Names of classes in a checkpoint, or in the texts of a safetensors file."""
    if not isinstance(told, Mapping):
        return None
    for place in (told, told.get("meta"), told.get("hyper_parameters")):
        for key in _NAMES:
            found = place.get(key) if isinstance(place, Mapping) else None
            if isinstance(found, str):
                try:
                    found = json.loads(found)
                except (ValueError, RecursionError):
                    continue
            names = listed(found)
            if names:
                return names
    return None


def listed(found: Any) -> tuple[str, ...] | None:
    """Names in the order of the outputs, from a list, {index: name} or {name: index}; None from anything else."""
    if isinstance(found, (list, tuple)) and all(isinstance(each, str) for each in found):
        return tuple(found)
    if not isinstance(found, Mapping) or not found:
        return None
    pairs = [(name, index) if isinstance(index, int) else (index, name) for name, index in found.items()]
    try:
        by_index = {int(index): name for name, index in pairs}
    except (TypeError, ValueError):
        return None
    if sorted(by_index) != list(range(len(pairs))) or not all(isinstance(name, str) for name in by_index.values()):
        return None
    return tuple(by_index[index] for index in range(len(pairs)))


def read_names(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Names of classes from a file: one a line, or JSON, a list, {"0": name} or {name: 0}.

    Raises OSError as opening does; ValueError for another file.
    """
    text = Path(path).read_bytes()
    try:
        decoded = text.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is no text in UTF-8 with a name a line") from None
    if Path(path).suffix.lower() == ".json":
        try:
            names = listed(json.loads(decoded))
        except (ValueError, RecursionError):
            names = None
        if not names:
            raise ValueError(f"{path} has no names of classes: a list, or an object of names and numbers from 0")
        return names
    lines = decoded.splitlines()
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines:
        raise ValueError(f"{path} has no names of classes: it is empty")
    return tuple(line.strip() for line in lines)


def randomise(model: nn.Module, seed: int = 0) -> None:
    """Random weights in place, the control of a map: what can draw its own does, the rest's values are shuffled."""
    seen: set[int] = set()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for module in model.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset) and not isinstance(model, torch.jit.ScriptModule):
                with contextlib.suppress(TypeError):  # of a method of that name that asks for more
                    reset()
                    seen.update(id(parameter) for parameter in module.parameters(recurse=False))
        for parameter in _floats(model.parameters()):
            if id(parameter) not in seen:
                flat = parameter.reshape(-1)
                parameter.copy_(flat[torch.randperm(flat.numel())].reshape(parameter.shape))


def _floats(parameters: Iterable[Tensor]) -> Iterable[Tensor]:
    return (parameter for parameter in parameters if parameter.is_floating_point())


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


def first_line(error: BaseException) -> str:
    """The first line of an error's text, with its class where the text alone says little."""
    lines = str(error).strip().splitlines()
    if not lines:
        return type(error).__name__
    return lines[0][:300] if not isinstance(error, LookupError) else f"{type(error).__name__}: {lines[0]}"[:300]
