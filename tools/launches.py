"""Kernels and waits of every explainer beside its model's own, counted without a GPU.

    python -m tools.launches            # the table of docs/launches.md

A call runs on the CPU under a mode that sees every operation: each one that writes memory is a kernel, an op of ours is
the kernels that its launcher launches, and the model's operations are left out. What the host reads of a value that
comes from the inputs, and what it sends to where they are, is a wait.
"""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import fastsal
from fastsal.explainers.registry import registered
from fastsal.ops import _backend, _define
from fastsal_kernels import _launch

ITEMS = 24
"""Windows, masks, steps, samples, channels and features of a method, in chunks of all and of half of them."""
CHANNELS, CLASSES, SIZE = 24, 6, (8, 12)
FREE = {
    *("empty", "empty_like", "empty_strided", "empty_permuted", "new_empty", "new_empty_strided", "set_", "resize_"),
    *("detach", "alias", "lift_fresh", "_local_scalar_dense", "is_same_size", "sym_size", "as_strided"),
}
"""Operations that launch nothing."""
READS = {"_local_scalar_dense", "equal", "is_nonzero", "nonzero", "_unique2", "unique_dim", "masked_select", "item"}
OPTIONS: dict[str, Any] = {
    **dict.fromkeys(("n_steps", "n_masks", "n_samples", "nt_samples"), ITEMS),
    "sliding_window_shapes": (3, 2, 2),
    "strides": (3, 2, 2),
    "grid_size": 2,
    "seed": 0,
    "first_layer_once": False,
}
"""By the arguments' names."""
EXACT = 3
"""Features of the method that runs all coalitions."""


class Counts(NamedTuple):
    """Of one call."""

    launches: Counter[str]
    waits: Counter[str]


Network = Callable[["list[Counting]"], nn.Module]


class Counting(TorchDispatchMode):
    """Counts what a call launches and reads, apart from the model's operations."""

    def __init__(self, *tensors: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts = Counts(Counter(), Counter())
        self.in_model = False
        self._there: dict[int, Any] = {}
        self._sent: dict[int, Any] = {}
        for tensor in tensors:
            self.mark(tensor)

    def mark(self, tensor: Tensor) -> None:
        """The tensor is where the inputs are."""
        storage = tensor.untyped_storage()
        self._there[storage._cdata] = storage  # alive, so that no other gets its address

    def is_there(self, tensor: Tensor) -> bool:
        """Whether a tensor comes from the inputs."""
        return tensor.untyped_storage()._cdata in self._there

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [leaf for leaf in tree_leaves((args, kwargs or {})) if isinstance(leaf, Tensor)]
        there = any(map(self.is_there, given))
        name = func.overloadpacket.__name__
        result = func(*args, **(kwargs or {}))
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        if name == "lift_fresh":
            for tensor in made:
                self._sent[tensor.untyped_storage()._cdata] = tensor.untyped_storage()
        for tensor in made if there else ():
            self.mark(tensor)
        if self.in_model:
            return result
        if there and name in READS:
            self.counts.waits[f"{name} reads"] += 1
        if there and any(t.dim() and t.untyped_storage()._cdata in self._sent for t in given if not self.is_there(t)):
            self.counts.waits[f"{name} takes what the host made"] += 1
        view = any(each.alias_info is not None and not each.alias_info.is_write for each in func._schema.returns)
        if there and not view and name not in FREE and any(t.numel() for t in made):
            self.counts.launches[name] += 1
        return result


@contextlib.contextmanager
def counting(*tensors: Tensor) -> Iterator[Counting]:
    """Counts what runs inside; ``tensors`` are where the device is."""
    mode = Counting(*tensors)

    def run(op: Any, *args: Any) -> Tensor:
        if args[op._lead].dtype not in _backend.KERNEL_DTYPES or op._supported(*args) is not None:
            return op.reference(*args)  # type: ignore[no-any-return]
        was, mode.in_model = mode.in_model, True
        try:
            out: Tensor = op.reference(*args)
            with _launch.recording() as launches:
                getattr(_backend.kernel_module(op._module), op._function)(torch.empty_like(out), *args)
        finally:
            mode.in_model = was
        mode.mark(out)
        for each in launches:
            mode.counts.launches[f"{op.name}: {each.kernel.__name__}"] += 1
        return out

    def reading(original: Callable[..., Any], word: str) -> Callable[..., Any]:
        def method(self: Tensor, *args: Any, **kwargs: Any) -> Any:
            if not mode.in_model and mode.is_there(self):
                mode.counts.waits[f"{word} reads"] += 1
            return original(self, *args, **kwargs)

        return method

    with contextlib.ExitStack() as undo:
        for owner, name, new in (
            (_define.Op, "_run", run),
            (_define, "len_torch_dispatch_stack", lambda: 0),
            *((Tensor, word, reading(getattr(Tensor, word), word)) for word in ("tolist", "numpy", "cpu")),
        ):
            undo.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, new)
        with mode:
            yield mode


class _Apart(torch.autograd.Function):
    """A part of the model: neither its pass nor its backward pass is counted."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, part: Callable[[Tensor], Tensor], mode: list[Counting]) -> Tensor:
        with _uncounted(mode), torch.enable_grad():
            ctx.x = x.detach().requires_grad_()
            out, ctx.mode = part(ctx.x), mode
            ctx.out = out
            return out.detach().clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        with _uncounted(ctx.mode):
            return torch.autograd.grad(ctx.out, ctx.x, gradients[0], retain_graph=True)[0], None, None


@contextlib.contextmanager
def _uncounted(mode: list[Counting]) -> Iterator[None]:
    was = [each.in_model for each in mode]
    for each in mode:
        each.in_model = True
    try:
        yield
    finally:
        for each, before in zip(mode, was, strict=True):
            each.in_model = before


class _Part(nn.Module):
    def __init__(self, mode: list[Counting], *layers: nn.Module) -> None:
        super().__init__()
        self.layers, self._mode = nn.Sequential(*layers), mode

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = _Apart.apply(x, self.layers, self._mode)  # type: ignore[no-untyped-call]
        return found


def network(mode: list[Counting]) -> nn.Module:
    """Two parts, between which there is a layer of CHANNELS channels; what runs in them is not counted."""
    torch.manual_seed(0)
    features = _Part(mode, nn.Conv2d(3, CHANNELS, 3, 2, 1), nn.ReLU())
    return nn.Sequential(features, _Part(mode, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(CHANNELS, CLASSES)))


def ruled(mode: list[Counting]) -> nn.Module:
    """The same as plain modules, for methods that change what modules do on their way back."""
    parts = [part.layers for part in network(mode).modules() if isinstance(part, _Part)]
    return nn.Sequential(*(layer for layers in parts for layer in layers))


class Row(NamedTuple):
    """Of one method: a call's, and what each further chunk adds."""

    name: str
    passes: int
    launches: int
    per_chunk: int
    waits: int
    waits_per_chunk: int
    of_target: int
    whole: bool


def options(explainer: Any, rows: int) -> dict[str, Any]:
    """Arguments of ``attribute`` beside the inputs and the target."""
    taken = inspect.signature(explainer.attribute).parameters
    found = {name: value for name, value in OPTIONS.items() if name in taken}
    if "feature_mask" in taken:
        features = EXACT if explainer.name == "shapley-values" else ITEMS
        found["feature_mask"] = (torch.arange(SIZE[0] * SIZE[1]) * features // (SIZE[0] * SIZE[1])).view(1, 1, *SIZE)
    if "baselines" in taken and taken["baselines"].default is inspect.Parameter.empty:
        found["baselines"] = torch.zeros(2, 3, *SIZE)
    return {**found, explainer.per_call: rows} if explainer.per_call else found


def made(explainer: Any, model: nn.Module, layer: str) -> Any:
    """An instance around the model, at its layer where it reads one."""
    taken = inspect.signature(explainer.__init__).parameters
    if explainer.name == "noise-tunnel":
        return explainer(fastsal.Saliency(model))
    return explainer(model, layer) if "layer" in taken else explainer(model)


def count(explainer: Any, target: Any, rows: int, make: Network) -> tuple[Counts, int]:
    """What a second call with chunks of so many rows launches and waits for, and how often it runs the model."""
    modes: list[Counting] = []
    model = make(modes)
    passes = [0]
    model.register_forward_pre_hook(lambda _module, _args: passes.__setitem__(0, passes[0] + 1))
    x = torch.rand(2 if "permutation" in explainer.name else 1, 3, *SIZE)
    run, given = made(explainer, model, "0" if make is network else "1"), options(explainer, rows)
    taken = inspect.signature(explainer.attribute).parameters.values()
    if any(each.name == "target" or each.kind is each.VAR_KEYWORD for each in taken):
        given["target"] = target
    run.attribute(x, **given)
    passes[0] = 0
    with counting(x, *([target] if isinstance(target, Tensor) else []), *model.parameters()) as mode:
        modes.append(mode)
        try:
            run.attribute(x, **given)
        finally:
            modes.clear()
    return mode.counts, passes[0]


def row(explainer: Any) -> Row | None:
    """A method's; None where it refuses a network of convolutions.

    ``of_target`` are the waits that a target in a tensor adds; ``whole`` says that the model's own are counted too.
    """
    for make in (ruled,) if explainer.reads == "functions" else (network, ruled):
        try:
            few, passes = count(explainer, 1, ITEMS, make)
            break
        except (TypeError, ValueError):
            continue
    else:
        return None
    held, _ = count(explainer, torch.tensor([1]), ITEMS, make)
    smaller, more = count(explainer, 1, ITEMS // 2, make) if explainer.per_call else (few, passes)

    def added(one: Counter[str], other: Counter[str]) -> int:
        return (other.total() - one.total()) // (more - passes) if more > passes else 0

    launches = few.launches.total(), added(few.launches, smaller.launches)
    waits = few.waits.total(), added(few.waits, smaller.waits)
    return Row(explainer.name, passes, *launches, *waits, held.waits.total() - few.waits.total(), make is ruled)


HEAD = """| method | passes | kernels | a further chunk | waits | a further chunk | a target in a tensor |
|---|---|---|---|---|---|---|"""


def table() -> str:
    """Every method's row, in Markdown."""
    ours = [explainer for explainer in registered() if explainer.__module__.startswith("fastsal.")]
    rows = [found for explainer in ours if (found := row(explainer)) is not None]
    lines = [
        f"| `{each.name}` | {each.passes} | {each.launches}{' *' if each.whole else ''} | {each.per_chunk or ''} | "
        f"{each.waits or ''} | {each.waits_per_chunk or ''} | {each.of_target or ''} |"
        for each in rows
    ]
    return "\n".join([HEAD, *lines])


if __name__ == "__main__":
    sys.stdout.write(table() + "\n")
