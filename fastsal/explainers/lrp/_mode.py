"""A model run in which every function sends relevance back by a rule instead of a gradient."""

from __future__ import annotations

import contextlib
import re
import weakref
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction
from torch.overrides import TorchFunctionMode

from fastsal._torch import DisableTorchFunction
from fastsal.engine.run import Undone
from fastsal.explainers.functions import (
    COPIES,
    ELEMENTWISE,
    MAX_POOLING,
    PRODUCTS,
    SCALINGS,
    SUMS,
    WEIGHTED,
    FunctionCall,
    carriers,
    function_name,
    nodes_behind,
    plain_name,
    requires_gradient,
    works_in_place,
)
from fastsal.explainers.lrp._linear import BatchNorm, product, weighted
from fastsal.explainers.lrp._modules import ModuleRules, as_layer
from fastsal.explainers.lrp.composites import Composite
from fastsal.explainers.lrp.layer import HALF, RelevanceLayer, Rule, Saved, through
from fastsal.explainers.lrp.rules import EpsilonRule, PropagationRule

# Arithmetic that reached autograd unseen, as scripted functions do.
UNSEEN = re.compile(
    r"(Mul|Add|Sub|Div|Mm|Addmm|Bmm|Convolution|NativeBatchNorm|CudnnBatchNorm|Relu|Sigmoid|Tanh|Softmax|LogSoftmax|"
    r"Pow|Exp|Gelu|Silu|Mean|AvgPool\dD)Backward|.*DifferentiableGraph"
)


class Refused(Exception):
    """A function has no rule. It is no TypeError, which PyTorch's operators take for an operand of another type."""


def _as_run(rule: Rule) -> bool:
    """Whether the rule shares by the layer as the model ran it, so that its graph can be kept."""
    if not isinstance(rule, EpsilonRule):
        return False
    return type(rule).parts is EpsilonRule.parts and type(rule).relevance is EpsilonRule.relevance


def _unique(tensors: list[Tensor]) -> tuple[Tensor, ...]:
    return tuple({id(tensor): tensor for tensor in tensors}.values())


def _has_layer_behind(x: Tensor) -> bool:
    """Whether a linear layer or convolution came before."""
    layers = (getattr(node, "layer", None) for node in nodes_behind([x]))
    return any(isinstance(layer, RelevanceLayer) and layer.learned for layer in layers)


class RelevanceMode(TorchFunctionMode):
    """Inside, what autograd sends back through the model's functions is relevance.

    Functions of which no argument depends on the model's inputs run without autograd, so that a tensor that a function
    made and autograd knows is one that carries relevance. Nothing is hooked but modules whose rule cannot be told by
    the weight that their function is given; :meth:`hooked` does and undoes it.
    """

    def __init__(self, model: nn.Module, composite: Composite, verbose: bool = False) -> None:
        super().__init__()
        self._composite = composite
        self._rules = ModuleRules(model, composite)
        self._verbose = verbose
        self._met: set[str] = set()
        # By memory: what has to be copied before the model overwrites it.
        self._saved: dict[int, list[Saved]] = {}
        # By output: what batch normalisation can be merged into, with the layer's input.
        self._mergeable: dict[int, tuple[weakref.ref[Tensor], RelevanceLayer, Tensor]] = {}
        # The modules that run and are one layer: (inputs, leaves, call), or None where no relevance is met.
        self._running: list[tuple[tuple[Tensor, ...], tuple[Tensor, ...], FunctionCall] | None] = []

    @contextlib.contextmanager
    def hooked(self) -> Iterator[None]:
        """Inside, modules that are one layer with a rule of its own tell when they run."""
        with Undone() as undone:
            for module in self._rules.whole:
                undone.hook(module, self._enter, before=True, kwargs=True)
                undone.hook(module, self._leave, kwargs=True)
            yield

    def finish(self, output: Any) -> None:
        """Forget the run, and check that nothing escaped the rules.

        Raises:
            TypeError: for what autograd saw and the mode did not.
            ValueError: for a name in the composite that is no module's and no function's.
        """
        self._saved.clear()
        self._mergeable.clear()
        for node in nodes_behind(carriers(output)):
            own = isinstance(node, BackwardCFunction) and isinstance(getattr(node, "layer", None), RelevanceLayer)
            if not own and (isinstance(node, BackwardCFunction) or UNSEEN.match(node.name())):
                raise TypeError(
                    f"model: {node.name()} ran where no rule could reach it (a scripted function, or an "
                    "autograd.Function of the model's own); set a rule on the module that runs it"
                )
        rules = self._composite.rules
        known = self._rules.names | self._met
        for key in () if rules is None or callable(rules) else rules:
            if isinstance(key, str) and key not in known:
                raise ValueError(f"composite: {key!r} is neither a module of the model nor a function that it ran")

    # What the model runs

    def _enter(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        with DisableTorchFunction():
            inputs = _unique(carriers((args, kwargs)))
            if any(self._running) or not inputs or not torch.is_grad_enabled():
                self._running.append(None)
                return None
            leaves = tuple(x.detach().requires_grad_() for x in inputs)
            call = FunctionCall(lambda *a, **k: (a, k), args, kwargs, inputs)
            self._running.append((inputs, leaves, call))
            # Copies: writing to a leaf is an error, and the module may work in place.
            return call(*(leaf.clone() for leaf in leaves))

    def _leave(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        running = self._running.pop()
        if running is None:
            return None
        (inputs, leaves, call), (name, rule) = running, self._rules.whole[module]
        if not isinstance(output, Tensor):
            raise TypeError(f"rule: module {name!r} returns a {type(output).__name__}; a rule needs one tensor")
        with DisableTorchFunction():
            layer = as_layer(module, name, call, inputs[0].dtype)
            # A copy, since autograd may have saved the output, which the model may overwrite.
            return self._through(layer, rule, inputs, leaves, output).clone()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if any(self._running):
            return func(*args, **kwargs)
        found = carriers((args, kwargs))
        if not found:
            # Without tensors it may be a switch, such as that of torch.no_grad. Of what has no gradient autograd keeps
            # nothing, and a view that was made without it could not be written to afterwards.
            with torch.no_grad() if requires_gradient((args, kwargs)) else contextlib.nullcontext():
                return func(*args, **kwargs)
        name = function_name(func)
        in_place = works_in_place(func, name, args, kwargs)
        name = plain_name(name)
        self._met.add(name)
        rule = self._composite.of_function(name)
        copies = rule is None and name in COPIES
        if not in_place and not copies and torch.is_grad_enabled():
            return self._propagated(name, rule, func, args, kwargs, found)
        if in_place:
            key = next(iter(kwargs), None)
            target: Tensor = args[0] if args else kwargs[key]
            if not copies and torch.is_grad_enabled():
                others = {name: value for name, value in kwargs.items() if args or name != key}

                def on_a_copy(first: Tensor, *args: Any, **kwargs: Any) -> Any:
                    return func(first.clone(), *args, **kwargs)

                # The result, with the rule behind it, is written over the original.
                result = self._propagated(name, rule, on_a_copy, (target, *args[1:]), others, found)
                self._keep(target)
                return target.copy_(result)
            self._keep(target)
        return func(*args, **kwargs)

    def _propagated(
        self, name: str, rule: PropagationRule | None, func: Any, args: Any, kwargs: Any, found: list[Tensor]
    ) -> Any:
        inputs = _unique(found)
        if name in ELEMENTWISE and rule is None and len(found) == 1:
            x = inputs[0]
            with torch.no_grad():
                value = FunctionCall(func, args, kwargs, inputs)(x.detach())
            if value.data_ptr() == x.data_ptr() and name.endswith("dropout"):
                return x
            return through(RelevanceLayer(name), value, inputs)
        if name == "batch_norm":
            norm = BatchNorm(func, args, kwargs)
            if len(found) == 1 and found[0] is norm.input:
                return self._batch_norm(norm, rule)
        if name in WEIGHTED or name in PRODUCTS:
            build = weighted if name in WEIGHTED else product
            made = build(name, func, args, kwargs, found)
            if made is not None:
                return self._weighted(*made, rule, given=args + tuple(kwargs.values()))
        known = name in SUMS or name in MAX_POOLING
        if name in SCALINGS and len(found) == 1:
            known = name in ("mul", "multiply") or (len(args) > 0 and args[0] is found[0])
        if rule is None and not known:
            result = func(*args, **kwargs)
            if carriers(result):
                one = "IdentityRule(source=0)" if len(inputs) > 1 else "IdentityRule()"
                raise Refused(
                    f"{name}: LRP has no rule for it with {len(inputs)} input(s) that depend on the model's inputs; "
                    f"give it one that fits, as in composite={{{name!r}: {one}}}, or set one on the module that runs "
                    f"it, as in module.rule = {one}; attribute() takes composite, fastsal.lrp has the rules"
                )
            return result
        if rule is not None and rule.splits and not known:
            raise Refused(f"{name}: {rule} takes weights apart, and it has none; EpsilonRule and IdentityRule work")
        call = FunctionCall(func, args, kwargs, inputs)
        layer = RelevanceLayer(name, lambda xs, weight, bias: call(*xs))
        return self._run(layer, rule or self._composite.other, inputs)

    # Layers

    def _weighted(
        self, layer: RelevanceLayer, x: Tensor, rule: PropagationRule | None, given: tuple[Any, ...]
    ) -> Tensor:
        name, own = next((self._rules.by_tensor[id(v)] for v in given if id(v) in self._rules.by_tensor), (None, None))
        rule = own or rule
        if rule is None and self._composite.first is not None and not _has_layer_behind(x):
            rule = self._composite.first
        if rule is None:
            rule = self._composite.convolution if layer.name.startswith("conv") else self._composite.linear
        layer.name = name or layer.name
        output = self._run(layer, rule, (x,))
        if self._composite.merge_batch_norm:
            self._mergeable[id(output)] = (weakref.ref(output), layer, x)
        return output

    def _batch_norm(self, norm: BatchNorm, rule: PropagationRule | None) -> Tensor:
        name, own = None, None
        for tensor in (norm.weight, norm.statistic):
            name, own = self._rules.by_tensor.get(id(tensor), (name, own))
        rule = own or rule
        x = norm.input
        made = self._mergeable.get(id(x))
        if rule is None and made is not None and made[0]() is x and x._version == 0:
            _, before, source = made
            merged = norm.merged(before, name or "batch_norm")
            if merged is not None and not any(saved.copied for saved in before.saved):
                alone = norm.normalising()
                assert alone.run is not None
                with torch.no_grad():
                    value = alone.run((x.detach(),), alone.weight, alone.bias)
                return self._through(merged, merged.rule, (source,), None, value)
        rule = rule or self._composite.other
        layer = norm.affine() if rule.splits else norm.normalising()
        layer.name = name or layer.name
        return self._run(layer, rule, (x,))

    def _run(self, layer: RelevanceLayer, rule: PropagationRule, inputs: tuple[Tensor, ...]) -> Tensor:
        leaves = tuple(x.detach().requires_grad_() for x in inputs)
        assert layer.run is not None
        with torch.set_grad_enabled(_as_run(rule)):
            output: Any = layer.run(leaves, layer.weight, layer.bias)
        if not isinstance(output, Tensor):
            raise Refused(f"{layer.name}: it returns a {type(output).__name__}; a rule needs one tensor")
        return self._through(layer, rule, inputs, leaves, output)

    def _through(
        self,
        layer: RelevanceLayer,
        rule: Rule,
        inputs: tuple[Tensor, ...],
        leaves: tuple[Tensor, ...] | None,
        output: Tensor,
    ) -> Tensor:
        if self._verbose:
            print(f"{layer.name}: {rule}")
        layer.rule, layer.saved = rule, self._save(inputs)
        if output.untyped_storage()._cdata in {x.untyped_storage()._cdata for x in inputs}:
            output = output.clone()
        # Half precision is run again in float32.
        if leaves is not None and _as_run(rule) and output.dtype not in HALF and inputs[0].dtype not in HALF:
            layer.graph, (layer.output,) = (leaves, output), self._save((output,))
        return through(layer, output, inputs)

    def _save(self, tensors: tuple[Tensor, ...]) -> tuple[Saved, ...]:
        saved = tuple(map(Saved, tensors))
        for tensor, entry in zip(tensors, saved, strict=True):
            self._saved.setdefault(tensor.untyped_storage()._cdata, []).append(entry)
        return saved

    def _keep(self, overwritten: Tensor) -> None:
        for entry in self._saved.pop(overwritten.untyped_storage()._cdata, ()):
            entry.keep()
