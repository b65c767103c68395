"""KeyboardInterrupt at the lines of fastsal that a call of each method executes, each once, and at random times.

Afterwards modes, hooks, forwards, flags, grad mode, stances, modes of operations and the random state are as they were,
and the next call gives its map.

    python -m tests.fuzz.interrupts --every 1        each line of each method
    python -m tests.fuzz.interrupts --timed 1000     interrupts of a timer, which come inside of PyTorch too
"""

from __future__ import annotations

import argparse
import gc
import random
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.nn.modules.module as torch_module
from torch import Tensor, nn

import fastsal
from fastsal._torch import len_torch_dispatch_stack, len_torch_function_stack
from fastsal.engine.run import observed, stance, training
from fastsal.engine.run.own import owner
from fastsal.engine.run.sweep import _observers
from tests.explainers.calls import ANY_CALLABLE, CALLS
from tests.explainers.networks import image, small, state

Line = tuple[str, int]
ROOT = str(Path(fastsal.__file__).parent)


def calls() -> dict[str, Callable[[Any, Tensor], Any]]:
    """Every method on a module, those that take any callable on a function too, and the doors beside them."""
    functions = {
        f"{name} of a function": lambda model, x, name=name: CALLS[name](lambda x: model(x), x) for name in ANY_CALLABLE
    }
    doors = {
        "layers": lambda model, x: fastsal.layers(model, x),
        "estimate": lambda model, x: fastsal.RISE(model).estimate(x, target=1, n_masks=64, deadline=10.0),
        "improve": lambda model, x: list(fastsal.RISE(model).improve(x, target=1, n_masks=64)),
        "prepare": lambda model, x: fastsal.prepare(model, x, probe_seconds=0.0),
        "compile": lambda model, x: fastsal.compile(fastsal.GradCAM(model, model.last), x),
    }
    return {**CALLS, **functions, **doors}


def model() -> nn.Module:
    """One in training mode, with a part that is frozen and one in evaluation mode."""
    made = small(dropout=0.5).train()
    made.body.eval()
    made.stem.requires_grad_(False)
    made.norm.register_forward_hook(lambda *_: None)
    return made


def left(made: nn.Module, before: dict[str, Any], random_state: Tensor, random_after: Tensor) -> list[str]:
    """What an interrupted call has left."""
    after = state(made)
    found = [key for key in before if key != "values" and after[key] != before[key]]
    if not all(map(torch.equal, after["values"], before["values"])):
        found.append("values")
    told = {
        "flags": training.nothing_held(),
        "stance": stance.nothing_held(),
        "sessions": not owner().sessions,
        "contexts": not owner().open,
        "helpers": not owner().helpers,
        "global hook": not torch_module._global_forward_pre_hooks,
        "grad mode": torch.is_grad_enabled(),
        "inference mode": not torch.is_inference_mode_enabled(),
        "function modes": len_torch_function_stack() == 0,
        "dispatch modes": len_torch_dispatch_stack() == 0,
        "observers": _observers.get().found is None and _observers.get().watcher is None,
        "random state": any(torch.equal(torch.get_rng_state(), each) for each in (random_state, random_after)),
    }
    return found + [name for name, kept in told.items() if not kept]


class Tracer:
    """Notes the lines of fastsal that this thread executes, and raises at one."""

    def __init__(self, at: Line | None = None) -> None:
        self.at, self.lines, self.raised = at, dict[Line, None](), False

    def __call__(self, frame: FrameType, _event: str, _argument: Any) -> Any:
        return self._line if frame.f_code.co_filename.startswith(ROOT) else None

    def _line(self, frame: FrameType, event: str, _argument: Any) -> Any:
        if event == "line":
            line = frame.f_code.co_filename, frame.f_lineno
            if line == self.at:
                self.raised = True
                sys.settrace(None)
                raise KeyboardInterrupt
            self.lines[line] = None
        return self._line

    @contextmanager
    def tracing(self) -> Iterator[None]:
        before = sys.gettrace()
        sys.settrace(self)
        try:
            yield
        finally:
            sys.settrace(before)


class Interrupts:
    """One method, whose lines were seen."""

    def __init__(self, name: str) -> None:
        self.name, self.call = name, calls()[name]
        self.x = image()
        seen = Tracer()
        self.call(model(), self.x)  # what is imported at a first call is no part of one
        torch.manual_seed(0)
        self.random = torch.get_rng_state()
        with seen.tracing():
            self.expected = self.call(model(), self.x)
        self.random_after = torch.get_rng_state()
        self.lines = list(seen.lines)

    def at(self, line: Line) -> list[str]:
        """What is left where it is interrupted at a line; nothing where it does not come to it now."""
        made, tracer = model(), Tracer(line)
        before = state(made)
        torch.set_rng_state(self.random)
        try:
            with tracer.tracing():
                self.call(made, self.x)
        except KeyboardInterrupt:
            pass
        return left(made, before, self.random, self.random_after)

    def after(self, seconds: float) -> tuple[bool, list[str]]:
        """Whether an interrupt came, and what is left where it comes after so many seconds."""
        made = model()
        before, came = state(made), False
        torch.set_rng_state(self.random)
        try:
            signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-5))
            self.call(made, self.x)
        except KeyboardInterrupt:
            came = True
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        return came, left(made, before, self.random, self.random_after)

    def still_right(self) -> bool:
        """Whether the next call gives its map."""
        torch.set_rng_state(self.random)
        found = self.call(model(), self.x)
        return not isinstance(found, Tensor) or torch.equal(found, self.expected)


def clean() -> None:
    """So that what one interrupt has left is not told of the next."""
    own = owner()
    while own.sessions:
        own.sessions[-1].leave()
    while own.open:
        own.open[-1].undo()
    torch.set_grad_enabled(True)
    _observers.set(_observers.get()._replace(found=None, watcher=None))


def by_line(names: list[str], every: int, seed: int) -> dict[Line, set[str]]:
    """What is left, by line; of each method one line in so many, each at least once over all methods."""
    generator, found, total, done = random.Random(seed), dict[Line, set[str]](), 0, set[Line]()
    for name in names:
        began, one = time.perf_counter(), Interrupts(name)
        lines = [line for line in one.lines if every == 1 or generator.randrange(every) == 0]
        for line in lines:
            what = one.at(line)
            done.add(line)
            if what:
                found.setdefault(line, set()).update(f"{name}: {each}" for each in what)
                print(f"{Path(line[0]).relative_to(ROOT)}:{line[1]}: {what}", flush=True)
                clean()
        assert one.still_right(), name
        total += len(lines)
        print(f"{name}: {len(lines)} of {len(one.lines)} lines, {time.perf_counter() - began:.1f} s", flush=True)
    print(f"{total} interrupts at {len(done)} lines of {len(names)} calls; {len(found)} lines left something")
    return found


def timed(names: list[str], count: int, seed: int) -> list[str]:
    """What so many interrupts of a timer have left."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    generator, found, came = random.Random(seed), list[str](), 0
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        ones = [Interrupts(name) for name in names]
        for one in ones:
            one.call(model(), one.x)
        while came < count:
            one = generator.choice(ones)
            began = time.perf_counter()
            one.call(model(), one.x)
            took = time.perf_counter() - began
            gc.disable()
            interrupted, what = one.after(generator.random() * took)
            gc.enable()
            came += interrupted
            if what:
                found.append(f"{one.name}: {', '.join(what)}")
                clean()
    finally:
        signal.signal(signal.SIGALRM, before)
    print(f"{came} timed interrupts; {len(found)} left something")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=0, help="one line in so many; 0 tries none (default: %(default)s)")
    parser.add_argument("--timed", type=int, default=0, help="interrupts of a timer (default: %(default)s)")
    parser.add_argument("--only", nargs="*", help="these methods")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    handler = signal.getsignal(signal.SIGINT)
    names = arguments.only or list(calls())
    wrong: list[str] = []
    if arguments.every:
        for (file, line), what in sorted(by_line(names, arguments.every, arguments.seed).items()):
            wrong.append(f"{Path(file).relative_to(ROOT)}:{line}: {'; '.join(sorted(what)[:4])}")
    if arguments.timed:
        wrong += timed(names, arguments.timed, arguments.seed)
    assert signal.getsignal(signal.SIGINT) is handler
    for each in wrong:
        print(each)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    with observed():
        pass
    main()
