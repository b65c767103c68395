"""A model run in which every ReLU sends its gradient back by another rule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from fastsal.engine.run import tell
from fastsal.explainers.arguments import Inputs
from fastsal.explainers.base import GradientAttribution
from fastsal.explainers.call import Call
from fastsal.explainers.scores import Target

# The aten forms are what exported programs call.
OUT_OF_PLACE = (torch.relu, Tensor.relu, torch.ops.aten.relu, torch.ops.aten.relu.default)
IN_PLACE = (torch.relu_, Tensor.relu_, torch.ops.aten.relu_, torch.ops.aten.relu_.default)

Rule = Callable[[Tensor, Tensor], Tensor]


def _function(rule: Rule, in_place: bool) -> Any:
    class Rectify(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            if in_place:
                ctx.mark_dirty(x)
                result = torch.relu_(x)
            else:
                result = torch.relu(x)
            ctx.save_for_backward(result)
            return result

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            (result,) = ctx.saved_tensors
            return rule(gradient, result)

    return Rectify


class ReluRule(TorchFunctionMode):
    """Inside this mode every form of ReLU, module or function, in place or not, has the rule as its derivative.

    The model is not touched: nothing is hooked, and functional ReLUs are met like modules.
    """

    def __init__(self, rule: Rule) -> None:
        super().__init__()
        self._out_of_place = _function(rule, False)
        self._in_place = _function(rule, True)
        self.met = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in OUT_OF_PLACE or func is F.relu or func in IN_PLACE or func is F.relu_:
            self.met += 1
            x = args[0] if args else kwargs.get("input", kwargs.get("self"))
            in_place = func in IN_PLACE or func is F.relu_
            if func is F.relu:
                in_place = bool(args[1]) if len(args) > 1 else bool(kwargs.get("inplace", False))
            return (self._in_place if in_place else self._out_of_place).apply(x)
        return func(*args, **kwargs)


class ModifiedRelu(GradientAttribution):
    """Shared body of Guided Backprop and Deconvolution: Saliency under a rule.

    Args:
        model: a torch.nn.Module in Python code.

    Raises:
        TypeError: for what is not a module, or has compiled parts whose ReLUs cannot be reached.
    """

    rule: Rule
    reads = "functions"
    cost = "1 forward, 1 backward"

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__(model)
        if not isinstance(model, torch.nn.Module):
            raise TypeError(f"model: {type(model).__name__} is not a torch.nn.Module")
        if any(isinstance(part, torch.jit.ScriptModule) for part in model.modules()):
            raise TypeError("model: it has TorchScript parts, whose ReLUs cannot be reached; pass the Python model")
        self.model = model

    def described(
        self,
        inputs: Inputs,
        target: Target,
        additional_forward_args: Any,
        absolute: bool,
        create_graph: bool,
        allow_unused: bool,
    ) -> Call[Any]:
        """The gradients under the rule."""
        task = self.task(inputs, target, additional_forward_args, create_graph=create_graph, allow_unused=allow_unused)

        def run() -> Any:
            with task.context(eager=True), ReluRule(type(self).rule) as mode:
                gradients = task.gradients()
            if not mode.met:
                tell("the model ran no ReLU, so this map is the plain gradient")
            return task.result([g.abs() if absolute else g for g in gradients])

        return task.once(run)
