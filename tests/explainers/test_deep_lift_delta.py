"""What DeepLIFT says where it cannot add up, and that no quotient of small differences blows a map up."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import fastsal


class Between(nn.Module):
    """A function between two layers: [B, 4, 6] into [B, 3]."""

    def __init__(self, function: Callable[[Tensor], Tensor], gain: float = 2.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.head, self.function, self.gain = (
            nn.Conv1d(4, 4, 3, padding=1),
            nn.LazyLinear(3),
            function,
            gain,
        )

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.function(self.first(x) * self.gain).flatten(1))
        return scores


def made(function: Callable[[Tensor], Tensor], gain: float = 2.0) -> tuple[nn.Module, Tensor]:
    model, x = Between(function, gain), torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(1))
    x = x.double()
    model.double()(x)
    return model.eval(), x


class Swish(torch.autograd.Function):
    """A function with a derivative of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x.sigmoid()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return gradient * (x.sigmoid() * (1 + x * (-x).sigmoid()))


def sampled(x: Tensor) -> Tensor:
    places = torch.stack([x.mean((1, 2)), x.amax((1, 2))], 1).tanh()[:, None, None]
    return F.grid_sample(x[:, :, None], places, align_corners=False)


ODD: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
    "sign": ("sign", lambda x: x.sign() + x / 9),
    "round": ("round", lambda x: x.round() + x / 9),
    "where": ("where", lambda x: torch.where(x > 0, x * 2, x.tanh() - 3)),
    "mask": ("mul", lambda x: x * (x > 0.5)),
    "detached": ("mul", lambda x: x * x.detach().mean(1, keepdim=True).exp()),
    "sorted": ("sort", lambda x: x.sort(1).values),
    "cumprod": ("cumprod", lambda x: x.cumprod(2)),
    "norm of order 3": ("linalg_vector_norm", lambda x: x.norm(3, dim=1) ** 3),
    "complex": ("abs", lambda x: torch.fft.rfft(x).abs() ** 3),
    "own derivative": ("SwishBackward", lambda x: Swish.apply(x * 3)),
    "places": ("grid_sampler_2d", sampled),
}


@pytest.mark.parametrize("kind", ODD)
def test_the_warning_names_what_does_not_add_up(kind: str) -> None:
    name, function = ODD[kind]
    model, x = made(function)
    with pytest.warns(
        UserWarning, match=rf"^DeepLift: .*off by more than a tenth \(.*\b{name}\b.*\); Integrated"
    ) as seen:
        _, delta = fastsal.DeepLift(model).attribute(x, target=1, return_convergence_delta=True)
    assert len(seen) == 1
    assert seen[0].filename == __file__
    with torch.no_grad():
        change = (model(x) - model(x * 0))[:, 1]
    assert (delta.abs() > 0.1 * change.abs()).any()


def test_nothing_is_said_within_a_tenth_nor_named_that_adds_up() -> None:
    model, x = made(lambda h: h.tanh() + 1e-3 * h.sign())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, delta = fastsal.DeepLift(model).attribute(x, target=1, return_convergence_delta=True)
    assert delta.abs().max() > 1e-6
    weights = nn.Parameter(torch.randn(4, 4).double())
    model, x = made(lambda h: weights.sort(0).values.softmax(1) @ (h.sign() + h.softmax(1)))
    with pytest.warns(UserWarning, match=r"functions that do not add up: sign\)"):
        fastsal.DeepLift(model).attribute(x, target=1)


def test_each_pair_of_a_distribution_is_looked_at_and_told_of_once() -> None:
    model, x = made(ODD["sign"][1])
    with pytest.warns(UserWarning, match=r"^DeepLiftShap: .*sign") as seen:
        fastsal.DeepLiftShap(model).attribute(x, torch.randn(4, 4, 6).double(), target=1, perturbations_per_eval=1)
    assert len(seen) == 1
    assert seen[0].filename == __file__


def test_a_softmax_at_the_end_is_told_of_and_one_inside_adds_up() -> None:
    model, x = made(torch.tanh)
    end = nn.Sequential(model, nn.Softmax(1))
    for target in (1, [0, 1, 2], [(0,), (1,), (2,)]):
        with pytest.warns(UserWarning, match="functions that do not add up: softmax at the end"):
            fastsal.DeepLift(end).attribute(x, target=target)
    for after in (nn.Linear(3, 2).double(), nn.Threshold(0.0, 0.0), nn.Softmax(1)):
        follows = nn.Sequential(
            model, nn.Softmax(1), after, nn.Linear(2 if isinstance(after, nn.Linear) else 3, 2).double()
        )
        _, delta = fastsal.DeepLift(follows).attribute(x, target=1, return_convergence_delta=True)
        assert delta.abs().max() < 1e-12


def test_a_path_that_depends_on_the_values() -> None:
    model, x = made(lambda h: h.tanh() if h.mean() > 10 else h.exp() * h.tanh())
    shifted = x + 100
    with pytest.warns(UserWarning, match="all from exp on, where the baselines took another way|all from tanh on"):
        fastsal.DeepLift(model).attribute(x, shifted * model(x).sign().mean().sign(), target=1)


def test_checkpoints_and_gradients_inside_a_model() -> None:
    def block(h: Tensor) -> Tensor:
        return h.tanh() * h.softmax(1)

    def energy(h: Tensor) -> Tensor:
        with torch.enable_grad():
            h = h if h.requires_grad else h.detach().requires_grad_()
            (force,) = torch.autograd.grad((h**3).sum(), h, create_graph=True)
        return force / 9

    model, x = made(block)
    plain = fastsal.DeepLift(model).attribute(x, target=1)
    again = fastsal.DeepLift(made(lambda h: checkpoint(block, h, use_reentrant=False))[0]).attribute(x, target=1)
    torch.testing.assert_close(again, plain)
    _, delta = fastsal.DeepLift(made(energy)[0]).attribute(x, target=1, return_convergence_delta=True)
    assert delta.abs().max() < 1e-12


def selective(h: Tensor) -> Tensor:
    """Two branches weighed by a softmax over them, from a pooled descriptor (SKNet, ResNeSt)."""
    branches = torch.stack([h.relu(), h.roll(1, 2).relu()], 1)
    gate = torch.stack([h.mean(2), h.mean(2).flip(1)], 1) * 0.3
    return (branches * gate.softmax(1)[..., None]).sum(1)


def gated_attention(h: Tensor) -> Tensor:
    """Attention between tokens, a hard swish behind it (LeViT)."""
    tokens = h.mT
    return F.hardswish((tokens @ tokens.mT * 0.4).softmax(-1) @ tokens)


def channel_attention(h: Tensor) -> Tensor:
    """Attention between normalised channels (XCiT)."""
    unit = F.normalize(h, dim=2)
    return (unit @ unit.mT).softmax(-1) @ h


def talking_heads(h: Tensor) -> Tensor:
    """Heads mixed before and after the softmax (CaiT)."""
    mix = torch.tensor([[0.8, 0.3], [-0.2, 0.9]]).to(h)
    heads = h.mT.unflatten(2, (2, 2)).transpose(1, 2)
    scores = torch.einsum("bhts,hg->bgts", heads @ heads.mT, mix).softmax(-1)
    return (torch.einsum("bhts,hg->bgts", scores, mix) @ heads).flatten(1)


def filter_response(h: Tensor) -> Tensor:
    """Divided by the root of the mean square, then the larger of it and a threshold (FRN with TLU)."""
    return torch.maximum(h * torch.rsqrt(h.square().mean(2, keepdim=True) + 1e-6), torch.tensor(-0.3).to(h))


@pytest.mark.parametrize("close", [False, True], ids=["far", "close"])
@pytest.mark.parametrize("block", [selective, gated_attention, channel_attention, talking_heads, filter_response])
def test_gates_and_attention_are_bounded(block: Callable[[Tensor], Tensor], close: bool) -> None:
    """Against the mean gradient of the path from baseline to input, which is 100 passes' and divides by nothing.

    Some activations are equal at both ends but for 1e-9 to 1e-7, where a quotient of differences is noise.
    """
    model, x = made(block, 1.0)
    start = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(3))
    if close:
        start[:, :, 2:] = x[:, :, 2:] + 1e-8 * start[:, :, 2:]
    options = {"target": 1, "baselines": start}
    _, delta = fastsal.DeepLift(model).attribute(x, return_convergence_delta=True, **options)
    change = (model(x) - model(start))[:, 1].detach()
    assert (delta.abs() <= 1e-9 * change.abs()).all()
    ours = fastsal.DeepLift(model, multiply_by_inputs=False).attribute(x, **options)
    path = fastsal.IntegratedGradients(model, multiply_by_inputs=False).attribute(x, n_steps=100, **options)
    assert (ours - path).norm() < 0.7 * path.norm()
    single = fastsal.DeepLift(model.float(), multiply_by_inputs=False).attribute(
        x.float(), target=1, baselines=start.float()
    )
    assert (single - ours).norm() < 1e-3 * ours.norm()
