"""Networks of random steps: their inputs, how these come together, and what is known of every layer's every run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from random import Random

import torch
from torch import Tensor, nn

from tests.fuzz.networks import (
    AVERAGE,
    CONV,
    PADDING,
    VOCABULARY,
    WIDTH,
    Form,
    Mixed,
    Pooled,
    Queries,
    Regions,
    Step,
    Tap,
    Tower,
    Truth,
    positive,
    simple,
)

RAW = (
    *("image", "image", "image", "image channels last", "spectrogram"),
    *("series", "features by time", "video", "video frames first", "tokens"),
)
FEWEST, MOST = 6, 400
"""Positions of a grid that a step may leave."""


@dataclass
class Raw:
    """An input: [B, ...], its dimension of channels (None: it has none), and its other dimensions."""

    kind: str
    shape: tuple[int, ...]
    channels: int | None
    axes: tuple[int, ...]

    def value(self, examples: int) -> Tensor:
        if self.kind == "tokens":
            return torch.randint(0, VOCABULARY, (examples, *self.shape))
        return torch.rand(examples, *self.shape, dtype=torch.float64) + 0.1


def raw_input(random: Random, kind: str) -> Raw:
    if kind in ("image", "image channels last", "spectrogram"):
        sides = (random.randint(10, 20), random.randint(10, 20))
    elif kind in ("video", "video frames first"):
        sides = (random.randint(4, 6), random.randint(6, 10), random.randint(6, 10))
    else:
        sides = (random.randint(16, 40),)
    return {
        "image": Raw(kind, (3, *sides), 1, (2, 3)),
        "image channels last": Raw(kind, (*sides, 3), 3, (1, 2)),
        "spectrogram": Raw(kind, sides, None, (1, 2)),
        "series": Raw(kind, (3, *sides), 1, (2,)),
        "features by time": Raw(kind, (*sides, 3), 2, (1,)),
        "video": Raw(kind, (3, *sides), 1, (2, 3, 4)),
        "video frames first": Raw(kind, (sides[0], 3, *sides[1:]), 2, (1, 3, 4)),
        "tokens": Raw(kind, sides, None, (1,)),
    }[kind]


def embedding(random: Random, raw: Raw, halved: bool = False) -> Step:
    """From an input to [B, C, *grid]; of one of twice the size, the same grid."""
    n = len(raw.axes)
    if raw.kind == "tokens":
        table = nn.Embedding(VOCABULARY, WIDTH)
        step = Step("text", lambda x, _: table(x).movedim(-1, 1), table=table)
        step.declared = {"table": Form("last")}
        return step
    if raw.kind == "features by time":
        linear = positive(nn.Linear(3, WIDTH))
        step = Step("series", lambda x, _: linear(x).movedim(-1, 1), linear=linear)
        step.declared = {"linear": Form("last")}
        return step
    patches = random.random() < 0.5
    sides = [random.choice((1, 2, 2, 3) if patches else (1, 2, 3)) for _ in range(n)]
    channels = 3 if raw.channels is not None else 1
    conv = positive(CONV[n](channels, WIDTH, sides, sides if patches else random.choice((1, 1, 2))))
    turned = raw.kind == "spectrogram" and random.random() < 0.5

    def run(x: Tensor, _: list[Tensor]) -> Tensor:
        x = x.unsqueeze(1) if raw.channels is None else x.movedim(raw.channels, 1)
        x = AVERAGE[n](2)(x) if halved else x
        found: Tensor = conv(x.mT).mT if turned else conv(x)
        return found

    kind = {1: "series", 2: "patches", 3: "tubelets"}[n] if patches else raw.kind
    step = Step("unequal patches" if len(set(sides)) > 1 and patches else kind, run, layer=conv)
    step.declared = {"layer": Form("map", (1, 0)) if turned else Form()}
    return step


@dataclass
class Spine:
    """Steps one behind the other, and what is known so far."""

    name: str
    value: Tensor
    looks: dict[int, tuple[int, ...]]
    steps: list[Step] = field(default_factory=list)
    padded: bool = False
    doubled: int = 0
    kinds: set[str] = field(default_factory=set)
    truths: dict[str, Truth | None] = field(default_factory=dict)
    times: dict[str, int] = field(default_factory=dict)

    def add(self, step: Step, value: Tensor) -> None:
        """A step and what it made of the value."""
        self.padded = self.padded or step.kind in PADDING
        self.doubled += step.kind == "up"
        self.value = value
        if isinstance(step, Pooled):
            self.looks = {key: axes[: step.gone] + axes[step.gone + 1 :] for key, axes in self.looks.items()}
        self.declare(f"{self.name}.{len(self.steps)}", step)
        self.steps.append(step)

    def declare(self, name: str, step: Step) -> None:
        """What is known of the layers of a step whose result is carried now."""
        self.kinds.add(step.kind)
        grid = tuple(self.value.shape[2:])
        for part, form in step.declared.items():
            module = step.get_submodule(part)
            usable = not isinstance(module, nn.Linear) and not self.doubled and step.times == 1
            self.times[f"{name}.{part}"] = step.times
            self.truths[f"{name}.{part}"] = (
                None
                if form is None
                else Truth(form, grid, dict(self.looks), self.padded, self.doubled, usable and math.prod(grid) >= 4)
            )
            if form is not None:
                self.kinds |= {"channels last"} if form.kind in ("last", "frames apart") else {form.kind}
                self.kinds |= {"extra tokens"} if form.before or form.behind else set()

    def grow(self, random: Random, count: int) -> None:
        """Random steps, as far as they leave a grid."""
        for _ in range(count):
            grid = tuple(self.value.shape[2:])
            what = random.choices(
                (simple, Tap, Tower, Mixed, Queries, Regions, Pooled), (55, 16, 12, 5, 4, 4, 4 if len(grid) > 1 else 0)
            )[0]
            try:
                step = what(random, grid).double().eval()
                features: list[Tensor] = []
                with torch.no_grad():
                    (value,) = step(self.value, features)
            except (RuntimeError, AssertionError, ValueError):  # of a grid that it does not take
                continue
            if {"not proved", "pad"} <= {step.kind, *self.kinds}:
                continue  # whether a cell of padding is a position or a token of no place is a matter of words
            if FEWEST <= math.prod(value.shape[2:]) <= MOST and min(value.shape[2:]) >= 2:
                self.add(step, value)


class Network(nn.Module):
    """A random network of one or two inputs, each of its layers' runs known.

    Attributes:
        raws: what its inputs are.
        truths: of each layer its runs in turn; None for one without positions.
        kinds: what is in it.
        candidates: names of the layers that may be the default, in the order in which they end.
    """

    def __init__(self, random: Random) -> None:
        super().__init__()
        torch.manual_seed(random.randrange(2**31))
        kinds = ("one", "fused", "apart", "siamese", "text tower", "conditioned")
        self.together = together = random.choices(kinds, (64, 8, 8, 8, 6, 6))[0]
        first = raw_input(random, random.choice(RAW))
        halved = together == "fused" and first.kind not in ("tokens", "features by time") and random.random() < 0.5
        seed = random.random()
        embeds, self.raws = [embedding(Random(seed), first).double().eval()], [first]
        if together in ("fused", "siamese"):
            wide = tuple(e if d + 1 == first.channels else 2 * e for d, e in enumerate(first.shape))
            other = replace(first, shape=wide) if halved else first
            self.raws.append(other)
            embeds.append(
                embeds[0] if together == "siamese" else embedding(Random(seed), other, halved).double().eval()
            )
        elif together in ("apart", "text tower"):
            other = raw_input(random, "tokens" if together == "text tower" else random.choice(RAW))
            self.raws.append(other)
            embeds.append(embedding(random, other).double().eval())
        elif together == "conditioned":
            self.raws.append(Raw("vector", (5,), None, ()))
            self.condition = nn.Linear(5, WIDTH).double()
        self.embeds = nn.ModuleList(embeds)
        inputs = [raw.value(2) for raw in self.raws]
        with torch.no_grad():
            values = [step(x, [])[0] for step, x in zip(embeds, inputs, strict=False)]
        spines = []
        for index, value in enumerate(values):
            spine = Spine(f"spines.{index}", value, {index: self.raws[index].axes})
            spine.declare(f"embeds.{index}", embeds[index])
            spines.append(spine)
        if together == "fused":
            spines[0].value, spines[0].looks = sum(values), {0: self.raws[0].axes, 1: self.raws[1].axes}
        spines[0].grow(random, random.randint(1, 7))
        if together in ("apart", "text tower"):
            spines[1].grow(random, random.randint(0, 3))
        self.spines = nn.ModuleList(nn.ModuleList(spine.steps) for spine in spines)
        self.kinds = {kind for spine in spines for kind in spine.kinds}
        self.kinds |= {first.kind, {"one": "one input"}.get(together, together)} | ({"sizes"} if halved else set())
        self.truths: dict[str, list[Truth | None]] = {}
        for spine in spines:
            for name, truth in spine.truths.items():
                times = spine.times.get(name, 1)
                runs = [truth] * times
                if together == "siamese" and spine is spines[0]:
                    runs += [truth and replace(truth, looks=dict.fromkeys([1], *truth.looks.values()))] * times
                if not (together == "siamese" and spine is spines[1]):
                    self.truths[name] = runs
        usable = {name: runs[0] for name, runs in self.truths.items() if runs[0] is not None and runs[0].candidate}
        of_first = [name for name, truth in usable.items() if 0 in truth.looks]
        self.candidates = of_first or list(usable)
        self.only_tokens = random.random() < 0.2
        features = self.features(inputs)
        width = sum(each.shape[1] for each in features)
        self.head = nn.Linear(width, 3).double()
        self.double().eval()
        self.inputs = tuple(raw.value(random.choice((1, 1, 2, 3))) for raw in self.raws[:1])
        self.inputs += tuple(raw.value(len(self.inputs[0])) for raw in self.raws[1:])

    def features(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """What the head reads."""
        found: list[Tensor] = []
        values = [step(x, found)[0] for step, x in zip(self.embeds, inputs, strict=False)]
        if self.together == "conditioned":
            factor = 1 + 0.1 * self.condition(inputs[1])
            values[0] = values[0] * factor.view(*factor.shape, *[1] * (values[0].dim() - 2))
        if self.together == "fused":
            values = [values[0] + values[1]]
        ends = []
        for index, x in enumerate(values):
            for step in self.spines[0 if self.together == "siamese" else index]:
                (x,) = step(x, found)
            ends.append(x.flatten(2).mean(2))
        return found if found and self.only_tokens and len(inputs) == 1 else [*found, *ends]

    def forward(self, *inputs: Tensor) -> Tensor:
        scores: Tensor = self.head(torch.cat(self.features(inputs), 1))
        return scores
