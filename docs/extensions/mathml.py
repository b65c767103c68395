"""Formulas as MathML, which browsers draw themselves: no script is fetched to read a page."""

from __future__ import annotations

from typing import Any

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.util import logging

logger = logging.getLogger(__name__)


def _draw(translator: Any, node: Any, block: bool) -> None:
    try:
        translator.body.append(tex2mathml(node.astext(), as_block=block))
    except MathError as error:
        logger.warning("formula: %s", error, location=node)
    raise nodes.SkipNode


def _inline(translator: Any, node: Any) -> None:
    _draw(translator, node, False)


def _block(translator: Any, node: Any) -> None:
    _draw(translator, node, True)


def setup(app: Any) -> dict[str, Any]:
    """Called by Sphinx."""
    app.add_html_math_renderer("mathml", inline_renderers=(_inline, None), block_renderers=(_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
