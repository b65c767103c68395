"""Which modules a callable runs: known by itself or by one run of it, by name, and as long as they live."""

from __future__ import annotations

import collections
import functools
import gc
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastsal
from fastsal.engine.run import ChunkSizes, evaluation, find, module_of, modules_of
from tests.engine.callables import (
    EXPLAIN,
    HIDDEN,
    Hiding,
    Service,
    Slots,
    around,
    methods,
)
from tests.explainers.networks import Small, image, small, unchanged


def test_what_is_known() -> None:
    model, x = methods(), image()
    service = Service(model)
    assert modules_of(model) == modules_of(model.forward) == modules_of(functools.partial(model.scores)) == [model]
    assert modules_of(service.predict) == []
    assert module_of(service.predict) is None
    assert find(service.predict, (x,)) == [model]
    assert module_of(service.predict) is model
    hiding = Hiding(model)
    assert module_of(hiding) is hiding
    assert find(hiding, (x,)) == [hiding]
    EXPLAIN["saliency"](hiding, x)
    assert modules_of(hiding) == [hiding, model]
    assert module_of(hiding) is hiding
    slots = Slots(model)
    assert find(slots, (x,)) == [model]
    assert find(lambda z: model.head(model.drop(z.mean((2, 3)) @ model.weight @ torch.ones(4, 6))), (x,)) == [
        model.drop,
        model.head,
    ]
    assert find(lambda z: z, (x,)) == []


class Odd:
    """Equals everything, has no hash, and claims to have any attribute."""

    def __init__(self, model: nn.Module) -> None:
        self.__dict__["model"] = model

    def __eq__(self, other: object) -> bool:
        return True

    def __getattr__(self, name: str) -> Any:
        return Odd(self.model)

    def __call__(self, x: Tensor) -> Any:
        return self.model(x)


def test_callables_are_told_apart_whatever_they_say() -> None:
    models = [methods(), methods()]
    odd = [Odd(model) for model in models]
    for call, model in zip(odd, models, strict=True):
        assert modules_of(call) == []
        assert find(call, (image(),)) == [model]
    for call, model in zip(odd, models, strict=True):
        assert modules_of(call) == [model]


def test_finding_takes_one_run_of_one_example() -> None:
    rows: list[int] = []
    model = methods()

    def forward(z: Tensor, *_: Any) -> Any:
        rows.append(len(z))
        return model(z)

    for _ in range(2):
        find(forward, (image(batch=4),))
    find(lambda *arguments: forward(*arguments), (image(batch=4),), (torch.ones(4),))
    assert rows == [1, 4]


def test_memory_keeps_nothing_alive() -> None:
    model = methods()
    alive = weakref.ref(model)
    service = Service(model)
    for forward in (around(model), service.predict, Slots(model), Hiding(model)):
        EXPLAIN["saliency"](forward, image())
    del model, service, forward
    gc.collect()
    assert alive() is None


@pytest.mark.parametrize("wrap", ["closure", "slots", "method of an object"])
def test_layers_by_name_of_a_callable(wrap: str) -> None:
    model, x = methods(), image()
    expected = [fastsal.GradCAM(model, name).attribute(x, target=1) for name in ("body", None)]
    layers = (fastsal.LayerGradCam, fastsal.LayerIntegratedGradients)
    by_layer = [each(model, "body").attribute(x, target=1) for each in layers]
    activation = fastsal.LayerActivation(model, ["body", "last"]).attribute(x)
    full = fastsal.FullGrad(model).attribute(x, target=1)
    ablation = fastsal.AblationCAM(model, "body").attribute(x, target=1)
    model.train()

    def hidden() -> Any:
        return HIDDEN[wrap](model)

    with unchanged(model):
        for name, want in zip(("body", None), expected, strict=True):
            explainer = fastsal.GradCAM(hidden(), name)
            for _ in range(2):
                assert torch.equal(explainer.attribute(x, target=1), want)
        for each, want in zip(layers, by_layer, strict=True):
            assert torch.equal(each(hidden(), "body").attribute(x, target=1), want)
        found = fastsal.LayerActivation(hidden(), ["body", "last"]).attribute(x)
        assert all(map(torch.equal, found, activation))
        assert torch.equal(fastsal.FullGrad(hidden()).attribute(x, target=1), full)
        assert torch.equal(fastsal.AblationCAM(hidden(), "body").attribute(x, target=1), ablation)
        with pytest.raises(ValueError, match="did you mean body"):
            fastsal.GradCAM(hidden(), "boby").attribute(x, target=1)
    with pytest.raises(ValueError, match="did you mean body"):
        fastsal.GradCAM(model, "boby")
    with pytest.raises(TypeError, match="neither"):
        fastsal.GradCAM(hidden(), 3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="no layers"):
        fastsal.GradCAM(lambda z: z, "body").attribute(x, target=1)
    with pytest.raises(TypeError, match=r"runs 2 modules \(Dropout, Linear\).*name the layer as a module"):
        fastsal.GradCAM(lambda z: model.head(model.drop(z.mean((2, 3)) @ torch.ones(3, 6))), "body").attribute(x, 1)


def test_a_layer_as_a_module_costs_no_run_more() -> None:
    model, x = methods(), image()
    rows: list[int] = []

    def forward(z: Tensor) -> Any:
        rows.append(len(z))
        return model(z)

    fastsal.GradCAM(forward, model.last).attribute(x, target=1)
    fastsal.Saliency(lambda z: forward(z)).attribute(x, target=1)
    assert rows == [3, 3]


def test_prepared_models_in_a_callable() -> None:
    model, x = methods(), image()
    prepared = fastsal.prepare(model, x, probe_seconds=0)
    prepared.rows = 2
    expected = fastsal.GradCAM(prepared, "last").attribute(x, target=1)
    model.train()
    for forward in (lambda z: prepared(z), Slots(prepared)):
        assert torch.equal(fastsal.GradCAM(forward, model.last).attribute(x, target=1), expected)
        assert torch.equal(fastsal.GradCAM(forward, "last").attribute(x, target=1), expected)
    with torch.no_grad():
        model.head.weight.mul_(2)
    want = fastsal.Saliency(model).attribute(x, target=1)
    forward = Slots(prepared)
    with evaluation(forward):
        torch.testing.assert_close(fastsal.Saliency(forward).attribute(x, target=1), want)
        assert find(forward, (x,)) == [prepared]
        assert module_of(forward) is prepared.module
    explainer = fastsal.RISE(lambda z: prepared(z))
    explainer.attribute(x[:1], target=1, n_masks=260)
    assert "replica" in str(explainer.plan())
    assert explainer.plan().sweeps[0].sizes == (256, 2, 2)
    explainer.attribute(x[:1], target=1, n_masks=260)
    assert explainer.plan().sweeps[0].sizes == (2,) * 130


def test_a_prepared_model_hands_other_forms_on_in_evaluation_mode() -> None:
    model, x = methods(), image()
    expected = fastsal.Saliency(model).attribute(x, target=1)
    prepared = fastsal.prepare(model, x, probe_seconds=0)
    model.train()
    with unchanged(model):
        found = fastsal.Saliency(lambda z: prepared(x=z)).attribute(x, target=1)
    assert torch.equal(found, expected)


def test_plan_asks_again_for_what_was_not_known() -> None:
    model, x = methods(), image()
    prepared = fastsal.prepare(model, x, probe_seconds=0)
    prepared.rows = 3

    def forward(z: Tensor) -> Any:
        return prepared(z)

    chunk_sizes = ChunkSizes(100, 1, 64, torch.device("cpu"), None, forward)
    first = chunk_sizes.size
    find(forward, (x,))
    chunk_sizes.succeeded(first)
    assert (first, chunk_sizes.size) == (100, 3)
    assert ChunkSizes(100, 1, 64, torch.device("cpu"), None, forward).size == 3


def test_a_callable_that_makes_its_model_each_time() -> None:
    """What builds, loads and casts a module runs methods of it in training mode, and is no part of the pass."""
    model, x = small(dropout=0.5), image()

    def forward(z: Tensor) -> Any:
        made = small(dropout=0.5)
        made.load_state_dict(model.state_dict())
        return made.double().float()(z)

    expected = fastsal.Saliency(model).attribute(x, target=1)
    torch.testing.assert_close(fastsal.Saliency(forward).attribute(x, target=1), expected)


def test_a_callable_that_loads_a_model_in_training_mode() -> None:
    model, x = small(dropout=0.5), image()

    @torch.no_grad()
    def double(part: nn.Module) -> None:
        for parameter in part.parameters(recurse=False):
            parameter.mul_(2)

    def forward(z: Tensor) -> Any:
        made = Small(dropout=0.5).apply(double)
        made.load_state_dict(model.state_dict())
        return made.double().float()(z)

    expected = fastsal.Saliency(model).attribute(x, target=1)
    torch.testing.assert_close(fastsal.Saliency(forward).attribute(x, target=1), expected)


class Later(nn.Module):
    """Runs a module that is not registered from its second call on, or for more than two examples."""

    def __init__(self, model: nn.Module, hidden: Any, rows: int = 0) -> None:
        super().__init__()
        self.model, self.hidden, self.rows, self.calls = model, hidden, rows, 0

    def forward(self, x: Tensor) -> Any:
        self.calls += 1
        other = len(x) > self.rows if self.rows else self.calls > 1
        return next(iter(self.hidden))(x) if other else self.model(x)


@pytest.mark.parametrize("rows", [0, 2])
@pytest.mark.parametrize("held", [list, tuple, set, collections.deque])
def test_a_module_that_runs_another_one_later(held: Any, rows: int) -> None:
    model, other, x = small(), small(dropout=0.5), image(batch=2)
    later = Later(model, held([other]), rows)
    other.train()
    with unchanged(other):
        for _ in range(2):
            found = fastsal.IntegratedGradients(later).attribute(x, target=1, n_steps=8)
    expected = fastsal.IntegratedGradients(model).attribute(x, target=1, n_steps=8)
    torch.testing.assert_close(found, expected)
