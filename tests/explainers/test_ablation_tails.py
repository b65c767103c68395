"""Ablation-CAM where the rest of the model is awkward to run again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastsal
from tests.explainers.networks import unchanged

RAW: dict[str, Any] = {"relu_attributions": False, "upsample": False, "normalize": False}


class Net(nn.Module):
    """A convolution to read, another behind it, a head; ``rest`` says how they are put together."""

    def __init__(self, rest: Callable[..., Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.c = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.d, self.h = nn.Conv2d(6, 6, 3, padding=1), nn.Linear(6, 4)
        self.bn, self.relu = nn.BatchNorm2d(6), nn.ReLU(inplace=True)
        self.rest = rest
        self.double().eval()

    def forward(self, x: Tensor, *extra: Any) -> Tensor:
        return self.rest(self, x, *extra)


def head(m: Net, a: Tensor) -> Tensor:
    return m.h(a.mean((2, 3)))


def masked_write(m: Net, x: Tensor) -> Tensor:
    a = m.stem(x)
    b = m.c(a)
    chosen = a > 0.2
    a[chosen] = 1 - a[chosen] * 2
    return head(m, F.relu(a + m.d(b)))


def added_in_place(m: Net, x: Tensor) -> Tensor:
    a = m.stem(x)
    b = F.relu(m.c(a))
    a += b
    return head(m, m.d(a).tanh())


def no_grad_gate(m: Net, x: Tensor) -> Tensor:
    a = m.c(m.stem(x))
    with torch.no_grad():
        gate = a.mean((2, 3), keepdim=True).sigmoid()
    return head(m, a * gate)


RESTS: dict[str, Callable[..., Tensor]] = {
    "relu by hand": lambda m, x: head(m, (a := m.d(m.c(m.stem(x)))) * (a > 0)),
    "largest by gather": lambda m, x: m.h(
        (f := m.d(m.c(m.stem(x))).flatten(2)).gather(2, f.argmax(2, keepdim=True))[..., 0]
    ),
    "detached norm": lambda m, x: head(m, (a := m.c(m.stem(x))) / a.norm(dim=1, keepdim=True).detach()),
    "straight through": lambda m, x: head(m, (a := m.d(m.c(m.stem(x)))) + (a.relu() - a).detach()),
    "gate without gradient": no_grad_gate,
    "write by mask": masked_write,
    "write in place": added_in_place,
    "residual": lambda m, x: head(m, m.relu((a := m.stem(x)) + m.d(m.relu(m.c(a))))),
    "used on both sides": lambda m, x: head(m, m.relu(m.bn(m.d(m.relu(m.c(m.bn(m.stem(x)))))))),
    "skip": lambda m, x: head(m, torch.cat([m.stem(x)[:, :3], m.d(m.c(m.stem(x)).relu())[:, 3:]], 1)),
    "reshaped by its batch": lambda m, x: m.h(m.d(m.c(m.stem(x)).tanh()).view(x.size(0), 6, -1).mean(2)),
    "centred over the batch": lambda m, x: head(m, (b := F.relu(m.c(m.stem(x)))) - 0.5 * b.mean(0, keepdim=True)),
}


def brute(model: Net, x: Tensor, *extra: Any) -> Tensor:
    """The weighted sum, each channel zeroed by a hook that is the last."""
    kept: list[Tensor] = []
    handle = model.c.register_forward_hook(lambda _m, _a, out: kept.append(out.clone()))
    clean = model(x.clone(), *extra)[:, 1]
    handle.remove()
    drops = []
    for channel in range(6):

        def ablate(_module: nn.Module, _args: Any, out: Tensor, channel: int = channel) -> Tensor:
            out = out.clone()
            out[:, channel] = 0
            return out

        handle = model.c.register_forward_hook(ablate)
        drops.append((clean - model(x.clone(), *extra)[:, 1]) / clean)
        handle.remove()
    return (torch.stack(drops, 1)[..., None, None] * kept[0]).sum(1, keepdim=True).detach()


@pytest.mark.parametrize("rows", [None, 1, 4])
@pytest.mark.parametrize("name", RESTS)
def test_every_kind_of_rest(name: str, rows: int | None) -> None:
    model = Net(RESTS[name])
    x = torch.randn(
        1 if "batch" in name else 3, 3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    with unchanged(model, x):
        found = fastsal.AblationCAM(model, "c").attribute(x, 1, perturbations_per_eval=rows, **RAW)
    torch.testing.assert_close(found, brute(model, x), rtol=1e-8, atol=1e-9)


def test_the_users_own_hooks() -> None:
    model, x = Net(RESTS["residual"]), torch.randn(2, 3, 6, 6, dtype=torch.float64)
    for part in (model.stem, model.c, model.d):
        part.register_forward_hook(lambda _m, _a, out: out * 2 + 1)
    found = fastsal.AblationCAM(model, "c").attribute(x, 1, **RAW)
    torch.testing.assert_close(found, brute(model, x), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("rows", [None, 1])
@pytest.mark.parametrize("examples", [1, 3])
def test_extra_arguments_that_only_look_per_example(examples: int, rows: int | None) -> None:
    def scaled(m: Net, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        return head(m, F.relu(m.c(m.stem(x - shift)))) / scale

    model, x = Net(scaled), torch.randn(examples, 3, 6, 6, dtype=torch.float64)
    extra = (torch.tensor([2.0]), torch.randn(3, 1, 1, dtype=torch.float64))
    found = fastsal.AblationCAM(model, "c").attribute(x, 1, extra, perturbations_per_eval=rows, **RAW)
    torch.testing.assert_close(found, brute(model, x, *extra), rtol=1e-8, atol=1e-9)


def test_a_model_whose_examples_depend_on_each_other_is_refused() -> None:
    model, x = Net(RESTS["centred over the batch"]), torch.randn(3, 3, 6, 6, dtype=torch.float64)
    with pytest.raises(ValueError, match="inputs: the model's output for one example differs"):
        fastsal.AblationCAM(model, "c").attribute(x, 1)


def test_tokens_of_no_place_are_ablated_too() -> None:
    class Tokens(nn.Module):
        def __init__(self, hidden: bool) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.patch, self.norm, self.h = nn.Conv2d(3, 6, 4, 4), nn.LayerNorm(6), nn.Linear(6, 4)
            self.token, self.hidden = nn.Parameter(torch.randn(1, 1, 6)), hidden

        def forward(self, x: Tensor) -> Tensor:
            a = self.patch(x).flatten(2).mT
            a = self.norm(torch.cat([self.token.expand(len(x), -1, -1), a], 1))
            if self.hidden:  # the same numbers, not affine as far as can be seen
                a = F.relu(a + 100) - 100
            return self.h(a[:, 0] + a.mean(1))

    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    maps = [fastsal.AblationCAM(Tokens(hidden).double(), "norm").attribute(x, 1, **RAW) for hidden in (False, True)]
    torch.testing.assert_close(maps[0], maps[1], rtol=1e-8, atol=1e-9)
    assert maps[0].abs().max() > 0
