"""Every public name with its signature, as a file that a test compares: a change of the interface is a change of it.

python -m tools.api_surface            # writes tests/api_surface.json
python -m tools.api_surface --check    # what would change in it
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import inspect
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType, NoneType
from typing import Any

MODULES = (
    "fastsal",
    "fastsal.deploy",
    "fastsal.explanation",
    "fastsal.lrp",
    "fastsal.metrics",
    "fastsal.models",
    "fastsal.ops",
    "fastsal.ops.attention",
    "fastsal.ops.cam",
    "fastsal.ops.masks",
    "fastsal.ops.noise",
    "fastsal.ops.patches",
    "fastsal.ops.path",
    "fastsal.ops.ranks",
    "fastsal.ops.windows",
    "fastsal.targets",
    "fastsal.viz",
    "fastsal.compat.captum",
    "fastsal.compat.grad_cam",
    "fastsal.compat.grad_cam.utils.image",
    "fastsal.compat.grad_cam.utils.model_targets",
    "fastsal.compat.grad_cam.utils.reshape_transforms",
    "fastsal.compat.torchcam.methods",
    "fastsal.compat.torchcam.utils",
)
"""What users import; a name that one of these has from an earlier one is listed there alone."""
FILE = Path(__file__).resolve().parents[1] / "tests" / "api_surface.json"
Surface = dict[str, dict[str, Any]]


class _Written:
    """An annotation or a default as it is written: functions and classes by their names."""

    def __init__(self, value: Any) -> None:
        named = inspect.isroutine(value) or inspect.isclass(value)
        self.text = value.__qualname__ if named else repr(value)

    def __repr__(self) -> str:
        return self.text


class _Annotation(_Written):
    def __init__(self, value: str) -> None:
        self.text = value


def signature(value: Any) -> str:
    """The arguments and the result of a callable."""

    def annotation(given: Any) -> Any:
        return _Annotation(given) if isinstance(given, str) else given

    found = inspect.signature(value)
    parameters = [
        each.replace(
            annotation=annotation(each.annotation),
            default=each.empty if each.default is each.empty else _Written(each.default),
        )
        for each in found.parameters.values()
    ]
    return str(found.replace(parameters=parameters, return_annotation=annotation(found.return_annotation)))


def names(module: ModuleType) -> list[str]:
    """A module's public names: ``__all__``, or what is defined in it."""
    listed = getattr(module, "__all__", None)
    if listed is not None:
        return sorted(listed)
    return sorted(
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    )


def members(kind: type) -> dict[str, str]:
    """A class's own public methods, properties and attributes; the values of those that are facts."""
    found: dict[str, str] = {}
    for name, value in vars(kind).items():
        if name.startswith("_") and name not in ("__call__", "__enter__", "__exit__"):
            continue
        plain = value.__func__ if isinstance(value, (classmethod, staticmethod)) else value
        if inspect.isroutine(plain):
            found[name] = signature(plain)
        elif isinstance(value, property):
            found[name] = "property"
        elif isinstance(value, (bool, int, NoneType)) or (isinstance(value, str) and " " not in value):
            found[name] = f"= {value!r}"
        else:
            found[name] = type(value).__name__
    return dict(sorted(found.items()))


def described(value: Any) -> Any:
    """A name's entry: a signature, a class's constructor, bases and members, or what kind of thing it is."""
    if isinstance(value, ModuleType):
        return "module"
    if inspect.isroutine(value):
        return signature(value)
    if not inspect.isclass(value):
        return type(value).__name__
    if issubclass(value, tuple) and hasattr(value, "_fields"):
        return {"fields": ", ".join(value._fields)} | {k: v for k, v in members(value).items() if v.startswith("(")}
    bases = [_path(base) for base in value.__bases__ if base is not object]
    try:
        made = {"constructor": signature(value)}
    except ValueError:
        made = {}
    return {**made, "bases": ", ".join(bases), **members(value)}


def _path(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def surface() -> Surface:
    """Public names by module, and the bases of theirs that are not public themselves."""
    found: Surface = {}
    classes: list[type] = []
    seen: dict[int, str] = {}
    for path in MODULES:
        module = importlib.import_module(path)
        found[path] = {}
        for name in names(module):
            value = getattr(module, name)
            first = seen.setdefault(id(value), f"{path}.{name}") if callable(value) else f"{path}.{name}"
            found[path][name] = described(value) if first == f"{path}.{name}" else first
            classes += [value] if inspect.isclass(value) else []
    bases = {base for kind in classes for base in kind.__mro__ if base.__module__.split(".")[0] == "fastsal"}
    found["bases"] = {_path(base): described(base) for base in sorted(bases - set(classes), key=_path)}
    return found


def text(found: Mapping[str, Any]) -> str:
    """The file's text."""
    return json.dumps(found, indent=1, ensure_ascii=False) + "\n"


def changes() -> list[str]:
    """Lines of a difference between the file and the package as it is."""
    kept = FILE.read_text().splitlines() if FILE.exists() else []
    return list(difflib.unified_diff(kept, text(surface()).splitlines(), "kept", "now", lineterm="", n=1))


def main(arguments: list[str] | None = None) -> int:
    """Writes the file, or says what would change in it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="print what would change; 1 where something would")
    if parser.parse_args(arguments).check:
        lines = changes()
        print("\n".join(lines))
        return bool(lines)
    found = surface()
    FILE.write_text(text(found))
    print(f"{sum(map(len, found.values()))} names in {FILE.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
