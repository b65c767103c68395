"""Occlusion and Feature Ablation by incremental inference: the plain sweep's map, wherever it is used."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastsal
from fastsal.engine.incremental import Incremental, Traced, policy
from fastsal.engine.incremental.worth import seconds_of_row

SIDE = 24


def network(dtype: torch.dtype = torch.float64) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    ).to(dtype)


def images(count: int = 2, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if it paid for the smallest."""
    for name, value in {"SAVED": 0, "SAVED_PREPARED": 0, "FEWEST": 1, "LEAST_GAIN": 0.0}.items():
        monkeypatch.setattr(policy, name, value)


def both(explainer: Any, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
    """The map of the incremental way and of the plain one."""
    quick = explainer.attribute(*args, incremental=True, **kwargs)
    assert "incremental" in str(explainer.plan())
    return quick, explainer.attribute(*args, incremental=False, **kwargs)


OCCLUSIONS: dict[str, dict[str, Any]] = {
    "windows over the border": {"sliding_window_shapes": (3, 5, 5), "strides": (3, 4, 4)},
    "one channel": {"sliding_window_shapes": (1, 5, 4), "strides": (1, 3, 2)},
    "two channels": {"sliding_window_shapes": (2, 6, 6), "strides": (1, 6, 6)},
    "one element": {"sliding_window_shapes": (3, 1, 1), "strides": (3, 1, 1)},
    "whole image": {"sliding_window_shapes": (3, SIDE, SIDE)},
    "number": {"sliding_window_shapes": (3, 4, 4), "strides": (3, 4, 4), "baselines": 0.5},
    "tensor": {"sliding_window_shapes": (3, 4, 4), "strides": (3, 4, 4), "baselines": images().flip(3)},
    "tensor that broadcasts": {"sliding_window_shapes": (3, 4, 4), "strides": (3, 4, 4), "baselines": images(1)[:, :1]},
    "a target each": {"sliding_window_shapes": (3, 4, 4), "strides": (3, 4, 4), "target": [1, 4]},
    "every output": {"sliding_window_shapes": (3, 4, 4), "strides": (3, 4, 4), "target": None},
    "chosen by a function": {
        "sliding_window_shapes": (3, 4, 4),
        "strides": (3, 4, 4),
        "target": lambda out: out.argmax(1),
    },
    "probability": {"sliding_window_shapes": (3, 4, 4), "strides": 2, "target": fastsal.targets.Probability(2)},
    "few per call": {"sliding_window_shapes": (3, 4, 4), "strides": (3, 2, 2), "perturbations_per_eval": 7},
}


@pytest.mark.parametrize("name", OCCLUSIONS)
def test_occlusion_is_the_plain_map(name: str) -> None:
    options = {"target": 2, **OCCLUSIONS[name]}
    quick, plain = both(fastsal.Occlusion(network()), images(), **options)
    torch.testing.assert_close(quick, plain, rtol=0, atol=1e-13)


FEATURES: dict[str, Callable[[], Tensor]] = {
    "squares": lambda: (torch.arange(SIDE) // 4 * 6)[:, None] + torch.arange(SIDE) // 4,
    "of each example": lambda: torch.stack(
        [
            (torch.arange(SIDE) // 4)[:, None] * 6 + torch.arange(SIDE) // 4,
            torch.arange(SIDE * SIDE).view(SIDE, SIDE) // 9,
        ]
    )[:, None],
    "of channels": lambda: torch.arange(3).view(1, 3, 1, 1) * 4 + (torch.arange(SIDE) // 6).view(1, 1, 1, SIDE),
    "two places": lambda: torch.tensor([[0, 5], [2, 5]]).repeat(SIDE // 2, SIDE // 2),
}


@pytest.mark.parametrize("name", FEATURES)
@pytest.mark.parametrize("baseline", [0.3, images().flip(2)], ids=["number", "tensor"])
def test_ablation_is_the_plain_map(name: str, baseline: Any) -> None:
    explainer = fastsal.FeatureAblation(network())
    quick, plain = both(explainer, images(), feature_mask=FEATURES[name](), baselines=baseline, target=[0, 3])
    torch.testing.assert_close(quick, plain, rtol=0, atol=1e-13)


def test_prepared_models_and_functions_around_them() -> None:
    model = network(torch.float32)
    prepared = fastsal.prepare(model, images(2, torch.float32), probe_seconds=0)
    expected = fastsal.Occlusion(lambda x: model(x).softmax(1)).attribute(
        images(2, torch.float32), (3, 4, 4), (3, 2, 2), target=1, incremental=False
    )
    for forward in (lambda x: prepared(x).softmax(1), lambda x: model(x).softmax(1)):
        quick, _ = both(fastsal.Occlusion(forward), images(2, torch.float32), (3, 4, 4), (3, 2, 2), target=1)
        torch.testing.assert_close(quick, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype: torch.dtype) -> None:
    """Within a few roundings of the scores, of which a map is a difference."""
    model = network(dtype)
    quick, plain = both(fastsal.Occlusion(model), images(1, dtype), (3, 6, 6), (3, 6, 6), target=2)
    scale = float(model.eval()(images(1, dtype)).abs().max())
    torch.testing.assert_close(quick, plain, rtol=0, atol=8 * torch.finfo(dtype).eps * scale)


def test_a_model_in_train_mode_is_left_as_it_was() -> None:
    model = network().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    both(fastsal.Occlusion(model), images(), (3, 4, 4), (3, 4, 4), target=2)
    assert all(part.training for part in model.modules())
    assert not any(part._forward_hooks for part in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_changed_weights_are_seen() -> None:
    model = network()
    explainer = fastsal.Occlusion(model)
    both(explainer, images(), (3, 4, 4), (3, 4, 4), target=2)
    with torch.no_grad():
        model[0].weight.mul_(-2)
    model[4] = nn.Conv2d(6, 8, 5, padding=2).double()
    quick, plain = both(explainer, images(), (3, 4, 4), (3, 4, 4), target=2)
    torch.testing.assert_close(quick, plain, rtol=0, atol=1e-13)


def test_changes_that_no_watch_sees_are_found_by_the_check() -> None:
    model, temperature = network(), [1.0]
    explainer = fastsal.Occlusion(lambda x: model(x) / temperature[0])
    both(explainer, images(), (3, 4, 4), (3, 4, 4), target=2)
    temperature[0] = 3.0
    quick, plain = both(explainer, images(), (3, 4, 4), (3, 4, 4), target=2)
    torch.testing.assert_close(quick, plain, rtol=0, atol=1e-13)


@pytest.mark.parametrize("where", [0, -1])
@pytest.mark.filterwarnings("default")
def test_what_differs_from_the_forward_is_not_used(monkeypatch: pytest.MonkeyPatch, where: int) -> None:
    """A fault at the first position alone, and at the last."""
    plain = fastsal.Occlusion(network()).attribute(images(), (3, 4, 4), (3, 4, 4), target=2, incremental=False)
    right = Incremental.__call__

    def faulty(self: Incremental, group: Any, rows: Tensor, altered: Tensor) -> Any:
        output = right(self, group, rows, altered)
        worst = group.positions[rows] == (0 if where == 0 else 35)
        return torch.where(worst[:, None], output * 1.5, output)

    monkeypatch.setattr(Incremental, "__call__", faulty)
    always(monkeypatch)
    explainer = fastsal.Occlusion(network())
    with pytest.warns(UserWarning, match="incremental: outputs at . positions were off by up to .*plain sweep is used"):
        got = explainer.attribute(images(), (3, 4, 4), (3, 4, 4), target=2)
    assert torch.equal(got, plain)
    warnings.simplefilter("ignore")
    with pytest.raises(ValueError, match="incremental: not possible: outputs at"):
        explainer.attribute(images(), (3, 4, 4), (3, 4, 4), target=2, incremental=True)


@pytest.mark.parametrize(
    ("model", "inputs", "arguments", "reason"),
    [
        (lambda x, y: x.mean((2, 3)) + y.mean((2, 3)), (images(), images()), ((3, 4, 4),) * 2, "more than one input"),
        (lambda x: x.mean(2), torch.randn(2, 3, 9), (3, 4), "not an image"),
        (lambda x: x.mean(), images(), (3, 4, 4), "no row for each example"),
        (lambda x: x.mean((2, 3)) * float(x.max()), images(), (3, 4, 4), "cannot be traced"),
    ],
    ids=["inputs", "series", "shared", "values"],
)
def test_where_it_cannot_be(model: Any, inputs: Any, arguments: Any, reason: str) -> None:
    explainer = fastsal.Occlusion(model)
    options = {"target": None if reason == "no row for each example" else 0}
    with pytest.raises(ValueError, match=f'incremental: not possible: .*{reason}.*"auto" takes the plain sweep'):
        explainer.attribute(inputs, arguments, incremental=True, **options)
    explainer.attribute(inputs, arguments, **options)
    assert "incremental: not used" in str(explainer.plan())


def test_short_sweeps_are_not_traced() -> None:
    explainer = fastsal.Occlusion(network())
    explainer.attribute(images(), (3, 3, 3), (3, 2, 2), target=2)
    assert "is short beside a trace" in str(explainer.plan())


GEOMETRY: dict[str, Any] = {"sliding_window_shapes": (3, 4, 4), "strides": (3, 2, 2), "target": 2}


def default_map() -> Tensor:
    return fastsal.Occlusion(network(torch.float32)).attribute(images(2, torch.float32), **GEOMETRY)  # type: ignore[no-any-return]


@pytest.mark.parametrize("pays", [False, True], ids=["plain", "incremental"])
def test_the_same_bits_in_every_call(monkeypatch: pytest.MonkeyPatch, pays: bool) -> None:
    if pays:
        always(monkeypatch)
    explainer, x = fastsal.Occlusion(network(torch.float32)), images(2, torch.float32)
    first = explainer.attribute(x, **GEOMETRY)
    assert ("times fewer" in str(explainer.plan())) == pays
    for _ in range(7):
        assert torch.equal(explainer.attribute(x, **GEOMETRY), first)
    for others in ({"strides": (3, 1, 1)}, {"incremental": True}, {"incremental": False}):
        explainer.attribute(x, **{**GEOMETRY, **others})
        explainer.attribute(x[..., :20], **{**GEOMETRY, **others})
        assert torch.equal(explainer.attribute(x, **GEOMETRY), first)
    assert torch.equal(default_map(), first)
    assert torch.equal(copy.deepcopy(explainer).attribute(x, **GEOMETRY), first)
    forced = explainer.attribute(x, **{**GEOMETRY, "incremental": pays})
    assert torch.equal(forced, first)


@pytest.mark.slow
@pytest.mark.parametrize("pays", [False, True], ids=["plain", "incremental"])
def test_the_same_bits_in_another_process(monkeypatch: pytest.MonkeyPatch, root: Path, pays: bool) -> None:
    code = "import pytest, torch; from tests.explainers import test_incremental as test; "
    code += f"torch.set_num_threads({torch.get_num_threads()}); "
    if pays:
        always(monkeypatch)
        code += "test.always(pytest.MonkeyPatch()); "
    code += "print(test.default_map().numpy().tobytes().hex())"
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join([str(root), str(root / "kernels")]))
    found = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=root, capture_output=True, text=True, check=True
    )
    assert found.stdout.split()[-1] == default_map().numpy().tobytes().hex()


def test_what_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    """Positions, examples, and whether the model is prepared."""

    def rows_of_a_trace(recorded: Traced) -> float:
        return 150 * seconds_of_row(recorded)

    monkeypatch.setattr(policy, "trace_seconds", rows_of_a_trace)
    model, x = network(torch.float32), images(1, torch.float32)

    def used(forward_func: Any, x: Tensor, stride: int) -> bool:
        explainer = fastsal.Occlusion(forward_func)
        explainer.attribute(x, (3, 4, 4), (3, stride, stride), target=2)
        return "times fewer" in str(explainer.plan())

    assert not used(model, x, 2)
    assert used(model, x, 1)
    assert used(model, x.repeat(4, 1, 1, 1), 2)
    assert used(fastsal.prepare(model, x, probe_seconds=0), x, 2)


def test_other_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="incremental: 'yes' is none of"):
        fastsal.Occlusion(network()).attribute(images(), (3, 4, 4), incremental="yes")


def test_memory_that_runs_out_halves_the_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Incremental.__call__

    def greedy(self: Incremental, group: Any, rows: Tensor, altered: Tensor) -> Any:
        if len(rows) > 12:
            raise torch.OutOfMemoryError("out of memory")
        return right(self, group, rows, altered)

    explainer = fastsal.Occlusion(network())
    plain = explainer.attribute(images(), (3, 4, 4), (3, 4, 4), target=2, incremental=False)
    monkeypatch.setattr(Incremental, "__call__", greedy)
    got = explainer.attribute(images(), (3, 4, 4), (3, 4, 4), target=2, incremental=True)
    torch.testing.assert_close(got, plain, rtol=0, atol=1e-13)
    assert "halved" in str(explainer.plan())


def test_a_gpu_takes_the_plain_sweep_unless_asked_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a device's kernels are launched one by one, it was not measured to be faster."""
    always(monkeypatch)
    model, x = network(), images(1)
    explainer = fastsal.Occlusion(model)

    def explained(incremental: bool | str) -> Tensor:
        return explainer.attribute(x, (3, 4, 4), (3, 2, 2), target=2, incremental=incremental)

    plain = explained("auto")
    assert "times fewer" in str(explainer.plan())
    monkeypatch.setattr(policy, "_unmeasured", lambda device, real=policy._unmeasured: real(torch.device("cuda")))
    torch.testing.assert_close(explained("auto"), plain)
    assert "it was not measured to be faster on cuda; incremental=True takes it all the same" in str(explainer.plan())
    torch.testing.assert_close(explained(True), plain)
    assert "times fewer" in str(explainer.plan())
