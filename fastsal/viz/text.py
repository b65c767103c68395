"""Words in the colours of their attributions, as HTML, in Captum's form."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor

SATURATION = 75
HEADINGS = ("True Label", "Predicted Label", "Attribution Label", "Attribution Score", "Word Importance")


@dataclasses.dataclass(slots=True)
class VisualizationDataRecord:
    """A text with its attributions, a row of :func:`visualize_text`.

    Attributes:
        word_attributions: of the words, [words], from -1 to 1.
        pred_prob: probability of the predicted class.
        pred_class, true_class, attr_class: predicted, true and explained class.
        attr_score: sum of the attributions.
        raw_input_ids: the words.
        convergence_score: delta of the attributions.
    """

    word_attributions: Any
    pred_prob: float
    pred_class: Any
    true_class: Any
    attr_class: Any
    attr_score: float
    raw_input_ids: Sequence[str]
    convergence_score: float


class Html:
    """HTML that a notebook shows.

    Attributes:
        data: the HTML.
    """

    def __init__(self, data: str) -> None:
        self.data = data

    def _repr_html_(self) -> str:
        return self.data


def format_classname(classname: Any) -> str:
    """A cell of a class's name."""
    return f'<td><text style="padding-right:2em"><b>{html.escape(str(classname))}</b></text></td>'


def format_special_tokens(token: str) -> str:
    """``<pad>`` as ``#pad``; any other token as it is."""
    return "#" + token.strip("<>") if token.startswith("<") and token.endswith(">") else token


def format_tooltip(item: str, text: str) -> str:
    """An item with a text that shows above it."""
    shown, hidden = html.escape(item), html.escape(text)
    return f'<div class="tooltip">{shown}<span class="tooltiptext">{hidden}</span></div>'


def format_word_importances(words: Sequence[str], importances: Any) -> str:
    """A cell of words, each on its colour: green speaks for the class, red against it.

    Args:
        words: as many as there are importances, or less.
        importances: from -1 to 1, what is beyond is shown as these: an array, tensor or list, [n]; None or none of them
            gives an empty cell.

    Raises:
        ValueError: for another shape, or less importances than words.
    """
    if importances is None or len(importances) == 0:
        return "<td></td>"
    shape = tuple(getattr(importances, "shape", (len(importances),)))
    if len(shape) != 1 or shape[0] < len(words):
        raise ValueError(f"importances: shape {shape} for {len(words)} words; one each is needed")
    values = importances.tolist() if isinstance(importances, Tensor) else importances
    marks = [
        f'<mark style="background-color: {shade(float(value))}; opacity:1.0; line-height:1.75">'
        f'<font color="black"> {html.escape(format_special_tokens(word))} </font></mark>'
        for word, value in zip(words, values, strict=False)
    ]
    return f"<td>{''.join(marks)}</td>"


def shade(importance: float) -> str:
    """The colour of an importance from -1 to 1, in CSS; what is beyond takes theirs."""
    importance = max(-1.0, min(1.0, importance))
    if importance > 0:
        return f"hsl(120, {SATURATION}%, {100 - int(50 * importance)}%)"
    return f"hsl(0, {SATURATION}%, {100 - int(-40 * importance)}%)"


def visualize_text(datarecords: Iterable[VisualizationDataRecord], legend: bool = True) -> Html:
    """A table of texts with their words in colours, shown where IPython runs.

    >>> record = fastsal.viz.VisualizationDataRecord([0.5, -0.2], 0.9, "pos", "pos", "pos", 0.3, ["good", "<pad>"], 0.0)
    >>> "#pad" in fastsal.viz.visualize_text([record]).data
    True

    Args:
        datarecords: the texts.
        legend: say what the colours mean.

    Returns:
        The HTML, which a notebook shows where it is a cell's last value.
    """
    parts = []
    if legend:
        meanings = zip((-1, 0, 1), ("Negative", "Neutral", "Positive"), strict=True)
        boxes = "".join(
            '<span style="display: inline-block; width: 10px; height: 10px; border: 1px solid; background-color: '
            f'{shade(value)}"></span> {name} '
            for value, name in meanings
        )
        style = "border-top: 1px solid; margin-top: 5px; padding-top: 5px; display: inline-block"
        parts.append(f'<div style="{style}"><b>Legend: </b>{boxes}</div>')
    parts.append('<table style="width: 100%"><tr>' + "".join(f"<th>{each}</th>" for each in HEADINGS) + "</tr>")
    for record in datarecords:
        cells = (
            format_classname(record.true_class),
            format_classname(f"{record.pred_class} ({float(record.pred_prob):.2f})"),
            format_classname(record.attr_class),
            format_classname(f"{float(record.attr_score):.2f}"),
            format_word_importances(record.raw_input_ids, record.word_attributions),
        )
        parts.append(f"<tr>{''.join(cells)}</tr>")
    made = Html("".join([*parts, "</table>"]))
    _display(made)
    return made


def _display(made: Html) -> None:
    try:
        from IPython import get_ipython
        from IPython.display import display
    except ImportError:
        return
    if get_ipython() is not None:
        display(made)
