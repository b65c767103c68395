"""Random small networks that know by their construction where the positions of each of their layers are.

A network carries [B, C, *grid] from step to step, its axes in the order of the input's dimensions. Where a layer
stands, the value is brought into a :class:`Form` (tokens, channels last, ...) and taken back: these two functions are
all that is known of it, and nothing of them is fastsal's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
AVERAGE = {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}
GREATEST = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}
WIDTH = 4
PADDING = {"conv", "wide", "depthwise", "pad", "residual", "runs twice", "folded into the batch"}
VOCABULARY = 11
SIMPLE = (
    *("conv", "conv", "depthwise", "average", "greatest", "pad", "crop", "flip", "up", "every second", "residual"),
    *("difference", "norm", "activation", "merge", "gate", "wide", "windows", "fold", "shared", "doubled"),
)


@dataclass(frozen=True)
class Form:
    """How a layer's value holds what is carried: ``kind``, the order of its axes, tokens of no place around them."""

    kind: str = "map"
    order: tuple[int, ...] = ()
    before: int = 0
    behind: int = 0

    def make(self, x: Tensor, around: Tensor | None = None) -> Tensor:
        axes = [2 + axis for axis in self.order or range(x.dim() - 2)]
        if self.kind == "map":
            return x.permute(0, 1, *axes)
        if self.kind == "channel tokens":
            return x.permute(0, 1, *axes).flatten(2)
        last = x.permute(0, *axes, 1)
        if self.kind == "last":
            return last
        if self.kind == "frames apart":
            return last.flatten(2, 3)
        tokens = last.flatten(1, -2)
        if around is not None:
            front, back = around.expand(len(x), -1, -1).split([self.before, self.behind], 1)
            tokens = torch.cat([front, tokens, back], 1)
        return tokens.transpose(0, 1) if self.kind == "sequence first" else tokens

    def back(self, value: Tensor, grid: tuple[int, ...]) -> Tensor:
        order = self.order or tuple(range(len(grid)))
        lying = [grid[axis] for axis in order]
        if self.kind in ("map", "channel tokens"):
            last = value.flatten(2).unflatten(2, lying).movedim(1, -1)
        elif self.kind in ("last", "frames apart"):
            last = value.reshape(len(value), *lying, value.shape[-1])
        else:
            tokens = value.transpose(0, 1) if self.kind == "sequence first" else value
            last = tokens[:, self.before : tokens.shape[1] - self.behind].unflatten(1, lying)
        return last.permute(0, -1, *[1 + order.index(axis) for axis in range(len(grid))])


@dataclass(frozen=True)
class Truth:
    """Of one run of a layer.

    Attributes:
        form: how its value is read.
        grid: in the order of the input's axes.
        looks: for each input that it looks at, the dimensions of that input that the grid runs along.
        padded: whether elements of no place came in on the way.
        doubled: how often each position became two that look at the same.
        candidate: whether it may be the default layer.
    """

    form: Form
    grid: tuple[int, ...]
    looks: dict[int, tuple[int, ...]]
    padded: bool = False
    doubled: int = 0
    candidate: bool = True


def positive(module: nn.Module) -> nn.Module:
    """With positive weights, so that nothing that a position depends on cancels."""
    for parameter in module.parameters():
        fan = parameter[0].numel() if parameter.dim() > 1 else 2
        nn.init.uniform_(parameter, 0.5 / fan, 1.5 / fan)
    return module


class Step(nn.Module):
    """One step; ``declared`` says of its modules what their values are (None: no positions).

    ``sums`` are its parameters without which, at zero, nothing is summed over positions.
    """

    def __init__(self, kind: str, function: Callable[[Tensor, list[Tensor]], Tensor], **parts: Any) -> None:
        super().__init__()
        self.kind, self.function = kind, function
        self.times = 1
        self.sums: tuple[Tensor, ...] = ()
        self.declared: dict[str, Form | None] = {}
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor, features: list[Tensor]) -> tuple[Tensor]:
        return (self.function(x, features),)  # no tensor, so that the layers in it are what is chosen from


def simple(random: Random, grid: tuple[int, ...]) -> Step:
    """A step of convolutions, pools, or where cells go."""
    n, c = len(grid), WIDTH
    kind = random.choice(SIMPLE)
    if kind == "conv":
        kernel = [random.choice((1, 2, 3)) for _ in grid]
        stride = [random.choice((1, 1, 2)) for _ in grid]
        conv = positive(CONV[n](c, c, kernel, stride, [random.choice((0, k // 2)) for k in kernel]))
        return _of(kind, conv)
    if kind == "wide":
        return _of(kind, positive(CONV[n](c, c, 3, 1, 2, dilation=2)))
    if kind == "depthwise":
        return _of(kind, positive(CONV[n](c, c, 3, random.choice((1, 2)), 1, groups=c)))
    if kind in ("average", "greatest"):
        size = [random.choice((1, 2, 2, 3)) for _ in grid]
        pool = (AVERAGE if kind == "average" else GREATEST)[n]
        return _of("unequal pooling" if len(set(size)) > 1 else "pooling", pool(size, ceil_mode=random.random() < 0.3))
    if kind == "pad":
        around = [random.randint(0, 2) for _ in range(2 * n)]
        return Step(kind, lambda x, _: F.pad(x, around))
    if kind == "crop":
        cuts = [(random.randint(0, 2), random.randint(0, 2)) for _ in grid]

        def crop(x: Tensor, _: list[Tensor]) -> Tensor:
            return x[(..., *(slice(a, e - b) for (a, b), e in zip(cuts, x.shape[2:], strict=True)))]

        return Step(kind, crop)
    if kind == "flip":
        dim = 2 + random.randrange(n)
        return Step(kind, lambda x, _: x.flip(dim))
    if kind == "up":
        return Step(kind, lambda x, _: F.interpolate(x, scale_factor=2, mode="nearest"))
    if kind == "every second":
        first = random.randint(0, 1)
        return Step(kind, lambda x, _: x[(..., *(slice(first, None, 2),) * n)])
    if kind == "difference":
        dim = 2 + random.randrange(n)
        return Step(kind, lambda x, _: x.narrow(dim, 1, x.shape[dim] - 1) + 0.7 * x.narrow(dim, 0, x.shape[dim] - 1))
    if kind == "residual":
        conv = positive(CONV[n](c, c, 3, 1, 1))
        step = Step(kind, lambda x, _: x + conv(x), conv=conv)
        step.declared = {"conv": Form()}
        return step
    if kind == "norm":
        norm = random.choice((nn.GroupNorm(2, c), nn.BatchNorm2d(c) if n == 2 else nn.GroupNorm(1, c)))
        return _of(kind, norm)
    if kind == "activation":
        return _of(kind, random.choice((nn.ReLU, nn.GELU, nn.SiLU, nn.Softplus))())
    if kind == "merge":  # of patches, as Swin
        norm, linear = nn.LayerNorm(c * 2**n), positive(nn.Linear(c * 2**n, c))

        def merge(x: Tensor, _: list[Tensor]) -> Tensor:
            parts = [x]
            for dim in range(2, 2 + n):
                parts = [part.narrow(dim, i, part.shape[dim] - i)[(*(slice(None),) * dim, slice(None, None, 2))]
                         for part in parts for i in (0, 1)]  # fmt: skip
            return linear(norm(torch.cat(parts, 1).movedim(1, -1)) + 3).movedim(-1, 1)

        step = Step("merged patches", merge, norm=norm, linear=linear)
        step.declared = {"norm": Form("last"), "linear": Form("last")}
        return step
    if kind == "gate":
        squeeze = nn.Linear(c, c)
        step = Step(
            kind, lambda x, _: x * (1.5 + squeeze(x.flatten(2).mean(2)).sigmoid()).view(len(x), c, *[1] * n),
            squeeze=squeeze,
        )  # fmt: skip
        step.sums, step.declared = (squeeze.weight, squeeze.bias), {"squeeze": None}
        return step
    if kind == "windows":
        return windows(random, grid)
    if kind == "fold":
        inner = positive(CONV[n](c // 2, c // 2, 3, 1, 1))
        step = Step(
            "folded into the batch",
            lambda x, _: x + inner(x.reshape(-1, c // 2, *x.shape[2:])).reshape(x.shape),
            inner=inner,
        )
        step.declared = {"inner": None}
        return step
    if kind == "shared":
        conv, times = positive(CONV[n](c, c, 3, 1, 1)), random.choice((2, 3))

        def run(x: Tensor, _: list[Tensor]) -> Tensor:
            for _time in range(times):
                x = conv(x)
            return x

        step = Step("runs twice", run, conv=conv)
        step.declared, step.times = {"conv": Form()}, times
        return step
    mix = positive(CONV[n](2 * c, c, 1))
    step = Step("doubled", lambda x, _: mix(torch.cat([x, 2 * x], 1)), mix=mix)
    step.declared = {"mix": Form()}
    return step


def _of(kind: str, module: nn.Module) -> Step:
    step = Step(kind, lambda x, _: module(x), layer=module)
    step.declared = {"layer": Form()}
    return step


def windows(random: Random, grid: tuple[int, ...]) -> Step:
    """Attention in windows, of a map that may be rolled, and both undone."""
    sides = [next((s for s in (random.choice((2, 3)), 2, 3, 1) if not e % s), 1) for e in grid]
    assert any(1 < s < e for s, e in zip(sides, grid, strict=True))
    n, dims = len(grid), list(range(2, 2 + len(grid)))
    shifts = [s // 2 for s in sides] if random.random() < 0.5 else [0] * n
    rolled, inside, norm = nn.Identity(), nn.Identity(), nn.LayerNorm(WIDTH)
    attention = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
    inner = [e // s for e, s in zip(grid, sides, strict=True)]
    apart = [0, *[2 + 2 * i for i in range(n)], *[3 + 2 * i for i in range(n)], 1]

    def run(x: Tensor, _: list[Tensor]) -> Tensor:
        turned = rolled(x.roll(shifts, dims) * 1.0)
        split = turned.reshape(len(x), WIDTH, *[k for pair in zip(inner, sides, strict=True) for k in pair])
        parts = inside(split.permute(apart).reshape(-1, math.prod(sides), WIDTH))
        normed = norm(parts)
        mixed = parts + 0.2 * attention(normed, normed, normed, need_weights=False)[0]
        whole = mixed.view(len(x), *inner, *sides, WIDTH).permute([apart.index(i) for i in range(len(apart))])
        return whole.reshape(x.shape).roll([-s for s in shifts], dims)

    step = Step("windows", run, rolled=rolled, inside=inside, norm=norm, attention=attention)
    step.sums = (attention.out_proj.weight, attention.out_proj.bias)
    step.declared = {"inside": None, "norm": None}
    step.declared["rolled"] = None if any(shifts) else Form()
    return step


def any_form(random: Random, n: int, *, tokens: bool = False, extra: bool = True) -> Form:
    """A form for so many axes; of tokens alone where attention follows."""
    kinds = ("tokens", "sequence first") if tokens else ("map", "last", "tokens", "channel tokens", "sequence first")
    kind = random.choice((*kinds, "frames apart") if n == 3 and not tokens else kinds)
    order = tuple(random.sample(range(n), n)) if random.random() < 0.3 and kind != "frames apart" else tuple(range(n))
    around = (0, 0)
    if extra and kind in ("tokens", "sequence first") and random.random() < 0.7:
        around = random.choice(((1, 0), (0, 1), (2, 0), (1, 4), (0, 3), (1, 10)))
    return Form(kind, order, *around)


def kind_of(form: Form) -> set[str]:
    told = {"channels last"} if form.kind in ("last", "frames apart") else set()
    return told | ({"extra tokens"} if form.before or form.behind else set()) | {form.kind}


class Tap(Step):
    """A layer whose value is in some form; what it does is done to each position."""

    def __init__(self, random: Random, grid: tuple[int, ...]) -> None:
        form = any_form(random, len(grid))
        last = form.kind not in ("map", "channel tokens")
        layer = random.choice((nn.Identity, nn.ReLU))() if not last else random.choice(
            (nn.Identity(), nn.LayerNorm(WIDTH), nn.Sequential(nn.LayerNorm(WIDTH), nn.GELU()))
        )  # fmt: skip
        around = nn.Parameter(torch.rand(1, form.before + form.behind, WIDTH))
        scrambled = form.kind == "tokens" and random.random() < 0.15
        there = torch.randperm(math.prod(grid) + form.before + form.behind)

        def run(x: Tensor, _: list[Tensor]) -> Tensor:
            held = form.make(x * 1.1, around if form.before or form.behind else None)
            held = held[:, there][:, there.argsort()] if scrambled else held
            return form.back(layer(held), tuple(x.shape[2:])) + 0.5

        super().__init__("not proved" if scrambled else "layer", run, layer=layer, around=around)
        self.declared = {**{f"layer.{name}": form for name, _ in layer.named_children()}, "layer": form}
        self.form = form


class Tower(Step):
    """Blocks of attention over tokens, with tokens of no place; what is summed over positions is a small part."""

    def __init__(self, random: Random, grid: tuple[int, ...]) -> None:
        assert math.prod(grid) <= 150
        form = any_form(random, len(grid), tokens=True)
        own = random.random() < 0.6
        heads, weights, stream, norm = nn.Identity(), nn.Identity(), nn.Identity(), nn.LayerNorm(WIDTH)
        qkv = nn.Linear(WIDTH, 3 * WIDTH)
        whole = nn.TransformerEncoderLayer(
            WIDTH, 2, 8, dropout=0.0, norm_first=True, batch_first=form.kind == "tokens", activation="gelu"
        )
        around = nn.Parameter(torch.rand(1, form.before + form.behind, WIDTH))
        share = nn.Parameter(torch.tensor(0.2, dtype=torch.float64), requires_grad=False)
        first = form.kind == "sequence first"
        said = random.random() < 0.5
        for parameter in whole.parameters():
            parameter.data.mul_(0.5)

        def attention(tokens: Tensor) -> Tensor:
            x = tokens.transpose(0, 1) if first else tokens
            b, count, _ = x.shape
            q, k, v = qkv(norm(x)).view(b, count, 3, 2, -1).permute(2, 0, 3, 1, 4)
            mixed = weights((heads(q) @ k.mT).softmax(-1)) @ v
            mixed = x + share * mixed.transpose(1, 2).reshape(x.shape)
            return stream(mixed.transpose(0, 1) if first else mixed)

        def run(x: Tensor, features: list[Tensor]) -> Tensor:
            tokens = form.make(x, around if form.before or form.behind else None)
            tokens = attention(tokens) if own else whole(tokens)
            if said and form.before:
                features.append(tokens[0] if first else tokens[:, 0])
            return form.back(tokens, tuple(x.shape[2:])) + 0.5

        super().__init__("attention", run, around=around)
        self.form = form
        if own:
            self.share, self.sums = share, (share,)
            self.heads, self.weights, self.stream, self.norm, self.qkv = heads, weights, stream, norm, qkv
            inner = replace(form, kind="tokens")
            self.declared = {"heads": None, "weights": None, "norm": inner, "qkv": inner, "stream": form}
        else:
            out = whole.self_attn.out_proj
            self.whole, self.sums = whole, (out.weight, out.bias)
            self.declared = dict.fromkeys(
                ("whole.norm1", "whole.norm2", "whole.dropout", "whole.dropout2", "whole"), form
            )


class Mixed(Step):
    """Steps whose operations say nothing of places, or that sum over them: to and fro by indices, Fourier, mixer."""

    def __init__(self, random: Random, grid: tuple[int, ...]) -> None:
        count = math.prod(grid)
        kind = random.choice(("mixer", "mixer", "indices", "fourier"))
        layer = nn.Identity()
        if kind == "mixer":
            inner = nn.Linear(count, count)
            super().__init__(
                kind, lambda x, _: layer(x + 0.05 * inner(x.flatten(2)).view_as(x)), layer=layer, inner=inner
            )
            self.sums = inner.weight, inner.bias
        elif kind == "indices":
            there = torch.randperm(count)
            back = there.argsort()
            super().__init__(
                "not proved", lambda x, _: layer(x.flatten(2)[:, :, there][:, :, back].view_as(x) * 1.0), layer=layer
            )
        else:
            scale = nn.Parameter(0.05 * torch.rand(grid, dtype=torch.float64), requires_grad=False)
            dims = tuple(range(2, 2 + len(grid)))
            super().__init__(
                "not proved",
                lambda x, _: layer(x + torch.fft.ifftn(torch.fft.fftn(x, dim=dims) * scale, dim=dims).real.abs() * 0.2),
                layer=layer,
                scale=scale,
            )
            self.sums = (scale,)
        self.declared = {"layer": Form()}


class Queries(Step):
    """Learned queries that look at every position; their values are of no place."""

    def __init__(self, random: Random, grid: tuple[int, ...]) -> None:
        count = random.choice((4, 9, 16, 25, 7))
        queries, decoded = nn.Parameter(torch.randn(1, count, WIDTH)), nn.Identity()
        attention = nn.MultiheadAttention(WIDTH, 2, batch_first=True)

        def run(x: Tensor, features: list[Tensor]) -> Tensor:
            memory = x.flatten(2).mT
            found = decoded(
                queries.expand(len(x), -1, -1) + attention(queries.expand(len(x), -1, -1), memory, memory)[0]
            )
            features.append(found.mean(1))
            return x

        super().__init__("object queries", run, queries=queries, decoded=decoded, attention=attention)
        self.declared = {"decoded": None}


class Regions(Step):
    """A few parts of the map as rows of a batch, as proposals are."""

    def __init__(self, random: Random, grid: tuple[int, ...]) -> None:
        sides = [max(2, e // 2) for e in grid]
        starts = [[random.randint(0, e - s) for e, s in zip(grid, sides, strict=True)] for _ in range(3)]
        pooled = nn.Sequential(positive(CONV[len(grid)](WIDTH, WIDTH, 1)), nn.ReLU())

        def run(x: Tensor, features: list[Tensor]) -> Tensor:
            parts = [x[(..., *(slice(a, a + s) for a, s in zip(start, sides, strict=True)))] for start in starts]
            found = pooled(torch.stack(parts, 1).flatten(0, 1))
            features.append(found.flatten(2).mean(2).unflatten(0, (len(x), -1)).mean(1))
            return x

        super().__init__("regions", run, pooled=pooled)
        self.declared = {"pooled": None, "pooled.0": None, "pooled.1": None}


class Pooled(Step):
    """One axis' mean: what is left is a series."""

    def __init__(self, random: Random, grid: tuple[int, ...]) -> None:
        self_axis = random.randrange(len(grid))
        layer = nn.Identity()
        super().__init__("axis pooled", lambda x, _: layer(x.mean(2 + self_axis)), layer=layer)
        self.gone = self_axis
        self.declared = {"layer": Form()}
