"""What a program takes from Captum, told without running it."""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from fastsal.compat import captum

PACKAGES = ("captum.attr", "captum.metrics")
"""Whose names :func:`fastsal.compat.captum.install` replaces."""


class Use(NamedTuple):
    """A name that a program takes from Captum.

    Attributes:
        line: where it first does.
        name: in full, as ``captum.attr.Saliency``.
        ours: what takes its place; empty where nothing does.
    """

    line: int
    name: str
    ours: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.name}: {self.ours or 'as Captum has it'}"


def uses(source: str) -> list[Use]:
    """The names that Python code takes from Captum, each once, in the order of their lines.

    >>> from fastsal.compat.captum.report import uses
    >>> [use.ours for use in uses("from captum.attr import Saliency, VLLMProvider")]
    ['fastsal.compat.captum.Saliency', '']

    Raises:
        SyntaxError: for what is no Python.
    """
    tree = ast.parse(source)
    modules: dict[str, str] = {}
    found: dict[str, int] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for each in node.names:
                if each.name.split(".")[0] == "captum":
                    modules[each.asname or each.name.split(".")[0]] = each.name if each.asname else "captum"
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "captum" and not node.level:
            for each in node.names:
                name = f"{node.module}.{each.name}"
                if name in PACKAGES:
                    modules[each.asname or each.name] = name
                else:
                    found[name] = min(node.lineno, found.get(name, node.lineno))
    for name, line in _attributes(tree, modules):
        found[name] = min(line, found.get(name, line))
    return [Use(line, name, _ours(name)) for name, line in sorted(found.items(), key=lambda each: (each[1], each[0]))]


def _attributes(tree: ast.AST, modules: dict[str, str]) -> Iterator[tuple[str, int]]:
    """Names that are taken as attributes of imported modules of Captum's, with their lines."""
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute) or id(node) in inner:
            continue
        parts: list[str] = []
        below: ast.expr = node
        while isinstance(below, ast.Attribute):
            parts.insert(0, below.attr)
            below = below.value
        if isinstance(below, ast.Name) and below.id in modules:
            full = ".".join([modules[below.id], *parts])
            package = next((each for each in PACKAGES if full.startswith(f"{each}.")), None)
            yield (full if package is None else ".".join(full.split(".")[:3])), node.lineno


def _ours(name: str) -> str:
    package, _, last = name.rpartition(".")
    if package == "captum.attr" and last in captum.BASES:
        return f"either package's {last}"
    if name == "captum.attr.RemoteLLMAttribution":
        return "Captum's own, which takes our methods and prompts"
    known = {"visualization", *(each.__name__ for each in (*captum.CLASSES, *captum.TEXTS, *captum.AROUND))}
    if package == "captum.attr" and last in known:
        home = "fastsal.compat.captum" if hasattr(captum, last) else "fastsal"
        return f"{home}.{last}"
    if package == "captum.metrics" and last in {each.__name__ for each in captum.FUNCTIONS}:
        return f"fastsal.metrics.{last}"
    return ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the report of each program; 1 where a name stays Captum's own or a file cannot be read, else 0."""
    parser = argparse.ArgumentParser(
        prog="python -m fastsal.compat.captum", description="what programs take from Captum, and what they would get"
    )
    parser.add_argument("programs", nargs="+", type=Path, metavar="PROGRAM.py")
    status = 0
    for path in parser.parse_args(arguments).programs:
        try:
            found = uses(path.read_text(encoding="utf-8"))
        except (OSError, SyntaxError, UnicodeDecodeError) as error:
            print(f"{path}: {error}", file=sys.stderr)
            status = 1
            continue
        replaced = sum(bool(use.ours) for use in found)
        print(f"{path}: {replaced} of {len(found)} names of Captum's are replaced by install()")
        for use in found:
            print(f"  {use}")
        status = max(status, int(replaced < len(found)))
    return status
