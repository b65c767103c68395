"""One stage in a process of its own: ``python -m tools.gpu_check.stage MODULE NAME --out DIR --limit SECONDS``."""

from __future__ import annotations

import argparse
import importlib
import sys
import time
import traceback
from pathlib import Path

from tools.gpu_check.rows import Rows, describe


class Limit:
    """The seconds that a stage may take.

    Args:
        seconds: from now on.
    """

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds until the end; negative after it."""
        return self._end - time.monotonic()


def main() -> int:
    """Entry point; 1 where the stage raised, which is a row then."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split(":", 1)[0])
    parser.add_argument("module", help="has run(rows, limit, rehearse)")
    parser.add_argument("name", help="of the stage, in its rows")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--limit", type=float, required=True)
    parser.add_argument("--rehearse", action="store_true")
    options = parser.parse_args()
    limit = Limit(options.limit)
    rows = Rows(options.out, options.name, options.rehearse)
    try:
        importlib.import_module(options.module).run(rows, limit, options.rehearse)
    except Exception as error:
        traceback.print_exc()
        rows.add("error", of="stage", error=describe(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
