"""Which batch norms can be folded: by where tensors go in a pass, and whether they go there in every pass.

A pass shows each batch norm's input and who else reads it, however the model is written. That another input would take
the same course is torch.fx's to say, of the smallest module that runs both: it refuses code that branches on its
arguments. Layers and norms of PyTorch's classes, or derived from these, are not looked into but by a second pass with
another number of rows.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from fastsal._torch import BatchNorm, OpOverload
from fastsal.engine.prepare.flow import Flow, flow_of
from fastsal.engine.prepare.folding import Fold, fold
from fastsal.engine.run.operations import reads_values

aten = torch.ops.aten
LAYERS = (
    nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear,
)  # fmt: skip
_CONVOLUTIONS = {f"{name}{n}d" for name in ("conv", "conv_transpose") for n in (1, 2, 3)} | {"convolution"}
_RESHAPES = (
    "clone", "alias", "contiguous", "view", "_unsafe_view", "reshape", "flatten", "unflatten", "view_as", "reshape_as",
    "squeeze", "unsqueeze",
)  # fmt: skip
_LIKE = {"view_as", "reshape_as", "expand_as", "type_as"}
"""Whose further arguments give a form, of which a value is nothing but an example."""

ALONE = "behind no convolution or linear layer"
READ = "behind a layer that something else reads, or that has hooks"
USED = "with weights or statistics that something else reads"
BATCH = "normalising by the batch"
NO_BIAS = "behind a layer that takes no bias"
ROWS = "not behind the same layer alone with another number of rows"
VALUES = "in a module whose course depends on values"


class Found(NamedTuple):
    """What can be folded.

    Attributes:
        pairs: of layers and batch norms.
        norms: batch norms that ran.
        reasons: why the others cannot, with how many there are.
    """

    pairs: tuple[Fold, ...]
    norms: int
    reasons: dict[str, int]

    def __str__(self) -> str:
        return "; ".join(f"{count} {reason}" for reason, count in self.reasons.items())


class _Candidate(NamedTuple):
    """A pair in one pass, and the calls inside of which each of the two ran."""

    pair: Fold
    layer: list[int]
    norm: list[int]


def foldable(
    make: Callable[[], nn.Module], arguments: Sequence[Any], others: Callable[[], Sequence[Any]] | None = None
) -> Found:
    """Pairs in a module in evaluation mode.

    A pair is a layer that runs once, of whose value nothing but the batch norm gets to know, and whose weights nobody
    else reads, in a pass for the arguments and in one for ``others``.

    Call inside ``torch.no_grad``.

    Args:
        make: the replica of a model, a new one for each call: passes and traces may write to it.
        arguments: of a call.
        others: arguments with another number of rows; what the model makes of these may be an error.

    Raises:
        Exception: whatever the model's own code raises for the arguments.
    """
    module = make()
    flow = flow_of(module, arguments)
    reasons: Counter[str] = Counter()
    candidates: list[_Candidate] = []
    norms = [node for node in flow.nodes if _is_batch_norm(node)]
    for node in norms:
        found = _candidate(flow, module, node)
        if isinstance(found, str):
            reasons[found] += 1
        else:
            candidates.append(found)
    again = _elsewhere(make, others) if candidates and others is not None else None
    if again is not None:
        reasons[ROWS] += len([each for each in candidates if each.pair not in again])
        candidates = [each for each in candidates if each.pair in again]
    proven = _proven(make, flow, candidates, arguments, reasons)
    ignored = _ignores_bias(make(), arguments, proven)
    if ignored:
        reasons[NO_BIAS] += len(ignored)
    pairs = tuple(pair for pair in proven if pair not in ignored)
    return Found(pairs, len(norms), {reason: count for reason, count in reasons.items() if count})


def _elsewhere(make: Callable[[], nn.Module], others: Callable[[], Sequence[Any]]) -> set[Fold] | None:
    """Pairs of a pass with another number of rows; None where there is none."""
    module = make()
    try:
        flow = flow_of(module, others())
    except Exception:  # a model of one number of rows
        return None
    found = [_candidate(flow, module, node) for node in flow.nodes if _is_batch_norm(node)]
    return {each.pair for each in found if not isinstance(each, str)}


def _is_batch_norm(node: fx.Node) -> bool:
    target = node.target
    if not isinstance(target, OpOverload) or "batch_norm" not in target._schema.name:
        return False
    return {"input", "running_mean", "running_var"} <= {each.name for each in target._schema.arguments}


def _bound(node: fx.Node) -> dict[str, Any]:
    """A call's arguments by name."""
    assert isinstance(node.target, OpOverload)
    arguments = node.target._schema.arguments
    given = {each.name: each.default_value for each in arguments if each.has_default_value()}
    given.update({each.name: value for each, value in zip(arguments, node.args, strict=False)})
    return {**given, **node.kwargs}


def _candidate(flow: Flow, module: nn.Module, node: fx.Node) -> _Candidate | str:
    """A batch norm's pair, or why there is none."""
    given = _bound(node)
    if given.get("training") or given["running_mean"] is None or given["running_var"] is None:
        return BATCH
    walked = _walked(flow, given["input"])
    if isinstance(walked, str):
        return walked
    layer, chain = walked
    of_norm = {key: _name(flow, given[key]) for key in ("running_mean", "running_var", "weight", "bias")}
    of_layer = {key: _name(flow, layer[key]) for key in ("weight", "bias")}
    if "" in (*of_norm.values(), *of_layer.values()):
        return USED
    weight, mean = of_layer["weight"], of_norm["running_mean"]
    assert weight is not None
    assert mean is not None
    assert of_norm["running_var"] is not None
    owner, norm = weight.rpartition(".")[0], mean.rpartition(".")[0]
    names = Counter(part for _, part in module.named_modules(remove_duplicate=False))
    if any(names[module.get_submodule(each)] != 1 for each in (owner, norm)):
        return USED
    if mean.rpartition(".")[2] not in module.get_submodule(norm)._buffers:
        return USED
    bias = of_layer["bias"]
    if bias is None:
        if module.get_submodule(owner)._parameters.get("bias", weight) is not None:
            return NO_BIAS
        bias = f"{owner}.bias" if owner else "bias"
    values = []
    for call in flow.calls:
        if (call.given | call.returned) & chain and call.name in flow.hooked:
            return READ
        if call.returned & chain:
            values.append(call.name)
    eps = float(given["eps"] if "eps" in given else given["epsilon"])
    pair = Fold(
        weight, bias, norm, mean, of_norm["running_var"], of_norm["weight"], of_norm["bias"], eps,
        layer["transposed"], layer["groups"], tuple(sorted(set(values))),
    )  # fmt: skip
    return _Candidate(pair, flow.around(layer["node"]), flow.around(node))


def _name(flow: Flow, node: Any) -> str | None:
    """Of the parameter or buffer that an argument is; None of None, "" of one that is not read by this call alone."""
    if node is None:
        return None
    if not isinstance(node, fx.Node) or len(node.users) != 1 or len(flow.names.get(node, ())) != 1:
        return ""
    return flow.names[node][0]


def _walked(flow: Flow, node: fx.Node) -> tuple[dict[str, Any], set[fx.Node]] | str:
    """From a norm's input back to the layer that made it, over what moves values but not between channels.

    Returns:
        (the layer's weight, bias, transposed, groups and node; what is on the way), or why there is none.
    """
    channel, chain = 1, set[fx.Node]()
    while True:
        chain.add(node)
        layer = _layer(node)
        if layer is not None:
            if layer["channel"] != channel:
                return ALONE
            return READ if any(_readers(each) != 1 or each in flow.held for each in chain) else (layer, chain)
        before = _channel_before(node, channel)
        if before is None:
            return ALONE
        channel, node = before, node.args[0]  # type: ignore[assignment]


def _readers(node: fx.Node) -> int:
    return sum(_operation(user) not in _LIKE or user.args[0] is node for user in node.users)


def _operation(node: fx.Node) -> str:
    """``conv2d`` of aten.conv2d.padding; "" of what is no operation of ATen."""
    target = node.target
    name = target._schema.name if isinstance(target, OpOverload) else ""
    return name.removeprefix("aten::") if name.startswith("aten::") else ""


def _layer(node: fx.Node) -> dict[str, Any] | None:
    """A convolution's or linear layer's weight, bias and dimension of channels, if the operation is one."""
    name = _operation(node)
    if name == "linear":
        given = _bound(node)
        kind: dict[str, Any] = {"transposed": False, "groups": 1, "channel": _dimensions(node) - 1}
    elif name in _CONVOLUTIONS:
        given = _bound(node)
        transposed = given.get("transposed", name.startswith("conv_transpose"))
        channel = _dimensions(node) - _dimensions(given["weight"]) + 1
        kind = {"transposed": transposed, "groups": given["groups"], "channel": channel}
    else:
        return None
    return {"node": node, "weight": given["weight"], "bias": given["bias"], **kind}


def _dimensions(node: fx.Node) -> int:
    dimensions: int = node.meta["val"].dim()
    return dimensions


def _channel_before(node: fx.Node, channel: int) -> int | None:
    """The dimension of channels in what an operation was given, from that in what it made; None where they mix."""
    name = _operation(node)
    if name in ("t", "mT", "transpose", "swapaxes", "permute", "movedim"):
        before: int = node.args[0].meta["val"].dim()  # type: ignore[union-attr]
        # The same of a tensor whose strides tell its dimensions apart.
        marked = node.target(torch.empty([2] * before, device="meta"), *node.args[1:], **node.kwargs)  # type: ignore[operator]
        return before - int(marked.stride(channel)).bit_length()
    if name in _RESHAPES:
        after, given = node.meta["val"].shape, node.args[0].meta["val"].shape  # type: ignore[union-attr]
        if channel == len(after) - 1 and after[-1] == given[-1]:
            return len(given) - 1
        if after[: channel + 1] == given[: channel + 1]:
            return channel
    return None


def _proven(
    make: Callable[[], nn.Module],
    flow: Flow,
    candidates: Sequence[_Candidate],
    arguments: Sequence[Any],
    reasons: Counter[str],
) -> list[Fold]:
    """Pairs that other inputs make too, by traces of the modules around them, from the innermost outwards."""
    parts = dict(make().named_modules(remove_duplicate=False))
    pending: dict[int, list[_Candidate]] = {}
    proven: set[Fold] = set()
    for each in candidates:
        if any(_reads_values_inside(flow, parts, calls) for calls in (each.layer, each.norm)):
            reasons[VALUES] += 1
            continue
        common = [one for one, other in zip(each.layer, each.norm, strict=False) if one == other]
        pending.setdefault(common[-1], []).append(each)
    while pending:
        scope = max(pending)
        inside = pending.pop(scope)
        call = flow.calls[scope]
        if call.parent is not None and not call.symbolic:
            pending.setdefault(call.parent, []).extend(inside)
            continue
        opened = {flow.calls[index].name for each in inside for index in _opened(flow, parts, scope, each)}
        try:
            _trace(make(), call.name, opened, arguments if call.parent is None else None)
        except Exception as error:  # whatever a model's own code makes of symbols
            if call.parent is not None:
                pending.setdefault(call.parent, []).extend(inside)
                continue
            reason = (str(error).strip() or type(error).__name__).split("\n", 1)[0]
            reasons[f"in code that torch.fx cannot follow: {reason}"] += len(inside)
        else:
            proven.update(each.pair for each in inside)
    return [each.pair for each in candidates if each.pair in proven]


def _leaf(parts: dict[str, nn.Module], name: str) -> bool:
    return isinstance(parts[name], (*LAYERS, BatchNorm))


def _opened(flow: Flow, parts: dict[str, nn.Module], scope: int, each: _Candidate) -> list[int]:
    """The calls between a scope and a pair's layer and norm, which a trace has to follow."""
    opened = []
    for calls in (each.layer, each.norm):
        for index in calls[calls.index(scope) + 1 :]:
            if _leaf(parts, flow.calls[index].name):
                break
            opened.append(index)
    return opened


def _reads_values_inside(flow: Flow, parts: dict[str, nn.Module], calls: list[int]) -> bool:
    """Whether the layer or norm itself, which no trace looks into, made numbers of tensors."""
    leaves = [flow.calls[index] for index in calls if _leaf(parts, flow.calls[index].name)]
    return any(any(map(reads_values, flow.nodes[call.start : call.stop])) for call in leaves[-1:])


class _Tracer(fx.Tracer):
    """Follows the modules of some names, and none else."""

    def __init__(self, opened: set[nn.Module]) -> None:
        super().__init__()
        self._opened = opened

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return m not in self._opened


def _trace(module: nn.Module, scope: str, opened: set[str], arguments: Sequence[Any] | None) -> None:
    """Trace a part of a module; the whole with plain arguments at their values, to which the pairs are bound then.

    Raises:
        Exception: where it cannot.
    """
    part = module.get_submodule(scope)
    if "forward" in vars(part):
        raise ValueError("its forward was replaced")
    concrete: dict[str, Any] = {}
    if arguments is not None:
        parameters = list(inspect.signature(part.forward).parameters.values())
        concrete = {p.name: p.default for p in parameters[len(arguments) :] if p.default is not p.empty}
        for parameter, value in zip(parameters, arguments, strict=False):
            if not isinstance(value, Tensor):
                concrete[parameter.name] = value
    _Tracer({module.get_submodule(name) for name in opened}).trace(part, concrete_args=concrete or None)


def _ignores_bias(module: nn.Module, arguments: Sequence[Any], pairs: Sequence[Fold]) -> set[Fold]:
    """Pairs whose layer's own code takes no notice of a bias that it did not have."""
    if not pairs:
        return set()
    fold(module, pairs)
    flow = flow_of(module, arguments)
    read = {name for node, names in flow.names.items() if node.users for name in names}
    return {pair for pair in pairs if pair.bias not in read}
