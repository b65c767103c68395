"""DeepLift and DeepLiftShap against Captum 0.9.0, and complete where Captum is not."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from captum import attr
from torch import Tensor, nn

import fastsal
from tests.explainers.networks import CONV, TwoInputs, image, small, unchanged

EXACT = {"rtol": 1e-9, "atol": 1e-12}
KNOWN: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "relu in place": lambda: nn.ReLU(inplace=True),
    "elu": nn.ELU,
    "leaky": lambda: nn.LeakyReLU(0.1),
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "softplus": nn.Softplus,
}
UNKNOWN: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "silu": F.silu,
    "relu6": F.relu6,
    "hardtanh": F.hardtanh,
    "mish": F.mish,
    "celu": F.celu,
    "selu": F.selu,
    "hardswish": F.hardswish,
    "softsign": F.softsign,
    "method": lambda x: x.sigmoid(),
    "in place": lambda x: (x * 1).tanh_(),
    "in place by argument": lambda x: F.elu(x * 1, inplace=True),
    "clamp": lambda x: x.clamp(-0.5, 0.5),
    "square": lambda x: x.square(),
    "read after an in-place relu": lambda x: (lambda h: h.relu_() + h)(x * 1),
    "overwritten later": lambda x: (lambda h: F.elu(h).add_(1))(x * 1),
}


def network(activation: Callable[[], nn.Module], dimensions: int = 2, pool: int | None = 2) -> nn.Module:
    torch.manual_seed(0)
    pools = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}
    layers: list[nn.Module] = [CONV[dimensions](3, 5, 3, padding=1)]
    if pool:
        # Something linear between: Captum loses the rule of one of two nonlinear modules that follow each other.
        layers += [pools[dimensions](pool), CONV[dimensions](5, 5, 1)]
    layers += [activation(), CONV[dimensions](5, 4, 3), nn.Flatten(), nn.LazyLinear(6), activation(), nn.Linear(6, 4)]
    model = nn.Sequential(*layers).double().eval()
    model(image(dimensions, size=8, dtype=torch.float64))
    return model


def both(model: nn.Module, inputs: Any, name: str = "DeepLift", **options: Any) -> tuple[Any, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = getattr(attr, name)(model).attribute(inputs, **options)
    return getattr(fastsal, name)(model).attribute(inputs, **options), theirs


def check(ours: Any, theirs: Any) -> None:
    assert isinstance(ours, tuple) == isinstance(theirs, tuple)
    for one, other in zip(*(v if isinstance(v, tuple) else (v,) for v in (ours, theirs)), strict=True):
        torch.testing.assert_close(one, other.detach(), **EXACT)


@pytest.mark.parametrize("activation", KNOWN)
@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_the_functions_that_captum_knows(activation: str, dimensions: int) -> None:
    model, x = network(KNOWN[activation], dimensions), image(dimensions, dtype=torch.float64)
    start = torch.randn(1, *x.shape[1:], dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    for options in ({"target": 1}, {"target": [1, 3, 0], "baselines": start}):
        with unchanged(model, x):
            ours, theirs = both(model, x, return_convergence_delta=True, **options)
        check(ours, theirs)
        assert ours[1].abs().max() < 1e-9


@pytest.mark.parametrize("target", [(2,), torch.tensor(1), torch.tensor([0, 3, 1]), [(1,), (0,), (2,)], -1], ids=str)
def test_forms_of_target_and_baseline(target: Any) -> None:
    model, x = network(nn.ReLU), image(dtype=torch.float64)
    for baselines in (None, 0, 0.5, torch.rand(3, 3, 8, 9).double(), torch.rand(1, 3, 8, 9).double()):
        check(*both(model, x, target=target, baselines=baselines))
    broadcast = torch.rand(1, 3, 1, 1).double()
    found = fastsal.DeepLift(model).attribute(x, broadcast, target)
    torch.testing.assert_close(found, fastsal.DeepLift(model).attribute(x, broadcast.expand_as(x), target))


def test_batch_norm_average_pooling_and_dropout() -> None:
    model = small(dtype=torch.float64, dropout=0.5)
    x = image(dtype=torch.float64)
    check(*both(model, x, target=[1, 3, 0], return_convergence_delta=True))
    model.train()
    with unchanged(model, x):
        found = fastsal.DeepLift(model).attribute(x, target=[1, 3, 0])
    torch.testing.assert_close(found, fastsal.DeepLift(model.eval()).attribute(x, target=[1, 3, 0]))


def test_tuples_additional_arguments_and_functions_of_multipliers() -> None:
    model, inputs = TwoInputs().double().eval(), (torch.randn(3, 3, 4).double(), torch.randn(3, 5).double())
    shift = torch.randn(3, 8).double()

    class Modules(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.tanh = model, nn.Tanh()

        def forward(self, a: Tensor, b: Tensor, shift: Tensor, scale: float = 1.0) -> Tensor:
            hidden = self.inner.relu(self.inner.first(a.flatten(1)) + self.inner.second(b)) + shift
            return scale * self.inner.head(self.tanh(hidden))

    modules = Modules().eval()
    customs: list[Callable[..., Any] | None] = [
        None,
        lambda m: tuple(each * 2 for each in m),
        lambda m, x: tuple(e * v for e, v in zip(m, x, strict=True)),
        lambda m, x, b: tuple(e * (v - w) ** 2 for e, v, w in zip(m, x, b, strict=True)),
    ]
    for custom in customs:
        options = {
            "target": [0, 1, 3],
            "baselines": (0.5, torch.ones(1, 5).double()),
            "additional_forward_args": (shift, 0.5),
            "custom_attribution_func": custom,
        }
        ours, theirs = both(modules, inputs, **options)
        check(ours, theirs)
        # The same network with functional tanh, which Captum's hooks do not see.
        check(fastsal.DeepLift(model).attribute(inputs, **options), theirs)
    local = fastsal.DeepLift(modules, multiply_by_inputs=False, eps=1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = attr.DeepLift(modules, multiply_by_inputs=False).attribute(
            inputs, target=1, additional_forward_args=shift
        )
    check(local.attribute(inputs, target=1, additional_forward_args=shift), theirs)


def test_softmax_is_captums_for_one_example_and_does_not_mix_several() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 4), nn.Softmax(1)).double().eval()
    x = torch.randn(3, 5).double()
    found = fastsal.DeepLift(model).attribute(x, target=[1, 2, 0])
    for row, target in enumerate([1, 2, 0]):
        ours, theirs = both(model, x[row : row + 1], target=target)
        check(ours, theirs)
        check(found[row : row + 1], theirs)
    functional = nn.Sequential(*model[:3])
    for softmax in (lambda z: z.softmax(1), lambda z: F.softmax(z, dim=-1), lambda z: torch.softmax(z, 1)):

        class Head(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.body = functional

            def forward(self, z: Tensor) -> Tensor:
                return softmax(self.body(z))  # noqa: B023

        check(fastsal.DeepLift(Head().eval()).attribute(x, target=[1, 2, 0]), found)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_a_pool_right_after_an_activation(activation: str) -> None:
    """Captum's hook on the pool runs after the activation has read its gradient, so the pool keeps the plain one."""
    x = torch.tensor([[[[0.1, 0.5], [0.3, 0.2]]]], dtype=torch.float64)
    start = torch.tensor([[[[0.7, 0.05], [0.9, 0.0]]]], dtype=torch.float64)
    model = nn.Sequential(KNOWN[activation](), nn.MaxPool2d(2), nn.Flatten()).eval()
    ours, theirs = both(model, x, baselines=start, target=0)
    change = (model(x) - model(start)).item()
    assert change < -0.25
    torch.testing.assert_close(ours.sum().item(), change)
    assert theirs.sum().item() > 0.4  # of the other sign


class Sum(nn.Module):
    """A network around one function, with a residual branch."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.head = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.function(self.first(x))
        return self.head(hidden + self.function(self.second(hidden)))


@pytest.mark.parametrize("name", UNKNOWN)
def test_every_function_of_one_element_is_complete(name: str) -> None:
    """In any form, used twice, with a residual; Captum sends plain gradients through what it does not know."""
    model, x = Sum(UNKNOWN[name]).double().eval(), torch.randn(4, 6).double()
    start = torch.randn(1, 6).double()
    with unchanged(model, x, start):
        found, delta = fastsal.DeepLift(model).attribute(x, start, [0, 1, 2, 0], return_convergence_delta=True)
    assert delta.abs().max() < 1e-10
    whole = found.sum(1)
    for row in range(4):
        alone = fastsal.DeepLift(model).attribute(x[row : row + 1], start, [0, 1, 2, 0][row])
        torch.testing.assert_close(alone.sum(), whole[row])


@pytest.mark.parametrize("count", [1, 3])
def test_examples_in_any_dimension_and_functions_of_parameters(count: int) -> None:
    """Inputs and baselines are compared call by call, wherever an activation has the examples, or has none."""

    class TimeFirst(nn.Module):
        def __init__(self, batch_first: bool) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.batch_first = batch_first
            self.scale = nn.Parameter(torch.randn(1, 1, 6))
            self.encoder = nn.TransformerEncoderLayer(6, 2, 8, batch_first=batch_first)
            self.head = nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = x if self.batch_first else x.transpose(0, 1)
            x = self.encoder(x * self.scale.clamp(max=0.5).exp())
            return self.head(x.tanh().mean(1 if self.batch_first else 0))

    first, usual = (TimeFirst(batch_first).double().eval() for batch_first in (False, True))
    x, start = torch.randn(count, 4, 6).double(), torch.randn(count, 4, 6).double()
    for parameter in usual.parameters():
        parameter.requires_grad_(False)
    with unchanged(first, x, start):
        found, delta = fastsal.DeepLift(first).attribute(x, start, 1, return_convergence_delta=True)
    assert delta.abs().max() < 1e-10
    check(found, fastsal.DeepLift(usual).attribute(x, start, 1))


@pytest.mark.parametrize("dimensions", [1, 2, 3])
@pytest.mark.parametrize("kind", ["overlapping", "adaptive", "functional", "indices"])
def test_every_form_of_max_pooling_is_complete(kind: str, dimensions: int) -> None:
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.conv, self.head = CONV[dimensions](3, 4, 3, padding=1), nn.LazyLinear(3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            if kind == "adaptive":
                x = getattr(F, f"adaptive_max_pool{dimensions}d")(x, 3)
            elif kind == "indices":
                x, _ = getattr(F, f"max_pool{dimensions}d")(x, 3, 2, return_indices=True)
            else:
                x = getattr(F, f"max_pool{dimensions}d")(x, 3, stride=2 if kind == "overlapping" else None, padding=1)
            return self.head(x.tanh().flatten(1))

    model, x = Pooled().double().eval(), image(dimensions, size=7, dtype=torch.float64)
    model(x)
    start = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    with unchanged(model, x):
        _, delta = fastsal.DeepLift(model).attribute(x, start, 1, return_convergence_delta=True)
    assert delta.abs().max() < 1e-10


def test_equal_inputs_and_baselines_give_the_gradient() -> None:
    model, x = network(nn.Tanh, pool=None), image(dtype=torch.float64)
    found = fastsal.DeepLift(model, multiply_by_inputs=False).attribute(x, x, 1)
    torch.testing.assert_close(found, fastsal.Saliency(model).attribute(x, 1, abs=False), **EXACT)
    assert not fastsal.DeepLift(model).attribute(x, x, 1).any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype) -> None:
    model, x = network(nn.ReLU).to(dtype), image(dtype=dtype)
    found = fastsal.DeepLift(model).attribute(x, target=1)
    expected = fastsal.DeepLift(network(nn.ReLU).to(dtype).double()).attribute(x.double(), target=1)
    assert found.dtype == dtype
    # Products of half precision roundings through eight layers and back.
    assert (found.double() - expected).abs().mean() < 16 * torch.finfo(dtype).eps * expected.abs().max()


class TestShap:
    """DeepLiftShap."""

    def test_captum(self) -> None:
        model, x = network(nn.ReLU), image(dtype=torch.float64)
        rows = torch.randn(5, 3, 8, 9).double()
        for baselines in (rows, lambda: rows, lambda z: rows + z[:1] * 0):
            options = {"target": [1, 3, 0], "return_convergence_delta": True, "baselines": baselines}
            ours, theirs = both(model, x, "DeepLiftShap", **options)
            check(ours, theirs)
        for size in (1, 12, 24, 1000):
            found, delta = fastsal.DeepLiftShap(model).attribute(
                x, rows, [1, 3, 0], return_convergence_delta=True, perturbations_per_eval=size
            )
            check((found, delta), theirs)

    def test_tuples(self) -> None:
        model, inputs = TwoInputs().double().eval(), (torch.randn(3, 3, 4).double(), torch.randn(3, 5).double())
        rows = torch.randn(4, 3, 4).double(), torch.randn(4, 5).double()
        shift = torch.randn(3, 8).double()
        found = fastsal.DeepLiftShap(model).attribute(inputs, rows, [0, 1, 3], (shift, 0.5))
        each = [
            fastsal.DeepLift(model).attribute(inputs, (rows[0][i : i + 1], rows[1][i : i + 1]), [0, 1, 3], (shift, 0.5))
            for i in range(4)
        ]
        for index in range(2):
            torch.testing.assert_close(found[index], sum(e[index] for e in each) / 4, **EXACT)
        custom = fastsal.DeepLiftShap(model).attribute(
            inputs, rows, 1, shift, custom_attribution_func=lambda m, x, b: m
        )
        local = fastsal.DeepLiftShap(model, multiply_by_inputs=False).attribute(inputs, rows, 1, shift)
        check(custom, local)

    def test_refusals(self) -> None:
        model, x = network(nn.ReLU), image(dtype=torch.float64)
        for rows, error in ((None, TypeError), (0.5, TypeError), (torch.zeros(2, 3, 4, 4).double(), ValueError)):
            with pytest.raises(error, match="baselines"):
                fastsal.DeepLiftShap(model).attribute(x, rows, 1)


def test_refusals() -> None:
    with pytest.raises(TypeError, match=r"model: function is not a torch\.nn\.Module"):
        fastsal.DeepLift(lambda x: x)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="TorchScript"):
        fastsal.DeepLift(torch.jit.trace(nn.Linear(2, 2), torch.randn(1, 2)))

    class Mean(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.relu().mean()

    with pytest.raises(ValueError, match="one score per call"):
        fastsal.DeepLift(Mean()).attribute(torch.randn(3, 5))
    with pytest.raises(ValueError, match="baselines: 2 given for 1"):
        fastsal.DeepLift(Mean()).attribute(torch.randn(3, 5), (0, 0))


def test_compiled_and_reused_modules() -> None:
    shared = nn.ReLU()
    torch.manual_seed(0)
    layers = [nn.Linear(4, 6), shared, nn.Linear(6, 6), shared, nn.Linear(6, 2)]
    model, x = nn.Sequential(*layers).double().eval(), torch.randn(3, 4).double()
    separate = nn.Sequential(*[nn.ReLU() if layer is shared else layer for layer in layers]).eval()
    _, theirs = both(separate, x, target=1)
    check(fastsal.DeepLift(model).attribute(x, target=1), theirs)
    check(fastsal.DeepLift(torch.compile(model, backend="eager")).attribute(x, target=1), theirs)
    assert list(itertools.chain(model._forward_hooks, model._backward_hooks)) == []
