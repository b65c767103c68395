"""The explainers by name, ours and others', with what :func:`fastsal.explain` asks of them."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Mapping
from typing import Any, TypeVar

from fastsal.explainers.base import Attribution

Explainer = TypeVar("Explainer", bound=type[Attribution])

_registered: dict[str, type[Attribution]] = {}
OWN = (
    *("self", "inputs", "target", "additional_forward_args"),
    *("return_convergence_delta", "create_graph", "targets", "grad_kwargs", "custom_attribution_func", "verbose"),
)
"""Arguments of ``attribute`` that :func:`fastsal.explain` fills itself, or that make it return more than maps."""


def _key(name: Any) -> str:
    """A name without case, hyphens and the like: all spellings of a method have one."""
    return re.sub(r"[^a-z0-9]", "", str(name).lower().replace("+", "plus"))


def register(explainer: Explainer) -> Explainer:
    """Make an explainer known by its name to :func:`fastsal.explain`, :func:`fastsal.methods` and the command line.

    >>> @fastsal.register
    ... class Brightness(fastsal.Attribution):
    ...     summary = "the input itself"
    ...
    ...     @fastsal.attribution
    ...     def attribute(self, inputs, target=None, additional_forward_args=None):
    ...         task = self.task(inputs, target, additional_forward_args)
    ...         return task.once(lambda: task.result(task.inputs))

    Args:
        explainer: a class whose ``attribute`` is under :func:`fastsal.attribution`, with a summary.

    Raises:
        TypeError: for another.
        ValueError: without a summary, or with the name of another class.
    """
    described = isinstance(explainer, type) and issubclass(explainer, Attribution)
    if not described or not hasattr(getattr(explainer, "attribute", None), "describe"):
        raise TypeError(f"explainer: {explainer!r} is no Attribution with an attribute under @fastsal.attribution")
    if not explainer.summary:
        raise ValueError(f"explainer: {explainer.__name__} has no summary; say in half a line what its maps are")
    known = _registered.setdefault(_key(explainer.name), explainer)
    if (known.__module__, known.__qualname__) != (explainer.__module__, explainer.__qualname__):
        raise ValueError(f"explainer: the name {explainer.name!r} is {known.__name__}'s; give the class another name")
    _registered[_key(explainer.name)] = explainer
    return explainer


def registered() -> list[type[Attribution]]:
    """All classes, in the order in which they were registered."""
    return list(_registered.values())


def methods() -> dict[str, str]:
    """Names of the methods with a line on each.

    A name is the words of the class's name with hyphens between. Spellings that differ in case, hyphens or underscores
    alone are taken as well: ``gradcam``, ``GradCAM`` and ``gradcam++``.

    >>> fastsal.methods()["grad-cam"]
    "activations of a layer, weighted by the target's mean gradient"
    """
    return {explainer.name: explainer.summary for explainer in registered()}


def family(explainer: type[Attribution]) -> str:
    """The room that a class is from: gradient, cam, lrp, attention, perturbation or layer; empty for others'."""
    found = re.match(r"fastsal\.explainers\.(\w+)\.", explainer.__module__)
    return found[1] if found else ""


def find(name: str) -> type[Attribution]:
    """The class of a method's name, in any of its spellings.

    Raises:
        ValueError: for an unknown one, with the nearest.
    """
    found = _registered.get(_key(name))
    if found is None:
        near = difflib.get_close_matches(_key(name), _registered, n=2, cutoff=0.3)
        hint = f"; did you mean {' or '.join(_registered[each].name for each in near)}?" if near else ""
        raise ValueError(f"method: {name!r} is not one of {', '.join(methods())}{hint}")
    return found


def options(method: str) -> list[str]:
    """Names of the options that :func:`fastsal.explain` passes on to a method.

    Raises:
        ValueError: for an unknown method.
    """
    explainer = find(method)
    parameters = inspect.signature(explainer.attribute).parameters.values()  # type: ignore[attr-defined]
    found = [each.name for each in parameters if each.name not in OWN and each.kind is not each.VAR_KEYWORD]
    return [*found, "batch_size", "score"] if explainer.perturbs else [*found, "batch_size"]


def keywords(explainer: type[Attribution], given: Mapping[str, Any]) -> dict[str, Any]:
    """The given options as arguments of an explainer's ``attribute``."""
    chosen: dict[str, Any] = dict(given)
    batch_size = chosen.pop("batch_size", None)
    if batch_size is not None and explainer.per_call is not None:
        chosen.setdefault(explainer.per_call, batch_size)
    return chosen
