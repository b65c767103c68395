"""``fastsal explain``: images, a model and methods into pictures and arrays."""

from __future__ import annotations

import argparse
import ast
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from fastsal import explainers, models
from fastsal._version import __version__
from fastsal.cli import results
from fastsal.cli.console import Console
from fastsal.cli.errors import Refused, first_line, nearest
from fastsal.cli.session import Session
from fastsal.explainers.registry import find
from fastsal.explainers.registry import options as method_options
from fastsal.viz import seconds_text

ALL = "all"
"""Every method that can explain this model: the others say why they cannot."""
# What loading a model or reading a file may raise for a reason that is the request's; anything else is a bug of ours.
_LOADING = (ValueError, TypeError, OSError, ImportError)


def run(arguments: argparse.Namespace) -> int:
    """Explains every image; 0, or 2 when some image could not be read."""
    methods = choose_methods(arguments.method)
    options = parse_options(arguments.option, methods)
    target = parse_target(arguments.target)
    if not 0 <= arguments.alpha <= 1:
        raise Refused(f"--alpha must be between 0 and 1, got {arguments.alpha}")
    paths = [Path(image) for image in arguments.images]
    for path in paths:
        if not path.is_file():
            raise Refused(f"{path} is {'a folder, not an image' if path.is_dir() else 'not there'}")
    loaded = load_model(arguments)
    folder = results.make_folder(arguments.out)
    every = arguments.method.strip().lower() == ALL
    session = Session(loaded, methods, arguments.layer, arguments.batch_size, every)
    with Console(arguments.json, len(paths) * len(methods)) as console:
        explained, errors = explain_all(session, paths, methods, options, target, folder, arguments.alpha, console)
        console.document(
            {
                "fastsal": __version__,
                "model": arguments.model,
                "device": str(loaded.device),
                "precision": str(loaded.dtype).removeprefix("torch."),
                "layer": session.layer_used,
                "images": explained,
                "errors": errors,
            }
        )
    return 2 if errors else 0


def load_model(arguments: argparse.Namespace) -> models.LoadedModel:
    """The model that the arguments describe; Refused where it cannot be had."""
    try:
        names = None
        if arguments.class_names is not None:
            names = Path(arguments.class_names).read_text(encoding="utf-8").splitlines()
        return models.load(
            arguments.model,
            arguments.weights,
            arguments.device,
            arguments.precision,
            size=arguments.size,
            mean=arguments.mean,
            std=arguments.std,
            class_names=names,
        )
    except FileNotFoundError as error:
        raise Refused(f"{error.filename} is not there" if error.filename else first_line(error)) from error
    except _LOADING as error:
        raise Refused(first_line(error)) from error


def explain_all(
    session: Session,
    paths: Sequence[Path],
    methods: Sequence[str],
    options: Mapping[str, Mapping[str, Any]],
    target: int | None,
    folder: Path,
    alpha: float,
    console: Console,
) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """Explains image after image, each written before the next is read: the facts of each, and what went wrong.

    An image that cannot be read is reported and passed over; what the model or a method refuses ends the command, since
    it would refuse the other images too.
    """
    explained: list[dict[str, Any]] = []
    errors: list[dict[str, str]] = []
    for path, stem in zip(paths, results.unique_stems(list(paths)), strict=True):
        try:
            image = models.read_image(path)
        except (ValueError, OSError) as error:
            errors.append({"image": str(path), "error": first_line(error)})
            console.problem(f"error: {first_line(error)}")
            continue
        explained.append(_explain_one(session, path, stem, image, methods, options, target, folder, alpha, console))
    return explained, errors


def _explain_one(
    session: Session,
    path: Path,
    stem: str,
    image: Image.Image,
    methods: Sequence[str],
    options: Mapping[str, Mapping[str, Any]],
    target: int | None,
    folder: Path,
    alpha: float,
    console: Console,
) -> dict[str, Any]:
    picture = session.loaded.preprocess.picture(image)
    subject = session.subject(picture, target)
    if subject.layer_note:
        console.line(subject.layer_note)
    attributions, seconds, refusals = {}, {}, {}
    for name in methods:
        console.doing(f"{path.name} {name}")
        try:
            attributions[name], seconds[name] = session.explain(subject, name, options.get(name, {}))
        except Refused as refused:
            if not session.every:
                raise
            refusals[name] = str(refused)
        console.step()
    title = f"{path.name}: {subject.predicted_text}"
    detail = "" if subject.target == subject.predicted else f"maps of {subject.target_name}"
    lines = (f"input: {subject.predicted_text}", detail)
    facts = results.write(folder, stem, picture, title, lines, attributions, seconds, alpha)
    for name, method in facts["methods"].items():
        if not method["finite"]:
            console.problem(f"warning: the {name} map of {path} has values that are not finite")
    for refusal in refusals.values():
        console.line(f"{path}: not made: {refusal}")
    times = ", ".join(f"{name} {seconds_text(value)}" for name, value in seconds.items())
    console.line(f"{path}: {subject.predicted_text}{f', {detail}' if detail else ''}; {times}; {facts['sheet']}")
    return {"image": str(path), **subject.facts(), **facts, "refused": refusals}


def choose_methods(text: str) -> list[str]:
    """The methods named in "a,b" (or "all"), without repeats; Refused, with the nearest names, for an unknown one."""
    known = list(explainers.methods())
    wanted = [name.strip().lower().replace("_", "-") for name in text.split(",") if name.strip()]
    if wanted == [ALL]:
        return known
    for name in wanted:
        try:
            find(name)
        except ValueError:
            raise Refused(f"unknown method {name!r}{nearest(name, known)}") from None
    if not wanted:
        raise Refused(f"--method names no method; known: {', '.join(known)}")
    return list(dict.fromkeys(wanted))


def parse_target(text: str) -> int | None:
    """None for "auto", else the output's number."""
    if text == "auto":
        return None
    if text.isascii() and text.isdigit():
        return int(text)
    raise Refused(f"--target must be auto or the number of an output, from 0, got {text!r}")


def parse_options(texts: Sequence[str], methods: Sequence[str]) -> dict[str, dict[str, Any]]:
    """For each method its options: "key=value" goes to every method that takes the key, "method.key=value" to one.

    Values are Python literals where they read as such (8, 0.5, (3, 8, 8), True, None), text otherwise. Refused for an
    option that none of the methods takes, or that is not written so.
    """
    accepted = {name: method_options(name) for name in methods}
    chosen: dict[str, dict[str, Any]] = {name: {} for name in methods}
    for text in texts:
        left, equals, value_text = text.partition("=")
        method, dot, key = left.rpartition(".")
        method, key = method.strip().lower(), key.strip().replace("-", "_")
        if not equals or not key:
            raise Refused(f"--option must be KEY=VALUE or METHOD.KEY=VALUE, got {text!r}")
        if dot and method not in chosen:
            raise Refused(f"--option {text!r} is for a method that is not asked for{nearest(method, methods)}")
        takers = [name for name in ([method] if dot else methods) if key in accepted[name]]
        if not takers:
            known = sorted({option for name in ([method] if dot else methods) for option in accepted[name]})
            raise Refused(f"no method here takes the option {key!r}{nearest(key, known)}")
        for name in takers:
            chosen[name][key] = _literal(value_text.strip())
    return chosen


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
