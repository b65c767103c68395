"""Models that look at memory, write to their input, ask sizes late or count places: incrementally right, or plain."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastsal
from fastsal.engine.incremental import Incremental, scoring

SIDE = 24


class Net(nn.Module):
    """A function of an input, a convolution, another one and a head."""

    def __init__(self, function: Callable[..., Tensor], features: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.function = function
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(features, 4)
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(self.function(x, self.first, self.second))
        return found


def asked_late(x: Tensor, a: Any, b: Any) -> Tensor:
    rows = x.size(0)
    return F.adaptive_avg_pool2d(b(F.local_response_norm(a(x).relu(), 3)), 1).view(rows, -1)


def unpooled(x: Tensor, a: Any, b: Any) -> Tensor:
    pooled, places = F.max_pool2d(a(x).relu(), 2, return_indices=True)
    return b(F.max_unpool2d(pooled, places, 2)).mean((2, 3))


def places(x: Tensor, a: Any, _b: Any) -> Tensor:
    pooled, where = F.max_pool2d(a(x).relu(), 2, return_indices=True)
    return (pooled * where.to(x.dtype).sin()).mean((2, 3))


def as_complex(x: Tensor, a: Any, _b: Any) -> Tensor:
    pairs = a(x).permute(0, 2, 3, 1).contiguous().unflatten(3, (4, 2))
    return torch.view_as_complex(pairs).abs().mean((1, 2))


MODELS: dict[str, tuple[Callable[..., Tensor], int]] = {
    "view": (lambda x, a, b: F.max_pool2d(b(a(x).relu()), 4).view(x.size(0), -1), 8 * 36),
    "strides given": (lambda x, a, b: torch.as_strided(a(x), (x.size(0), 64), (8 * SIDE * SIDE, 7)).square(), 64),
    "stride read": (lambda x, a, b: b(a(x).relu()).mean((2, 3)) * float(a(x).stride(1)), 8),
    "input in place": (lambda x, a, b: b(a(x.sub_(0.5).div_(0.25)).relu()).mean((2, 3)), 8),
    "size read late": (asked_late, 8),
    "unpooling": (unpooled, 8),
    "places of maxima": (places, 8),
    "view as complex": (as_complex, 4),
    "rolled": (lambda x, a, b: b(a(x).roll(3, 2)).relu().mean((2, 3)), 8),
}


def maps(explainer: Callable[[], Any], setting: bool | str, features: bool) -> Tensor:
    x = torch.rand(2, 3, SIDE, SIDE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    options: dict[str, Any] = {"target": 1, "incremental": setting}
    if features:
        mask = torch.randint(0, 40, (1, 1, SIDE, SIDE), generator=torch.Generator().manual_seed(2))
        found: Tensor = explainer().attribute(x, feature_mask=mask, **options)
        return found
    found = explainer().attribute(x, (3, 6, 6), (3, 3, 3), **options)
    return found


@pytest.mark.parametrize("features", [False, True], ids=["windows", "scattered features"])
@pytest.mark.parametrize("name", MODELS)
def test_it_is_the_plain_map(name: str, features: bool) -> None:
    model = Net(*MODELS[name])
    kind = fastsal.FeatureAblation if features else fastsal.Occlusion
    found, plain = (maps(lambda: kind(model), setting, features) for setting in (True, False))
    torch.testing.assert_close(found, plain, rtol=0, atol=1e-9 * float(plain.abs().max()))


def test_the_users_layout_is_what_the_check_runs_on() -> None:
    """Changed images were made with channels innermost, of which a view of the model's may fail."""
    model = Net(lambda x, a, b: a(x.view(x.size(0), 3, -1).view_as(x)).mean((2, 3)), 8)
    found, plain = (maps(lambda: fastsal.Occlusion(model), setting, False) for setting in (True, False))
    torch.testing.assert_close(found, plain, rtol=0, atol=1e-12)


def test_what_fails_inside_is_the_plain_sweep_with_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: Any) -> Any:
        raise TypeError("expected Tensor as element 0")

    model = Net(*MODELS["rolled"])
    plain = maps(lambda: fastsal.Occlusion(model), False, False)
    for name, value in {"SAVED": 0, "FEWEST": 1, "LEAST_GAIN": 0.0}.items():
        monkeypatch.setattr(f"fastsal.engine.incremental.policy.{name}", value)
    monkeypatch.setattr(Incremental, "__call__", failing)
    explainer = fastsal.Occlusion(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.testing.assert_close(maps(lambda: explainer, "auto", False), plain, rtol=0, atol=1e-12)
    assert "does not run on parts: expected Tensor as element 0" in str(explainer.plan())
    with pytest.raises(ValueError, match="incremental: not possible: an operation of the model does not run on parts"):
        maps(lambda: explainer, True, False)


def test_each_call_checks_other_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quarter of the windows is wrong, none of those that are always looked at: four draws miss it in a third."""
    right, wrong = Incremental.__call__, {10, 11, 12, 17, 18, 19, 24, 25, 26, 31, 32, 33}
    model = Net(*MODELS["rolled"])

    def faulty(self: Incremental, group: Any, rows: Tensor, altered: Tensor) -> Any:
        found = right(self, group, rows, altered)
        off = torch.tensor([int(each) in wrong for each in group.positions[rows]], dtype=found.dtype)
        return found + off[:, None]

    fixed = scoring._Scoring._to_check
    monkeypatch.setattr(Incremental, "__call__", faulty)
    seen: set[int] = set()
    monkeypatch.setattr(scoring._Scoring, "_to_check", lambda self: seen.update(fixed(self)) or fixed(self))
    passed = 0
    for _ in range(8):
        with contextlib.suppress(ValueError):
            maps(lambda: fastsal.Occlusion(model), True, False)
            passed += 1
    assert passed <= 6  # (1/3)^7 against more
    assert len(seen) > scoring.CHECKS
