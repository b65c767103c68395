"""Contact sheets."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fastsal.viz import Panel, contact_sheet
from fastsal.viz.sheet import seconds_text


def panel(height: int = 96, width: int = 96, name: str = "gradcam", value: int = 200) -> Panel:
    return Panel(torch.full((height, width, 3), value, dtype=torch.uint8), name, "12 ms")


def test_rows_are_even() -> None:
    """Five are three and two, not four and one."""
    sheets = [contact_sheet([panel()] * count, "title", columns=4, tile=100) for count in (1, 3, 4, 5, 6, 8, 9)]
    one, three, four, five, six, eight, nine = sheets
    assert one.height == three.height == four.height < five.height == six.height == eight.height < nine.height
    assert one.width < three.width == five.width == six.width == nine.width < four.width == eight.width


def test_text_of_several_lines_is_one() -> None:
    contact_sheet([panel(name="a\nb\r\x1b[31mc")], "new\nline\x00")


def test_images_keep_their_colour_and_proportions() -> None:
    sheet = np.asarray(contact_sheet([panel(50, 100)], "", tile=200).convert("RGB"))
    rows, columns = np.nonzero((sheet == 200).all(axis=2))
    assert (np.ptp(columns) + 1, np.ptp(rows) + 1) == (200, 100)


def test_text_is_drawn_and_cut_to_its_place() -> None:
    blank, named = (np.asarray(contact_sheet([panel(name=name)], "")) for name in ("", "n" * 200))
    changed = np.nonzero((blank != named).any(axis=2))
    assert changed[0].size > 50
    assert changed[1].max() < blank.shape[1] - 8


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.00081, "0.8 ms"), (0.0123, "12 ms"), (0.9994, "999 ms"), (3.44, "3.4 s"), (80.0, "80.0 s")]
)
def test_times(seconds: float, text: str) -> None:
    assert seconds_text(seconds) == text


def test_errors() -> None:
    with pytest.raises(ValueError, match="at least one panel"):
        contact_sheet([], "")
    with pytest.raises(ValueError, match="columns and tile"):
        contact_sheet([panel()], "", columns=0)
    with pytest.raises(ValueError, match="uint8"):
        contact_sheet([Panel(torch.zeros(3, 8, 8, dtype=torch.uint8), "")], "")
