"""Every name that fastsal takes from PyTorch without PyTorch calling it public, with what it is needed for.

A new release of PyTorch is read against this file; no other file names one (tests/test_structure.py). They are called
what PyTorch calls them, less a leading underscore.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import torch
from torch import _C, _decomp, _ops, fx, nn, overrides
from torch._dispatch import python as _python_dispatcher
from torch._functorch import autograd_function as _autograd_function
from torch._subclasses import fake_tensor as _fake_tensor
from torch.autograd import forward_ad
from torch.autograd import function as _function
from torch.multiprocessing import reductions as _reductions
from torch.nn.modules import module as _module
from torch.utils import _python_dispatch, _pytree

# Nested values: outputs of models, arguments of layers; also of classes that were registered with PyTorch.
TreeSpec = _pytree.TreeSpec
tree_flatten = _pytree.tree_flatten
tree_leaves = _pytree.tree_leaves
tree_map = _pytree.tree_map
tree_map_only = _pytree.tree_map_only
tree_unflatten = _pytree.tree_unflatten

# Registering an op, and calling it without the dispatcher where nobody would notice.
SingleLevelFunction = _function._SingleLevelFunction
"""torch.func calls an op's Autograd kernel once per level; a public Function would take all of them at once."""
enable_single_level_autograd_function = _autograd_function.enable_single_level_autograd_function  # type: ignore[attr-defined]
"""Lets such a function run."""
AutoDispatchBelowAutograd = _C._AutoDispatchBelowAutograd
"""From an Autograd kernel to the op's own; around a pass, what is recorded is what the model called."""
are_functorch_transforms_active = _C._are_functorch_transforms_active
"""Whether torch.func is at work, whose transforms see what goes through the dispatcher alone."""
len_torch_dispatch_stack = _C._len_torch_dispatch_stack
"""Number of dispatch modes, such as traces, that see what goes through the dispatcher alone."""

# Modes.
disable_current_modes = _python_dispatch._disable_current_modes
"""What is kept from one call for the next, or read by the host, must not be a tensor of a trace's own kind."""
DisableTorchFunction = _C.DisableTorchFunction
"""LRP's mode calls the function that it replaces: neither a mode nor a subclass may see that call again."""
enable_python_dispatcher = _python_dispatcher.enable_python_dispatcher
"""Some operators take an explainer's symbolic shapes in their Python form alone."""
FakeTensorMode = _fake_tensor.FakeTensorMode
"""Tensors without values, of any number of rows, to trace with."""


def let_go(fake: Any) -> None:
    """Let a fake tensor's mode refer to no real one any more: PyTorch swaps no parameter that is referred to weakly."""
    converter: Any = getattr(getattr(fake, "fake_mode", None), "fake_tensor_converter", None)
    describer = getattr(getattr(converter, "meta_converter", None), "describer", None)
    if describer is not None:
        describer.lookup_tensor.clear()


get_current_function_mode: Any = overrides._get_current_function_mode
"""The innermost mode, which is the one that leaving takes away."""

len_torch_function_stack = _C._len_torch_function_stack
"""Number of modes of this thread, which is what it was once an explanation is over."""
pop_torch_function_stack: Any = _C._pop_torch_function_stack
pop_torch_dispatch_stack: Any = _C._pop_torch_dispatch_stack
"""Take away a mode whose end was interrupted."""


class TorchDispatchMode(_python_dispatch.TorchDispatchMode):
    """Sees every op of a call: to tell which backend takes it, or to record what ran."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing inside is compiled, and to say so to torch._dynamo would import it, which takes over a second."""
        return False


StorageWeakRef = _reductions.StorageWeakRef
"""A tensor's memory, which it does not keep, and whose number no other has while this lives."""

# What is in a graph, and of what kind a module is.
OpOverload = _ops.OpOverload
OpOverloadPacket = _ops.OpOverloadPacket
"""What a node or a mode is called with: torch.ops has the objects, not their classes."""
set_grad_enabled = _C._set_grad_enabled
"""The node that a trace leaves where gradients are switched."""
get_decompositions = _decomp.get_decompositions
"""Backward operators in others, which ONNX has."""
BatchNorm = nn.modules.batchnorm._BatchNorm
"""The one base of batch normalisation in every dimension."""

# A thread's own object, which autograd takes along to the threads that run its backward passes.
has_thread_object = _C._is_key_in_tls
thread_object = _C._get_obj_in_tls
set_thread_object = _C._stash_obj_in_tls

# A module's call, and hooks that all modules have.
CALLERS = frozenset((_module.__file__, str(Path(fx.__file__).with_name("_symbolic_trace.py"))))
"""Where the methods are that all modules have: calls, and what loads, casts or moves one; and a trace's way to call."""
_has_any_global_hook: Any = getattr(_module, "_has_any_global_hook", None)


def _others_have_a_global_hook() -> bool:
    others = _module._global_backward_pre_hooks, _module._global_backward_hooks, _module._global_forward_hooks
    return any(others) or len(_module._global_forward_pre_hooks) > 1


def global_module_hooks() -> tuple[Any, ...]:
    """Hooks that all modules have, without fastsal's own, which look on."""
    kinds = (
        _module._global_forward_hooks,
        _module._global_forward_pre_hooks,
        _module._global_backward_hooks,
        _module._global_backward_pre_hooks,
    )
    if not any(kinds):
        return ()
    return tuple(
        hook
        for kind in kinds
        for hook in kind.values()
        if not getattr(hook, "__module__", "").startswith(__name__.partition(".")[0] + ".")
    )


def warn_of_global_hooks(ours: bool) -> None:
    """Whether a compiled module warns also of one forward pre-hook, ours, that is gone before compiled code runs."""
    if _has_any_global_hook is not None:
        _module._has_any_global_hook = _has_any_global_hook if ours else _others_have_a_global_hook


def abandon_capture(graph: torch.cuda.CUDAGraph, pool: Any) -> None:
    """End a capture that failed: what it leaves undone would make the allocator refuse to give memory back for ever."""
    with contextlib.suppress(RuntimeError):
        graph.capture_end()
    with contextlib.suppress(RuntimeError, AttributeError):
        torch._C._cuda_endAllocateToPool(torch._C._cuda_getDevice(), pool)


def call_without_dynamo(op: Any) -> None:
    """Let a custom op's kernels run as they are: what PyTorch puts around them imports torch._dynamo at their first
    call, which takes over a second, and a custom op is never compiled into anything."""
    kernels: dict[Any, Any] = getattr(op, "_backend_fns", {})
    for key, kernel in list(kernels.items()):
        kernels[key] = getattr(kernel, "__wrapped__", kernel)


def cuda_sleep(cycles: int) -> None:
    """Keep the device busy, so that the host is ahead of it when a group of calls is timed."""
    torch.cuda._sleep(cycles)


def check_torch(oldest: str, what: str) -> None:
    """Refuse what an older PyTorch than ``oldest`` ("2.11") cannot do.

    Raises:
        RuntimeError: which names both.
    """

    def numbers(version: str) -> list[int]:
        return [int(part) for part in version.split(".")[:2]]

    if numbers(torch.__version__) < numbers(oldest):
        raise RuntimeError(
            f"{what} needs PyTorch {oldest} or newer, this is {torch.__version__}: pip install 'torch>={oldest}'"
        )


def forward_ad_is_active() -> bool:
    """Whether tensors may carry tangents, which an op must go through the dispatcher for."""
    return forward_ad._current_level >= 0


def aoti_compile_and_package(program: Any, path: str, configs: dict[str, Any]) -> str:
    """Compile an exported program to a package; public, but in a private module."""
    import torch._inductor  # seldom needed and slow to import

    written: str = torch._inductor.aoti_compile_and_package(program, package_path=path, inductor_configs=configs)
    return written


def aoti_model_package_loader(path: str, device_index: int) -> Any:
    """A package's runner, without the compiler that ``torch._inductor.aoti_load_package`` imports first."""
    return torch._C._aoti.AOTIModelPackageLoader(path, "model", False, 1, device_index)


def valid_vec_isa_list() -> list[Any]:
    """Vector instructions that the compiler may use on this CPU."""
    from torch._inductor.cpu_vec_isa import valid_vec_isa_list as known  # takes a second to import

    return known()
