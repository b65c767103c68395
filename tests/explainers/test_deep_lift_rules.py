"""What DeepLIFT sends back adds up: one function at a time, and in networks drawn at random from all of them."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastsal


def positive(x: Tensor) -> Tensor:
    return x.square() + 0.3


def overwritten(x: Tensor) -> Tensor:
    x = x * 1
    x[:, :2].tanh_()
    return x


def with_mean(x: Tensor) -> Tensor:
    variance, mean = torch.var_mean(x, 1, keepdim=True)
    return x + variance - 2 * mean


def own_kernel(x: Tensor) -> Tensor:
    kernels = x.mean(2).tanh().reshape(-1, 1, 1)
    return F.conv1d(x.flatten(0, 1)[None], kernels, groups=len(kernels))[0].reshape(x.shape)


# Of [B, 4, 6].
ELEMENTWISE: dict[str, Callable[[Tensor], Tensor]] = {
    "abs": torch.abs,
    "log": lambda x: positive(x).log(),
    "log2": lambda x: positive(x).log2(),
    "log10": lambda x: positive(x).log10(),
    "log1p": lambda x: x.square().log1p(),
    "sqrt": lambda x: positive(x).sqrt(),
    "pow": lambda x: positive(x).pow(1.5),
    "power of two": lambda x: 2**x,
    "x ** 3": lambda x: x**3,
    "float_power": lambda x: positive(x).float_power(0.7).to(x.dtype),
    "square": torch.square,
    "reciprocal": lambda x: positive(x).reciprocal(),
    "1 / x": lambda x: 1 / positive(x),
    "rsqrt": lambda x: positive(x).rsqrt(),
    "exp": lambda x: (x / 2).exp(),
    "exp2": lambda x: torch.exp2(x / 2),
    "expm1": lambda x: (x / 2).expm1(),
    "erf": torch.erf,
    "erfc": torch.erfc,
    "sin": torch.sin,
    "cos": torch.cos,
    "tan": lambda x: (x.tanh() * 1.3).tan(),
    "atan": torch.atan,
    "asin": lambda x: (x.tanh() * 0.9).asin(),
    "acos": lambda x: (x.tanh() * 0.9).acos(),
    "sinh": lambda x: torch.sinh(x / 2),
    "cosh": lambda x: torch.cosh(x / 2),
    "asinh": torch.asinh,
    "acosh": lambda x: (positive(x) + 1).acosh(),
    "atanh": lambda x: (x.tanh() * 0.9).atanh(),
    "sinc": torch.sinc,
    "lgamma": lambda x: positive(x).lgamma(),
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "logit": lambda x: (x.sigmoid() * 0.9 + 0.05).logit(),
    "relu": torch.relu,
    "relu6": lambda x: F.relu6(x * 4),
    "leaky_relu": F.leaky_relu,
    "prelu": lambda x: F.prelu(x, torch.full((4,), 0.3).to(x)),
    "rrelu": F.rrelu,
    "elu": F.elu,
    "celu": F.celu,
    "selu": F.selu,
    "gelu": F.gelu,
    "gelu by tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "mish": F.mish,
    "softplus": F.softplus,
    "softsign": F.softsign,
    "logsigmoid": F.logsigmoid,
    "tanhshrink": F.tanhshrink,
    "softshrink": F.softshrink,
    "hardtanh": F.hardtanh,
    "hardsigmoid": F.hardsigmoid,
    "hardswish": F.hardswish,
    "clamp": lambda x: x.clamp(-0.5, 0.7),
    "clamp by tensors": lambda x: x.clamp(torch.tensor(-0.5).to(x), torch.tensor(0.7).to(x)),
    "clip": lambda x: x.clip(min=-0.3),
    "relu in place, of a view": lambda x: F.relu((x * 1).flatten(1), inplace=True).unflatten(1, x.shape[1:]),
    "a part overwritten": overwritten,
    "time first": lambda x: x.transpose(0, 1).tanh().transpose(0, 1),
}
JUMPING: dict[str, Callable[[Tensor], Tensor]] = {
    "hardshrink": F.hardshrink,
    "threshold": lambda x: F.threshold(x, 0.2, 0.1),
    "sqrt from zero": lambda x: x.relu().sqrt(),
}
OTHERS: dict[str, Callable[[Tensor], Tensor]] = {
    "max": lambda x: x.max(2).values[..., None] + x,
    "min": lambda x: x.min(1, keepdim=True).values + x,
    "amax": lambda x: x.amax((1, 2), keepdim=True) * 2 - x,
    "amin": lambda x: x.amin(-1, keepdim=True) + x,
    "max pooling": lambda x: F.interpolate(F.max_pool1d(x, 3, 2, 1), 6),
    "adaptive max pooling": lambda x: F.interpolate(F.adaptive_max_pool1d(x, 4), 6),
    "maximum with a constant": lambda x: torch.maximum(x, torch.zeros(()).to(x)),
    "softmax over places": lambda x: x.softmax(2) * 3,
    "softmax over channels": lambda x: F.softmax(x, 1) * 3,
    "softmax of some": lambda x: x.masked_fill(torch.tensor([0, 0, 0, 0, 0, 1]).bool(), -torch.inf).softmax(2) * 3,
    "log_softmax": lambda x: x.log_softmax(1),
    "softmin": lambda x: F.softmin(x, 1) * 3,
    "logsumexp": lambda x: x.logsumexp(1, keepdim=True) + x,
    "logsumexp of two": lambda x: x.logsumexp((1, 2))[:, None, None] - x,
    "layer norm": lambda x: F.layer_norm(x, (6,)),
    "layer norm of two": lambda x: F.layer_norm(x, (4, 6), torch.full((4, 6), 1.3).to(x)),
    "by hand": lambda x: (x - x.mean(2, keepdim=True)) / (x.var(2, keepdim=True, unbiased=False) + 1e-5).sqrt(),
    "group norm": lambda x: F.group_norm(x, 2, torch.tensor([1.0, 2, 0.5, 1]).to(x)),
    "instance norm": lambda x: F.instance_norm(x, weight=torch.tensor([1.0, 2, 0.5, 1]).to(x)),
    "RMS norm": lambda x: F.rms_norm(x, (6,), torch.full((6,), 0.8).to(x)),
    "RMS norm by hand": lambda x: x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-6),
    "normalize": lambda x: F.normalize(x, dim=1),
    "normalize by 1": lambda x: F.normalize(x, 1, dim=2),
    "local response norm": lambda x: F.local_response_norm(x, 3),
    "norm": lambda x: x - x.norm(dim=2, keepdim=True),
    "variance": lambda x: x + x.var(2, keepdim=True),
    "standard deviation": lambda x: x + x.std((1, 2), keepdim=True),
    "variance and mean": with_mean,
    "x * x": lambda x: x * x,
    "gate": lambda x: x * x.mean(2, keepdim=True).sigmoid(),
    "gate in place": lambda x: (x * 1).mul_(x.tanh()),
    "glu": lambda x: F.glu(torch.cat([x, x.flip(2)], 1), 1),
    "quotient of two": lambda x: x.flip(1) / (1 + x.abs()),
    "attention": lambda x: (x @ x.mT).softmax(-1) @ x,
    "fused attention": lambda x: F.scaled_dot_product_attention(x, x.flip(1), x * 2),
    "fused, causal": lambda x: F.scaled_dot_product_attention(x[:, None], x[:, None], x[:, None], is_causal=True)[:, 0],
    "fused, biased": lambda x: F.scaled_dot_product_attention(
        x[:, None], x[:, None], x[:, None], torch.tensor([[0, 0, 1.0, -torch.inf]]).to(x).expand(4, 4), scale=0.7
    )[:, 0],
    "fused, masked": lambda x: F.scaled_dot_product_attention(
        x[:, None], x[:, None], x[:, None], torch.tensor([[True, False, True, True]]).expand(4, 4)
    )[:, 0],
    "einsum": lambda x: torch.einsum("bct,bdt->bcd", x, x.sin()) @ x / 3,
    "a kernel of its own": own_kernel,
    "cosine similarity": lambda x: F.cosine_similarity(x, x.flip(2).exp(), dim=1)[:, None] + x,
    "addcmul": lambda x: torch.addcmul(x, x.sin(), x.cos(), value=0.5),
    "lerp": lambda x: torch.lerp(x, x.cos(), x.sigmoid()),
}
PAIRS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "product": lambda a, b: a * b,
    "quotient": lambda a, b: a / positive(b),
    "matmul": lambda a, b: a @ b.mT @ b / 6,
    "power": lambda a, b: positive(a) ** b.tanh(),
    "atan2": lambda a, b: torch.atan2(a, positive(b)),
    "hypot": torch.hypot,
    "logaddexp": torch.logaddexp,
}
SMOOTH = [*ELEMENTWISE, *OTHERS, *PAIRS]
ALL = [*SMOOTH, *JUMPING]
OF_THE_CHANGE = {torch.float64: 1e-9, torch.float32: 1e-4}


class Around(nn.Module):
    """A network around functions of one tensor or of two, with residual branches."""

    def __init__(self, chain: list[str]) -> None:
        super().__init__()
        self.chain = chain
        self.layers = nn.ModuleList(nn.Conv1d(4, 4, 3, padding=1) for _ in chain)
        self.norms = nn.ModuleList(nn.BatchNorm1d(4) for _ in chain)
        self.head = nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        known: dict[str, Any] = {**ELEMENTWISE, **JUMPING, **OTHERS}
        last = x
        for name, layer, norm in zip(self.chain, self.layers, self.norms, strict=True):
            hidden = norm(layer(x))
            found = PAIRS[name](hidden, last) if name in PAIRS else known[name](hidden)
            last, x = x, found + x / 2
        scores: Tensor = self.head(x.flatten(1))
        return scores


def build(chain: list[str], seed: int, dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(seed)
    model = Around(chain).double().train()
    with torch.no_grad():
        for _ in range(4):  # calibrate what batch normalisation divides by
            model(torch.randn(32, 4, 6, dtype=torch.float64))
    return model.to(dtype).eval()


def apart(model: nn.Module, dtype: torch.dtype, seed: int, zero: bool = False) -> float:
    """|sum - (F(x) - F(b))|, of the largest change in the batch."""
    numbers = torch.Generator().manual_seed(seed)
    x, start = (torch.randn(3, 4, 6, generator=numbers, dtype=torch.float64).to(dtype) for _ in range(2))
    start = start * (not zero)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = fastsal.DeepLift(model).attribute(x, start, target=[0, 1, 2])
    with torch.no_grad():
        change = (model(x) - model(start)).diagonal().double()
    return float((found.double().sum((1, 2)) - change).abs().max() / change.abs().max())


@pytest.mark.parametrize("name", ALL)
def test_every_function_adds_up(name: str) -> None:
    model = build(["tanh", name, name], 1, torch.float64)
    for zero in (False, True):
        assert apart(model, torch.float64, 2, zero) < 1e-9


@pytest.mark.parametrize("name", SMOOTH)
def test_a_small_difference_has_the_gradient(name: str) -> None:
    """The limit, by autograd, of which the rules make no use; no quotient of small differences is far from it."""
    model = build([name], 3, torch.float64)
    x = torch.randn(2, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(model(leaf)[:, 1].sum(), leaf)
    for distance in (1e-5, 1e-9, 1e-12):
        start = x + distance * torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(5))
        found = fastsal.DeepLift(model, multiply_by_inputs=False).attribute(x, start, target=1)
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["double", "single"])
@pytest.mark.parametrize("seed", range(8))
def test_networks_drawn_at_random_add_up(seed: int, dtype: torch.dtype) -> None:
    draw = random.Random(seed)
    for sample in range(6):
        chain = [draw.choice(ALL) for _ in range(draw.randint(3, 8))]
        model = build(chain, 100 * seed + sample, dtype)
        assert apart(model, dtype, sample, zero=draw.random() < 0.5) <= OF_THE_CHANGE[dtype], chain
