"""Geometries that are known, of a model that is built otherwise since: found anew, in the call that uses them."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from types import MethodType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastsal
from fastsal.engine.reading.geometry import asking, memory


class Mirrored(nn.Module):
    """Its own mirror image where it is told so, which no shape tells."""

    def __init__(self) -> None:
        super().__init__()
        self.on = False

    def forward(self, x: Tensor) -> Tensor:
        return x.flip(3) if self.on else x


class Tokens(nn.Module):
    """Patches as tokens with one of no place, in front of them or behind."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.mirrored = nn.Conv2d(3, 8, 4, 4), Mirrored()
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 4)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.last = False
        self.calls, self.kept = 0, torch.zeros(())

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.mirrored(self.patches(x)).flatten(2).mT
        token = self.token.expand(len(x), -1, -1)
        tokens = self.norm(torch.cat([tokens, token] if self.last else [token, tokens], 1))
        self.calls, self.kept = self.calls + 1, tokens.detach()
        scores: Tensor = self.head(tokens.mean(1))
        return scores


def turned(_self: nn.Module, x: Tensor) -> Tensor:
    return x.flip(2)


CHANGES: dict[str, Callable[[Any], object]] = {
    "a flag": lambda m: setattr(m, "last", True),
    "a flag of a part": lambda m: setattr(m.mirrored, "on", True),
    "a part": lambda m: setattr(m, "mirrored", type("Other", (Mirrored,), {"forward": turned})()),
    "a class": lambda m: setattr(m.mirrored, "__class__", type("Other", (Mirrored,), {"forward": turned})),
    "a forward": lambda m: setattr(m.mirrored, "forward", MethodType(turned, m.mirrored)),
}


def given() -> tuple[Tokens, Tensor]:
    torch.manual_seed(0)
    return Tokens().double().eval(), torch.rand(1, 3, 16, 24, dtype=torch.float64)


def fresh(model: Tokens, x: Tensor) -> Tensor:
    """The map of a model of which nothing is known."""
    fastsal.clear_caches()
    return fastsal.GradCAM(model, "norm").attribute(x, 1)


@pytest.mark.parametrize("explainer", ["the same", "another", "explain", "of a function", "of a prepared model"])
@pytest.mark.parametrize("change", CHANGES)
def test_positions_move_with_the_model(change: str, explainer: str) -> None:
    model, x = given()
    called: Any = model
    if explainer == "of a function":
        called = lambda x: model(x)  # noqa: E731
    elif explainer == "of a prepared model":
        called = fastsal.prepare(model, x, probe_seconds=0)
    kept = fastsal.GradCAM(called, model.norm if explainer == "of a function" else "norm")
    kept.attribute(x, 1)
    CHANGES[change](model)
    if explainer == "explain":
        found = fastsal.explain(called, x, "gradcam", 1, layer="norm").maps["gradcam"]
    else:
        found = (fastsal.GradCAM(called, "norm") if explainer == "another" else kept).attribute(x, 1)
    expected = fresh(model, x)
    torch.testing.assert_close(found, expected)


def test_what_a_pass_writes_itself_is_no_change(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = given()
    explainer = fastsal.GradCAM(model, "norm")
    explainer.attribute(x, 1)
    found: list[int] = []
    monkeypatch.setattr(asking, "judged", lambda *args, real=asking.judged: found.append(1) or real(*args))
    for _ in range(3):
        explainer.attribute(x, 1)
        fastsal.GradCAM(model, "norm").attribute(x, 2)
    assert model.calls > 3
    assert not found
    model.last = True
    torch.testing.assert_close(explainer.attribute(x, 1), fresh(model, x))
    assert found


def test_no_model_is_kept_alive() -> None:
    model, x = given()
    model.mirrored.holder = lambda held=model: held  # type: ignore[assignment]
    fastsal.GradCAM(model, "norm").attribute(x, 1)
    gone = weakref.ref(model)
    assert memory._built.get(model) is not None
    del model
    gc.collect()
    assert gone() is None
