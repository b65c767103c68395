"""Batch norm that follows a convolution or a linear layer, folded into its weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastsal._torch import BatchNorm


class Fold(NamedTuple):
    """A layer and the batch norm that alone reads it, by dotted names in the model.

    Attributes:
        weight, bias: of the layer; a bias that is None is to be there.
        norm: the module that has the running mean.
        mean, variance, gamma, beta: of the norm; the last two None where it has none.
        eps: of the norm.
        transposed, groups: of a convolution's weight.
        values: modules whose own value is what the norm was given.
    """

    weight: str
    bias: str
    norm: str
    mean: str
    variance: str
    gamma: str | None
    beta: str | None
    eps: float
    transposed: bool
    groups: int
    values: tuple[str, ...]


class Skipped(Tensor):
    """In the place of a norm's running mean: the batch norm that is given it returns its input.

    So a module that normalises and does more goes on doing the rest, however it is written.
    """

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.batch_norm or func is torch.batch_norm:
            return args[0] if args else kwargs["input"]
        return super().__torch_function__(func, types, args, kwargs or {})  # type: ignore[no-untyped-call]

    def __deepcopy__(self, memo: dict[int, Any]) -> Skipped:
        found = memo[id(self)] = self.detach().clone()
        return found  # type: ignore[return-value]


def is_plain(norm: nn.Module) -> bool:
    """Whether a norm's forward is PyTorch's own, so that an identity can stand for it."""
    return type(norm).forward in (BatchNorm.forward, nn.SyncBatchNorm.forward) and "forward" not in vars(norm)


def fold(module: nn.Module, pairs: Sequence[Fold]) -> None:
    """Scale the layers of a replica and take its batch norms out.

    w' = w gamma / sqrt(var + eps), b' = (b - mean) gamma / sqrt(var + eps) + beta, computed in float64 where the device
    has it. A norm that does nothing else becomes an identity; in another its statistics do, and the norm is left out.
    """
    for pair in pairs:
        weight, bias = _folded(module, pair)
        for name, value in ((pair.weight, weight), (pair.bias, bias)):
            owner, last = _owner(module, name)
            owner._parameters[last] = nn.Parameter(value, requires_grad=False)
        norm = module.get_submodule(pair.norm)
        if is_plain(norm):
            # A norm's attributes, such as its number of features, stay readable where a forward names them.
            identity = nn.Identity()
            identity.__dict__.update({key: value for key, value in vars(norm).items() if key not in vars(identity)})
            identity.training = False
            _keep_tensors(identity, norm, pair)
            parent, last = _owner(module, pair.norm)
            parent._modules[last] = identity
        else:
            _make_identical(module, pair)


def _keep_tensors(identity: nn.Module, norm: nn.Module, pair: Fold) -> None:
    """Let what a norm had be readable where it was: a forward may give it to PyTorch's function without the module."""
    for name in (pair.mean, pair.variance, pair.gamma, pair.beta):
        last = "" if name is None else name.rpartition(".")[2]
        held = norm._buffers.get(last, norm._parameters.get(last))
        if held is not None:
            identity.__dict__[last] = _skipped(held) if name == pair.mean else held.detach()


def _skipped(mean: Tensor) -> Tensor:
    return torch.zeros_like(mean).as_subclass(Skipped)


def _make_identical(module: nn.Module, pair: Fold) -> None:
    """Let a norm scale by one and shift by nothing, and be left out where it is PyTorch's function."""
    for name, value in ((pair.gamma, 1.0), (pair.beta, 0.0), (pair.variance, 1.0 - pair.eps)):
        if name is not None:
            owner, last = _owner(module, name)
            held: Any = owner._parameters if last in owner._parameters else owner._buffers
            filled = torch.full_like(held[last], value)
            held[last] = nn.Parameter(filled, requires_grad=False) if held is owner._parameters else filled
    owner, last = _owner(module, pair.mean)
    mean = owner._buffers.pop(last)
    assert mean is not None
    # No buffer: what converts or exports these would not know the class.
    owner.__dict__[last] = _skipped(mean)


def _owner(module: nn.Module, name: str) -> tuple[nn.Module, str]:
    above, _, last = name.rpartition(".")
    return module.get_submodule(above), last


def _value(module: nn.Module, name: str | None) -> Any:
    if name is None:
        return None
    owner, last = _owner(module, name)
    return owner._parameters[last] if last in owner._parameters else owner._buffers[last]


def _folded(module: nn.Module, pair: Fold) -> tuple[Tensor, Tensor]:
    weight, bias = _value(module, pair.weight), _value(module, pair.bias)
    mean, variance = _value(module, pair.mean), _value(module, pair.variance)
    gamma, beta = _value(module, pair.gamma), _value(module, pair.beta)
    finest = torch.float32 if weight.device.type == "mps" else torch.float64
    scale: Tensor = torch.rsqrt(variance.to(finest) + pair.eps)
    scale = scale if gamma is None else scale * gamma.to(finest)
    offset = -mean.to(finest) if bias is None else bias.to(finest) - mean.to(finest)
    offset = offset * scale if beta is None else offset * scale + beta.to(finest)
    wide: Tensor = weight.to(finest)
    if pair.transposed:
        # [C_in, C_out / groups, ...]: the outputs of a group belong to its inputs.
        groups = pair.groups
        by_group = scale.reshape(groups, 1, -1).expand(-1, wide.shape[0] // groups, -1).reshape(*wide.shape[:2])
        wide = wide * by_group.reshape(*wide.shape[:2], *[1] * (wide.dim() - 2))
    else:
        wide = wide * scale.reshape(-1, *[1] * (wide.dim() - 1))
    return wide.to(weight.dtype), offset.to(weight.dtype)
