"""The house as a whole: five places for each op, who imports whom, documented names, files that name no machine."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fastsal

PLACES = {
    "kernel": ("kernels/fastsal_kernels", ""),
    "reference": ("fastsal/reference", ""),
    "op": ("fastsal/ops", ""),
    "test": ("tests/ops", "test_"),
    "benchmark": ("benchmarks/ops", "bench_"),
}
MACHINE = re.compile(r"(?<![\w.~>)}*-])/(?:h[o]me|U[s]ers|r[o]ot|t[m]p|w[o]rk)/\w")
REGISTRY = re.compile(r"p[y]pi\.org|python[h]osted|download\.py[t]orch|--(?:extra-)?in[d]ex-url|find-[l]inks")


def _op_names(root: Path, place: str) -> set[str]:
    folder, prefix = PLACES[place]
    # A leading underscore is for what is no op, here too: tests/ops/test__tune.py tests fastsal/ops/_tune.py.
    return {file.stem.removeprefix(prefix) for file in (root / folder).glob(f"{prefix}[a-z]*.py")} - {"conftest"}


@pytest.mark.parametrize("place", PLACES)
def test_each_op_has_its_five_places(root: Path, place: str) -> None:
    assert _op_names(root, place) == _op_names(root, "reference")


def test_import_contract(root: Path) -> None:
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"]
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join([str(root), str(root / "kernels")]))
    result = subprocess.run(
        [*command, "--no-cache"], cwd=root, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr


def _imported(file: Path) -> set[str]:
    """Top-level names that a file imports, standard library aside."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").split(".")[0])
    return names - set(sys.stdlib_module_names)


@pytest.mark.parametrize(
    ("folder", "allowed"),
    [
        ("fastsal/reference", {"torch", "fastsal"}),
        ("kernels/fastsal_kernels", {"torch", "triton", "fastsal_kernels"}),
    ],
)
def test_lowest_rooms_import_only_what_they_may(root: Path, folder: str, allowed: set[str]) -> None:
    for file in (root / folder).rglob("*.py"):
        assert _imported(file) <= allowed, file


def _is_private(name: str) -> bool:
    return any(part.startswith("_") and not part.endswith("__") for part in name.split("."))


def _private_names_of_torch(file: Path) -> list[str]:
    """Imported from torch, or attributes of what was."""
    found, roots, nodes = [], set(), list(ast.walk(ast.parse(file.read_text())))
    for node in nodes:
        origin = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = {origin + alias.name: alias.asname or alias.name for alias in node.names}
            of_torch = {name: bound for name, bound in names.items() if name.split(".")[0] == "torch"}
            roots |= {bound.split(".")[0] for bound in of_torch.values()}
            found += [name for name in of_torch if _is_private(name)]
    for node in nodes:
        if isinstance(node, ast.Attribute) and _is_private(node.attr):
            name = ast.unparse(node)
            if name.split(".")[0] in roots:
                found.append(name)
    return found


def test_one_file_names_what_is_private_to_torch(root: Path) -> None:
    there = root / "fastsal" / "_torch.py"
    assert _private_names_of_torch(there)
    for file in {*(root / "fastsal").rglob("*.py"), *(root / "kernels" / "fastsal_kernels").rglob("*.py")} - {there}:
        assert _private_names_of_torch(file) == [], file


def _is_device_function(function: ast.FunctionDef) -> bool:
    return any(ast.unparse(decorator).startswith("triton.jit") for decorator in function.decorator_list)


def test_host_functions_beside_kernels_are_annotated(root: Path) -> None:
    bare = [
        f"{file.name}: {node.name}"
        for file in (root / "kernels" / "fastsal_kernels").rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef) and not _is_device_function(node)
        if node.returns is None or not all(argument.annotation for argument in node.args.args + node.args.kwonlyargs)
    ]
    assert bare == []


def test_public_names_exist_and_are_documented() -> None:
    assert len(set(fastsal.__all__)) == len(fastsal.__all__)
    documented = {name: getattr(fastsal, name).__doc__ for name in fastsal.__all__ if name != "__version__"}
    assert [name for name, text in documented.items() if not (text or "").strip()] == []


def _tracked(root: Path) -> list[Path]:
    result = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode != 0:
        pytest.skip("not a git checkout")
    return [root / name for name in result.stdout.split("\0") if name and (root / name).is_file()]


@pytest.mark.parametrize("pattern", [MACHINE, REGISTRY], ids=["machine-path", "registry-host"])
def test_no_file_names_a_machine(root: Path, pattern: re.Pattern[str]) -> None:
    found = [
        f"{file.relative_to(root)}: {line.strip()}"
        for file in _tracked(root)
        for line in file.read_text(errors="ignore").splitlines()
        if file.suffix in {"", ".cfg", ".cmake", ".json", ".md", ".py", ".toml", ".txt", ".yaml", ".yml"}
        and pattern.search(line)
    ]
    assert found == []
