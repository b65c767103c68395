"""One pass of a callable whose modules are told of as they run, before they run.

A global hook tells of modules. An operation outside of any may be that of a module's method, which a mode tells of and
the frames that called it show. Neither is there while code of ``torch.compile`` or a module of which all is known
runs: compiled code would be compiled again for it, and the other costs nothing then.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from types import FrameType
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from fastsal._torch import CALLERS, DisableTorchFunction, get_current_function_mode, warn_of_global_hooks
from fastsal.engine.run import stance
from fastsal.engine.run.modules import ForwardFunc, parts_of
from fastsal.engine.run.own import Undone, is_explaining


class Again(BaseException):
    """Ends a pass in which a module's method began in training mode; the module is in evaluation mode now."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


class Watcher(Protocol):
    """Who is told of modules.

    Attributes:
        complete: whether a pass has been watched to its end.
    """

    complete: bool

    def add(self, module: nn.Module, *, hidden: bool) -> bool:
        """A module runs, inside of another where it is hidden; whether it was in training mode until now."""

    def add_compiled(self) -> None:
        """Compiled code runs, or would in a session that is not eager, that could not be seen before."""

    def is_opaque(self, module: nn.Module) -> bool:
        """Whether nothing is to be told of what runs inside of a module: all is known, or it is compiled."""

    def close(self, module: nn.Module) -> None:
        """A module ran to its end, and none but its parts."""


class _Thread(threading.local):
    """The pass that this thread's modules are told to."""

    watching: Pass | None = None


_thread = _Thread()
_watching: list[Pass] = []
"""Of all threads."""


def _enters(module: nn.Module, args: tuple[Any, ...]) -> None:
    if torch.compiler.is_compiling():  # in a graph, where it does nothing
        return
    if _thread.watching is not None:
        _thread.watching.enter(module, sys._getframe(1))
        return
    if is_explaining():  # what runs here is this thread's own
        return
    for other in list(_watching):
        other.enter_elsewhere(module, args, sys._getframe(1))


class _GlobalHook:
    """The hook that all modules have while any pass is watched."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._passes: set[Pass] = set()
        self._stance: Undone | None = None
        self._handle: RemovableHandle | None = None

    def add(self, one: Pass, careful: bool) -> None:
        with self._lock:
            self._passes.add(one)
            if careful and self._stance is None:
                self._stance = Undone()
                with contextlib.suppress(RuntimeError):  # inside of compiled code the stance stays
                    stance.hold(stance.AS_COMPILED, self._stance)
            if self._handle is None:
                warn_of_global_hooks(ours=False)
                self._handle = register_module_forward_pre_hook(_enters)

    def remove(self, one: Pass) -> None:
        with self._lock:
            self._passes.discard(one)
            if self._passes:
                return
            if self._handle is not None:
                self._handle.remove()
                self._handle = None
            warn_of_global_hooks(ours=True)
            if self._stance is not None:
                self._stance.undo()
                self._stance = None


_hook = _GlobalHook()


class _Operations(TorchFunctionMode):
    """Tells a pass of operations outside of modules."""

    def __init__(self, told: Pass) -> None:
        super().__init__()
        self._told = told

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._told.operate(sys._getframe(1))
        return func(*args, **(kwargs or {}))


class Pass:
    """One run of a callable under the watch.

    Args:
        watcher: who is told.
        given: tensors among the arguments: a module that gets one of them in another thread runs for this pass.

    Attributes:
        elsewhere: the class of a module that ran in training mode in another thread meanwhile, for whom cannot be told.
    """

    def __init__(self, watcher: Watcher, given: list[Tensor]) -> None:
        self._watcher, self._given = watcher, given
        self._ident = threading.get_ident()
        self.elsewhere = ""
        self._mode: Any = None if watcher.complete else _Operations(self)
        self._watches = self._has_mode = self._has_hidden = False
        self._inside: nn.Module | None = None
        self._inside_parts: set[int] = set()
        self._opaque: set[int] = set()
        self._helpers: set[int] = set()
        self._paused_for: nn.Module | None = None
        self._undone = Undone()
        self._ended: set[int] = set()

    def run(self, forward_func: ForwardFunc, arguments: tuple[Any, ...]) -> Any:
        """``forward_func(*arguments)``.

        Raises:
            Again: where it is to be run again.
        """
        before = _thread.watching
        with self._undone as undone:
            undone.at_end(lambda: setattr(_thread, "watching", before))
            undone.at_end(self._release)
            self._resume()
            return forward_func(*arguments)

    def _release(self) -> None:
        """The end of the watch, as often as it is told."""
        self._exit_mode()
        _hook.remove(self)
        with contextlib.suppress(ValueError):
            _watching.remove(self)
        self._undone.owner.helpers -= self._helpers
        self._mode, self._given, self._watches = None, [], False  # which a cycle would keep

    def _resume(self) -> None:
        if not self._watches:
            self._watches, _thread.watching = True, self
            _watching.append(self)
            # Compiled code is known not to be in this thread's way once a pass was complete.
            _hook.add(self, self._mode is not None or threading.active_count() > 1)
            self._enter_mode()

    def _pause(self) -> None:
        if self._watches:
            self._exit_mode()
            _hook.remove(self)
            with contextlib.suppress(ValueError):
                _watching.remove(self)
            self._watches, _thread.watching = False, None

    def _enter_mode(self) -> None:
        if self._mode is not None and not self._has_mode:
            self._mode.__enter__()
            self._has_mode = True

    def _exit_mode(self) -> None:
        # Another that was entered since stays above it.
        if self._has_mode and get_current_function_mode() is self._mode:
            self._has_mode = False
            self._mode.__exit__(None, None, None)

    def operate(self, frame: FrameType) -> None:
        """An operation is about to run, called from a frame."""
        if _thread.watching is self and self._inside is None:
            self._find_methods(frame)

    def enter(self, module: nn.Module, frame: FrameType) -> None:
        """A module is about to run, called from a frame."""
        if self._inside is None:
            self._find_methods(frame)
            self._add(module)
            self._go_inside(module)
        elif id(module) not in self._inside_parts:
            self._find_methods(frame)
            self._add(module)
            if self._watcher.is_opaque(module):
                self._opaque.add(id(module))
        if id(module) in self._opaque:
            self._pause_for(module)

    def enter_elsewhere(self, module: nn.Module, args: tuple[Any, ...], frame: FrameType) -> None:
        """A module is about to run in another thread, where a callable may have sent its inputs.

        What runs for this pass is told by an input of the pass; or because this thread waits inside of a module, for
        another that runs a part of it without having been called by the whole, as any other use of the module is.
        """
        ident = threading.get_ident()
        if ident == self._ident or ident in self._helpers:
            return
        if self._inside is None:
            with DisableTorchFunction():  # the modes of that thread have nothing to see here
                given = any(_is_part_of(value, tensor) for value in args for tensor in self._given)
            if given:
                self._help(ident)
                self._watcher.add(module, hidden=False)
            elif module.training:
                self.elsewhere = self.elsewhere or type(module).__name__
        elif id(module) in self._inside_parts and _waits(self._ident) and not _is_in(self._inside, module, frame):
            self._has_hidden = True  # so that its next pass is watched too
            self._help(ident)

    def _help(self, ident: int) -> None:
        self._helpers.add(ident)
        self._undone.owner.helpers.add(ident)

    def _add(self, module: nn.Module) -> bool:
        hidden = self._inside is not None
        if hidden:
            self._has_hidden = True
            self._inside_parts.update(parts_of(module))
        _thread.watching = None  # what a managed module does to be ready is no part of the pass
        try:
            return self._watcher.add(module, hidden=hidden)
        finally:
            _thread.watching = self

    def _find_methods(self, frame: FrameType | None) -> None:
        """Modules whose methods, other than their call, are on the way from this pass to the frame.

        What a module's constructor does is no part of what the callable computes, in whatever modules; nor is loading
        or casting one.
        """
        found: dict[int, nn.Module] = {}
        while frame is not None and frame.f_code is not _RUN:
            code = frame.f_code
            if code.co_filename in CALLERS:
                if code.co_name in _BUILDERS:
                    found.clear()
            elif code.co_argcount:
                first = frame.f_locals.get(code.co_varnames[0])
                if isinstance(first, nn.Module):
                    if code.co_name == "__init__":
                        found.clear()
                    else:
                        found[id(first)] = first
            if code.co_name in _WRAPPERS and "_dynamo" in code.co_filename:
                self._watcher.add_compiled()
            frame = frame.f_back
        late: nn.Module | None = None
        for key, module in found.items():
            if key not in self._inside_parts and self._add(module):
                late = module
        if late is not None:
            raise Again(late)

    def _go_inside(self, module: nn.Module) -> None:
        if isinstance(module, torch.jit.ScriptModule):  # runs no Python
            return
        if module._compiled_call_impl is not None:
            self._watcher.add_compiled()
        if self._watcher.is_opaque(module):
            self._pause_for(module)
            return
        self._exit_mode()
        self._inside, self._inside_parts = module, set(parts_of(module))
        self._has_hidden = False
        self._hook_end(module)

    def _pause_for(self, module: nn.Module) -> None:
        self._pause()
        self._paused_for = module
        self._hook_end(module)

    def _hook_end(self, module: nn.Module) -> None:
        if id(module) not in self._ended:
            self._ended.add(id(module))
            self._undone.hook(module, self._ends, always=True)

    def _ends(self, module: nn.Module, _args: Any, output: Any) -> None:
        """A module that was entered has run, or has raised an exception."""
        if threading.get_ident() != self._ident:
            return
        if module is self._paused_for:
            self._paused_for = None
            self._resume()
            if self._inside is not None:
                self._exit_mode()
        elif module is self._inside:
            self._inside, self._inside_parts = None, set()
            if output is not None and not self._has_hidden:
                self._watcher.close(module)
            self._enter_mode()


def _is_in(whole: nn.Module, module: nn.Module, frame: FrameType | None) -> bool:
    """Whether a module, which is about to run, is the whole or called by it."""
    if module is whole:
        return True
    while frame is not None:
        code = frame.f_code
        if code.co_argcount and frame.f_locals.get(code.co_varnames[0]) is whole:
            return True
        frame = frame.f_back
    return False


def _waits(ident: int) -> bool:
    """Whether a thread waits for another, as for the result of one that it gave work to."""
    frame = sys._current_frames().get(ident)
    return frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _WAITING


def _is_part_of(value: Any, tensor: Tensor) -> bool:
    """Whether a value is a tensor, or a view of it."""
    if value is tensor or type(value) is not Tensor or type(tensor) is not Tensor:
        return value is tensor
    place = value.untyped_storage().data_ptr()
    return place != 0 and place == tensor.untyped_storage().data_ptr()


_WAITING = ("threading", "queue", "concurrent", "multiprocessing")
_RUN = Pass.run.__code__
_BUILDERS = ("load_state_dict", "apply", "_apply")
"""Of PyTorch's that run methods of every part, or a function of each."""
_WRAPPERS = ("compile_wrapper", "_fn")
"""Around what ``torch.compile`` made."""
