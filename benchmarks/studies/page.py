"""What every study's page begins with."""

from __future__ import annotations

from benchmarks.machine import machine


def about(doc: str | None) -> str:
    """A module's docstring below its first line and its command."""
    return (doc or "").split("\n\n", 2)[2].strip()


def facts(*names: str) -> str:
    """Of this machine and what ran on it."""
    told = machine()
    return ", ".join(f"{name} {told[name]}" for name in names)


def section(page: str, title: str) -> str | None:
    """The text of the section ``## title``; None where there is none.

    >>> section("# A\\n\\n## B\\n\\ntext\\n\\n## C\\n", "B")
    'text'
    """
    found = [each.partition("\n") for each in page.split("\n## ")[1:]]
    return next((text.strip() for name, _, text in found if name == title), None)


def with_section(page: str, title: str, text: str) -> str:
    """A page with one section ``## title`` replaced, or put at its end.

    >>> with_section("# A\\n\\n## B\\n\\nold\\n\\n## C\\n\\nkept\\n", "B", "new")
    '# A\\n\\n## B\\n\\nnew\\n\\n## C\\n\\nkept\\n'
    """
    first, *sections = page.split("\n## ")
    mine = f"{title}\n\n{text.strip()}\n"
    kept = [mine if each.partition("\n")[0] == title else each for each in sections]
    found = kept if section(page, title) is not None else [*kept, mine]
    return "\n## ".join(each.rstrip("\n") + "\n" for each in (first, *found))
