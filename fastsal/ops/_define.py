"""The one way to register an op.

An op is a schema, a reference that says what it means, a kernel that says it faster, and a function that allocates the
result. From these follow the dispatcher entries for every device, the fake kernel, reverse- and forward-mode
derivatives of any order (those of the reference) and, with the op's own rule, vmap.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastsal._torch import (
    AutoDispatchBelowAutograd,
    SingleLevelFunction,
    are_functorch_transforms_active,
    enable_single_level_autograd_function,
    forward_ad_is_active,
    len_torch_dispatch_stack,
)
from fastsal.ops import _backend

logger = logging.getLogger(__name__)
LIBRARY = torch.library.Library("fastsal", "DEF")
KEYS = ("CPU", "CUDA", "MPS", "XPU", "PrivateUse1")

Vmap = Callable[..., tuple[Tensor, int | None]]
OPS: list[Op] = []
"""Every registered op."""


class Op:
    """A registered op, called with its schema's arguments in order.

    Args:
        schema: ``name(arguments) -> Tensor``.
        reference: the op in plain PyTorch.
        kernel: ``module.function`` of ``fastsal_kernels``; called as ``function(out, *arguments)``.
        empty: allocates the result for the arguments; serves as the fake kernel too.
        vmap: rule of ``torch.library.register_vmap``.
        lead: position of the tensor whose device and dtype choose the backend.
        supported: None where the kernel covers these arguments, else a sentence that says why not.
        differentiable: False for results that have no derivative.
    """

    def __init__(
        self,
        schema: str,
        *,
        reference: Callable[..., Tensor],
        kernel: str,
        empty: Callable[..., Tensor],
        vmap: Vmap,
        lead: int = 0,
        supported: Callable[..., str | None] = lambda *args: None,
        differentiable: bool = True,
    ) -> None:
        name = schema.split("(", 1)[0]
        LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
        self.name = name.replace("_", ".", 1)  # of the public function: cam.map
        self.overload = getattr(torch.ops.fastsal, name).default
        self.reference = reference
        self._module, self._function = kernel.split(".")
        self._empty = empty
        self._lead = lead
        self._supported = supported
        self._derivative = _derivative(self.overload, reference, differentiable)
        for key in KEYS:
            LIBRARY.impl(name, self._run, key)
        LIBRARY.impl(name, _autograd_kernel(self.overload, self._derivative), "Autograd")
        torch.library.register_fake(f"fastsal::{name}", empty, lib=LIBRARY)
        torch.library.register_vmap(f"fastsal::{name}", vmap, lib=LIBRARY)
        OPS.append(self)

    def _run(self, *args: Any) -> Tensor:
        lead = args[self._lead]
        if lead.is_meta:
            return self._empty(*args)
        reason = _backend.why_reference(lead, self._supported, args)
        if reason is not None:
            if lead.is_cuda and _backend.current_backend() != "reference":
                logger.debug("%s: the reference runs, since %s", self.name, reason)
            return self.reference(*args)
        out = self._empty(*args)
        if out.numel():
            with _backend.device_guard(lead):
                getattr(_backend.kernel_module(self._module), self._function)(out, *args)
        return out

    def choice(self, *args: Any) -> tuple[str, str]:
        """(the backend that these arguments take, why).

        Raises:
            RuntimeError: when the selected backend cannot run them.
        """
        lead, selected = args[self._lead], _backend.current_backend()
        reason = _backend.why_reference(lead, self._supported, args)
        if reason is not None:
            return "reference", reason
        return ("interpret" if selected == "interpret" else "triton"), "the kernel covers these arguments"

    def __call__(self, *args: Any) -> Tensor:
        if torch.compiler.is_compiling():
            return self.overload(*args)  # type: ignore[no-any-return]
        if are_functorch_transforms_active():
            return self._derivative.apply(*args)  # type: ignore[no-any-return]
        if not forward_ad_is_active() and len_torch_dispatch_stack() == 0:
            # The dispatcher costs several microseconds in Python; a plain call does not need it.
            grad = torch.is_grad_enabled()
            for arg in args:
                if isinstance(arg, Tensor) and (type(arg) is not Tensor or (grad and arg.requires_grad)):
                    break
            else:
                return self._run(*args)
        return self.overload(*args)  # type: ignore[no-any-return]


def _derivative(overload: Any, reference: Callable[..., Tensor], differentiable: bool) -> Any:
    """Autograd function of an op; its rules are those of the reference, so every order of derivative is defined."""

    def split(args: tuple[Any, ...], needed: tuple[bool, ...] | None) -> tuple[list[int], Callable[..., Tensor]]:
        where = [i for i, arg in enumerate(args) if isinstance(arg, Tensor) and arg.is_floating_point()]
        if needed is not None:
            where = [i for i in where if needed[i]]

        def of_tensors(*tensors: Tensor) -> Tensor:
            full = list(args)
            for i, tensor in zip(where, tensors, strict=True):
                full[i] = tensor
            return reference(*full)

        return where, of_tensors

    class Derivative(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(*args: Any) -> Tensor:
            if are_functorch_transforms_active():
                return overload(*args)  # type: ignore[no-any-return]
            with AutoDispatchBelowAutograd():
                return overload(*args)  # type: ignore[no-any-return]

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
            tensors = [arg for arg in inputs if isinstance(arg, Tensor)]
            ctx.save_for_backward(*tensors)
            ctx.save_for_forward(*tensors)
            ctx.others = [None if isinstance(arg, Tensor) else (arg,) for arg in inputs]
            if not differentiable:
                ctx.mark_non_differentiable(output)

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
            args = _restore(ctx)
            where, of_tensors = split(args, ctx.needs_input_grad)
            result: list[Tensor | None] = [None] * len(args)
            if differentiable and where:
                pull = _pull_back(of_tensors, [args[i] for i in where])[1]
                for i, gradient in zip(where, pull(gradients[0]), strict=True):
                    result[i] = gradient
            return tuple(result)

        @staticmethod
        def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor | None:
            if not differentiable:
                return None
            args = _restore(ctx)
            where, of_tensors = split(args, None)
            primals = [args[i] for i in where]
            directions = [
                torch.zeros_like(primal) if tangents[i] is None else tangents[i]
                for i, primal in zip(where, primals, strict=True)
            ]
            # Reverse mode twice, since forward mode does not nest: the pull-back of the pull-back pushes forward.
            out, pull = _pull_back(of_tensors, primals)
            push = _pull_back(pull, [torch.zeros_like(out)])[1]
            tangent: Tensor = push(tuple(directions))[0]
            return tangent

    return Derivative


def _autograd_kernel(overload: Any, derivative: Any) -> Callable[..., Tensor]:
    """What the dispatcher calls for autograd: one level of it, since torch.func transforms call it once per level."""

    class OneLevel(SingleLevelFunction):
        setup_context = derivative.setup_context
        backward = derivative.backward

        @staticmethod
        def forward(*args: Any) -> Tensor:
            with AutoDispatchBelowAutograd():
                return overload(*args)  # type: ignore[no-any-return]

        @staticmethod
        def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor | None:
            if are_functorch_transforms_active():
                raise NotImplementedError(
                    "torch.func's forward mode does not reach an op called by torch.ops: call it through fastsal.ops"
                )
            return derivative.jvp(ctx, *tangents)  # type: ignore[no-any-return]

    one_level: Any = OneLevel

    def kernel(*args: Any) -> Tensor:
        with enable_single_level_autograd_function():
            return one_level.apply(*args)  # type: ignore[no-any-return]

    return kernel


def _pull_back(function: Any, primals: list[Any]) -> tuple[Any, Any]:
    """The function's value and its vector-Jacobian product."""
    result: Any = torch.func.vjp(function, *primals)
    return result[0], result[1]


def _restore(ctx: Any) -> tuple[Any, ...]:
    tensors = iter(ctx.saved_tensors)
    return tuple(next(tensors) if other is None else other[0] for other in ctx.others)
