"""Batch norms behind every spelling: folded where nothing else can know of the layer's value, else left alone."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastsal
from tests.engine.test_prepare import QUICK, detail, done, lively
from tests.explainers.calls import CALLS
from tests.explainers.networks import image, small, unchanged


class NormAct(nn.BatchNorm2d):
    """Norm, dropout and activation in one module, which calls PyTorch's function itself."""

    def __init__(self, channels: int, affine: bool = True) -> None:
        super().__init__(channels, affine=affine)
        self.drop, self.act = nn.Dropout(0.5), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        torch._assert(x.ndim == 4, "four dimensions")
        training = self.training or self.running_mean is None
        x = F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, training, 0.1, self.eps)
        out: Tensor = self.act(self.drop(x))
        return out


class NormThenRelu(nn.BatchNorm2d):
    """The same by the base class's forward, which checks the number of dimensions."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).relu()


class SamePadding(nn.Conv2d):
    """A convolution that pads by the image's size, which torch.fx cannot follow."""

    def forward(self, x: Tensor) -> Tensor:
        stride, kernel = self.stride[0], self.kernel_size[0]
        pads = [max((-(-size // stride) - 1) * stride + kernel - size, 0) for size in (x.shape[3], x.shape[2])]
        x = F.pad(x, [pads[0] // 2, pads[0] - pads[0] // 2, pads[1] // 2, pads[1] - pads[1] // 2])
        return F.conv2d(x, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


class OwnParameters(nn.Module):
    """Convolution and norm by functions, with names of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel, self.shift = nn.Parameter(torch.randn(4, 3, 3, 3) / 5), nn.Parameter(torch.randn(4))
        self.register_buffer("mean", torch.randn(4))
        self.register_buffer("variance", torch.rand(4) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(F.conv2d(x, self.kernel, self.shift), self.mean, self.variance, eps=1e-3)  # type: ignore[arg-type]


class Resized(nn.Module):
    """Its course depends on sizes, outside of the modules that convolve and normalise."""

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.body, self.norm = nn.Sequential(*parts), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] % 2:
            x = F.pad(x, (0, 1))
        return self.norm(self.body(x)).mean((2, 3))  # type: ignore[no-any-return]


class Counted(nn.Module):
    """Reads values, after what is folded."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), NormAct(4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        return x.mean((2, 3)) * (2 if float(x.sum()) > 0 else 1)


class TokenNorm(nn.Module):
    """A linear layer of tokens, normalised over all of them."""

    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.linear, self.bn = nn.Linear(3, 4, bias=bias), nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.linear(x.flatten(2).mT)
        out: Tensor = self.bn(x.flatten(0, 1)).reshape_as(x)
        return out.mean(1)


class ChannelsNorm(TokenNorm):
    """The same with the channels moved to where the norm looks for them."""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.bn(self.linear(x.flatten(2).mT).transpose(1, 2))
        return out.mean(2)


def pooled(*parts: nn.Module) -> nn.Module:
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten())


FOLDED: dict[str, tuple[Callable[[], nn.Module], int, int]] = {
    "norm and activation": (lambda: pooled(nn.Conv2d(3, 4, 3, bias=False), NormAct(4)), 1, 1),
    "not affine": (lambda: pooled(nn.Conv2d(3, 4, 3), NormAct(4, affine=False)), 1, 1),
    "base class's forward": (lambda: pooled(nn.Conv2d(3, 4, 3), NormThenRelu(4)), 1, 1),
    "same padding": (lambda: pooled(SamePadding(3, 4, 3, 2, bias=False), NormAct(4)), 1, 1),
    "transposed groups": (lambda: pooled(nn.Conv2d(3, 4, 1), nn.ConvTranspose2d(4, 6, 3, groups=2), NormAct(6)), 1, 1),
    "own parameters": (lambda: nn.Sequential(OwnParameters(), NormAct(4), nn.Flatten()), 1, 2),
    "sizes": (lambda: Resized(SamePadding(3, 5, 3, 2), NormThenRelu(5), nn.Conv2d(5, 4, 3)), 1, 2),
    "values": (Counted, 1, 1),
    "tokens": (lambda: TokenNorm(True), 1, 1),
    "tokens without bias": (lambda: TokenNorm(False), 1, 1),
    "channels moved": (lambda: ChannelsNorm(False), 1, 1),
}


@pytest.mark.parametrize("name", FOLDED)
def test_folded_and_the_same(name: str) -> None:
    make, folded, norms = FOLDED[name]
    torch.manual_seed(0)
    model, x = lively(make().double()), image().double()
    with unchanged(model.train()):
        prepared = fastsal.prepare(model, x, **QUICK)
    assert detail(prepared, "batch norm").startswith(f"{folded} of {norms} folded into ")
    model.eval()
    for other in (x, -3 * x, torch.cat([x, x + 1]), x[:1]):
        torch.testing.assert_close(prepared(other), model(other), rtol=0, atol=1e-12)
    found = fastsal.Saliency(prepared).attribute(x, 1)
    torch.testing.assert_close(found, fastsal.Saliency(model).attribute(x, 1), rtol=1e-9, atol=1e-12)


def test_a_norm_that_does_more_computes_nothing() -> None:
    """Not only right: the norm's operation is gone, which is what the folding is for."""
    torch.manual_seed(0)
    model, x = lively(pooled(nn.Conv2d(3, 4, 3), NormAct(4))), image()
    prepared = fastsal.prepare(model, x, **QUICK)
    with torch.profiler.profile() as found:
        prepared(x)
    assert not [event.key for event in found.key_averages() if "batch_norm" in event.key]
    with torch.no_grad():
        model[1].running_var.mul_(4)
    torch.testing.assert_close(prepared(x), model(x))


@pytest.mark.parametrize("name", ["gradcam", "ig", "occlusion", "rise", "deep-lift", "full-grad", "smoothgrad"])
def test_methods_see_the_same_model(name: str) -> None:
    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.norm, self.last = nn.Conv2d(3, 4, 3), NormAct(4), nn.Conv2d(4, 6, 3, padding=1)
            self.head = nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(self.last(self.norm(self.stem(x))).relu().mean((2, 3)))
            return out

    torch.manual_seed(0)
    model, x = lively(Small().double()), image().double()
    fast = fastsal.prepare(model, x, **QUICK)
    assert done(fast, "batch norm")
    torch.manual_seed(0)
    found = CALLS[name](fast, x)
    torch.manual_seed(0)
    torch.testing.assert_close(found, CALLS[name](model, x), rtol=1e-7, atol=1e-9)


class Pair(nn.Module):
    def __init__(self, conv: nn.Module | None = None) -> None:
        super().__init__()
        self.conv, self.norm = conv or nn.Conv2d(3, 4, 3), NormAct(4)
        self.kept: Any = None

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)).mean((2, 3))  # type: ignore[no-any-return]


class OtherCourse(Pair):
    """On other values the convolution is read without its norm."""

    def forward(self, x: Tensor) -> Tensor:
        out = self.norm(self.conv(x)) if x.mean() > -100 else self.conv(x)
        return out.mean((2, 3))  # type: ignore[no-any-return]


class OtherSize(Pair):
    def forward(self, x: Tensor) -> Tensor:
        out = self.norm(self.conv(x)) if x.shape[-1] < 20 else self.conv(x)
        return out.mean((2, 3))  # type: ignore[no-any-return]


class OtherRows(Pair):
    def forward(self, x: Tensor) -> Tensor:
        out = self.conv(x)
        return (self.norm(out) + (out if x.shape[0] > 2 else 0)).mean((2, 3))  # type: ignore[no-any-return]


class Flagged(nn.Module):
    """Whether the norm runs is the caller's to say, by values."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Inner()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x, bool(x.mean() > -100)).mean((2, 3))  # type: ignore[no-any-return]


class Inner(Pair):
    def forward(self, x: Tensor, normed: bool) -> Tensor:  # type: ignore[override]
        out: Tensor = self.conv(x)
        return self.norm(out) if normed else out  # type: ignore[no-any-return]


class Kept(Pair):
    def forward(self, x: Tensor) -> Tensor:
        self.kept = self.conv(x)
        return self.norm(self.kept).mean((2, 3))  # type: ignore[no-any-return]


class Returned(Pair):
    def forward(self, x: Tensor) -> Any:
        out = self.conv(x)
        return {"logits": self.norm(out).mean((2, 3)), "features": out}


class Between(Pair):
    """Channels are mixed with positions before the norm."""

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv(x)
        return self.norm(out.reshape(out.shape[0], 2, 2, *out.shape[2:]).transpose(1, 2).flatten(1, 2)).mean((2, 3))  # type: ignore[no-any-return]


class Residual(NormAct):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x


class NoBias(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight)


class Standardised(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight - self.weight.mean((1, 2, 3), keepdim=True), self.bias)


class Branching(nn.Conv2d):
    """A convolution that looks at values itself."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if float(x.mean()) > -100 else x * 0)


def with_residual() -> nn.Module:
    model = Pair()
    model.norm = Residual(4)
    return model


def by_batch() -> nn.Module:
    model = Pair()
    model.norm = nn.BatchNorm2d(4, track_running_stats=False)  # type: ignore[assignment]
    return model


def sharing() -> nn.Module:
    norm = NormAct(3)
    return pooled(nn.Conv2d(3, 3, 1), norm, nn.Conv2d(3, 3, 1), norm)


def tied() -> nn.Module:
    model = pooled(nn.Conv2d(3, 3, 1), NormAct(3), nn.Conv2d(3, 3, 1))
    model[2].weight = model[0].weight  # type: ignore[union-attr, index]
    return model


NOT_FOLDED: dict[str, Callable[[], nn.Module]] = {
    "values": OtherCourse,
    "sizes": OtherSize,
    "rows": OtherRows,
    "a flag": Flagged,
    "kept": Kept,
    "returned": Returned,
    "mixed": Between,
    "residual": with_residual,
    "no bias": lambda: Pair(NoBias(3, 4, 3, bias=False)),
    "standardised": lambda: Pair(Standardised(3, 4, 3)),
    "parametrized": lambda: Pair(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3))),
    "branching": lambda: Pair(Branching(3, 4, 3)),
    "by the batch": by_batch,
    "a norm used twice": sharing,
    "tied weights": tied,
}


@pytest.mark.parametrize("name", NOT_FOLDED)
def test_not_folded_where_it_could_be_wrong(name: str) -> None:
    torch.manual_seed(0)
    model, x = lively(NOT_FOLDED[name]().double()), image().double()
    prepared = fastsal.prepare(model, x, **QUICK)
    assert not done(prepared, "batch norm"), detail(prepared, "batch norm")
    assert detail(prepared, "batch norm").startswith("not folded: ")
    for other in (x, x - 1000, torch.randn(2, 3, 24, 24, dtype=x.dtype), torch.cat([x, x, x])):
        torch.testing.assert_close(prepared(other), model(other))


def test_hooks_see_what_they_saw() -> None:
    torch.manual_seed(0)
    model, x = lively(Pair().double()), image().double()
    seen: list[Tensor] = []
    handle = model.norm.register_forward_hook(lambda _part, args, _out: seen.append(args[0]))  # type: ignore[operator]
    assert not done(fastsal.prepare(model, x, **QUICK), "batch norm")
    handle.remove()
    handle = model.norm.act.register_forward_hook(lambda _part, _args, out: seen.append(out.clone()))  # type: ignore[operator, union-attr]
    prepared = fastsal.prepare(model, x, **QUICK)
    assert done(prepared, "batch norm")
    seen.clear()
    prepared(x), model(x)
    torch.testing.assert_close(seen[0], seen[1])
    handle.remove()


def test_whoever_returns_a_folded_layers_value_is_no_layer() -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inside = nn.Sequential(nn.Conv2d(3, 4, 3))
            self.norm, self.head = NormAct(4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(self.norm(self.inside(x)).mean((2, 3)))
            return out

    torch.manual_seed(0)
    model, x = lively(Wrapped().double()), image().double()
    prepared = fastsal.prepare(model, x, **QUICK)
    assert done(prepared, "batch norm")
    for layer in ("inside", "inside.0"):
        with pytest.raises(ValueError, match="folded into this"):
            fastsal.GradCAM(prepared, layer)
    assert [layer.name for layer in fastsal.layers(prepared, x)] == ["norm.drop", "norm.act", "norm"]
    found = fastsal.GradCAM(prepared, "norm").attribute(x, 1)
    torch.testing.assert_close(found, fastsal.GradCAM(model, "norm").attribute(x, 1))


class ByFunction(nn.Module):
    """Gives a norm's tensors to PyTorch's function, with a number of its own, and never calls the norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        norm = self.norm
        x = F.batch_norm(self.conv(x), norm.running_mean, norm.running_var, norm.weight, norm.bias, False, eps=0.5)
        out: Tensor = self.head(x.relu().mean((2, 3)))
        return out


def test_a_norm_that_is_not_called() -> None:
    torch.manual_seed(0)
    model, x = lively(ByFunction().double()), image().double()
    prepared = fastsal.prepare(model, x, **QUICK)
    for each in (x, x[:1], -x):
        torch.testing.assert_close(prepared(each), model(each))
    found = fastsal.Saliency(prepared).attribute(x, target=1)
    torch.testing.assert_close(found, fastsal.Saliency(model).attribute(x, target=1))


def test_the_report_says_what_stays() -> None:
    torch.manual_seed(0)
    model = lively(nn.Sequential(nn.BatchNorm2d(3), *Pair().children()))
    prepared = fastsal.prepare(model, image(), **QUICK)
    assert detail(prepared, "batch norm") == (
        "1 of 2 folded into convolutions; 1 behind no convolution or linear layer"
    )


@pytest.mark.slow
def test_folded_and_compiled() -> None:
    torch.manual_seed(0)
    model, x = lively(pooled(nn.Conv2d(3, 4, 3), NormAct(4))), image()
    prepared = fastsal.prepare(model, x, compile=True, **QUICK)
    assert done(prepared, "batch norm")
    assert done(prepared, "compile"), detail(prepared, "compile")
    torch.testing.assert_close(prepared(x), model(x), rtol=1e-4, atol=1e-5)


def test_a_replica_can_be_copied() -> None:
    model, x = small(), image()
    fast = fastsal.prepare(model, x, probe_seconds=0)
    assert torch.equal(copy.deepcopy(fast.module)(x), fast.module(x))
    torch.testing.assert_close(copy.deepcopy(fast)(x), fast(x))
