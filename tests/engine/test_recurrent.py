"""Recurrent networks in evaluation mode: cuDNN is off while autograd records on a CUDA device, which a stub says."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastsal
from fastsal.engine.run import recurrent


class Series(nn.Module):
    """[B, T, 3] into [B, 4]: a convolution, and a recurrent module that notes whether cuDNN was on."""

    def __init__(self, kind: Any = nn.LSTM) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, 5, 1)
        self.recurrent = kind(5, 6, batch_first=True)
        self.head = nn.Linear(6, 4)
        self.during: Callable[[], object] = int
        self.seen: list[tuple[str, bool, bool]] = []

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x.mT).mT
        self.note("outside")
        inner = self.recurrent.forward

        def noted(*args: Tensor) -> tuple[Tensor, Tensor]:
            self.note("inside")
            self.during()
            found: tuple[Tensor, Tensor] = inner(*args)
            return found

        self.recurrent.forward = noted
        try:
            states, _ = self.recurrent(x)
        finally:
            del self.recurrent.forward
        self.note("outside")
        scores: Tensor = self.head(states[:, -1])
        return scores

    def note(self, where: str) -> None:
        self.seen.append((where, torch.is_grad_enabled(), torch.backends.cudnn.enabled))


@pytest.fixture(autouse=True)
def on_cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(recurrent, "_is_on_cuda", lambda module: True)
    yield
    assert torch.backends.cudnn.enabled
    assert recurrent._off == 0


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_cudnn_is_off_in_a_recurrent_forward_that_autograd_records(kind: type[nn.RNNBase]) -> None:
    model, x = Series(kind).eval(), torch.randn(2, 7, 3)
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(model(leaf)[:, 1].sum(), leaf)
    model.seen.clear()
    torch.testing.assert_close(fastsal.Saliency(model).attribute(x, target=1, abs=False), expected)
    fastsal.IntegratedGradients(model).attribute(x, target=1, n_steps=4)
    fastsal.FeatureAblation(model).attribute(x, target=1)
    assert {(grad, on) for where, grad, on in model.seen if where == "inside"} == {(True, False), (False, True)}
    assert all(on for where, _, on in model.seen if where == "outside")


def test_cudnn_is_as_it_was_after_an_error() -> None:
    model, x = Series().eval(), torch.randn(2, 7, 3)
    model.during = lambda: 1 / 0
    with pytest.raises(ZeroDivisionError):
        fastsal.Saliency(model).attribute(x, target=1)
    assert ("inside", True, False) in model.seen


def test_who_had_cudnn_off_keeps_it_off() -> None:
    model, x = Series().eval(), torch.randn(2, 7, 3)
    with torch.backends.cudnn.flags(enabled=False):
        fastsal.Saliency(model).attribute(x, target=1)
        assert not torch.backends.cudnn.enabled
    assert not any(on for _, _, on in model.seen)


def test_cudnn_is_on_again_with_the_last_of_several_threads() -> None:
    model = Series().eval()
    entered, may_end = threading.Event(), threading.Event()

    def wait() -> None:
        entered.set()
        may_end.wait(10)

    model.during = wait
    x = torch.randn(1, 3, 3)
    thread = threading.Thread(target=lambda: fastsal.Saliency(model).attribute(x, target=1))
    thread.start()
    assert entered.wait(10)
    fastsal.Saliency(Series().eval()).attribute(x, target=1)
    assert not torch.backends.cudnn.enabled
    may_end.set()
    thread.join()
