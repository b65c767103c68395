"""Batch norm that follows a convolution, folded into its weights."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


class Fold(NamedTuple):
    """Names of a convolution and of the batch norm that alone reads it."""

    convolution: str
    norm: str


def foldable(module: nn.Module, arguments: Sequence[Any]) -> list[Fold]:
    """Pairs in a module in evaluation mode, found by torch.fx.

    A trace holds for every input, since torch.fx refuses a forward whose course depends on values. A pair is one where
    each part runs once, has no hooks and no parametrization, and nothing else reads the convolution.

    Args:
        module: the replica of a model; its forward runs once, on symbols.
        arguments: of a call; what is no tensor, and parameters without an argument, is traced at its value.

    Raises:
        Exception: whatever the trace makes of a model's code.
    """
    parameters = list(inspect.signature(module.forward).parameters.values())
    concrete = {p.name: p.default for p in parameters[len(arguments) :] if p.default is not p.empty}
    for parameter, value in zip(parameters, arguments, strict=False):
        if not isinstance(value, Tensor):
            concrete[parameter.name] = value
    graph = fx.Tracer().trace(module, concrete_args=concrete or None)
    parts = dict(module.named_modules(remove_duplicate=False))
    aliases = Counter(parts.values())
    calls = Counter(str(node.target) for node in graph.nodes if node.op == "call_module")
    read = {str(node.target).rpartition(".")[0] for node in graph.nodes if node.op == "get_attr"}
    found = []
    for node in graph.nodes:
        source = node.args[0] if node.op == "call_module" and node.args else None
        if not isinstance(source, fx.Node) or source.op != "call_module" or len(source.users) != 1:
            continue
        pair = Fold(str(source.target), str(node.target))
        convolution, norm = parts[pair.convolution], parts[pair.norm]
        if any(calls[name] != 1 or name in read or aliases[parts[name]] != 1 for name in pair):
            continue
        if type(convolution) in _CONVOLUTIONS and type(norm) in _NORMS and _plain(convolution) and _plain(norm):
            found.append(pair)
    return found


def _plain(part: nn.Module) -> bool:
    hooks = (part._forward_hooks, part._forward_pre_hooks, part._backward_hooks, part._backward_pre_hooks)
    if any(hooks) or part._modules or "forward" in vars(part):
        return False
    if isinstance(part, _NORMS):
        return part._buffers.get("running_mean") is not None and part._buffers.get("running_var") is not None
    return "weight" in part._parameters


def fold(module: nn.Module, pairs: Sequence[Fold]) -> None:
    """Scale the convolutions of a replica and put an identity in the place of each batch norm.

    w' = w gamma / sqrt(var + eps), b' = (b - mean) gamma / sqrt(var + eps) + beta, computed in float64 where the device
    has it.
    """
    for pair in pairs:
        convolution, norm = module.get_submodule(pair.convolution), module.get_submodule(pair.norm)
        weight, bias = _folded(convolution, norm)
        for name, value in (("weight", weight), ("bias", bias)):
            convolution._parameters[name] = nn.Parameter(value, requires_grad=False)
        parent, _, name = pair.norm.rpartition(".")
        # A norm's attributes, such as its number of features, stay readable where a forward names them.
        identity = nn.Identity()
        identity.__dict__.update({key: value for key, value in vars(norm).items() if key not in vars(identity)})
        identity.training = False
        module.get_submodule(parent)._modules[name] = identity


def _folded(convolution: nn.Module, norm: nn.Module) -> tuple[Tensor, Tensor]:
    weight: Any = convolution.weight
    mean, variance = (norm._buffers[name] for name in ("running_mean", "running_var"))
    assert mean is not None
    assert variance is not None
    finest = torch.float32 if weight.device.type == "mps" else torch.float64
    scale: Tensor = torch.rsqrt(variance.to(finest) + norm.eps)  # type: ignore[operator]
    gamma, beta, bias = norm._parameters.get("weight"), norm._parameters.get("bias"), convolution._parameters["bias"]
    scale = scale if gamma is None else scale * gamma.to(finest)
    offset = -mean.to(finest) if bias is None else bias.to(finest) - mean.to(finest)
    offset = offset * scale if beta is None else offset * scale + beta.to(finest)
    wide = weight.to(finest)
    if convolution.transposed:
        groups: Any = convolution.groups
        # [C_in, C_out / groups, ...]: the outputs of a group belong to its inputs.
        by_group = scale.reshape(groups, 1, -1).expand(-1, wide.shape[0] // groups, -1).reshape(*wide.shape[:2])
        wide = wide * by_group.reshape(*wide.shape[:2], *[1] * (wide.dim() - 2))
    else:
        wide = wide * scale.reshape(-1, *[1] * (wide.dim() - 1))
    return wide.to(weight.dtype), offset.to(weight.dtype)
