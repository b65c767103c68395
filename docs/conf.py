"""How `make docs` builds these pages: MyST, furo, the reference from the docstrings, and nothing from the network."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path[:0] = [str(ROOT), str(ROOT / "kernels"), str(HERE / "extensions")]

import fastsal  # noqa: E402
from tools import gallery, reference  # noqa: E402

project = "fastsal"
author = copyright = "the fastsal authors"
version = release = fastsal.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon", "mathml", "names"]
exclude_patterns = ["extensions"]
myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 3

autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_inherit_docstrings = False  # what a subclass does not document of its own is documented at its base
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_member_order = "bysource"
autosummary_generate = False
napoleon_numpy_docstring = False
napoleon_use_ivar = True

# A name of fastsal's front door that a page or a docstring gives in full has to be in the reference.
nitpicky = True
nitpick_ignore_regex = [(r"py:.*", r"(?!fastsal\.((lrp|targets|metrics|viz|models|ops|compat)\.)?\w+$).*")]
suppress_warnings = ["ref.python"]  # a bare name in an annotation that several modules have

html_theme = "furo"
html_title = f"fastsal {version}"
html_math_renderer = "mathml"
html_copy_source = False
html_show_sphinx = False


def _write_pages(app: Any) -> None:
    """The pages that are made from the code: the reference and the gallery."""
    reference.write(HERE / "api")
    gallery.write(HERE / "gallery")


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("builder-inited", _write_pages)
