"""Test functions that the inner loop leaves out, from the seconds that a run of the suite took.

python -m tools.slow_tests build/junit.xml     # writes tests/slow.txt; make slow-tests runs both
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path
from xml.etree import ElementTree

LIST = Path(__file__).resolve().parents[1] / "tests" / "slow.txt"
SECONDS = 0.7
"""Of a function with all its parameters together, above which it is left out."""


def slow(report: Path) -> list[str]:
    """Such functions, as path::function."""
    seconds: defaultdict[str, float] = defaultdict(float)
    for case in ElementTree.parse(report).iter("testcase"):
        path = case.get("classname", "").replace(".", "/")
        seconds[f"{path}.py::{case.get('name', '').split('[')[0]}"] += float(case.get("time", "0"))
    return sorted(name for name, taken in seconds.items() if taken > SECONDS)


if __name__ == "__main__":
    LIST.write_text("".join(f"{name}\n" for name in slow(Path(sys.argv[1]))))
