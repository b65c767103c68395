"""What an explanation is: a prediction, its maps, and what they are of."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fastsal._version import __version__
from fastsal.explainers.scores import Target

AXES = {
    "image": ("example", "channel", "height", "width"),
    "volume": ("example", "channel", "depth", "height", "width"),
    "video": ("example", "channel", "time", "height", "width"),
    "series": ("example", "channel", "time"),
    "tokens": ("example", "token"),
    "table": ("example", "feature"),
}
"""Kinds of input, and what their dimensions are."""
FORMAT = "fastsal explanation 1"


def kind_of(inputs: tuple[Tensor, ...]) -> str:
    """The kind of the first input by its form; five dimensions are a volume's, which a video has too.

    An input of another form is a ``table``.
    """
    if not inputs:
        return "tokens"
    first = inputs[0]
    if not first.is_floating_point() and first.dim() == 2:
        return "tokens"
    return {3: "series", 4: "image", 5: "volume"}.get(first.dim(), "table")


def versions() -> dict[str, str]:
    """What an explanation is made with."""
    return {"fastsal": __version__, "torch": torch.__version__, "python": platform.python_version()}


@dataclass(frozen=True)
class Explanation:
    """A prediction and its maps; made by :func:`fastsal.explain`.

    Attributes:
        output: the model's output for the inputs, [B, K].
        target: what was explained: the given target, or what it returned where it is a function of the output; or the
            argmax of each example, [B].
        maps: attribution by method name, in the form of the inputs.
        seconds: wall-clock seconds by method name, the prediction not included unless the method makes it.
        kind: of the inputs: image, volume, video, series, tokens or table.
        axes: what the dimensions of the inputs are.
        method: the names of the methods, as they were asked for.
        options: the options of each method, by its name.
        layer: the layer that each method read, by its name; None for those that read none.
        versions: of what it was made with.
    """

    output: Tensor
    target: Target
    maps: dict[str, Any]
    seconds: dict[str, float]
    kind: str = "image"
    axes: tuple[str, ...] = AXES["image"]
    method: tuple[str, ...] = ()
    options: dict[str, dict[str, Any]] = field(default_factory=dict)
    layer: dict[str, str | None] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=versions)

    @property
    def map(self) -> Any:
        """The map, where there is one.

        Raises:
            ValueError: for several methods.
        """
        if len(self.maps) != 1:
            raise ValueError(f"map: there are {len(self.maps)}, by {', '.join(self.maps)}; take one of maps")
        return next(iter(self.maps.values()))

    def save(self, path: str | os.PathLike[str]) -> str:
        """Write it as one safetensors file, which holds no code; returns the path.

        What of the options and the target is neither a number, a text, a tensor nor made of these is written in words.

        >>> explanation = fastsal.explain(model, images, "saliency")
        >>> explanation.save("explanation.safetensors")  # doctest: +SKIP
        """
        from safetensors.torch import save_file

        tensors: dict[str, Tensor] = {}
        facts = {
            name: _packed(getattr(self, name), name, tensors)
            for name in (
                "output",
                "target",
                "maps",
                "seconds",
                "kind",
                "axes",
                "method",
                "options",
                "layer",
                "versions",
            )
        }
        written = os.fspath(path)
        plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        save_file(plain, written, {"format": FORMAT, "facts": json.dumps(facts)})
        return written

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Explanation:
        """Read what :meth:`save` wrote; tensors come on the CPU.

        Raises:
            FileNotFoundError: where there is no such file.
            ValueError: for a file that is no explanation.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(os.fspath(path), "pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if metadata.get("format") != FORMAT:
                raise ValueError(f"its format is {metadata.get('format')!r}, not {FORMAT!r}")
            facts = {name: _unpacked(value, tensors) for name, value in json.loads(metadata["facts"]).items()}
            return cls(**facts)
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"path: {os.fspath(path)!r} is no explanation that can be read: {error}") from error


def _packed(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """A value in JSON, its tensors aside."""
    if isinstance(value, Tensor):
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, tuple):
        return {"tuple": [_packed(each, f"{name}.{i}", tensors) for i, each in enumerate(value)]}
    if isinstance(value, list):
        return [_packed(each, f"{name}.{i}", tensors) for i, each in enumerate(value)]
    if isinstance(value, Mapping):
        return {"dict": {str(key): _packed(each, f"{name}.{key}", tensors) for key, each in value.items()}}
    return value if isinstance(value, (bool, int, float, str, type(None))) else repr(value)


def _unpacked(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_unpacked(each, tensors) for each in value]
    if not isinstance(value, dict):
        return value
    ((kind, held),) = value.items()
    if kind == "tensor":
        return tensors[held]
    if kind == "tuple":
        return tuple(_unpacked(each, tensors) for each in held)
    return {key: _unpacked(each, tensors) for key, each in held.items()}
