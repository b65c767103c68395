"""Incremental inference: what each kind of layer makes of a change, against the plain forward in float64."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastsal.engine.incremental import Incremental, NotTraceable, Traced, laid_out, record, trace
from fastsal.engine.incremental.rules import RULES, Rule, is_pointwise, positions, products, windows
from fastsal.engine.run import evaluation
from fastsal.ops import patches

SIDE = 21
aten = torch.ops.aten


class Function(nn.Module):
    """A module around a function of its parts."""

    def __init__(self, function: Callable[..., Any], *parts: nn.Module) -> None:
        super().__init__()
        self.parts, self.function = nn.ModuleList(parts), function

    def forward(self, x: Tensor) -> Any:
        return self.function(x, *self.parts)


def conv(inputs: int, outputs: int, kernel: int = 3, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, **options)


def head(channels: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 5)]


def channels_last_block(x: Tensor, stem: nn.Module, norm: nn.Module, wide: nn.Module, narrow: nn.Module) -> Tensor:
    """As in ConvNeXt."""
    x = stem(x)
    y = narrow(F.gelu(wide(norm(x.permute(0, 2, 3, 1))))).permute(0, 3, 1, 2)
    return (x + 0.5 * y).mean((-2, -1))


def squeezed(x: Tensor, first: nn.Module, gate: nn.Module, last: nn.Module) -> Tensor:
    """Squeeze and excitation: from the gate on everything depends on the whole map."""
    x = first(x).relu()
    return last(x * gate(x.mean((2, 3), keepdim=True)).sigmoid()).amax((2, 3))


def written_over(x: Tensor, first: nn.Module, second: nn.Module) -> Tensor:
    x = first(x)
    return second(x.relu_()).add_(x).flatten(1)


def read_before_written(x: Tensor, first: nn.Module) -> Tensor:
    """A view that sees what is written after it was made."""
    x = first(x)
    view = x[:, :2]
    x.relu_()
    return torch.cat([view, x], 1).mean((2, 3))


def norm_over_channels(x: Tensor, first: nn.Module) -> Tensor:
    x = first(x)
    mean = x.mean(1, keepdim=True)
    x = (x - mean) / ((x - mean).pow(2).mean(1, keepdim=True) + 1e-6).sqrt()
    a, b = x.chunk(2, 1)
    return (a * b.softmax(1)).flatten(1)


def switched_off(x: Tensor, first: nn.Module, second: nn.Module) -> Tensor:
    with torch.no_grad():
        x = first(x)
    return second(x).mean((2, 3))


def in_lower_precision(x: Tensor, first: nn.Module) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return first(x).mean((2, 3))


def by_overload(x: Tensor, first: nn.Module) -> Tensor:
    """The overloads that no module or function of PyTorch leaves in a graph, but decompositions and users do."""
    weight = first.weight
    x = aten.convolution.default(x, weight, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1)
    x = aten.max_pool2d_with_indices.default(x, [2, 2], [1, 1])[0]
    x = aten.to.dtype_layout(aten.to.dtype(aten._to_copy.default(x), x.dtype), dtype=x.dtype)
    x = aten.detach.default(aten.alias.default(aten.lift_fresh_copy.default(aten.contiguous.default(x))))
    mean, variance = weight.flatten(1)[:, :2].unbind(1)
    x = aten._native_batch_norm_legit_no_training.default(x, None, None, mean, variance.square() + 1, 0.1, 1e-5)[0]
    x = aten.transpose.int(
        aten.native_layer_norm.default(aten.transpose.int(x, 1, -1), [4], None, None, 1e-5)[0], 1, -1
    )
    x = (
        aten._softmax.default(x, 1, False)
        + aten.log_softmax.int(x, 1)
        - 2 * aten._log_softmax.default(x.tanh(), 1, False)
    )
    x = x * aten.sum.dim_IntList(x, [1], True) + aten.amin.default(x, [1], True)
    x = aten.dropout.default(x, 0.5, False) / (aten.var.correction(x, [1], correction=1, keepdim=True) + 1)
    a, b = aten.split.Tensor(x, 2, 1)
    c, d = aten.split_with_sizes.default(x, [1, 3], 1)
    x = torch.cat([a + b, c * d], 1).mean((2, 3))  # [B, 5]
    square = weight.flatten(1)[:, :5].T @ weight.flatten(1)[:, :5]
    x = aten.addmm.default(aten.mm.default(x, square), x, square)
    outer = aten.matmul.default(aten.bmm.default(x[:, :, None], x[:, None]), square)
    return aten.scaled_dot_product_attention.default(outer, outer, outer).flatten(1)  # type: ignore[no-any-return]


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "stride, padding": lambda: nn.Sequential(conv(3, 6, 7, stride=2, padding=3), nn.ReLU(), *head(6)),
    "dilation, groups": lambda: nn.Sequential(conv(3, 6, dilation=2, padding=2), conv(6, 6, groups=6), *head(6)),
    "same padding": lambda: nn.Sequential(conv(3, 4, 3, padding="same"), conv(4, 4, (1, 5), padding=(0, 2)), *head(4)),
    "reflected border": lambda: nn.Sequential(conv(3, 4, padding=1, padding_mode="reflect"), *head(4)),
    "max pool": lambda: nn.Sequential(conv(3, 4), nn.MaxPool2d(3, 2, 1), conv(4, 4), *head(4)),
    "max pool, rounded up": lambda: nn.Sequential(conv(3, 4), nn.MaxPool2d(2, 2, ceil_mode=True), conv(4, 4), *head(4)),
    "average pool": lambda: nn.Sequential(conv(3, 4), nn.AvgPool2d(3, 2, 1), conv(4, 4), *head(4)),
    "average pool, uncounted border": lambda: nn.Sequential(
        nn.AvgPool2d(3, 2, 1, count_include_pad=False), conv(3, 4), *head(4)
    ),
    "batch norm": lambda: nn.Sequential(conv(3, 4), nn.BatchNorm2d(4), nn.Hardswish(True), conv(4, 4), *head(4)),
    "activations without a tag": lambda: nn.Sequential(
        conv(3, 4), nn.Hardswish(), conv(4, 4), nn.PReLU(4), nn.LogSigmoid(), conv(4, 4), *head(4)
    ),
    "group norm": lambda: nn.Sequential(conv(3, 4), nn.GroupNorm(2, 4), nn.SiLU(), conv(4, 4), *head(4)),
    "stride above kernel": lambda: nn.Sequential(conv(3, 4, 1, stride=3), conv(4, 4), *head(4)),
    "transposed": lambda: nn.Sequential(nn.ConvTranspose2d(3, 4, 3, stride=2), conv(4, 4), *head(4)),
    "pooled to its size": lambda: nn.Sequential(
        conv(3, 4, 5), nn.AdaptiveAvgPool2d(17), nn.Flatten(), nn.Linear(1156, 5)
    ),
    "pooled to another": lambda: nn.Sequential(conv(3, 4, 5), nn.AdaptiveAvgPool2d(5), nn.Flatten(), nn.Linear(100, 5)),
    "residual": lambda: Function(
        lambda x, a, b: (a(x) + b(x).relu()).mean((2, 3)), conv(3, 4, 1), conv(3, 4, 5, padding=2)
    ),
    "concatenated": lambda: Function(
        lambda x, a, b: torch.cat([a(x), x, b(x)], 1).flatten(1), conv(3, 4, padding=1), conv(3, 2, 5, padding=2)
    ),
    "channels last": lambda: Function(
        channels_last_block, conv(3, 4, 5), nn.LayerNorm(4), nn.Linear(4, 8), nn.Linear(8, 4)
    ),
    "norm over channels": lambda: Function(norm_over_channels, conv(3, 4)),
    "squeeze and excitation": lambda: Function(squeezed, conv(3, 4), conv(4, 4, 1), conv(4, 4)),
    "written over": lambda: Function(written_over, conv(3, 4), conv(4, 4, padding=1)),
    "read before written": lambda: Function(read_before_written, conv(3, 4)),
    "a map of positions": lambda: Function(
        lambda x, a: (a(x) * torch.arange(19.0, dtype=x.dtype)[:, None]).flatten(1), conv(3, 2)
    ),
    "several outputs": lambda: Function(lambda x, a: {"map": a(x), "pair": (x.mean((1, 2, 3)), 3)}, conv(3, 2)),
    "gradients switched off": lambda: Function(switched_off, conv(3, 4), conv(4, 4)),
    "number of rows": lambda: Function(
        lambda x, a: torch.cat([torch.ones(x.shape[0], 2, dtype=x.dtype), a(x).mean((2, 3))], 1), conv(3, 2)
    ),
    "constant output": lambda: Function(lambda x, a: (a(x), a.weight * 2), conv(3, 2)),
    "by overload": lambda: Function(by_overload, conv(3, 4)),
}


def rectangles() -> Tensor:
    """Windows of several sizes, some over the corners."""
    found = [
        (y, min(y + h, SIDE), x, min(x + w, SIDE))
        for (h, w), y, x in itertools.product([(3, 4), (1, 1)], range(0, SIDE, 4), range(0, SIDE, 4))
    ]
    return torch.tensor(found)


def leaves(value: Any) -> list[Tensor]:
    return [leaf for leaf in torch.utils._pytree.tree_leaves(value) if isinstance(leaf, Tensor)]


def outputs(model: Any, dtype: torch.dtype, least: int, whole_rows: int | None) -> tuple[Incremental, float]:
    """The engine, and the largest difference from the plain forward over all positions and outputs."""
    image = torch.randn(1, 3, SIDE, SIDE, dtype=dtype, generator=torch.Generator().manual_seed(3))
    bounds, apart = rectangles(), 0.0
    with evaluation(model), torch.no_grad():
        engine = Incremental(trace(model, image), bounds, patches.gather, least, whole_rows)
        engine.prepare(image)
        for group in engine.groups:
            window = engine.window(group)
            rows = torch.arange(len(group.positions)).flip(0)
            changed = image.repeat(len(rows), 1, 1, 1)
            for row, (top, bottom, left, right) in zip(changed, bounds[group.positions[rows]].tolist(), strict=True):
                row[:, top:bottom, left:right] = 1.5
            altered = torch.stack(
                [
                    row[:, y : y + window.size[0], x : x + window.size[1]]
                    for row, (y, x) in zip(changed, window.starts[rows].tolist(), strict=True)
                ]
            )
            got, want = leaves(engine(group, rows, altered)), leaves(model(changed))
            assert len(got) == len(want)
            for a, b in zip(got, want, strict=True):
                assert (a.shape, a.dtype) == (b.shape, b.dtype)
                apart = max(apart, float((a - b).abs().max()))
    assert sorted(torch.cat([group.positions for group in engine.groups]).tolist()) == list(range(len(bounds)))
    return engine, apart


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(
    ("least", "whole_rows"), [pytest.param(1000, None, marks=pytest.mark.slow), (3, 4)], ids=["one group", "groups"]
)
def test_equals_the_plain_forward(name: str, least: int, whole_rows: int | None) -> None:
    torch.manual_seed(1)
    model = NETWORKS[name]().double().eval()
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2)
    _, apart = outputs(model, torch.float64, least, whole_rows)
    assert apart < 1e-12


def recorded(model: nn.Module) -> Traced:
    with evaluation(model), torch.no_grad():
        return record(model, torch.zeros(1, 3, SIDE, SIDE))


def test_each_overload_has_one_rule_and_a_network() -> None:
    tables = (windows.RULES, products.RULES, positions.RULES)
    assert sum(map(len, tables)) == len(RULES)
    assert not any(map(is_pointwise, RULES)), "the rule of elementwise operations is POINTWISE"
    seen = {node.target for make in NETWORKS.values() for node in recorded(make().eval()).nodes}
    assert set(RULES) - seen == {aten.sym_size.int}  # which is there in a trace alone


@pytest.mark.parametrize("name", ["channels last", "squeeze and excitation", "written over", "by overload"])
def test_a_recorded_pass_has_the_sizes_of_a_trace(name: str) -> None:
    model = NETWORKS[name]().eval()
    with evaluation(model), torch.no_grad():
        traced = trace(model, torch.zeros(1, 3, SIDE, SIDE))
    ours, theirs = (laid_out(each, rectangles(), 8) for each in (recorded(model), traced))
    assert ours.gain == theirs.gain
    assert ours.work == theirs.work


def test_a_recorded_pass_leaves_nothing_on_the_model() -> None:
    model = Keeps().eval()
    recorded(model)
    assert model.seen is None
    assert model.total.item() == 0


@pytest.mark.parametrize(
    "function",
    [
        lambda x, a: a(x).mean((2, 3)) * (1.0 if x.sum() > 0 else 2.0),
        lambda x, a: a(x).mean((2, 3)) * float(x.max()),
        lambda x, a: a(x)[:, :, x[0, 0, 0, :19] > 0].mean((2, 3)),
    ],
    ids=["branch", "value", "shape"],
)
def test_what_depends_on_values_is_not_recorded(function: Callable[..., Any]) -> None:
    with pytest.raises(NotTraceable, match="reads values, on which its course depends"):
        recorded(Function(function, conv(3, 4)).eval())


def test_a_rule_is_all_that_an_overload_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Function(lambda x, a, b: b(a(x).cumsum(1)).mean((2, 3)), conv(3, 4), conv(4, 4)).double().eval()
    without, apart = outputs(model, torch.float64, 1000, None)
    assert apart < 1e-12
    monkeypatch.setitem(RULES, aten.cumsum.default, Rule(positions.along("dim", 1), fresh=True))
    having, apart = outputs(model, torch.float64, 1000, None)
    assert apart < 1e-12
    assert having.gain > 2 * without.gain


def test_local_layers_recompute_parts_alone() -> None:
    model = nn.Sequential(conv(3, 8, padding=1), nn.ReLU(), conv(8, 8, padding=1), *head(8)).eval()
    engine, apart = outputs(model, torch.float32, 1000, None)
    assert engine.gain > 5  # 3 x 4 of 21 x 21, grown by two layers of 3 x 3
    assert apart < 1e-5


class Keeps(nn.Module):
    """A forward that keeps what it saw, as an attribute and as a buffer: a trace's symbols."""

    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first = conv(3, 4)
        self.seen: Any = None
        self.register_buffer("total", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.seen = self.first(x)
        self.total = self.seen.sum()
        return self.seen.mean((2, 3))  # type: ignore[no-any-return]


def test_the_model_is_as_it_was() -> None:
    model = Keeps().eval()
    with evaluation(model), torch.no_grad():
        trace(model, torch.zeros(1, 3, 8, 8))
    assert model.seen is None
    assert model.total.item() == 0


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda x, a: a(x).mean((2, 3)) * (1.0 if x.sum() > 0 else 2.0), "torch.fx: .*; torch.export: "),
        (lambda x, a: a(x).mean((2, 3)) * float(x.max()), "torch.fx: .*; torch.export: "),
        (lambda x, a: a(x).mean((2, 3)).view(2, 4), "torch.fx: .*; torch.export: "),
        (lambda x, a: a(x).mean((2, 3)) * torch.ones(len(x), 1), "one number of rows"),
    ],
    ids=["branch", "value", "rows", "length"],
)
def test_what_depends_on_values_is_refused(function: Callable[..., Any], reason: str) -> None:
    model = Function(function, conv(3, 4)).eval()
    with evaluation(model), torch.no_grad(), pytest.raises(NotTraceable, match=reason):
        trace(model, torch.zeros(1, 3, 8, 8))


def test_autocast_inside_a_model_is_in_the_graph_and_not_left_on() -> None:
    model = Function(in_lower_precision, conv(3, 4)).eval()
    _, apart = outputs(model, torch.float32, 1000, None)
    assert apart < 2 * torch.finfo(torch.bfloat16).eps
    assert not torch.is_autocast_enabled("cpu")


def test_hooks_that_change_nothing_see_no_symbols() -> None:
    model = nn.Sequential(conv(3, 4), *head(4)).eval()
    seen: list[bool] = []
    model[0].register_forward_hook(lambda _part, _args, out: seen.append(type(out) is Tensor))
    with evaluation(model), torch.no_grad():
        trace(model, torch.zeros(1, 3, 8, 8))
        model[0].register_forward_hook(lambda _part, _args, out: 2 * out)
        with pytest.raises(NotTraceable, match="hooks that change its output"):
            trace(model, torch.zeros(1, 3, 8, 8))
    assert seen
    assert all(seen)
