"""What a thread does to modules that others run too is its own, and is undone also where an interrupt ends it.

A hook is called for the thread that set it, and for those in which autograd runs its backward passes; so is a forward
that stands in for a module's. Numbers of our hooks are below 0 and unique, which PyTorch's are not where several
threads set hooks at a time.
"""

from __future__ import annotations

import contextvars
import functools
import itertools
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import torch
import torch.nn.modules.module as torch_module
from torch import nn

from fastsal._torch import (
    has_thread_object,
    len_torch_dispatch_stack,
    len_torch_function_stack,
    pop_torch_dispatch_stack,
    pop_torch_function_stack,
    set_thread_object,
    thread_object,
)

if TYPE_CHECKING:
    from fastsal.engine.run.session import Session

Arguments = ParamSpec("Arguments")
Value = TypeVar("Value")
_KEY = "fastsal owner"
_numbers = itertools.count(-1, -1)


class Owner:
    """A thread that explains.

    Attributes:
        sessions: that it entered, the innermost last.
        open: contexts in which it changed something, the innermost last.
        flags: of modules, by id, the training flags that it sees instead of their own.
        helpers: threads that run modules for it now, by identifier.
    """

    __slots__ = ("flags", "helpers", "open", "sessions")

    def __init__(self) -> None:
        self.sessions: list[Session] = []
        self.open: list[Undone] = []
        self.flags: dict[int, bool] = {}
        self.helpers: set[int] = set()


def owner() -> Owner:
    """This thread; in one of autograd's, the one whose backward pass runs."""
    if not has_thread_object(_KEY):
        set_thread_object(_KEY, Owner())
    found: Owner = thread_object(_KEY)
    return found


def is_owner(one: Owner) -> bool:
    """Whether this thread runs for that one; it makes none, so that a thread that only predicts pays little."""
    if has_thread_object(_KEY) and thread_object(_KEY) is one:
        return True
    return bool(one.helpers) and threading.get_ident() in one.helpers


def is_explaining() -> bool:
    """Whether this thread is in a session."""
    return has_thread_object(_KEY) and bool(thread_object(_KEY).sessions)


def settle(restore: Callable[[], object]) -> None:
    """Call a function that puts things back, and again where an interrupt ended it, which is raised afterwards."""
    interrupt: KeyboardInterrupt | None = None
    while True:
        try:
            restore()
            break
        except KeyboardInterrupt as again:
            interrupt = again
    if interrupt is not None:
        raise interrupt


class Undone:
    """Context that undoes at its end what :meth:`at_end` was told, the last first, and again where interrupted.

    Whoever changes something tells before, so that there is no moment in which a change is not known; undoing what was
    not done, or twice, does nothing.
    """

    def __init__(self) -> None:
        self.owner = owner()
        self._undo: list[Callable[[], object]] = []

    def __enter__(self) -> Undone:
        self.owner.open.append(self)
        return self

    def __exit__(self, *error: object) -> None:
        settle(self.undo)

    def undo(self) -> None:
        """All that is left to undo.

        Raises:
            Exception: the first that undoing raised, when the rest is undone.
        """
        raised: Exception | None = None
        while self._undo:
            try:
                self._undo[-1]()
            except Exception as error:  # the others are undone all the same
                raised = raised or error
            self._undo.pop()
        if self in self.owner.open:
            self.owner.open.remove(self)
        if raised is not None:
            raise raised

    def at_end(self, undo: Callable[[], object]) -> None:
        """Call it at the end; it must do nothing the second time."""
        self._undo.append(undo)

    def set(self, variable: contextvars.ContextVar[Value], value: Value) -> None:
        """Set a variable until the end."""
        before = variable.get()
        self.at_end(lambda: variable.set(before))
        variable.set(value)

    def hook(
        self,
        module: nn.Module,
        function: Callable[..., Any],
        *,
        before: bool = False,
        kwargs: bool = False,
        always: bool = False,
    ) -> None:
        """Call a function around a module's forward for this thread, as ``register_forward_hook`` would for all.

        Args:
            module: which may run in other threads too.
            function: of (module, args, output), or before the forward of (module, args).
            before: before the forward.
            kwargs: the function takes keyword arguments behind the positional ones.
            always: after an exception too.
        """
        number, own = next(_numbers), self.owner
        hooks = module._forward_pre_hooks if before else module._forward_hooks
        marks: list[dict[int, bool]] = []
        if kwargs:
            marks.append(module._forward_pre_hooks_with_kwargs if before else module._forward_hooks_with_kwargs)
        if always:
            marks.append(module._forward_hooks_always_called)

        def for_own(*given: Any) -> Any:
            if torch.compiler.is_compiling() or not is_owner(own):
                return None
            return function(*given)

        def remove() -> None:
            hooks.pop(number, None)
            for mark in marks:
                mark.pop(number, None)

        self.at_end(remove)
        for mark in marks:
            mark[number] = True
        hooks[number] = for_own

    def forward(self, module: nn.Module, function: Callable[..., Any]) -> None:
        """Run a function in place of a module's forward in this thread; other threads run the module's."""
        key = object()
        self.at_end(lambda: _Instead.remove(module, key))
        _Instead.add(module, key, self.owner, function)

    def without(self, hooks: dict[int, Callable[..., Any]]) -> None:
        """Call no hook of these in this thread."""
        key = object()
        self.at_end(lambda: _Away.remove(hooks, key))
        _Away.add(hooks, key, self.owner)


_lock = threading.RLock()
"""Held while a dictionary is changed, never while a model runs."""


def items_of(hooks: Mapping[Any, Any]) -> list[tuple[Any, Any]]:
    """What is in a dictionary of hooks, which another thread may change while garbage is collected here."""
    while True:
        try:
            return list(hooks.items())
        except RuntimeError:
            continue


class _Instead:
    """A module's forward while threads have one of their own: each runs its own, any other thread the module's."""

    def __init__(self, module: nn.Module, before: Any) -> None:
        self._module, self._before = module, before
        self._own: dict[object, tuple[Owner, Callable[..., Any]]] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        for one, function in reversed(list(self._own.values())):
            if is_owner(one):
                return function(*args, **kwargs)
        if self._before is not None:
            return self._before(*args, **kwargs)
        return type(self._module).forward(self._module, *args, **kwargs)

    @property
    def users(self) -> Any:
        """What the module's own forward was set to; None where it was not."""
        return self._before

    @staticmethod
    def add(module: nn.Module, key: object, one: Owner, function: Callable[..., Any]) -> None:
        with _lock:
            held = vars(module).get("forward")
            if not isinstance(held, _Instead):
                held = _Instead(module, held)
            held._own[key] = one, function
            vars(module)["forward"] = held

    @staticmethod
    def remove(module: nn.Module, key: object) -> None:
        with _lock:
            held = vars(module).get("forward")
            if not isinstance(held, _Instead):
                return
            held._own.pop(key, None)
            if not held._own:
                if held._before is None:
                    vars(module).pop("forward", None)
                else:
                    vars(module)["forward"] = held._before


class _Away:
    """A user's hook while threads go without it: it is called in the others."""

    def __init__(self, hook: Callable[..., Any]) -> None:
        self.hook = hook
        self.away: dict[object, Owner] = {}

    def __call__(self, *args: Any) -> Any:
        if self.away and any(map(is_owner, list(self.away.values()))):
            return None
        return self.hook(*args)

    @staticmethod
    def add(hooks: dict[int, Callable[..., Any]], key: object, one: Owner) -> None:
        with _lock:
            for number, hook in items_of(hooks):
                if _is_own(number):
                    continue
                held = hook if isinstance(hook, _Away) else _Away(hook)
                held.away[key] = one
                if number in hooks:
                    hooks[number] = held

    @staticmethod
    def remove(hooks: dict[int, Callable[..., Any]], key: object) -> None:
        with _lock:
            for number, hook in items_of(hooks):
                if isinstance(hook, _Away):
                    hook.away.pop(key, None)
                    if not hook.away and number in hooks:
                        hooks[number] = hook.hook


def has_users_hooks(module: nn.Module, names: Iterable[str]) -> bool:
    """Whether a module has hooks of the user's under some of PyTorch's names."""
    return any(not _is_own(number) for name in names for number, _ in items_of(getattr(module, name)))


def users_forward(module: nn.Module) -> Any:
    """What a module's forward was set to by its user; None where it is its class's."""
    held = vars(module).get("forward")
    return held.users if isinstance(held, _Instead) else held


def users_attributes(module: nn.Module) -> dict[str, Any]:
    """A module's attributes as its user set them, without what is a thread's own."""
    found = dict(vars(module))
    if isinstance(found.get("forward"), _Instead):
        forward = found.pop("forward").users
        if forward is not None:
            found["forward"] = forward
    for name, value in list(found.items()):
        if name.endswith("_hooks") and isinstance(value, dict) and value:
            kept = [(number, hook) for number, hook in items_of(value) if not _is_own(number)]
            found[name] = type(value)((number, hook.hook if isinstance(hook, _Away) else hook) for number, hook in kept)
    return found


def users_items(held: Mapping[Any, Any]) -> Mapping[Any, Any]:
    """A mapping, such as a module's attributes or hooks, as its user filled it: without what is a thread's own."""
    items = items_of(held)
    if not any(_is_own(name) or isinstance(value, (_Instead, _Away)) for name, value in items):
        return held
    found = {}
    for name, value in items:
        value = value.hook if isinstance(value, _Away) else value
        value = value.users if isinstance(value, _Instead) else value
        if not _is_own(name) and not (name == "forward" and value is None):
            found[name] = value
    return found


def _is_own(number: Any) -> bool:
    return isinstance(number, int) and number < 0


class Bounds:
    """Context at whose end a thread has open what it had at the beginning, whatever interrupt came in between.

    It stands at the doors of fastsal, and around the outermost session of a thread. An interrupt within undoing is
    raised when all is undone.
    """

    __slots__ = ("_dispatches", "_functions", "_grad", "_open", "_owner", "_sessions")

    def __init__(self) -> None:
        self._owner = owner()
        self._sessions, self._open = len(self._owner.sessions), len(self._owner.open)
        self._grad = torch.is_grad_enabled()
        self._functions, self._dispatches = len_torch_function_stack(), len_torch_dispatch_stack()

    def __enter__(self) -> Bounds:
        return self

    def __exit__(self, *error: object) -> None:
        if error[0] is not None and error[0] is not GeneratorExit:  # else all was left in its order
            settle(self.restore)

    def restore(self) -> None:
        """Leave what was entered since, the innermost first."""
        own = self._owner
        while len(own.sessions) > self._sessions:
            own.sessions[-1].leave()
        while len(own.open) > self._open:
            own.open[-1].undo()
        while len_torch_function_stack() > self._functions:
            pop_torch_function_stack()
        while len_torch_dispatch_stack() > self._dispatches:
            pop_torch_dispatch_stack(None)
        if torch.is_grad_enabled() != self._grad:
            torch.set_grad_enabled(self._grad)


_COLLIDED = "OrderedDict mutated during iteration"
_OURS = str(Path(__file__).parents[2])
_TRIES = 100


def undisturbed(work: Callable[[], Value]) -> Value:
    """Run a whole explanation, anew where another thread set a hook while PyTorch went through a module's.

    Up to Python 3.11 garbage may be collected in the middle of that, which lets other threads run there; PyTorch then
    raises an error, and nothing was computed.
    """
    for _ in range(_TRIES):
        try:
            return work()
        except RuntimeError as error:
            if str(error) != _COLLIDED or not _raised_by(error, (torch_module.__file__, _OURS)):
                raise
    return work()


def _raised_by(error: BaseException, files: tuple[str, ...]) -> bool:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_code.co_filename.startswith(files)


def bounded(function: Callable[Arguments, Value]) -> Callable[Arguments, Value]:
    """A door: at its end its thread has open what it had at the beginning, and :func:`undisturbed` runs it."""

    @functools.wraps(function)
    def within(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Value:
        def whole() -> Value:
            with Bounds():
                return function(*args, **kwargs)

        return undisturbed(whole)

    return within
