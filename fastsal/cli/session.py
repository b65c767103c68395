"""One loaded model under explanation: its prediction for a picture, the layer that is read, one method's map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

import fastsal
from fastsal.cli.errors import Failed, Refused, first_line, nearest
from fastsal.cli.progress import Watch
from fastsal.cli.scores import Scores, read_scores
from fastsal.cli.streams import printable
from fastsal.engine.reading import default_layer
from fastsal.explainers.outputs import main_output
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
    scores: Scores
    layer_note: str = ""
    note: str = ""

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
            "ends_in": self.scores.final,
        }


@dataclass(frozen=True)
class Limits:
    """When a method that can end early does: relative error, seconds; and rows of a model pass."""

    tolerance: float | None = None
    deadline: float | None = None
    batch_size: int | None = None

    @property
    def early(self) -> dict[str, float]:
        """Those that are given."""
        given = {"tolerance": self.tolerance, "deadline": self.deadline}
        return {name: value for name, value in given.items() if value is not None}


class Session:
    """Explains pictures with one model.

    methods: the names of the methods that will be asked for.
    layer: the layer for the methods that read one; None for the default, which is found with the first picture.
    layer_used: its name, None as long as it is not known.
    every: all methods are asked for, so that one that refuses is passed over.
    names: how many names of classes were given, which must be the outputs'; None for the source's own.
    Raises Refused for a layer that the model does not have.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        methods: Sequence[str],
        layer: str | None = None,
        limits: Limits | None = None,
        every: bool = False,
        names: int | None = None,
    ) -> None:
        self.loaded = loaded
        self.reads_layer = any(find(name).reads == "layer" for name in methods)
        self.limits = limits or Limits()
        self.every = every
        self.layer_used = layer
        self._names = names
        self._told: set[str] = set()
        if layer is not None and loaded.has_layers:
            known = [name for name, _ in loaded.model.named_modules() if name]
            if layer not in known:
                raise Refused(f"the model has no layer {layer!r}{nearest(layer, known)}")

    def subject(self, picture: Image.Image, target: int | None) -> Subject:
        """The picture's prediction and target.

        Raises:
            Failed: where the model fails on it.
            Refused: where it has no such output, or another number of them.
        """
        try:
            inputs = self.loaded.preprocess.tensor(picture)[None].to(self.loaded.device, self.loaded.dtype)
            with torch.no_grad():
                output = self.loaded.model(inputs)
            scores = read_scores(self.loaded.model, inputs, output)
        except Failed:
            raise
        except (Exception, SystemExit) as error:
            shape = (1, 3, *self.loaded.preprocess.size)
            raise Failed(f"the model fails on an input of shape {shape}: {first_line(error)}") from error
        classes = len(scores.probabilities)
        self._check(classes, target)
        predicted = int(scores.probabilities.argmax())
        chosen = predicted if target is None else target
        layer_note = ""
        if self.reads_layer and self.layer_used is None and self.loaded.has_layers:
            layer_note = self._find_layer(inputs, chosen)
        note = "" if scores.note in self._told else scores.note
        self._told.add(note)
        names = self.loaded.class_names
        # Two names of one output are of its two sides.
        sided = classes == 1 and names is not None and len(names) == 2
        side = int(scores.probabilities[0] > 0.5)
        probability = float(scores.probabilities[predicted])
        return Subject(
            inputs=inputs,
            predicted=predicted,
            predicted_name=self._name(side if sided else predicted),
            probability=1 - probability if sided and not side else probability,
            target=chosen,
            target_name=self._name(1 if sided else chosen),
            scores=scores,
            layer_note=layer_note,
            note=note,
        )

    def _name(self, index: int) -> str:
        return printable(self.loaded.class_name(index))

    def _check(self, classes: int, target: int | None) -> None:
        """What was said of the outputs beside what they are."""
        if target is not None and target >= classes:
            raise Refused(f"--target {target} is out of range: the model has {classes} outputs, 0 to {classes - 1}")
        if self._names is not None and self._names != classes and (self._names, classes) != (2, 1):
            raise Refused(
                f"there are {self._names} names of classes, and the model has {classes} outputs: give one each"
            )
        if self.loaded.classes not in (None, classes) and (self.loaded.classes, classes) != (2, 1):
            raise Refused(
                f"--classes {self.loaded.classes}: the model has {classes} outputs; a callable that takes num_classes "
                f"is given it"
            )

    def explain(self, subject: Subject, method: str, options: Mapping[str, Any], watch: Watch) -> tuple[Tensor, float]:
        """A method's map [C, H, W] of the subject and the seconds that it took; Failed where it cannot be made."""
        explainer = find(method)
        if explainer.reads and not self.loaded.has_layers:
            raise Failed(
                f"{method} reads or hooks layers, which a TorchScript archive does not allow: "
                f"export the model with torch.export (.pt2), or use saliency, occlusion or rise"
            )
        arguments = {**self.limits.early, **options}
        if self.limits.batch_size is not None:
            arguments.setdefault("batch_size", self.limits.batch_size)
        if explainer.perturbs and subject.scores.final:
            arguments.setdefault("score", "output")  # they are probabilities as they are
        try:
            with watch.watching():
                explained = fastsal.explain(
                    self.loaded.model,
                    subject.inputs,
                    method=method,
                    target=None if subject.scores.squeezed else subject.target,
                    layer=self.layer_used if explainer.reads == "layer" else None,
                    **arguments,
                )
            found = explained.maps[method]
            if not isinstance(found, Tensor) or found.dim() < 2:
                raise Failed(f"{method}: its map is not one of the image")
            return found[0], explained.seconds[method]
        except Failed:
            raise
        except (Exception, SystemExit) as error:
            raise Failed(f"{method}: {first_line(error)}") from error

    def _find_layer(self, inputs: Tensor, target: int) -> str:
        """Finds the default layer; the line that tells of it, empty where no layer has spatial extent."""

        def score(output: Any) -> Tensor:
            found: Tensor = main_output(output).reshape(len(inputs), -1)[:, target]
            return found

        try:
            found = default_layer(self.loaded.model, (inputs,), (), score)
        except Exception:  # each method that reads one says why it cannot
            return ""
        self.layer_used, shape, _ = found
        return f"layer: {self.layer_used} {list(shape)[1:]} (default; --layer NAME for another)"
