"""Changes of a model between two calls: each shortcut is right in the second, and is made anew where it must be."""

from __future__ import annotations

import warnings

import pytest
import torch

from tools import changes
from tools.changes_of import CHANGES, Change

NAMES = {change.name: change for change in CHANGES}
TRACED = (
    "weights: through NumPy",
    "weights: another parameter",
    "buffers: through .data",
    "attribute: a number",
    "attribute: an item of a list",
    "global: a number",
    "hook: added",
    "hook: what it closed over",
    "part: norm to identity",
    "forward: of a part",
)
"""Kinds that `make test` tries; the others are a part of `make test-long`."""


def kept(change: Change) -> dict[str, str]:
    """A kind's cells in the table of docs/changes.md."""
    (line,) = (line for line in changes.PAGE.read_text().splitlines() if line.startswith(f"| {change.name} |"))
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    return dict(zip(changes.WAYS, cells[1:], strict=True))


def judged(change: Change, way: str) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of what PyTorch did not count
        return changes.judged(change, way)


EACH = [pytest.param(name, marks=() if name in TRACED else pytest.mark.long) for name in NAMES]


@pytest.mark.parametrize("name", EACH)
def test_each_way_is_right_after_it(name: str) -> None:
    table = kept(NAMES[name])
    ways = [way for way in changes.WAYS if way != "incremental"]
    assert {way: judged(NAMES[name], way) for way in ways} == {way: table[way] for way in ways}
    assert set(table.values()) <= {"right", "rebuilt", "plain"}


@pytest.mark.parametrize("name", EACH)
def test_incremental_occlusion_is_right_after_it(name: str) -> None:
    assert judged(NAMES[name], "incremental") == kept(NAMES[name])["incremental"]


def test_the_table_has_each_kind_once() -> None:
    lines = changes.PAGE.read_text().split(changes.BEGIN)[1].split(changes.END)[0].strip().splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == list(NAMES)
    assert len(NAMES) == len(CHANGES) >= 60


def test_a_way_that_is_stale_is_told() -> None:
    """The table can tell: a compiled explainer's options are fixed, and here no new one is made for other arguments."""

    class Deaf(changes.Way):
        def shortcut(self, arguments: tuple[object, ...]) -> torch.Tensor:
            return super().shortcut(()) if arguments else super().shortcut(arguments)

    change = NAMES["argument: None"]
    model = changes.network()
    way = Deaf("compile", model, ())
    apart = (way.shortcut(change.arguments(True)) - way.plain(change.arguments(True))).abs().max()
    assert apart > 1e-3
