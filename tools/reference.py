"""The pages of the reference: every public name, by the room that it lives in. `make docs` calls it."""

from __future__ import annotations

import importlib
import inspect
import types
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import fastsal

ROOMS = {
    "fastsal.explainers.gradient": ("gradient", "Gradient-based explainers"),
    "fastsal.explainers.cam": ("cam", "Class activation maps"),
    "fastsal.explainers.lrp": ("lrp", "Layer-wise relevance propagation"),
    "fastsal.explainers.attention": ("attention", "Attention"),
    "fastsal.explainers.attending": ("attention", "Attention"),
    "fastsal.explainers.perturbation": ("perturbation", "Perturbation-based explainers"),
    "fastsal.explainers.layer": ("layer", "To a layer"),
    "fastsal.explainers.text": ("text", "Prompts and generated texts"),
    "fastsal.detect": ("detect", "Detectors"),
    "fastsal.explainers": ("describing", "Describing a call"),
    "fastsal": ("fastsal", "One call, preparing, exporting"),
}
"""Page and title of the names of ``fastsal.__all__``, by the package that defines them; the longest match counts."""
MODULES = {
    "lrp": "Rules of LRP",
    "targets": "Targets",
    "metrics": "Metrics",
    "viz": "Pictures",
    "models": "Models",
    "ops": "Ops",
}
"""Modules of the front door with names of their own."""
COMPAT = ("captum", "grad_cam", "grad_cam.utils.image", "torchcam")


def write(folder: Path) -> None:
    """Writes the pages, as reStructuredText, into a folder that may hold those of an earlier call."""
    folder.mkdir(exist_ok=True)
    pages: dict[str, tuple[str, list[str]]] = {}
    for name in fastsal.__all__:  # type: ignore[attr-defined]  # made when it is asked for
        member = getattr(fastsal, name)
        if isinstance(member, (types.ModuleType, types.UnionType)) or name == "__version__":
            continue
        page, title = ROOMS[_room(member.__module__)]
        pages.setdefault(page, (title, []))[1].append(f"fastsal.{name}")
    written = {page: _page(title, names) for page, (title, names) in pages.items()}
    public = [getattr(fastsal, name.removeprefix("fastsal.")) for _, names in pages.values() for name in names]
    written["bases"] = _page("Base classes, results", _behind(public), "What public names derive from or return.")
    for name, title in MODULES.items():
        written[f"module-{name}"] = _module_page(title, [f"fastsal.{name}"])
    written["compat"] = _module_page("Other packages' names", [f"fastsal.compat.{name}" for name in COMPAT])
    first = [page for page, _ in dict.fromkeys(ROOMS.values()) if page in written]
    order = ["fastsal", *(page for page in first if page != "fastsal"), *(p for p in written if p not in first)]
    written["index"] = _index(order)
    for page, text in written.items():
        file = folder / f"{page}.rst"
        if not file.exists() or file.read_text() != text:
            file.write_text(text)
    for file in folder.glob("*.rst"):
        if file.stem not in written:
            file.unlink()


def _room(module: str) -> str:
    return max((room for room in ROOMS if f"{module}.".startswith(f"{room}.")), key=len)


def _behind(public: Sequence[Any]) -> list[str]:
    """The classes without a public name that public ones derive from, or that their methods and fields are of."""
    found: dict[type, None] = {}
    pending = list(public)
    while pending:
        each = pending.pop()
        bases = each.__mro__ if inspect.isclass(each) else ()
        members = [(name, member) for base in bases for name, member in vars(base).items()]
        functions = [each, *(member for name, member in members if not name.startswith("_"))]
        kinds = (*bases, *(kind for function in functions for kind in _returned(function)), *_fields(each))
        new = [kind for kind in kinds if kind not in found and kind.__module__.startswith("fastsal.")]
        found |= dict.fromkeys(new)
        pending += [kind for kind in new if issubclass(kind, tuple)]
    named = [kind for kind in found if kind not in public and not kind.__name__.startswith("_")]
    return sorted(f"{kind.__module__}.{kind.__name__}" for kind in named)


def _returned(function: Any) -> Iterator[type]:
    """The classes in a function's return annotation."""
    if inspect.isfunction(function):
        try:
            hints = typing.get_type_hints(function)
        except NameError:  # a name that only type checkers import
            return
        yield from _classes(hints.get("return"))


def _fields(record: Any) -> Iterator[type]:
    """The classes of a named tuple's fields."""
    if inspect.isclass(record) and issubclass(record, tuple):
        for annotation in typing.get_type_hints(record).values():
            yield from _classes(annotation)


def _classes(annotation: Any) -> Iterator[type]:
    if inspect.isclass(annotation) and not typing.get_origin(annotation):
        yield annotation
    for part in typing.get_args(annotation):
        yield from _classes(part)


def _members(module: str) -> Iterator[str]:
    found: Any = importlib.import_module(module)
    own = [name for name, member in vars(found).items() if getattr(member, "__module__", None) == module]
    for name in getattr(found, "__all__", [name for name in own if not name.startswith("_")]):
        member = getattr(found, name)
        if isinstance(member, types.ModuleType):
            yield from _members(member.__name__)
        elif inspect.isclass(member) or inspect.isfunction(member):
            yield f"{module}.{name}"


def _page(title: str, names: Sequence[str], text: str = "") -> str:
    return "\n".join([*_heading(title, "="), text, *_table(names), *_entries(names)])


def _module_page(title: str, modules: Sequence[str]) -> str:
    lines = _heading(title, "=")
    for module in modules:
        names = list(_members(module))
        about = [f".. automodule:: {module}", "   :no-members:", "", ".. py:currentmodule:: None"]
        lines += [*about, *_table(names), *_entries(names)]
    return "\n".join(lines)


def _heading(title: str, line: str) -> list[str]:
    return [title, line * len(title), ""]


def _table(names: Sequence[str]) -> list[str]:
    return ["", ".. autosummary::", "   :nosignatures:", "", *(f"   {name}" for name in names), ""]


def _entries(names: Sequence[str]) -> list[str]:
    return [line for name in names for line in (f".. {_directive(name)}:: {name}", "")]


def _directive(name: str) -> str:
    module, _, last = name.rpartition(".")
    member = getattr(importlib.import_module(module), last)
    if inspect.isclass(member):
        return "autoexception" if issubclass(member, Exception) else "autoclass"
    return "autofunction" if inspect.isfunction(member) else "autodata"


def _index(pages: Sequence[str]) -> str:
    text = "Every public name, from its docstring. `help(name)` in Python shows the same."
    toctree = [".. toctree::", "   :maxdepth: 1", "", *(f"   {page}" for page in pages)]
    return "\n".join([*_heading("Reference", "="), text.replace("`", "``"), "", *toctree, ""])
