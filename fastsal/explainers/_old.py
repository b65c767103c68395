"""For files that do not describe their calls yet; goes with the last of them."""

# mypy: ignore-errors
import contextlib
import functools
from typing import Any, NamedTuple

import torch

from fastsal.engine.run import Sweep, evaluation, observed, run
from fastsal.explainers.scores import could_be_per_example as could_be_per_example
from fastsal.explainers.scores import selected

ESTIMATING = ("tolerance", "deadline", "refine", "return_standard_error")


def attribute_method(function):
    @functools.wraps(function)
    def attribute(*args, **kwargs):
        with observed() as sweeps:
            result = function(*args, **kwargs)
        args[0].state.sweeps = tuple(sweeps)
        return result

    return attribute


def sweep(total, step, plan, *, show_progress=False, description=""):
    Sweep(total, step, lambda a, b, commit: commit(), plan, description, show_progress).run()


def scores_of(forward_func, inputs, additional, target):
    return selected(run(forward_func, inputs, additional), target)


class Run(NamedTuple):
    total: Any
    step: Any
    plan: Any
    description: Any
    show_progress: Any
    context: Any
    finish: Any
    estimate: Any
    limit: Any


class Limits(NamedTuple):
    estimating: bool = False


def limits_of(tolerance, deadline):
    return Limits()


def execute(run, limits):
    with run.context():
        sweep(run.total, run.step, run.plan, show_progress=run.show_progress, description=run.description)
        return run.finish()


@contextlib.contextmanager
def scoring(forward_func):
    with evaluation(forward_func), torch.no_grad():
        yield
