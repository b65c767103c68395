"""Changes of a model between two calls, and a network that all of them matter to."""

from __future__ import annotations

import contextlib
import enum
import functools
import sys
import types
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from torch.nn.utils import parametrizations, parametrize, prune

SCALE = 1.0
HIDDEN: dict[str, Any] = {"gain": 1.0}
"""What the network's forward reads of its module."""


class Kind(enum.Enum):
    PLAIN = 1
    DOUBLED = 2


@dataclass
class Settings:
    gain: float = 1.0
    inner: dict[str, Any] = field(default_factory=lambda: {"gains": [1.0, 1.0]})


class Slotted:
    __slots__ = ("gain",)

    def __init__(self, gain: float) -> None:
        self.gain = gain


def helper(x: Tensor) -> Tensor:
    found: Tensor = x * SCALE * HIDDEN["gain"]
    return found


def _by(gain: float) -> Callable[[Tensor], Tensor]:
    return lambda x: x * gain


class Net(nn.Module):
    """Convolutions with a foldable norm, and every kind of attribute that a forward can read."""

    offset = 0.0
    shift: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6)
        self.body, self.act = nn.Conv2d(6, 6, 3, padding=1), nn.ReLU()
        self.head = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 4))
        nn.init.uniform_(self.norm.weight, 0.5, 1.5)
        nn.init.uniform_(self.norm.bias, -0.3, 0.3)
        self.register_buffer("shift", torch.zeros(6, dtype=torch.float64))
        self.temperature, self.skip, self.mode, self.kind = 1.0, False, "plain", Kind.PLAIN
        self.gains, self.table, self.queue = [1.0, 1.0], {"gain": 1.0}, deque([1.0])
        self.chosen, self.settings, self.slotted = {1}, Settings(), Slotted(1.0)
        self.array, self.extra = np.ones(6), torch.ones(6, dtype=torch.float64)
        self.function: Callable[[Tensor], Tensor] = _by(1.0)
        self.partial = functools.partial(torch.mul, other=1.0)
        self.seen: Tensor | None = None

    def forward(self, x: Tensor, config: Any = None) -> Tensor:
        first = self.stem(x)
        hidden = self.norm(first)
        if self.skip or gain_of(config) > 1.5:
            hidden = hidden + first
        hidden = F.relu(hidden) + self.shift[:, None, None]
        hidden = self.act(self.body(hidden))
        self.seen = hidden
        pooled = hidden.mean((2, 3)) * self.extra * torch.from_numpy(self.array)
        pooled = pooled * self.gains[1] * self.table["gain"] * self.queue[0] * (2.0 if 2 in self.chosen else 1.0)
        pooled = pooled * self.settings.gain * self.settings.inner["gains"][0] * self.slotted.gain
        pooled = self.partial(self.function(helper(pooled))) * self.kind.value
        scores: Tensor = self.head(pooled / self.temperature) + self.offset * pooled.square().sum(1, keepdim=True)
        return scores if self.mode == "plain" else scores.square()


def gain_of(config: Any) -> float:
    """A number in whatever form it is given."""
    if isinstance(config, dict):
        config = config["gain"]
    if isinstance(config, (list, tuple)):
        config = config[0]
    config = getattr(config, "gain", config)
    config = config.value if isinstance(config, enum.Enum) else config
    return 1.0 if config is None else float(config)


def _module() -> Any:
    return sys.modules[__name__]


Apply = Callable[[Any, contextlib.ExitStack], Any]


@dataclass
class Change:
    """One kind.

    Attributes:
        name: of the kind.
        apply: does it to a model; what is not the model's own is put back by the stack.
        before: does something to the model before anything is made ready.
        given: extra arguments of the first and the second call.
        same: the map stays the same.
    """

    name: str
    apply: Apply = lambda _m, _u: None
    before: Apply = lambda _m, _u: None
    given: tuple[tuple[Any, ...], tuple[Any, ...]] = ((), ())
    same: bool = False

    def arguments(self, second: bool) -> tuple[Any, ...]:
        return self.given[int(second)]


def _noise(tensor: Tensor) -> Tensor:
    return torch.randn(tensor.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64).to(tensor)


def _optimised(kind: Any, **options: Any) -> Apply:
    def apply(model: Any, _undo: Any) -> None:
        optimiser = kind(model.parameters(), lr=0.1, **options)
        model(torch.rand(2, 3, 12, 12, dtype=torch.float64)).square().sum().backward()
        optimiser.step()
        optimiser.zero_grad()

    return apply


def _no_grad(function: Callable[[Any], Any]) -> Apply:
    def apply(model: Any, _undo: Any) -> None:
        with torch.no_grad():
            function(model)

    return apply


def _set(name: str, value: Callable[[], Any]) -> Apply:
    """An attribute by its dotted name."""

    def apply(model: Any, _undo: Any) -> None:
        *path, last = name.split(".")
        setattr(functools.reduce(getattr, path, model), last, value())

    return apply


def _patched(owner: Any, name: str, value: Callable[[Any], Any]) -> Apply:
    """An attribute of a class or module of Python's, put back afterwards."""

    def apply(_model: Any, undo: contextlib.ExitStack) -> None:
        before = getattr(owner, name)
        undo.callback(setattr, owner, name, before)
        setattr(owner, name, value(before))

    return apply


def _state(model: Any) -> dict[str, Tensor]:
    return {name: t + 0.1 * _noise(t) if t.is_floating_point() else t for name, t in model.state_dict().items()}


def _data_set(model: Any) -> None:
    model.body.weight.data = _noise(model.body.weight)


def _numpy(model: Any) -> None:
    model.body.weight.detach().numpy()[:] *= -1.5


def _dlpack(model: Any) -> None:
    torch.utils.dlpack.from_dlpack(model.body.weight.detach()).mul_(-1.5)


def _row(model: Any) -> None:
    model.head[2].weight.data[1] = 0.25


def _swapped(model: Any) -> None:
    torch.utils.swap_tensors(model.body.weight, nn.Parameter(_noise(model.body.weight)))


def _negated(_module: Any, _args: Any, output: Tensor) -> Tensor:
    return -output


class Negate(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return -2 * weight


class Adapter(nn.Module):
    """As low-rank adapters stand in the place of a layer."""

    def __init__(self, base: nn.Conv2d) -> None:
        super().__init__()
        self.base = base
        self.down, self.up = nn.Conv2d(6, 2, 1, bias=False).double(), nn.Conv2d(2, 6, 1, bias=False).double()

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.base(x) + self.up(self.down(x))
        return found


class Other(Net):
    def forward(self, x: Tensor, config: Any = None) -> Tensor:
        found: Tensor = super().forward(x.flip(3), config).square()
        return found


def _adapted(model: Any) -> None:
    model.body = Adapter(model.body)


def _tied(model: Any) -> None:
    model.head[0].weight = nn.Parameter(model.body.weight.detach()[:, :, 0, 0].clone())


def _hook_later(model: Any, undo: contextlib.ExitStack) -> None:
    model.__dict__["handle"] = model.body.register_forward_hook(_negated)


def _hook_gain(model: Any, undo: contextlib.ExitStack) -> None:
    gain = [1.0]
    model.__dict__["gain_of_hook"] = gain
    model.body.register_forward_hook(lambda _m, _a, output: output * gain[0])


def _wider(model: Any) -> None:
    torch.manual_seed(5)
    model.stem, model.norm = nn.Conv2d(3, 8, 3, 2, 1).double(), nn.BatchNorm2d(8).double().eval()
    model.body, model.shift = nn.Conv2d(8, 6, 3, padding=1).double(), torch.zeros(8, dtype=torch.float64)


def _new_conv() -> nn.Module:
    torch.manual_seed(6)
    return nn.Conv2d(6, 6, 3, padding=1).double()


def _reordered(model: Any) -> None:
    parts = dict(model.head._modules)
    model.head._modules.clear()
    for name in ("1", "0", "2"):
        model.head._modules[name] = parts[name]


def _method(model: Any, _undo: Any) -> None:
    before = model.forward

    def forward(self: Any, x: Tensor, config: Any = None) -> Tensor:
        found: Tensor = 2 * before(x, config).flip(1)
        return found

    model.forward = types.MethodType(forward, model)


def _lambda(model: Any, _undo: Any) -> None:
    before = model.body.forward
    model.body.forward = lambda x: before(x).flip(1)


def _scaled(model: Any, _undo: Any) -> None:
    model.slotted.gain = 3.0


def _fallen(model: Any, _undo: Any) -> None:
    model.__class__ = Other


def _code(_model: Any, undo: contextlib.ExitStack) -> None:
    undo.callback(setattr, helper, "__code__", helper.__code__)
    helper.__code__ = (lambda x: -x * SCALE * HIDDEN["gain"]).__code__


CHANGES: tuple[Change, ...] = (
    Change("weights: nothing", same=True),
    Change("weights: a step of SGD", _optimised(torch.optim.SGD)),
    Change("weights: a step of a fused optimiser", _optimised(torch.optim.Adam, fused=True)),
    Change("weights: a step by foreach", _optimised(torch.optim.Adam, foreach=True)),
    Change("weights: in place", _no_grad(lambda m: m.body.weight.mul_(-1.5))),
    Change("weights: in place through detach()", lambda m, _u: m.body.weight.detach().mul_(-1.5)),
    Change("weights: in place through .data", lambda m, _u: m.body.weight.data.add_(_noise(m.body.weight))),
    Change("weights: drawn anew through .data", lambda m, _u: [p.data.normal_() for p in m.body.parameters()]),
    Change("weights: .data set to another tensor", lambda m, _u: _data_set(m)),
    Change("weights: one row through .data", lambda m, _u: _row(m)),
    Change("weights: through NumPy", lambda m, _u: _numpy(m)),
    Change("weights: through DLPack", lambda m, _u: _dlpack(m)),
    Change("weights: an average copied in", lambda m, _u: [p.data.copy_(_noise(p)) for p in m.parameters()]),
    Change("weights: load_state_dict", lambda m, _u: m.load_state_dict(_state(m))),
    Change("weights: load_state_dict(assign=True)", lambda m, _u: m.load_state_dict(_state(m), assign=True)),
    Change(
        "weights: another parameter",
        _set("body.weight", lambda: nn.Parameter(_noise(torch.empty(6, 6, 3, 3).double()))),
    ),
    Change("weights: swap_tensors", lambda m, _u: _swapped(m)),
    Change("weights: of another layer", lambda m, _u: _tied(m)),
    Change(
        "weights: transposed in place", lambda m, _u: setattr(m.body.weight, "data", m.body.weight.data.transpose(2, 3))
    ),
    Change("weights: a bias removed", _set("body.bias", lambda: None)),
    Change("weights: frozen", lambda m, _u: m.requires_grad_(False), same=True),
    Change("buffers: in place", lambda m, _u: m.norm.running_mean.sub_(0.5)),
    Change("buffers: through .data", lambda m, _u: m.norm.running_var.data.mul_(3)),
    Change("buffers: replaced", _set("norm.running_mean", lambda: torch.full((6,), 0.3, dtype=torch.float64))),
    Change("buffers: read by the forward alone", lambda m, _u: m.shift.add_(1)),
    Change("norm: eps", _set("norm.eps", lambda: 10.0)),
    Change(
        "norm: affine removed",
        lambda m, _u: (m.norm.register_parameter("weight", None), m.norm.register_parameter("bias", None)),
    ),
    Change("attribute: a number", _set("temperature", lambda: 5.0)),
    Change("attribute: a flag", _set("skip", lambda: True)),
    Change("attribute: a string", _set("mode", lambda: "squared")),
    Change("attribute: an enum", _set("kind", lambda: Kind.DOUBLED)),
    Change("attribute: an item of a list", lambda m, _u: m.gains.__setitem__(1, 3.0)),
    Change("attribute: an item of a dict", lambda m, _u: m.table.__setitem__("gain", 3.0)),
    Change("attribute: an item of a deque", lambda m, _u: m.queue.__setitem__(0, 3.0)),
    Change("attribute: a set", lambda m, _u: m.chosen.add(2)),
    Change("attribute: of an object", _set("settings.gain", lambda: 3.0)),
    Change("attribute: of an object, deep inside", lambda m, _u: m.settings.inner["gains"].__setitem__(0, 3.0)),
    Change("attribute: a slot", _scaled),
    Change("attribute: an array in place", lambda m, _u: m.array.__imul__(3.0)),
    Change("attribute: a tensor in place", lambda m, _u: m.extra.mul_(3)),
    Change("attribute: a tensor replaced", _set("extra", lambda: torch.full((6,), 3.0, dtype=torch.float64))),
    Change("attribute: a function", _set("function", lambda: _by(3.0))),
    Change("attribute: a function's closure", lambda m, _u: setattr(m.function.__closure__[0], "cell_contents", 3.0)),
    Change("attribute: a partial", _set("partial", lambda: functools.partial(torch.mul, other=3.0))),
    Change("attribute: what the forward wrote", _set("seen", lambda: None), same=True),
    Change("class: an attribute", _patched(Net, "offset", lambda _b: 1.0)),
    Change(
        "class: a forward", _patched(Net, "forward", lambda b: lambda s, x, config=None: 2 * b(s, x, config).flip(1))
    ),
    Change("class: a layer's forward", _patched(nn.Tanh, "forward", lambda _b: lambda _s, x: x)),
    Change("class: of the model", _fallen),
    Change("global: a number", lambda _m, u: _patched(_module(), "SCALE", lambda _b: 3.0)(None, u)),
    Change("global: an item of a dict", lambda _m, _u: HIDDEN.update(gain=3.0)),
    Change("global: a helper", lambda _m, u: _patched(_module(), "helper", lambda b: lambda x: -b(x))(None, u)),
    Change("global: a helper's code", _code),
    Change("global: a function of PyTorch", _patched(F, "relu", lambda _b: lambda x, inplace=False: x.tanh())),
    Change("hook: added", lambda m, _u: m.body.register_forward_hook(_negated)),
    Change("hook: before a forward", lambda m, _u: m.norm.register_forward_pre_hook(lambda _m, args: (args[0] * 2,))),
    Change(
        "hook: on the layer that was folded",
        lambda m, _u: m.stem.register_forward_hook(lambda _m, _a, out: out * 2 + 1),
    ),
    Change(
        "hook: with keywords",
        lambda m, _u: m.body.register_forward_hook(lambda _m, _a, _k, out: -out, with_kwargs=True),
    ),
    Change("hook: of the whole model", lambda m, _u: m.register_forward_hook(lambda _m, _a, out: out.square())),
    Change("hook: removed", lambda m, _u: m.handle.remove(), before=_hook_later),
    Change("hook: what it closed over", lambda m, _u: m.gain_of_hook.__setitem__(0, 3.0), before=_hook_gain),
    Change(
        "hook: of all modules",
        lambda _m, u: u.callback(
            register_module_forward_hook(lambda part, _a, out: out * 2 if isinstance(part, nn.Conv2d) else None).remove
        ),
    ),
    Change("part: another layer", _set("body", _new_conv)),
    Change("part: an activation", _set("head.1", nn.SiLU)),
    Change("part: norm to identity", _set("norm", nn.Identity)),
    Change("part: norm to another kind", _set("norm", lambda: nn.GroupNorm(2, 6).double())),
    Change("part: a low-rank adapter", lambda m, _u: _adapted(m)),
    Change("part: wider", lambda m, _u: _wider(m)),
    Change("part: appended", lambda m, _u: m.head.append(nn.Tanh())),
    Change("part: in another order", lambda m, _u: _reordered(m)),
    Change("part: pruned", lambda m, _u: prune.l1_unstructured(m.body, "weight", 0.5)),
    Change("part: weight norm", lambda m, _u: parametrizations.weight_norm(m.body), same=True),
    Change(
        "part: a parametrisation",
        lambda m, _u: parametrize.register_parametrization(m.body, "weight", Negate(), unsafe=True),
    ),
    Change("forward: of the model", _method),
    Change("forward: of a part", _lambda),
    Change("argument: a dict", given=(({"gain": 1.0},), ({"gain": 2.0},))),
    Change("argument: a list", given=(([1.0],), ([2.0],))),
    Change("argument: a number of NumPy", given=((np.float64(1.0),), (np.float64(2.0),))),
    Change("argument: an enum", given=((Kind.PLAIN,), (Kind.DOUBLED,))),
    Change("argument: an object", given=((Settings(1.0),), (Settings(2.0),))),
    Change("argument: None", given=((None,), (2.0,))),
)
