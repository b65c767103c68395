"""The process that cells run in: ``python -m tools.models.worker`` reads orders and forks itself for each.

An order is a line of JSON with an architecture's name, its methods and limits. What is said is lines of JSON too: the
child's ``pid``, what was ``built``, that a cell ``begin``s, each ``cell``, and how the child ``ended``. The packages
are imported once, before the forks, since that costs more than most cells; this process itself runs no model.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import sys
import time
import traceback
import warnings
from typing import Any

import torch

import fastsal.explainers
from tools.models.building import build
from tools.models.cell import Cell, limit_memory, line_of, run_cell
from tools.models.checks import METHODS
from tools.models.claims import BUILDING


def say(**what: Any) -> None:
    """One line of JSON."""
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def run(name: str, methods: list[str], seconds: float, gigabytes: float) -> None:
    """The cells of one architecture."""
    limit_memory(gigabytes)
    began = time.process_time()
    try:
        subject = build(name)
    except Exception as error:  # an architecture that cannot be had is no cell of a method
        say(cell=Cell(name, BUILDING, "error", line_of(error)).record())
        return
    parameters = sum(p.numel() for p in subject.model.parameters())
    shape, grids = "x".join(map(str, subject.inputs.shape)), ["x".join(map(str, g)) for g in subject.stated.grids[:4]]
    told = f"{parameters / 1e6:.1f} M parameters, input {shape}, grids {', '.join(grids)} by {subject.stated.source}"
    say(built=told, seconds=round(time.process_time() - began, 1))
    for method in methods:
        say(begin=method)
        subject.model.train()
        cell = run_cell(subject, method, METHODS[method], seconds)
        say(cell=cell.record())
        if cell.changed:
            subject = build(name)


def main() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    assert fastsal.explainers
    for package in ("timm", "torchvision", "transformers", "captum.attr"):
        importlib.import_module(package)
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            status = 1
            try:
                run(**order)
                status = 0
            except BaseException:  # nothing of the loop above may run in the child
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
        say(pid=child)
        say(ended=os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


if __name__ == "__main__":
    main()
