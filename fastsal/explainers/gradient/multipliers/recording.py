"""The two runs: one on the baselines, which is remembered, and one on the inputs, whose backward pass is DeepLIFT's.

Both are seen below autograd, where every function that has a derivative of its own comes by, however it was called: a
module, a function, in place, inside an operator of PyTorch. What the runs call in turn is compared, so nothing is
assumed of where the examples are in an activation. The model is not touched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction

from fastsal._torch import OpOverload, TorchDispatchMode
from fastsal.explainers.functions import nodes_behind
from fastsal.explainers.gradient.multipliers.rule import Back, Ends, Rule, bound, functional, names, tensor_arguments
from fastsal.explainers.gradient.multipliers.softmax import last_softmax
from fastsal.explainers.gradient.multipliers.table import is_linear, name_of, rule_of

SELECTING = ("Select", "Slice", "Index", "Gather", "Squeeze", "Unsqueeze", "View", "UnsafeView", "Stack")
"""What may be between a softmax and the score for it to be the last function, by autograd's names."""
FRESH = names("zeros_like ones_like empty_like full_like rand_like randn_like randint_like")
"""Of an argument they take the shape alone; so do all that begin with new_."""


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata if tensor.layout == torch.strided else id(tensor)


def _takes_shape_alone(func: OpOverload) -> bool:
    name = func._schema.name.split("::")[-1]
    return name in FRESH or name.startswith("new_")


@dataclass
class Record:
    """What a function was given on the baselines."""

    func: OpOverload
    starts: dict[str, Tensor]


class _Run(TorchDispatchMode):
    """Follows which memory depends on the model's inputs, as opposed to its parameters alone.

    Attributes:
        over: whether the run is, so that a backward pass is not taken for a part of it.
    """

    def __init__(self, inputs: tuple[Tensor, ...]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.over = False
        self._depends = {_memory(tensor) for tensor in inputs}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.over:
            return func(*args, **kwargs)
        self.settle()
        given = [*_tensors(args), *_tensors(kwargs)]
        places = [_memory(tensor) for tensor in given]
        depends = not self._depends.isdisjoint(places)
        if func._schema.is_mutable:
            self.overwritten(func, args, kwargs)
        output = self.call(func, args, kwargs) if depends and torch.is_grad_enabled() else func(*args, **kwargs)
        depends = depends and not _takes_shape_alone(func)
        for tensor in _tensors(output):
            place = _memory(tensor)
            if depends:
                self._depends.add(place)
            elif place not in places:  # memory that was another tensor's
                self._depends.discard(place)
        return output

    def settle(self) -> None:
        """Before the next function: autograd knows of the last one by now."""

    def overwritten(self, func: OpOverload, args: Any, kwargs: Any) -> None:
        """Before a function that writes to an argument."""

    def call(self, func: OpOverload, args: Any, kwargs: Any) -> Any:
        """A function of something that depends on the inputs."""
        raise NotImplementedError

    def varying(self, values: Mapping[str, Any]) -> dict[str, Tensor]:
        """The arguments through which the inputs send a gradient."""
        return {
            name: value
            for name, value in values.items()
            if isinstance(value, Tensor) and value.requires_grad and _memory(value) in self._depends
        }

    def ruled(self, func: OpOverload, args: Any, kwargs: Any) -> tuple[Rule, dict[str, Any], dict[str, Tensor]] | None:
        """(rule, arguments, those that vary) of a function that is not linear and has a rule."""
        rule = rule_of(func)
        if rule is None:
            return None
        values = bound(func, args, kwargs)
        varying = self.varying(values)
        if not varying or not rule.curved(values, frozenset(varying)):
            return None
        return None if any(value.is_complex() for value in varying.values()) else (rule, values, varying)


class Baselines(_Run):
    """Remembers what every function with a rule was given; its tensors are copied before the model overwrites them."""

    def __init__(self, inputs: tuple[Tensor, ...]) -> None:
        super().__init__(inputs)
        self.records: list[Record] = []
        self._by_memory: dict[int, list[tuple[Record, str]]] = {}

    def overwritten(self, func: OpOverload, args: Any, kwargs: Any) -> None:
        values = bound(func, args, kwargs)
        for argument in func._schema.arguments:
            value = values[argument.name]
            if argument.alias_info is not None and argument.alias_info.is_write and isinstance(value, Tensor):
                for record, name in self._by_memory.pop(_memory(value), ()):
                    record.starts[name] = record.starts[name].clone()

    def call(self, func: OpOverload, args: Any, kwargs: Any) -> Any:
        found = self.ruled(func, args, kwargs)
        if found is not None:
            record = Record(func, {name: value.detach() for name, value in found[2].items()})
            self.records.append(record)
            for name, value in found[2].items():
                self._by_memory.setdefault(_memory(value), []).append((record, name))
            if func._schema.is_mutable:
                self.overwritten(func, args, kwargs)
        return func(*args, **kwargs)


class Inputs(_Run):
    """Gives every function its rule as it runs, beside what it was given on the baselines.

    Args:
        inputs: tensors that the model is about to get.
        records: of the run on the baselines; used up.
        eps: a difference below it is not divided by.

    Attributes:
        kept: names of functions that kept their gradient though it does not add up, in the order met.
    """

    def __init__(self, inputs: tuple[Tensor, ...], records: list[Record], eps: float) -> None:
        super().__init__(inputs)
        self.kept: dict[str, None] = {}
        self._records, self._eps = records[::-1], eps
        self._apart = False
        self._pending: tuple[Any, Callable[[Any], None]] | None = None
        self._softmax: dict[Any, tuple[Ends, dict[str, Back]]] = {}

    def settle(self) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            output, attach = pending
            attach(output if isinstance(output, Tensor) else output[0])

    def call(self, func: OpOverload, args: Any, kwargs: Any) -> Any:
        found = self.ruled(func, args, kwargs)
        if found is None:
            output = func(*args, **kwargs)
            self._note(func, args, kwargs, output)
            return output
        rule, values, varying = found
        record = self._paired(func, varying)
        if func._schema.is_mutable:
            values = {n: v.clone() if isinstance(v, Tensor) and n in varying else v for n, v in values.items()}
        output = func(*args, **kwargs)
        back = None
        if record is not None:
            values = {n: v.detach() if isinstance(v, Tensor) else v for n, v in values.items()}
            # Not the tensor itself, which autograd is about to give a graph that would hold what holds it.
            result = output.detach() if isinstance(output, Tensor) else tuple(each.detach() for each in output)
            ends = Ends(functional(func), values, record.starts, result, self._eps)
            back = rule.prepare(ends)
        if back is None:
            if not self._apart:
                self.kept[name_of(func)] = None
            return output
        self._pending = output, lambda tensor: self._attach(tensor, func, ends, back)
        return output

    def _paired(self, func: OpOverload, varying: dict[str, Tensor]) -> Record | None:
        """What the function was given on the baselines; None from where the runs differ."""
        if self._apart:
            return None
        if not self._records or self._records[-1].func is not func:
            self._apart = True
            self.kept[f"all from {name_of(func)} on, where the baselines took another way"] = None
            return None
        record = self._records.pop()
        shapes = {name: value.shape for name, value in varying.items()}
        return record if shapes == {name: value.shape for name, value in record.starts.items()} else None

    def _note(self, func: OpOverload, args: Any, kwargs: Any, output: Any) -> None:
        """Whether the gradient of a function without a rule is not the whole of the change."""
        if _takes_shape_alone(func):
            return
        given = [*_tensors(args), *_tensors(kwargs)]
        moving = [tensor for tensor in given if _memory(tensor) in self._depends]
        carried = [tensor for tensor in moving if tensor.requires_grad]
        whole = is_linear(func) and len(moving) == len(carried) and not any(tensor.is_complex() for tensor in carried)
        if carried and not whole and any(t.is_floating_point() or t.is_complex() for t in _tensors(output)):
            self.kept[name_of(func)] = None

    def _attach(self, output: Tensor, func: OpOverload, ends: Ends, back: Back) -> None:
        order, varying = tensor_arguments(func), frozenset(ends.starts)
        chosen = {"rule": back}
        region: tuple[Any, ...] | None = None
        node: Any = output.grad_fn
        if func._schema.is_mutable and output._base is not None:
            base = output._base
            node = base.grad_fn
            region = (output.size(), output.stride(), output.storage_offset() - base.storage_offset())
            shape, strides = base.size(), base.stride()
        if node is None:
            return
        if name_of(func) in ("_softmax", "_safe_softmax"):
            self._softmax[node] = (ends, chosen)

        def hook(plain: tuple[Tensor | None, ...], gradients: tuple[Tensor | None, ...]) -> Any:
            if not self.over:  # a gradient that the model takes itself
                return None
            if region is not None:
                return _written(plain, gradients, chosen["rule"], order[0], region, shape, strides)
            given = {n: g for n, g in zip(order, plain, strict=False) if g is not None and n in varying}
            if not given or all(gradient is None for gradient in gradients):
                return None
            found = chosen["rule"](gradients, given)
            places = dict(zip(order, range(len(plain)), strict=False))
            replaced = list(plain)
            for name, value in found.items():
                if name in given:
                    replaced[places[name]] = value.to(given[name].dtype)
            return tuple(replaced)

        node.register_hook(hook)

    def last(self, scores: Tensor) -> None:
        """The run ends in these. A softmax that only a selection follows gets the rule that Captum has for it."""
        self.settle()
        self.over = True
        pending: list[Any] = [scores.grad_fn]
        found = set()
        while pending:
            node = pending.pop()
            if node is not None and node not in self._softmax and node.name().startswith(SELECTING):
                pending += [after for after, _ in node.next_functions]
            else:
                found.add(node)
        if found and self._softmax.keys() >= found:
            for ends, chosen in map(self._softmax.__getitem__, found):
                chosen["rule"] = last_softmax(ends)
            self.kept["softmax at the end"] = None
        self._softmax.clear()
        for node in nodes_behind([scores]) if scores.grad_fn is not None else ():
            name = node.name()
            if name.endswith("DifferentiableGraphBackward"):
                self.kept["a scripted function"] = None
            elif isinstance(node, BackwardCFunction):
                self.kept[name] = None


def _written(
    plain: tuple[Tensor | None, ...],
    gradients: tuple[Tensor | None, ...],
    back: Back,
    name: str,
    region: tuple[Any, ...],
    shape: Any,
    strides: Any,
) -> Any:
    """What is sent to a tensor, a part of which a function overwrote: the rule's for that part, the rest as it came."""
    if plain[0] is None or gradients[0] is None:
        return None
    result = torch.empty_strided(shape, strides, dtype=gradients[0].dtype, device=gradients[0].device)
    result.copy_(gradients[0])
    own = torch.empty_strided(shape, strides, dtype=plain[0].dtype, device=plain[0].device).copy_(plain[0])
    part = result.as_strided(*region)
    found = back((part.clone(),), {name: own.as_strided(*region)})
    part.copy_(found.get(name, own.as_strided(*region)))
    return (result, *plain[1:])
