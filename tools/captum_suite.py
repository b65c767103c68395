"""Captum's own tests with fastsal's classes in place of Captum's: ``python -m tools.captum_suite CHECKOUT``.

CHECKOUT is a copy of Captum's repository with its ``tests``; Captum itself is taken as installed, and so is
``parameterized``, which its tests import. What a test module imports from Captum is replaced on the way, wherever
Captum has it, and so is what Captum's own lists of test cases import. The tests are not altered.
"""

from __future__ import annotations

import argparse
import builtins
import os
import subprocess
import sys
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
REPLACED_IN = ("tests", "captum.testing")
"""Packages that get our classes where they import Captum's."""


class _View:
    """A module of Captum's, with what stands in for its classes."""

    def __init__(self, module: types.ModuleType, stand_ins: Mapping[int, Any]) -> None:
        self._module, self._stand_ins = module, stand_ins

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._module, name)
        return self._stand_ins.get(id(found), found)


def replace_imports() -> None:
    """From here on tests that import from Captum get fastsal's classes."""
    from fastsal.compat import captum as compat

    stand_ins = compat.stand_ins()
    original = builtins.__import__

    def importing(
        name: str,
        globals: Mapping[str, object] | None = None,
        locals: Mapping[str, object] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> Any:
        module = original(name, globals, locals, fromlist or (), level)
        importer = str((globals or {}).get("__name__", ""))
        if fromlist and name.split(".")[0] == "captum" and importer.startswith(REPLACED_IN):
            return _View(module, stand_ins)
        return module

    builtins.__import__ = importing


def pytest_configure(config: Any) -> None:
    """Of pytest, which loads this module as a plugin."""
    replace_imports()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the suite; what pytest returns."""
    parser = argparse.ArgumentParser(description="Captum's own tests, with fastsal's classes in place of Captum's")
    parser.add_argument("checkout", type=Path, help="a copy of Captum's repository")
    parser.add_argument("--llm", action="store_true", help="the tests of language models, which are counted apart")
    parser.add_argument("rest", nargs="*", help="further arguments of pytest, after --")
    given = parser.parse_args(arguments)
    folders = [str(Path("tests", name)) for name in ("attr", "metrics")]
    chosen = (
        [str(Path("tests/attr", path.name)) for path in sorted((given.checkout / "tests/attr").glob("test_llm*.py"))]
        if given.llm
        else [*folders, "--ignore-glob=*test_llm*"]
    )
    paths = [str(ROOT), str(ROOT / "kernels"), os.environ.get("PYTHONPATH", "")]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tools.captum_suite", "-p", "no:cacheprovider", *chosen]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    return subprocess.run([*command, *given.rest], cwd=given.checkout, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
