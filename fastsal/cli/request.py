"""What the arguments of ``fastsal explain`` ask for: methods, their options, the target, the model."""

from __future__ import annotations

import argparse
import ast
import re
from collections.abc import Sequence
from typing import Any

from fastsal import explainers, models
from fastsal.cli.errors import Refused, first_line, nearest
from fastsal.explainers.registry import find
from fastsal.explainers.registry import options as method_options
from fastsal.models.weights import read_names

ALL = "all"
"""Every method that can explain this model: the others say why they cannot."""


def load_model(arguments: argparse.Namespace) -> tuple[models.LoadedModel, int | None]:
    """The model that the arguments describe, and how many names of classes were given; Refused where there is none."""
    try:
        classes, names = None, None
        if arguments.classes is not None and arguments.classes.isascii() and arguments.classes.isdigit():
            classes = int(arguments.classes)
            if not 1 <= classes <= 10**6:
                raise Refused(f"--classes must be at least 1 and at most a million, or a file of names, got {classes}")
        elif arguments.classes is not None:
            names = read_names(arguments.classes)
            classes = len(names)
        if arguments.class_names is not None:
            names = read_names(arguments.class_names)
        loaded = models.load(
            arguments.model,
            arguments.weights,
            arguments.device,
            arguments.precision,
            size=arguments.size,
            mean=arguments.mean,
            std=arguments.std,
            class_names=names,
            classes=classes,
            untrained=arguments.untrained,
            trust_code=arguments.trust_code,
        )
        return loaded, None if names is None else len(names)
    except Refused:
        raise
    except FileNotFoundError as error:
        raise Refused(f"{error.filename} is not there" if error.filename else first_line(error)) from error
    except (ValueError, ImportError) as error:
        raise Refused(first_line(error)) from error
    except OSError as error:
        raise Refused(f"{error.filename or arguments.model}: {error.strerror or first_line(error)}") from error
    except (Exception, SystemExit) as error:  # of the model's own code, which may raise anything
        named = str(error).startswith("model: ")
        raise Refused(first_line(error) if named else f"model {arguments.model}: {_classed(error)}") from error


def _classed(error: BaseException) -> str:
    name, text = type(error).__name__, first_line(error)
    return text if text.startswith(name) else f"{name}: {text}"


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
    # Spelled as asked for, since results are named so, but for what is no part of a file's name.
    spelled = [name if re.fullmatch(r"[a-z0-9+-]+", name) else find(name).name for name in wanted]
    return list({find(name): name for name in reversed(spelled)}.values())[::-1]


def parse_target(text: str) -> int | None:
    """None for "auto", else the output's number."""
    if text == "auto":
        return None
    if text.isascii() and text.isdigit() and len(text) < 19:
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
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return text
