"""One explanation's hold on the modules that run: found as they run, in evaluation mode, and left as they were.

Where the callable is no module of which all is known, its passes are watched: a global hook tells of every module that
runs, and until a pass was complete a mode tells of operations outside of modules, which a module's own method may run.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor, nn

from fastsal.engine.run import stance
from fastsal.engine.run.managed import Managed
from fastsal.engine.run.modules import (
    Behind,
    ForwardFunc,
    behind,
    close,
    forget,
    has_compiled_methods,
    is_closed,
    is_compiled,
    outermost_of,
    parts_of,
    remember,
    unwrapped,
)
from fastsal.engine.run.own import Bounds, Undone, owner, settle
from fastsal.engine.run.random_states import random_states
from fastsal.engine.run.recurrent import differentiable
from fastsal.engine.run.telling import tell
from fastsal.engine.run.training import evaluate
from fastsal.engine.run.watching import Again, Pass

MOST_TRIES = 8
"""Runs of one pass, each of which found another module that was in training mode until then."""


def current() -> Session | None:
    """The innermost session of this thread."""
    sessions = owner().sessions
    return sessions[-1] if sessions else None


class Session:
    """Context in which a callable's modules are in evaluation mode; the managed ones are in sessions of their own.

    Inference mode is left.

    Args:
        forward_func: the callable.
        eager: what ``torch.compile`` made runs as plain PyTorch, also in sessions inside of this one.
    """

    def __init__(self, forward_func: ForwardFunc, eager: bool) -> None:
        self.forward_func = forward_func
        self.complete = False
        self._contexts: contextlib.ExitStack | None = None  # most sessions have no other in them
        self._undone = Undone()
        self._stack = self._undone.owner.sessions
        self._bounds: Bounds | None = None
        self.eager: bool = eager or any(other.eager for other in self._stack)
        self._parts: dict[int, nn.Module] = {}
        self._outermost: dict[int, nn.Module] = {}
        self._hidden: dict[int, nn.Module] = {}
        self._closed: set[int] = set()
        self._opaque: dict[int, bool] = {}
        self._compiled = self._running = self._grown = False
        self._watched = True

    def __enter__(self) -> Session:
        try:
            if not self._stack:
                self._bounds = Bounds()
            self._stack.append(self)
            self._undone.__enter__()
            if torch.is_inference_mode_enabled():
                self._enter(torch.inference_mode(False))
            if self.eager:
                stance.hold(stance.EAGER, self._undone)
            self._take_known()
            return self
        except BaseException as error:
            self.__exit__(type(error))
            raise

    def __exit__(self, *error: object) -> None:
        settle(self.leave)
        if self._bounds is not None:
            self._bounds.__exit__(*error)

    def leave(self) -> None:
        """The end; once more where an interrupt came."""
        try:
            if self._contexts is not None:
                self._contexts.close()
        finally:
            self._undone.undo()
            if self in self._stack:
                self._stack.remove(self)
            forget(self.forward_func, [other.forward_func for other in self._stack])

    def _enter(self, context: contextlib.AbstractContextManager[Any]) -> None:
        """Hold a context to the end of the session."""
        if self._contexts is None:
            self._contexts = contextlib.ExitStack()
        self._contexts.enter_context(context)

    def _take_known(self) -> None:
        """What is known of the callable, and whether that is all."""
        if isinstance(self.forward_func, nn.Module):
            self._take(self.forward_func, managed=True)
            if id(self.forward_func) in self._closed:
                self._watched = False
                return
            self._watched = not self.is_opaque(self.forward_func)
        known = behind(self.forward_func)
        if known is not None:
            self._compiled = known.compiled
            for module in known.outermost:
                self._take(module, managed=True)
            for module in known.hidden:
                self._take(module, managed=False)
            if known.compiled and not self.eager:
                self._watched = False

    def _take(self, module: nn.Module, *, managed: bool) -> bool:
        """Evaluation mode for a module and its parts; whether any was in training mode."""
        if id(module) in self._parts:
            return False
        if managed and isinstance(module, Managed):
            self._enter(module.session(whole=self.eager))
        parts = parts_of(module)
        if is_closed(module, parts):
            self._closed.add(id(module))
        fresh = [part for key, part in parts.items() if key not in self._parts] if self._parts else parts.values()
        fresh = list(fresh)
        training = evaluate(fresh, self._undone, lambda: self._reads_flags_itself(parts))
        differentiable(fresh, self._undone)
        self._parts = {**self._parts, **parts} if self._parts else parts
        return training

    def _reads_flags_itself(self, parts: dict[int, nn.Module]) -> bool:
        """Whether code runs for the parts that does not ask Python for their flags, or asks in threads of its own."""
        if any(isinstance(part, nn.DataParallel) and len(part.device_ids) > 1 for part in parts.values()):
            return True
        if self.eager:
            return False
        kinds = map(type, parts.values())
        return self._compiled or is_compiled(parts.values()) or any(map(has_compiled_methods, kinds))

    def add(self, module: nn.Module, *, hidden: bool) -> bool:
        """A module runs, inside of another where it is hidden; whether it was in training mode until now."""
        listed = self._hidden if hidden else self._outermost
        self._grown |= id(module) not in listed
        listed[id(module)] = module
        return self._take(module, managed=not hidden)

    def add_compiled(self) -> None:
        """Compiled code runs that could not be seen before."""
        self._compiled = True

    def is_opaque(self, module: nn.Module) -> bool:
        """Whether nothing is to be told of what runs inside of a module: all is known, or it is compiled."""
        if id(module) in self._closed:
            return True
        if id(module) not in self._opaque:
            self._opaque[id(module)] = not self.eager and is_compiled(parts_of(module).values())
        return self._opaque[id(module)]

    def close(self, module: nn.Module) -> None:
        """A module ran to its end, and none but its parts."""
        if close(module):
            self._closed.add(id(module))

    def run(self, forward_func: ForwardFunc, arguments: tuple[Any, ...]) -> Any:
        """``forward_func(*arguments)``, of which no part runs in training mode.

        Raises:
            RuntimeError: where that cannot be.
        """
        if not self._watched or self._running:
            return forward_func(*arguments)
        given = [value for value in arguments if isinstance(value, Tensor)]
        written, draws = _versions(given), [] if self.complete else random_states(tensor.device for tensor in given)
        grad = torch.is_grad_enabled()
        self._running = True
        try:
            for _ in range(MOST_TRIES):
                one = Pass(self, given)
                try:
                    output = one.run(forward_func, arguments)
                except Again as again:
                    found = type(again.module).__name__
                else:
                    if one.elsewhere and not self._outermost:
                        tell(
                            f"forward_func: it runs no module in this thread, while a {one.elsewhere} ran in training "
                            "mode in another; if that is its own, call the model's eval() before"
                        )
                    self._learn()
                    return output
                if written != _versions(given):
                    break
                torch.set_grad_enabled(grad)  # which a hook may have changed
                for draw, state in draws:
                    draw(state)
        finally:
            self._running = False
        raise RuntimeError(
            f"forward_func: it calls a method of a {found} in training mode, and what it did before cannot be undone; "
            "call its eval() before"
        )

    def module(self) -> nn.Module | None:
        """The one module that ran so far; None where there are more, or none."""
        outermost = outermost_of(self._outermost.values())
        return unwrapped(outermost[0]) if len(outermost) == 1 else None

    def _learn(self) -> None:
        """Remember what a complete pass has shown."""
        if isinstance(self.forward_func, nn.Module):
            self._watched = id(self.forward_func) not in self._closed
        elif self._compiled and not self.eager:
            self._watched = False
        if self._grown or not self.complete:
            outermost = outermost_of(self._outermost.values())
            if isinstance(self.forward_func, nn.Module):
                outermost = [self.forward_func]
            hidden = outermost_of(self._hidden.values())
            remember(self.forward_func, Behind(outermost, hidden, self._compiled))
        self._grown, self.complete = False, True


def _versions(tensors: list[Tensor]) -> list[int | None]:
    """What tells of values that were written to."""
    return [None if tensor.is_inference() else tensor._version for tensor in tensors]
