"""Words in colours: the same words and colours as Captum 0.9.0's, in HTML that holds what is in them."""

from __future__ import annotations

import html
import html.parser
import re
from typing import Any

import numpy as np
import pytest
import torch
from captum.attr import visualization as captum

from fastsal import viz
from fastsal.compat.captum import visualization as compat

WORDS = ["<pad>", "a", "word", "of", "many", "shades"]
VALUES = [-1.7, -0.6, 0.0, 0.013, 0.5, 1.2]


def marks(made: str) -> list[tuple[str, str]]:
    return re.findall(r'background-color: (hsl\([^)]*\)).*?<font color="black"> (.*?)\s*</font>', made, re.S)


@pytest.mark.parametrize("as_values", [list, np.array, torch.tensor])
def test_words_and_colours(as_values: Any) -> None:
    ours, theirs = (each.format_word_importances(WORDS, as_values(VALUES)) for each in (viz, captum))
    assert marks(ours) == marks(theirs)
    assert marks(ours)[0] == ("hsl(0, 75%, 60%)", "#pad")
    assert viz.format_word_importances(WORDS, None) == captum.format_word_importances(WORDS, None)


def test_cells() -> None:
    assert viz.format_classname("dog") == captum.format_classname("dog")
    assert viz.format_special_tokens("<s>") == "#s"
    assert re.sub(r"\s+<", "<", captum.format_tooltip("a", "b")) == viz.format_tooltip("a", "b")


def test_a_table() -> None:
    record = viz.VisualizationDataRecord(torch.tensor(VALUES), torch.tensor(0.876), 1, 0, "label", 1.234, WORDS, 0.5)
    assert captum.VisualizationDataRecord.__slots__ == list(viz.VisualizationDataRecord.__slots__)
    made = viz.visualize_text([record, record])
    assert made._repr_html_() == made.data
    for text in ("<b>0</b>", "<b>1 (0.88)</b>", "<b>label</b>", "<b>1.23</b>", "Legend"):
        assert text in made.data
    assert marks(made.data)[: len(WORDS)] == marks(viz.format_word_importances(WORDS, VALUES))
    assert "Legend" not in viz.visualize_text([record], legend=False).data
    counted: dict[str, int] = {}

    class Tags(html.parser.HTMLParser):
        def handle_starttag(self, tag: str, attrs: Any) -> None:
            counted[tag] = counted.get(tag, 0) + 1

        def handle_endtag(self, tag: str) -> None:
            counted[tag] -= 1

    Tags().feed(made.data)
    assert not any(counted.values())


def test_what_looks_like_html_is_shown_as_it_is() -> None:
    made = viz.format_word_importances(["a<b", "&amp;"], [0.1, 0.2])
    assert [html.unescape(word) for _, word in marks(made)] == ["a<b", "&amp;"]


def test_errors() -> None:
    with pytest.raises(ValueError, match="importances: shape"):
        viz.format_word_importances(["a", "b"], [0.1])
    with pytest.raises(ValueError, match="importances: shape"):
        viz.format_word_importances(["a"], torch.zeros(1, 1))


def test_captums_module_name_by_name() -> None:
    for kind in ("ImageVisualizationMethod", "TimeseriesVisualizationMethod", "VisualizeSign"):
        ours, theirs = getattr(compat, kind), getattr(captum, kind)
        assert {each.name: each.value for each in ours} == {each.name: each.value for each in theirs}
    assert compat.draw_mask_border is captum.draw_mask_border
    assert compat.visualize_text is viz.visualize_text
