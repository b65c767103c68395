"""Prepared models whose original changes: seen, told where PyTorch did not, and right in any case."""

from __future__ import annotations

import copy
import enum
import pickle
import threading
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fastsal
from fastsal.engine.prepare import prepared as module
from fastsal.engine.run.snapshot import Snapshot
from tests.explainers.networks import image, small, unchanged

QUICK: dict[str, Any] = {"probe_seconds": 0}


def pair(**options: Any) -> tuple[nn.Module, fastsal.Prepared, Tensor]:
    model, x = small(dtype=torch.float64), image(dtype=torch.float64)
    return model, fastsal.prepare(model, x, **QUICK, **options), x


def agree(fast: fastsal.Prepared, model: nn.Module, x: Tensor) -> bool:
    return torch.allclose(fast(x), model(x), rtol=0, atol=1e-12)


def one_value(model: Any) -> None:
    """Of a layer whose weights are folded, so that they are a copy."""
    model.stem.weight.data[0, 0, 1, 1] += 5.0


def test_a_write_that_pytorch_does_not_count_is_told() -> None:
    model, fast, x = pair()
    agree(fast, model, x)
    one_value(model)
    with pytest.warns(UserWarning, match=r"fastsal.prepare: weights were written to through \.data") as told:
        assert agree(fast, model, x)
    assert told[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert agree(fast, model, x)
        with torch.no_grad():
            model.head.weight.mul_(2)  # type: ignore[operator, union-attr]
        assert agree(fast, model, x)  # what PyTorch counts is taken over without a word


def test_without_verify_pytorch_is_believed() -> None:
    model, fast, x = pair(verify=False)
    one_value(model)
    assert not agree(fast, model, x)
    with torch.no_grad():
        model.stem.weight.add_(0)  # type: ignore[operator, union-attr]
    assert agree(fast, model, x)


@pytest.mark.parametrize("method", ["occlusion", "rise", "ig", "a deadline"])
def test_before_a_long_sweep_a_row_is_compared(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What no watch sees, as of the weights of a tensor with millions of them: here none of them is asked."""
    monkeypatch.setattr(Snapshot, "change", lambda self: None)
    monkeypatch.setattr(module, "VERIFIED_ROWS", 256)
    model, x = small(dtype=torch.float64), image(batch=5, dtype=torch.float64)
    fast = fastsal.prepare(model, x, **QUICK)
    explainers = {
        "occlusion": lambda m: fastsal.Occlusion(m).attribute(x, (3, 1, 1), target=1, perturbations_per_eval=50),
        "rise": lambda m: fastsal.RISE(m).attribute(x, target=1, n_masks=100),
        "ig": lambda m: fastsal.IntegratedGradients(m).attribute(x, target=1, n_steps=90),
    }
    explainers["a deadline"] = lambda m: fastsal.explain(
        m, x, "rise", target=1, n_masks=100, deadline=600, score="output"
    ).maps["rise"]
    explain = explainers[method]
    explain(fast)
    one_value(model)
    with pytest.warns(UserWarning, match="an output was off by .* so that it was made anew"):
        found = explain(fast)
    torch.testing.assert_close(found, explain(model), rtol=1e-6, atol=1e-9)


def test_what_cannot_be_made_right_runs_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    model, fast, x = pair()
    head: Any = fast.module.get_submodule("head")
    head.bias = nn.Parameter(head.bias + torch.arange(4), requires_grad=False)  # of the replica alone
    monkeypatch.setattr(fast, "_choose", lambda: None)  # nor is what is made anew right
    fast._unverified = module.VERIFIED_ROWS
    with pytest.warns(UserWarning, match="it runs as it is"):
        found = fastsal.Occlusion(fast).attribute(x, (3, 2, 2), target=1)
    assert fast.as_it_is
    torch.testing.assert_close(found, fastsal.Occlusion(model).attribute(x, (3, 2, 2), target=1))


def test_how_often_a_row_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once for 240 rows, so that it costs below a hundredth; never before a method of one pass."""
    _, fast, x = pair()
    compared: list[int] = []
    right = fastsal.Prepared._apart
    monkeypatch.setattr(fastsal.Prepared, "_apart", lambda self, run: compared.append(1) or right(self, run))
    fastsal.Saliency(fast).attribute(x, target=1)
    assert not compared
    explainer = fastsal.Occlusion(fast)
    for _ in range(20):  # of 4 windows of 3 examples, and these as they are
        explainer.attribute(x, (3, 4, 4), (3, 4, 4), target=1)
    rows = 20 * (4 + 1) * len(x)
    assert 1 <= len(compared) <= 1 + (rows + len(compared)) // module.VERIFIED_ROWS


def test_hooks_that_collect_are_taken_over_once() -> None:
    model, fast, x = pair()
    seen: list[Tensor] = []
    model.body.register_forward_hook(lambda _m, _a, output: seen.append(output))  # type: ignore[union-attr]
    assert agree(fast, model, x)
    kept, count = fast._snapshot, len(seen)
    assert agree(fast, model, x)
    assert len(seen) == count + 2
    assert fast._snapshot is kept


class Mode(enum.Enum):
    PLAIN = 0
    SKIP = 1


class Options(NamedTuple):
    skip: bool


class Holder:
    def __init__(self, skip: bool) -> None:
        self.skip = skip


class Skipping(nn.Module):
    """Leaves its norm out of the sum, or not, by an argument of any kind."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.head = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 5)
        nn.init.uniform_(self.norm.running_mean, -1, 1)  # type: ignore[arg-type]
        self.double()

    def forward(self, x: Tensor, config: Any) -> Tensor:
        if isinstance(config, dict):
            config = config["skip"]
        if isinstance(config, (list, tuple)) and not isinstance(config, Options):
            config = config[0]
        config = getattr(config, "skip", config)
        config = config.value if isinstance(config, enum.Enum) else config
        first = self.conv(x)
        hidden = self.norm(first) + first if config else self.norm(first)
        found: Tensor = self.head(hidden.relu().mean((2, 3)))
        return found


@pytest.mark.parametrize(
    "of",
    [
        lambda skip: {"skip": skip},
        lambda skip: [skip],
        lambda skip: ((skip, 1), "a")[0],
        lambda skip: np.bool_(skip),
        lambda skip: np.int64(skip),
        lambda skip: float(skip),
        lambda skip: Mode(int(skip)),
        Options,
        Holder,
        lambda skip: {"skip": {"skip": [skip]}["skip"][0]},
    ],
)
def test_an_argument_of_another_value_is_the_models(of: Callable[[bool], Any]) -> None:
    model, x = Skipping().eval(), image(dtype=torch.float64)
    fast = fastsal.prepare(model, x, (of(False),), **QUICK)
    assert "1 of 1 folded" in str(fast)
    for skip in (False, True, False):
        found = fastsal.Saliency(fast).attribute(x, target=1, additional_forward_args=(of(skip),))
        expected = fastsal.Saliency(model).attribute(x, target=1, additional_forward_args=(of(skip),))
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


class Remembering(nn.Module):
    """Writes to itself in every pass, and calls itself what it was."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = small(dtype=torch.float64)
        self.calls, self.last, self.store = 0, torch.zeros(()), list[Tensor]()

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.last = x.mean()
        self.store.append(x)
        found: Tensor = self.inner(x)
        return found


def test_what_a_forward_writes_is_no_change() -> None:
    model, x = Remembering().eval(), image(dtype=torch.float64)
    fast = fastsal.prepare(model, x, **QUICK)
    kept = fast._snapshot
    for _ in range(2):
        model(x)
        assert agree(fast, model, x)
        assert fast._snapshot is kept
    with torch.no_grad():
        model.inner.head.weight.mul_(2)
    assert agree(fast, model, x)
    assert fast._snapshot is not kept


def test_copies_and_pickles_look_at_their_own_model() -> None:
    model, fast, x = pair()
    for made in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
        assert agree(made, model, x)
        with torch.no_grad():
            made.original.head.weight.mul_(2)
        assert not agree(made, model, x)
        assert agree(made, made.original, x)
    assert agree(fast, model, x)


def test_the_model_is_left_alone() -> None:
    model, x = small(dtype=torch.float64), image(dtype=torch.float64)
    with unchanged(model):
        fast = fastsal.prepare(model, x, **QUICK)
        fastsal.Occlusion(fast).attribute(x, (3, 2, 2), target=1)
    assert model.body.weight.untyped_storage().resizable()  # which a view by NumPy would end


def test_threads_wait_for_one_that_makes_it_anew() -> None:
    """Readings of the old and of the new weights, and none between."""
    model, fast, x = pair()
    maps, ends = list[Tensor](), threading.Event()

    def explain() -> None:
        while not ends.is_set():
            maps.append(fastsal.Saliency(fast).attribute(x, target=1))

    expected = [fastsal.Saliency(model).attribute(x, target=1)]
    threads = [threading.Thread(target=explain) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        with torch.no_grad():
            model.head.weight.data = model.head.weight.data * 1.5  # type: ignore[operator, union-attr]
        expected.append(fastsal.Saliency(model).attribute(x, target=1))
        fastsal.Saliency(fast).attribute(x, target=1)
    ends.set()
    for thread in threads:
        thread.join()
    assert maps
    for found in maps:
        assert any(torch.allclose(found, each, rtol=1e-9, atol=1e-12) for each in expected)
