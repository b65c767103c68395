"""One loaded model under explanation: its prediction for a picture, the layer that is read, one method's map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

import fastsal
from fastsal.cli.errors import Refused, first_line, nearest
from fastsal.engine.reading import default_layer
from fastsal.explainers.registry import find
from fastsal.models import LoadedModel


@dataclass(frozen=True)
class Subject:
    """A picture as the model's input, and what is to be explained of it."""

    inputs: Tensor
    predicted: int
    predicted_name: str
    probability: float
    target: int
    target_name: str
    layer_note: str = ""

    @property
    def predicted_text(self) -> str:
        """The prediction in words, as in "7 (99.1 %)"."""
        return f"{self.predicted_name} ({100 * self.probability:.1f} %)"

    def facts(self) -> dict[str, Any]:
        """The same, ready for JSON."""
        return {
            "input_size": list(self.inputs.shape[2:]),
            "prediction": {
                "index": self.predicted,
                "name": self.predicted_name,
                "probability": round(self.probability, 6),
            },
            "target": {"index": self.target, "name": self.target_name},
        }


class Session:
    """Explains pictures with one model.

    methods: the names of the methods that will be asked for.
    layer: the layer for the methods that read one; None for the default, which is found with the first picture.
    layer_used: its name, None as long as it is not known.
    every: all methods are asked for, so that one that refuses is passed over.
    Raises Refused for a layer that the model does not have.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        methods: Sequence[str],
        layer: str | None = None,
        batch_size: int | None = None,
        every: bool = False,
    ) -> None:
        self.loaded = loaded
        self.reads_layer = any(find(name).reads == "layer" for name in methods)
        self.batch_size = batch_size
        self.every = every
        self.layer_used = layer
        if layer is not None and loaded.has_layers:
            names = [name for name, _ in loaded.model.named_modules() if name]
            if layer not in names:
                raise Refused(f"the model has no layer {layer!r}{nearest(layer, names)}")

    def subject(self, picture: Image.Image, target: int | None) -> Subject:
        """The picture's prediction and target; Refused where the model fails on it or has no such output."""
        inputs = self.loaded.preprocess.tensor(picture)[None].to(self.loaded.device, self.loaded.dtype)
        try:
            with torch.no_grad():
                output = self.loaded.model(inputs)
        except Exception as error:
            if isinstance(error, KeyError | AttributeError | NameError):
                raise
            shape = tuple(inputs.shape)
            raise Refused(f"the model fails on an input of shape {shape}: {first_line(error)}") from error
        if not isinstance(output, Tensor) or output.dim() != 2 or output.shape[0] != 1:
            found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise Refused(f"the model must return one row of scores for an image, [1, classes], got {found}")
        classes = output.shape[1]
        if target is not None and target >= classes:
            raise Refused(f"--target {target} is out of range: the model has {classes} outputs, 0 to {classes - 1}")
        predicted = int(output.argmax(1))
        chosen = predicted if target is None else target
        note = ""
        if self.reads_layer and self.layer_used is None and self.loaded.has_layers:
            note = self._find_layer(inputs)
        return Subject(
            inputs=inputs,
            predicted=predicted,
            predicted_name=self.loaded.class_name(predicted),
            probability=float(output.float().softmax(1)[0, predicted]),
            target=chosen,
            target_name=self.loaded.class_name(chosen),
            layer_note=note,
        )

    def explain(self, subject: Subject, method: str, options: Mapping[str, Any]) -> tuple[Tensor, float]:
        """A method's map [C, H, W] of the subject and the seconds that it took; Refused where it cannot be made."""
        reads = find(method).reads
        if reads and not self.loaded.has_layers:
            raise Refused(
                f"{method} reads or hooks layers, which a TorchScript archive does not allow: "
                f"export the model with torch.export (.pt2), or use saliency, occlusion or rise"
            )
        arguments = dict(options)
        if self.batch_size is not None:
            arguments.setdefault("batch_size", self.batch_size)
        try:
            explained = fastsal.explain(
                self.loaded.model,
                subject.inputs,
                method=method,
                target=subject.target,
                layer=self.layer_used if reads == "layer" else None,
                **arguments,
            )
        except (ValueError, TypeError, IndexError, RuntimeError, NotImplementedError) as error:
            raise Refused(f"{method}: {first_line(error)}") from error
        return explained.maps[method][0], explained.seconds[method]

    def _find_layer(self, inputs: Tensor) -> str:
        """Finds the default layer; the line that tells of it, empty where no layer has spatial extent."""
        try:
            found = default_layer(self.loaded.model, (inputs,), (), lambda output: output.amax(1))
        except ValueError:
            return ""
        self.layer_used, shape, _ = found
        return f"layer: {self.layer_used} {list(shape)[1:]} (default; --layer NAME for another)"
