"""What the house holds to: files that stay small, rooms that keep to themselves, state that nobody smuggles."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

MOST_LINES = 410
MOST_BODY_LINES = 50
MOST_CONTEXT_VARIABLES = 3
PIPES = {"row_bytes", "is_inference", "could_be_per_example", "tile"}
"""What a described call does for every method, once."""
SHARED = {"arguments.py", "explained.py", "scores.py", "task.py", "base.py"}
"""Files of fastsal/explainers where it is done."""
LONG_METHODS = (
    "fastsal/explainers/gradient/integrated_gradients.py",
    "fastsal/explainers/gradient/noise_tunnel.py",
    "fastsal/explainers/perturbation/rise/rise.py",
)
KEEPS_TO_ITSELF = ("fastsal/explainers", "fastsal/explanation", "fastsal/engine/incremental")
PRIVATE_FOR_ALL = {"fastsal._version", "fastsal._torch"}
OP_ROOMS = ("fastsal.ops", "fastsal.reference", "fastsal_kernels")
"""Here a leading underscore says that a file is no op; the three share such files."""


def _parsed(root: Path, *folders: str) -> Iterator[tuple[str, ast.Module]]:
    """Files of some folders with their syntax trees, by their paths from the root."""
    for folder in folders:
        for file in sorted((root / folder).rglob("*.py")):
            yield str(file.relative_to(root)), _tree(file)


@cache
def _tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text())


def _identifiers(tree: ast.AST) -> set[str]:
    """Every name that code uses: variables, attributes, arguments, keywords, definitions and imports."""
    found: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name) | ast.alias(name=name):
                found.add(name)
            case ast.keyword(arg=str(name)) | ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                found.add(name)
    return found


def test_methods_lay_no_pipes(root: Path) -> None:
    found = {
        path: sorted(used)
        for path, tree in _parsed(root, "fastsal/explainers", "fastsal/metrics")
        if not (Path(path).parent == Path("fastsal/explainers") and Path(path).name in SHARED)
        if (used := PIPES & _identifiers(tree))
    }
    assert found == {}


def _body_lines(function: ast.FunctionDef) -> int:
    """Lines of a function's body, without its docstring."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return (function.end_lineno or 0) - body[0].lineno + 1 if body else 0


@pytest.mark.parametrize("path", LONG_METHODS)
def test_what_was_long_is_short(root: Path, path: str) -> None:
    functions = [node for node in ast.walk(ast.parse((root / path).read_text())) if isinstance(node, ast.FunctionDef)]
    assert "attribute" in {function.name for function in functions}
    assert [
        f"{each.name}: {_body_lines(each)} lines" for each in functions if _body_lines(each) > MOST_BODY_LINES
    ] == []


def test_few_context_variables(root: Path) -> None:
    found = [
        f"{path}:{node.lineno}"
        for path, tree in _parsed(root, "fastsal")
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1].split("[")[0] == "ContextVar"
    ]
    assert len(found) <= MOST_CONTEXT_VARIABLES, found


def _pins(tree: ast.AST) -> Iterator[int]:
    """Lines that put something into another object's ``__dict__``, or take out what was put there."""
    for node in ast.walk(tree):
        match node:
            case (
                ast.Subscript(value=ast.Attribute(value=owner, attr="__dict__"))
                | ast.Call(
                    func=ast.Attribute(
                        value=ast.Attribute(value=owner, attr="__dict__"), attr="get" | "setdefault" | "pop"
                    )
                )
            ) if not (isinstance(owner, ast.Name) and owner.id == "self"):
                yield node.lineno


def test_nothing_is_pinned_on_an_explainer(root: Path) -> None:
    found = [f"{path}:{line}" for path, tree in _parsed(root, *KEEPS_TO_ITSELF) for line in _pins(tree)]
    assert found == []


def _module_of(path: str) -> str:
    parts = Path(path).with_suffix("").parts
    parts = parts[1:] if parts[0] == "kernels" else parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _private_imports(path: str, tree: ast.AST, modules: set[str]) -> Iterator[str]:
    """Imports of a module ``_x`` whose folder the file is not in."""
    own = _module_of(path)
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *[f"{node.module}.{alias.name}" for alias in node.names]]
        for name in names:
            folder, _, last = name.rpartition(".")
            if name not in modules or not last.startswith("_") or last.endswith("__") or name in PRIVATE_FOR_ALL:
                continue
            if not f"{own}.".startswith(f"{folder}.") and not (
                own.startswith(OP_ROOMS) and folder.startswith(OP_ROOMS)
            ):
                yield f"{path}:{node.lineno} imports {name}"


def test_a_leading_underscore_means_used_in_this_folder_only(root: Path) -> None:
    files = dict(_parsed(root, "fastsal", "kernels/fastsal_kernels"))
    modules = set(map(_module_of, files))
    assert [line for path, tree in files.items() for line in _private_imports(path, tree, modules)] == []


@pytest.mark.parametrize(
    ("line", "private"),
    [
        ("from fastsal.explainers.lrp._mode import RelevanceMode", True),
        ("from fastsal.explainers.lrp import _mode", True),
        ("import fastsal.explainers.lrp._mode", True),
        ("from fastsal.explainers.lrp.rules import _same", False),
        ("from fastsal import _torch", False),
        ("from fastsal.metrics._blur import blurred", False),
    ],
)
def test_private_imports_are_found(line: str, private: bool) -> None:
    modules = {
        "fastsal.explainers.lrp._mode",
        "fastsal.explainers.lrp.rules",
        "fastsal._torch",
        "fastsal.metrics._blur",
    }
    assert bool(list(_private_imports("fastsal/metrics/curves.py", ast.parse(line), modules))) is private


@pytest.mark.parametrize("folder", ["fastsal", "kernels", "tools", "benchmarks"])
def test_no_file_is_long(root: Path, folder: str) -> None:
    lengths = {str(f.relative_to(root)): len(f.read_text().splitlines()) for f in (root / folder).rglob("*.py")}
    assert {path: lines for path, lines in lengths.items() if lines > MOST_LINES} == {}
