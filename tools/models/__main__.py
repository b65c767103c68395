"""``python -m tools.models``: runs what is missing of the matrix and writes docs/models.md; ``make models``.

Cells that are there, of these versions of the packages, are kept; a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tools.models import catalogue, results
from tools.models.cell import ERROR, MEMORY, NONE, OK, REFUSED, TIMEOUT, WRONG, Cell
from tools.models.checks import METHODS, ROUNDS
from tools.models.claims import BUILDING
from tools.models.publish import PAGE, SUBSET, page
from tools.models.running import Limits, Worker, run_model

STATUSES = (OK, REFUSED, WRONG, ERROR, TIMEOUT, MEMORY, NONE)
BAD = (WRONG, ERROR)


def parsed(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.models", description=__doc__)
    parser.add_argument("--only", nargs="*", default=[], help="architectures whose names hold one of these")
    parser.add_argument("--subset", action="store_true", help="the small ones of subset.txt, without packages")
    parser.add_argument("--methods", nargs="*", default=[], help=f"of {', '.join(METHODS)}")
    parser.add_argument("--again", nargs="*", default=[], help=f"run cells of these too: {', '.join(STATUSES)}, all")
    parser.add_argument("--before", default="", help="and only where they were run at another commit than this")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    parser.add_argument("--seconds", type=float, default=60, help="processor time of a cell")
    parser.add_argument("--gigabytes", type=float, default=6, help="memory of a cell")
    parser.add_argument("--deadline", type=float, default=0, help="start no architecture after so many minutes")
    parser.add_argument("--results", type=Path, default=results.FOLDER, help="folder of the cells")
    parser.add_argument("--list", action="store_true", help="print the architectures and end")
    parser.add_argument("--page", action="store_true", help="write docs/models.md and run nothing")
    parser.add_argument("--strict", action="store_true", help="end with an error where a cell is wrong")
    return parser.parse_args(arguments)


def names_of(given: argparse.Namespace) -> list[str]:
    """The architectures that are asked for; the packages are asked once for each version of them."""
    if given.subset:
        found = SUBSET.read_text().split()
    else:
        kept = results.FOLDER / "catalogue.json"
        known = json.loads(kept.read_text()) if kept.exists() else {}
        if known.get("versions") != results.versions():
            known = {"versions": results.versions(), "names": catalogue.names()}
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_text(json.dumps(known, indent=1) + "\n")
        found = known["names"]
    return [name for name in found if not given.only or any(part in name for part in given.only)]


def missing(given: argparse.Namespace, names: list[str]) -> dict[str, list[str]]:
    """The methods that each architecture still needs, in their order."""
    cells, versions = results.read(given.results), results.versions()
    usual = [method for method in METHODS if not given.subset or method not in ROUNDS[-1]]
    asked = [method for method in METHODS if method in (given.methods or usual)]
    found: dict[str, list[str]] = {}
    for name in names:
        failed = cells.get((name, BUILDING))
        if failed is not None and failed.status != OK and failed.versions == versions and not given.again:
            continue
        for method in asked:
            cell = cells.get((name, method))
            again = cell is not None and (cell.status in given.again or "all" in given.again)
            if cell is None or cell.versions != versions or (again and cell.commit != given.before):
                found.setdefault(name, []).append(method)
    return found


def main() -> int:
    given = parsed()
    names = [] if given.page else names_of(given)
    if given.list:
        print("\n".join(names))
        return 0
    bad: list[Cell] = []
    if not given.page:
        ran = run(given, names)
        bad = [cell for cell in ran if cell.status in BAD or cell.changed]
        print(f"{len(ran) - len(bad)} passed, {len(bad)} failed")
        results.compact(given.results, [BUILDING, *METHODS])
    if given.results == results.FOLDER:
        PAGE.write_text(page(results.read(given.results)))
    for cell in bad:
        print(f"{cell.status}: {cell.model} {cell.method}: {cell.detail} {cell.changed}")
    return 1 if bad and given.strict else 0


def run(given: argparse.Namespace, names: list[str]) -> list[Cell]:
    """Runs what is missing, and returns it."""
    began, ran = time.monotonic(), list[Cell]()

    def tell(cell: Cell) -> None:
        spent = (time.monotonic() - began) / 60
        changed = f"  LEFT CHANGED: {cell.changed}" if cell.changed else ""
        print(f"{spent:5.1f} min  {cell.status:8}  {cell.model}  {cell.method}: {cell.detail}{changed}", flush=True)
        ran.append(cell)

    needed = missing(given, names)
    rounds = [[(name, [m for m in methods if m in each]) for name, methods in needed.items()] for each in ROUNDS]
    waiting = iter([(name, methods) for each in rounds for name, methods in each if methods])
    lock = threading.Lock()

    def job() -> None:
        worker = Worker()
        try:
            while not given.deadline or time.monotonic() - began < 60 * given.deadline:
                with lock:
                    item = next(waiting, None)
                if item is None:
                    return
                run_model(worker, *item, Limits(given.seconds, given.gigabytes), given.results, tell)
        finally:
            worker.close()

    with ThreadPoolExecutor(given.jobs) as pool:
        for each in [pool.submit(job) for _ in range(given.jobs)]:
            each.result()
    return ran


if __name__ == "__main__":
    raise SystemExit(main())
