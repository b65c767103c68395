"""One call in the words of whichever commit runs it: keywords that moved or got another name."""

from __future__ import annotations

import importlib
import inspect
import itertools
import warnings
from collections.abc import Callable
from typing import Any

ALIASES = (
    ("n_samples", "num_samples"),
    ("stdevs", "std"),
    ("perturbations_per_eval", "internal_batch_size"),
)
"""The newest name first."""


def public(*names: str) -> Any:
    """The first of some dotted names that there is."""
    for name in names:
        module, _, attribute = name.rpartition(".")
        try:
            return getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError):
            continue
    raise ImportError(f"none of {', '.join(names)}")


def attribute(kind: Any, made: tuple[Any, ...], *inputs: Any, **options: Any) -> Any:
    """``kind(*made).attribute(*inputs)``, each option given to the one of the two that takes it."""
    explainer, rest = _make(kind, made, kind.attribute, options)
    return explainer.attribute(*inputs, **rest)


def estimate(kind: Any, made: tuple[Any, ...], *inputs: Any, **options: Any) -> dict[str, Any]:
    """An estimate within limits, by ``estimate`` or, before there was one, by ``attribute``."""
    name = "estimate" if hasattr(kind, "estimate") else "attribute"
    explainer, rest = _make(kind, made, getattr(kind, name), options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tolerances that are not reached
        return facts(getattr(explainer, name)(*inputs, **rest))


def standard_errors(kind: Any, made: tuple[Any, ...], *inputs: Any, **options: Any) -> dict[str, Any]:
    """The map of all samples with its standard errors."""
    if hasattr(kind, "estimate"):
        found = kind(*made).estimate(*inputs, **options)
        return {"attribution": found.attribution, "error": found.error}
    attribution, error = kind(*made).attribute(*inputs, return_standard_error=True, **options)
    return {"attribution": attribution, "error": error}


def improve(kind: Any, made: tuple[Any, ...], *inputs: Any, **options: Any) -> list[dict[str, Any]]:
    """The first three estimates."""
    explainer, rest = _make(kind, made, kind.attribute, options)
    estimates = explainer.improve(*inputs, **rest)
    found = [facts(each) for each in itertools.islice(estimates, 3)]
    estimates.close()
    return found


def facts(estimate: Any) -> dict[str, Any]:
    """What is the same in every run of an estimate: all but its seconds."""
    return {name: getattr(estimate, name) for name in ("attribution", "error", "relative_error", "samples")}


def explanation(found: Any) -> dict[str, Any]:
    """What is the same in every run of an explanation."""
    return {"output": found.output, "target": found.target, "maps": dict(found.maps)}


def _make(kind: Any, made: tuple[Any, ...], method: Callable[..., Any], options: dict[str, Any]) -> Any:
    """(an explainer, the options that are left for its method)."""
    constructor, parameters = inspect.signature(kind).parameters, inspect.signature(method).parameters
    first: dict[str, Any] = {}
    rest: dict[str, Any] = {}
    for name, value in options.items():
        spellings = next((names for names in ALIASES if name in names), (name,))
        for spelling in (name, *spellings):
            if spelling in parameters or spelling in constructor:
                (rest if spelling in parameters else first)[spelling] = value
                break
        else:
            rest[name] = value  # for what the method passes on
    return kind(*made, **first), rest
