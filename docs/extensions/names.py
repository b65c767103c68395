"""Docstrings as they are written in the code: a name finds its object, and a sign is a sign."""

from __future__ import annotations

import re
from typing import Any

from sphinx.util.nodes import make_refnode

LITERAL_OR_SIGN = re.compile(r"(``.+?``|`[^`]+`|\*\*\w[^*]*\*\*)|\||(?<![\w\\*])\*(?=\w)")


def _find(app: Any, env: Any, node: Any, content: Any) -> Any:
    """The object that is meant by a bare name, or by that of the module it is defined in."""
    target = node.get("reftarget", "")
    if node.get("refdomain") != "py" or not target:
        return None
    last = target.rsplit(".", 1)[-1]
    known = env.domains.python_domain.objects
    found = [name for name in known if name.rsplit(".", 1)[-1] == last and name.startswith("fastsal")]
    of_module = [name for name in found if "." in target and name in (f"fastsal.{last}", target)]
    name = next(iter(of_module), found[0] if len(found) == 1 else None)
    if name is None:
        return None
    return make_refnode(app.builder, node["refdoc"], known[name].docname, known[name].node_id, content, name)


def _escape(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """|x| and [B, *spatial] are formulas and shapes in our docstrings, and would be markup to docutils."""
    lines[:] = [LITERAL_OR_SIGN.sub(lambda m: m.group(1) or f"\\{m.group()}", line) for line in lines]


def _skip_fields(app: Any, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """A named tuple's fields are described in its docstring."""
    return True if type(obj).__name__ == "_tuplegetter" else None


def setup(app: Any) -> dict[str, Any]:
    """Called by Sphinx."""
    app.connect("missing-reference", _find)
    app.connect("autodoc-process-docstring", _escape)
    app.connect("autodoc-skip-member", _skip_fields)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
