"""``fastsal explain``: images, a model and methods into pictures and arrays."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from fastsal import models
from fastsal._version import __version__
from fastsal.cli import results
from fastsal.cli.console import Console
from fastsal.cli.errors import Failed, Refused, first_line
from fastsal.cli.progress import Watch
from fastsal.cli.request import ALL, choose_methods, load_model, parse_options, parse_target
from fastsal.cli.results import Results
from fastsal.cli.session import Limits, Session
from fastsal.cli.streams import printable
from fastsal.explainers.base import Estimating
from fastsal.explainers.registry import find
from fastsal.viz import seconds_text


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Explains every image; 0, 1 where something failed, 2 where nothing was explained."""
    methods = choose_methods(arguments.method)
    options = parse_options(arguments.option, methods)
    target = parse_target(arguments.target)
    if not 0 <= arguments.alpha <= 1:
        raise Refused(f"--alpha must be between 0 and 1, got {arguments.alpha}")
    paths = [Path(image) for image in arguments.images]
    for path in paths:
        if not os.path.isfile(path):
            raise Refused(f"{path} is {'a folder, not an image' if os.path.isdir(path) else 'not there'}")
    given = [
        Path(each) for each in (arguments.model, arguments.weights, arguments.classes, arguments.class_names) if each
    ]
    places = Results(Path(arguments.out), [*paths, *filter(os.path.isfile, given)], arguments.overwrite)
    stems = places.stems(paths, methods)
    for path, stem, usual in zip(paths, stems, results.unique_stems(paths), strict=True):
        if stem != usual or not usual.startswith(path.stem):
            console.note(f"results of {printable(str(path))} are named {stem}")
    loaded, names = load_model(arguments)
    results.make_folder(arguments.out)
    every = arguments.method.strip().lower() == ALL
    limits = Limits(arguments.tolerance, arguments.deadline, arguments.batch_size)
    session = Session(loaded, methods, arguments.layer, limits, every, names)
    console.expect(len(paths) * len(methods))
    job = Job(session, methods, options, target, places, arguments.alpha, _told(arguments, loaded))
    facts = {
        "fastsal": __version__,
        "model": arguments.model,
        "weights": "random" if arguments.untrained else arguments.weights,
        "device": str(loaded.device),
        "precision": str(loaded.dtype).removeprefix("torch."),
        "preprocess": {
            "size": list(loaded.preprocess.size),
            "mean": list(loaded.preprocess.mean),
            "std": list(loaded.preprocess.std),
            "crop": loaded.preprocess.crop,
            "interpolation": loaded.preprocess.interpolation,
        },
    }
    try:
        job.run(paths, stems, console)
    except KeyboardInterrupt:
        facts["interrupted"] = True
        raise
    except Refused as error:
        facts["error"] = str(error)
        raise
    finally:
        console.document({**facts, "layer": session.layer_used, "images": job.explained, "errors": job.errors})
    return 0 if not job.errors else 1 if job.explained else 2


def _told(arguments: argparse.Namespace, loaded: models.LoadedModel) -> str:
    """What the model is and what it is given, with what would change it; nothing of the built-in one as it is."""
    given = loaded.preprocess
    if arguments.model == "demo" and (arguments.size, arguments.mean, arguments.std, arguments.weights) == (None,) * 4:
        return "model: demo with random weights" if arguments.untrained else ""

    def numbers(values: tuple[float, ...]) -> str:
        return ",".join(f"{value:g}" for value in values)

    weights = "random weights" if arguments.untrained else arguments.weights or ""
    crop = "squashed" if given.squash else f"crop {given.crop:.3g}"
    return (
        f"model: {arguments.model}{weights and f' with {weights}'} on {loaded.device}, input "
        f"{given.size[0]}x{given.size[1]} ({crop}, {given.interpolation}), mean {numbers(given.mean)}, std "
        f"{numbers(given.std)} (--size, --mean and --std for others)"
    )


@dataclass
class Job:
    """What is asked of every image; ``explained`` and ``errors`` are what came of it, as far as it went.

    Each image is written before the next is read. An image that cannot be read, a model that fails on one and a method
    that refuses are reported and passed over; what would go wrong for every image alike ends the command.
    """

    session: Session
    methods: Sequence[str]
    options: Mapping[str, Mapping[str, Any]]
    target: int | None
    places: Results
    alpha: float
    told: str = ""

    def __post_init__(self) -> None:
        self.explained: list[dict[str, Any]] = []
        self.errors: list[dict[str, str]] = []

    def run(self, paths: Sequence[Path], stems: Sequence[str], console: Console) -> None:
        """All images, one after the other; the stems name their results."""
        for path, stem in zip(paths, stems, strict=True):
            try:
                image = models.read_image(path)
                self.explained.append(self._one(path, stem, image, console))
            except BrokenPipeError:  # of our own output
                raise
            except (Failed, ValueError, OSError, MemoryError) as error:
                # A name may hold line breaks, and an error's text the name.
                text = first_line(
                    ValueError(str(error).replace(str(path), printable(str(path))) or type(error).__name__)
                )
                self._failed(path, text, console)

    def _failed(self, path: Path, text: str, console: Console, method: str | None = None) -> None:
        told = {"image": str(path), "error": text}
        self.errors.append(told if method is None else {**told, "method": method})
        name = printable(str(path))
        named = text if name in text else f"{name}: {text}"
        console.problem(f"error: {named}")

    def _one(self, path: Path, stem: str, image: Image.Image, console: Console) -> dict[str, Any]:
        session = self.session
        picture = session.loaded.preprocess.picture(image)
        subject = session.subject(picture, self.target)
        if subject.layer_note:
            console.line(subject.layer_note)
        attributions, seconds, refusals = {}, {}, {}
        for name in self.methods:
            what = f"{path.name} {name}"
            console.doing(what)
            watch = Watch(console.problem, what, self._hint(name))
            try:
                attributions[name], seconds[name] = session.explain(subject, name, self.options.get(name, {}), watch)
            except Failed as failed:
                refusals[name] = str(failed)
            console.step()
        if not attributions:
            raise Failed(next(iter(refusals.values())))
        for name, refusal in refusals.items() if not session.every else ():
            self._failed(path, refusal, console, name)
        title = f"{printable(path.name)}: {subject.predicted_text}"
        detail = "" if subject.target == subject.predicted else f"maps of {subject.target_name}"
        lines = (f"input: {subject.predicted_text}", detail)
        facts = results.write(self.places, stem, path, picture, title, lines, attributions, seconds, self.alpha)
        for name, method in facts["methods"].items():
            if not method["finite"]:
                console.problem(f"warning: the {name} map of {path} has values that are not finite")
        for refusal in refusals.values() if session.every else ():
            console.line(f"{printable(str(path))}: not made: {refusal}")
        for note in filter(None, (self.told, subject.note)):
            console.note(note)
        self.told = ""
        times = ", ".join(f"{name} {seconds_text(value)}" for name, value in seconds.items())
        said = f"{subject.predicted_text}{f', {detail}' if detail else ''}"
        console.line(f"{printable(str(path))}: {said}; {times}; {printable(facts['sheet'])}")
        return {"image": str(path), **subject.facts(), **facts, "refused": refusals}

    def _hint(self, name: str) -> str:
        """What ends a method earlier."""
        explainer = find(name)
        if not issubclass(explainer, Estimating) or explainer.exact:
            return ""
        given = [f"--{limit}" for limit in self.session.limits.early]
        return f"; {' or '.join(given or ('--deadline S', '--tolerance T'))} ends it earlier"
