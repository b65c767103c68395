"""What seeded cases share: choosing, damaging, the folder as it was, and running as many as one likes."""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

TEXTS = (
    "",
    "..",
    "/",
    "a\nb",
    "\x00",
    "\ud800",
    "NaN",
    "-1",
    "0",
    "1e999",
    "9" * 400,
    "__import__('os')",
    "é",
    "x" * 5000,
)
VALUES: tuple[Any, ...] = (None, True, -1, 0, 2**63, 1.5, "", [], {}, [[[]]], {"as_int": -1}, *TEXTS)


def damaged(content: bytes, random: random.Random) -> bytes:
    """Bytes cut, flipped, zeroed or doubled."""
    if not content:
        return b"\x80"
    at, end = sorted(random.randrange(len(content) + 1) for _ in range(2))
    way = random.choice(("cut", "flip", "zero", "double", "few"))
    if way == "cut":
        return content[:at]
    if way == "zero":
        return content[:at] + bytes(min(end - at, 64)) + content[at + min(end - at, 64) :]
    if way == "double":
        return content[:end] + content[at:]
    altered = bytearray(content)
    for _ in range(1 if way == "flip" else random.randrange(2, 30)):
        altered[random.randrange(len(altered))] = random.randrange(256)
    return bytes(altered)


def altered(value: Any, random: random.Random) -> Any:
    """JSON with one part, anywhere in it, replaced, dropped or repeated."""
    value = json.loads(json.dumps(value))
    place: Any = value
    for _ in range(random.randrange(1, 12)):
        keys = list(place) if isinstance(place, dict) else range(len(place)) if isinstance(place, list) else []
        if not keys:
            return value
        key = random.choice(list(keys))
        if not isinstance(place[key], (dict, list)) or not place[key] or random.random() < 0.15:
            if random.random() < 0.3:
                del place[key]
            else:
                place[key] = random.choice(VALUES)
            return value
        place = place[key]
    return value


def snapshot(folder: Path) -> dict[str, str]:
    """Every file below a folder with a digest of its content."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in folder.rglob("*")
    }


def run_many(description: str | None, one: Callable[[random.Random], str]) -> dict[str, int]:
    """``python -m MODULE --n 10000 --seed 0``: case i is of the seed (seed, i), whatever was run before it.

    Returns how many cases had which outcome.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--n", type=int, default=1000, help="cases (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="case to begin with, to see one again")
    arguments = parser.parse_args()
    began, counts = time.perf_counter(), dict[str, int]()
    for index in range(arguments.first, arguments.first + arguments.n):
        try:
            outcome = one(random.Random(f"{arguments.seed}/{index}"))
        except BaseException:
            print(f"case {index} of seed {arguments.seed} (--n 1 --first {index})", file=sys.stderr, flush=True)
            raise
        counts[outcome] = counts.get(outcome, 0) + 1
    print(f"{arguments.n} cases in {time.perf_counter() - began:.0f} s: {dict(sorted(counts.items()))}")
    return counts
