"""The papers are true: names exist, code runs, links lead somewhere, variables are listed, the README stays short."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastsal.explainers import registry

ROOT = Path(__file__).resolve().parents[1]
PAPERS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
RUN = {
    "README": True,
    "CONTRIBUTING": False,
    "index": False,
    "quick-start": True,
    "gradient": True,
    "cam": False,
    "lrp": False,
    "attention": False,
    "perturbation": True,
    "layer": False,
    "targets": False,
    "metrics": False,
    "faster": True,
    "threads": True,
    "from-captum": False,
    "from-grad-cam": False,
    "troubleshooting": True,
}
"""Pages whose Python runs, from top to bottom; whether that takes more than a few seconds."""
FENCE = re.compile(r"^(?P<mark>```+)(?P<kind>[^\n]*)\n(?P<text>.*?)^(?P=mark)$", re.S | re.M)
SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
NAME = re.compile(r"(?<![\w./-])fastsal(?:\.[A-Za-z_]\w*)+")
FILES = re.compile(r"\.(?:md|py|toml|txt|so|h|json|pt2|cmake)$")
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)")
VARIABLE = re.compile(r"environ(?:\.get\(|\[)\s*\"(\w+)\"|getenv\(\"(\w+)\"\)|^VARIABLE = \"(\w+)\"", re.M)


def _papers() -> list[Any]:
    return [pytest.param(paper, id=paper.stem) for paper in PAPERS]


def _blocks(paper: Path, kind: str) -> list[str]:
    return [found["text"] for found in FENCE.finditer(paper.read_text()) if found["kind"].strip() == kind]


def _names(paper: Path) -> set[str]:
    """Dotted names of fastsal in code, inline or in blocks of Python."""
    text = paper.read_text()
    code = [*SPAN.findall(FENCE.sub("", text)), *_blocks(paper, "python")]
    return {name for piece in code for name in NAME.findall(piece) if not FILES.search(name)}


def _resolve(name: str) -> Any:
    """The object of a dotted name: the longest part of it that is a module, and attributes from there."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for part in parts[count:]:
            found = getattr(found, part)
        return found
    raise ModuleNotFoundError(name)


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200


@pytest.mark.parametrize("paper", _papers())
def test_every_name_exists(paper: Path) -> None:
    missing = []
    for name in sorted(_names(paper)):
        try:
            _resolve(name)
        except (AttributeError, ModuleNotFoundError) as error:
            missing.append(f"{name}: {error}")
    assert missing == []


@pytest.mark.parametrize("paper", _papers())
def test_every_import_exists(paper: Path) -> None:
    """Also in blocks that are not run."""
    for block in _blocks(paper, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "fastsal":
                for alias in node.names:
                    _resolve(f"{node.module}.{alias.name}")


@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=pytest.mark.slow if long else ()) for page, long in RUN.items()]
)
def test_every_block_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paper = next(paper for paper in PAPERS if paper.stem == page)
    monkeypatch.chdir(tmp_path)
    # What a page registers is known to that page alone.
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    names: dict[str, Any] = {"__name__": "__page__"}
    for block in _blocks(paper, "python"):
        exec(compile(block, str(paper), "exec"), names)


def test_every_page_with_code_is_run() -> None:
    elsewhere = {"deploy"}
    assert {paper.stem for paper in PAPERS if _blocks(paper, "python")} <= set(RUN) | elsewhere


@pytest.mark.parametrize("paper", _papers())
def test_every_link_leads_to_a_file(paper: Path) -> None:
    made = ("gallery/", "api/")  # by make docs
    targets = LINK.findall(FENCE.sub("", paper.read_text()))
    assert [to for to in targets if not to.startswith(made) and not (paper.parent / to).exists()] == []


def test_every_page_is_in_the_table_of_contents() -> None:
    listed = {line.strip() for block in _blocks(ROOT / "docs" / "index.md", "{toctree}") for line in block.splitlines()}
    assert {paper.stem for paper in (ROOT / "docs").glob("*.md")} - {"index"} <= listed


def _sources() -> Iterator[Path]:
    for folder in ("fastsal", "kernels/fastsal_kernels", "kernels/native"):
        for file in (ROOT / folder).rglob("*"):
            if file.suffix in (".py", ".cpp", ".h") and "tests" not in file.parts:
                yield file


def test_every_environment_variable_is_listed() -> None:
    read = {name for file in _sources() for groups in VARIABLE.findall(file.read_text()) for name in groups if name}
    listed = {
        name for line in (ROOT / "docs" / "environment.md").read_text().splitlines() for name in SPAN.findall(line)
    }
    assert "FASTSAL_BACKEND" in read
    assert read <= listed


def test_the_diagram_of_imports_is_the_contract() -> None:
    found = re.search(r"^layers = \[(.*?)^\]", (ROOT / "pyproject.toml").read_text(), re.S | re.M)
    assert found is not None
    layers = [layer.split(" | ") for layer in re.findall(r'"([^"]+)"', found[1])]
    diagram = " → ".join(" | ".join(room for room in layer if not room.startswith("_")) for layer in layers)
    for paper in (ROOT / "CONTRIBUTING.md", ROOT / "docs" / "architecture.md"):
        assert diagram in paper.read_text()
