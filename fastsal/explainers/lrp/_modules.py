"""Which rule a module was given, found again by the tensors that it hands to its function; a module as one layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.overrides import TorchFunctionMode

from fastsal._torch import BatchNorm
from fastsal.explainers.functions import FunctionCall, replaced
from fastsal.explainers.lrp.composites import Composite
from fastsal.explainers.lrp.layer import RelevanceLayer
from fastsal.explainers.lrp.rules import PropagationRule, as_rule

# Modules that are one function of their own weight.
ONE_FUNCTION = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    BatchNorm,
)
# A rule set on one of these has no effect, as in Captum: relevance passes them unchanged.
PASSED = (nn.ReLU, nn.Dropout, nn.Tanh)
# Linear without weights, or a choice among the inputs.
POOLING = (
    *(nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
    *(nn.Upsample, nn.Identity, nn.Flatten, nn.Unflatten),
)


def own_rule(name: str, module: nn.Module) -> PropagationRule | None:
    """The module's attribute ``rule``.

    Raises:
        TypeError: where it is no rule.
    """
    rule: Any = getattr(module, "rule", None)
    return None if rule is None else as_rule(rule, f"rule of module {name!r}")


class ModuleRules:
    """Names and rules of a model's modules.

    Attributes:
        by_tensor: id of a weight (or running mean) -> (the module in words, its rule or None).
        whole: other modules with a rule -> (name, rule); each is one layer, whatever functions it runs.

    Raises:
        TypeError: for a rule that takes apart weights on a module that is not known to be linear in them.
        ValueError: for modules that share a weight but not the rule.
    """

    def __init__(self, model: nn.Module, composite: Composite) -> None:
        self.names: set[str] = set()
        self.by_tensor: dict[int, tuple[str, PropagationRule | None]] = {}
        self.whole: dict[nn.Module, tuple[str, PropagationRule]] = {}
        for name, module in model.named_modules():
            self.names.add(name)
            rule = None if type(module) in PASSED else own_rule(name, module)
            rule = rule or composite.of_module(name, module)
            if self._is_one_function(module):
                self._register(name, module, rule)
            elif rule is not None:
                if rule.splits and not isinstance(module, POOLING):
                    raise TypeError(
                        f"rule: {rule} on {name!r} ({type(module).__name__}) takes weights apart, which needs a linear "
                        "or convolutional layer; EpsilonRule and IdentityRule work for any"
                    )
                self.whole[module] = (name, rule)

    @staticmethod
    def _is_one_function(module: nn.Module) -> bool:
        # A parametrised weight is made anew for each run, so it cannot be recognised.
        known = {kind.forward for kind in ONE_FUNCTION}
        return type(module).forward in known and "weight" in module._parameters and "forward" not in vars(module)

    def _register(self, name: str, module: nn.Module, rule: PropagationRule | None) -> None:
        for tensor in (module._parameters["weight"], module._buffers.get("running_mean")):
            if tensor is None:
                continue
            before = self.by_tensor.get(id(tensor))
            if before is not None and before[1] is not rule and repr(before[1]) != repr(rule):
                raise ValueError(f"rule: {before[0]} and {name!r} share a weight, but not the rule; give both the same")
            self.by_tensor[id(tensor)] = (f"{name} ({type(module).__name__})".strip(), rule)


class _Replace(TorchFunctionMode):
    """Inside, some tensors are taken for others wherever a function is given them."""

    def __init__(self, others: dict[int, Tensor]) -> None:
        super().__init__()
        self._others = others

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        def other(leaf: Any) -> Any:
            return self._others.get(id(leaf), leaf)

        return func(*replaced(tuple(args), other), **replaced(kwargs or {}, other))


def _weight_and_bias(module: nn.Module) -> tuple[Tensor | None, Tensor | None]:
    weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
    return weight if isinstance(weight, Tensor) else None, bias if isinstance(bias, Tensor) else None


def as_layer(module: nn.Module, name: str, call: FunctionCall, dtype: torch.dtype) -> RelevanceLayer:
    """A module as one layer, whatever functions it runs; ``call`` returns its arguments."""

    def run(xs: tuple[Tensor, ...], weight: Tensor | None, bias: Tensor | None) -> Tensor:
        others: dict[int, Tensor] = {}
        if xs[0].dtype != dtype:  # half precision is computed in float32
            parts = (*module.parameters(), *module.buffers())
            others = {id(part): part.detach().to(xs[0].dtype) for part in parts if part.is_floating_point()}
        args, kwargs = call(*(x.clone() for x in xs))
        # A parametrised weight is made anew each time it is read; cached, it is the same tensor to the module.
        with parametrize.cached():
            for old, new in zip(_weight_and_bias(module), (weight, bias), strict=True):
                if old is not None:
                    others[id(old)] = torch.zeros_like(old, dtype=xs[0].dtype) if new is None else new
            with _Replace(others):
                result: Tensor = module.forward(*args, **kwargs)
        return result

    weight, bias = (None if value is None else value.detach() for value in _weight_and_bias(module))
    return RelevanceLayer(f"{name} ({type(module).__name__})", run, weight, bias, learned=weight is not None)
