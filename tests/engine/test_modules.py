"""The modules behind a callable are found however they are hidden, run in evaluation mode, and stay as they were."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastsal
from fastsal.engine.run import evaluation, modules_of, run
from fastsal.engine.run.session import current
from tests.engine.callables import (
    EXPLAIN,
    HIDDEN,
    Hiding,
    Methods,
    Slots,
    Wrap,
    methods,
    nothing_is_left,
    parts,
)
from tests.explainers.networks import image, unchanged


@pytest.mark.parametrize("explain", EXPLAIN.values(), ids=EXPLAIN)
@pytest.mark.parametrize("wrap", HIDDEN.values(), ids=HIDDEN)
def test_the_map_is_that_of_evaluation_mode(wrap: Wrap, explain: Callable[..., Tensor]) -> None:
    model, x = methods(), image()
    wrapped = wrap(model)
    for part in parts(wrapped, model):
        part.training = False
    expected = explain(wrapped, x)
    model = methods()
    wrapped = wrap(model)
    for part in parts(wrapped, model):
        part.training = True
    model.norm.eval()
    state = torch.get_rng_state()
    with unchanged(model, x):
        for _ in range(2):
            assert torch.equal(explain(wrapped, x), expected)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(part.training for part in parts(wrapped, model) if part is not model.norm)


class Raising(Methods):
    """Raises at one of its calls."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error, self.at = error, 1

    def forward(self, x: Tensor) -> Tensor:
        out = super().forward(x)
        self.at -= 1
        if not self.at:
            raise self.error
        return out


RUN_FORWARD = [
    name
    for name in HIDDEN
    if name not in ("exported", "a copy at each call", "method with buffers", "method of functions")
]


@pytest.mark.parametrize("error", [KeyError("its own"), KeyboardInterrupt(), SystemExit(), GeneratorExit()])
@pytest.mark.parametrize("at", [1, 2])
@pytest.mark.parametrize("name", RUN_FORWARD)
def test_an_exception_leaves_nothing(name: str, at: int, error: BaseException) -> None:
    model, x = Raising(error).train(), image()
    wrapped = HIDDEN[name](model)
    model.at = at
    with unchanged(model, x), pytest.raises(type(error)):
        EXPLAIN["rise"](wrapped, x)
    nothing_is_left()


def test_one_of_several_is_chosen_by_what_comes() -> None:
    """A module that runs in a later pass for the first time is in evaluation mode there too.

    Both compute the same, since copies whose batch chooses what is computed would be run one at a time.
    """
    one, many, x = methods(), methods(), image(batch=1)

    def choice() -> Callable[[Tensor], Tensor]:
        return lambda z: one(z) if len(z) == 1 else many.scores(z)

    def explain(chosen: Callable[[Tensor], Tensor]) -> Tensor:
        return fastsal.Occlusion(chosen).attribute(x, (3, 4, 4), (3, 3, 3), target=1, perturbations_per_eval=3)

    expected, chosen = explain(choice()), choice()
    one.train()
    many.train()
    with unchanged(one), unchanged(many), warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):  # of which nothing is known, and of which both are
            assert torch.equal(explain(chosen), expected)
            assert {*modules_of(chosen)} == {one, many}


def test_a_name_that_is_bound_anew() -> None:
    first, second, x = methods(), methods(), image()
    with torch.no_grad():
        second.head.weight.mul_(3)
    held = [first]

    def forward(z: Tensor) -> Any:
        return held[0].scores(z)

    explainer = fastsal.Saliency(forward)
    expected = [fastsal.Saliency(model).attribute(x, target=1) for model in (first, second)]
    first.train()
    second.train()
    for model, want in zip((first, second), expected, strict=True):
        held[0] = model
        with unchanged(first), unchanged(second):
            assert torch.equal(explainer.attribute(x, target=1), want)
        assert modules_of(forward) == [model]


def test_inputs_that_were_written_to_cannot_be_undone() -> None:
    model, x = methods(), image()

    def forward(z: Tensor) -> Any:
        return model.scores(z.mul_(2))

    expected = fastsal.RISE(forward).attribute(x, target=1, n_masks=8)
    model.train()
    with unchanged(model), pytest.raises(RuntimeError, match=r"Methods in training mode.*eval\(\)"):
        fastsal.RISE(lambda z: forward(z)).attribute(x, target=1, n_masks=8)
    assert torch.equal(fastsal.RISE(forward).attribute(x, target=1, n_masks=8), expected)


def test_draws_are_those_of_one_pass() -> None:
    model, x = methods(), image()

    def noisy(z: Tensor) -> Any:
        return model.scores(z + torch.randn_like(z))

    maps = []
    for mode in (False, True):
        model.train(mode)
        torch.manual_seed(3)
        maps.append(fastsal.Saliency(lambda z: noisy(z)).attribute(x, target=1))
    assert torch.equal(*maps)


def test_improve_holds_the_model_only_while_it_runs() -> None:
    model, x = methods(), image(batch=1)
    maps: list[list[Tensor]] = []
    for mode in (False, True):
        model.train(mode)
        maps.append([])
        with unchanged(model):
            for estimate in fastsal.RISE(Slots(model)).improve(x, target=1, n_masks=64, perturbations_per_eval=8):
                maps[-1].append(estimate.attribution)
                assert model.training is mode
                nothing_is_left()
    assert all(map(torch.equal, *maps))


def test_sessions_in_sessions() -> None:
    model, inner, x = methods(), methods(), image()

    def forward(z: Tensor) -> Any:
        before = inner.training
        explained = fastsal.Saliency(lambda y: inner.scores(y)).attribute(z.detach(), target=1)
        assert inner.training is before
        return model.scores(z * (1 + explained.sign()))

    expected = fastsal.Saliency(forward).attribute(x, target=1)
    model.train()
    inner.train()
    with unchanged(model), unchanged(inner):
        assert torch.equal(fastsal.Saliency(forward).attribute(x, target=1), expected)
    with evaluation(model):
        with evaluation(lambda z: model(z)):
            run(lambda z: model(z), (x,))
            assert not model.training
        assert not model.training
    assert model.training


def test_a_generator_that_ends_late() -> None:
    model = methods().train()

    def held() -> Iterator[None]:
        with evaluation(model):
            yield

    generator = held()
    next(generator)
    with evaluation(Slots(model)):
        generator.close()
        assert not model.training or current() is not None
    assert model.training


class Recording(nn.Module):
    """Notes its mode when it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.modes: list[bool] = []
        self.inner = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5))

    def forward(self, x: Tensor) -> Tensor:
        self.modes.append(self.training and self.inner[1].training)
        return self.inner(x)


def test_another_thread_trains_meanwhile() -> None:
    training, model, x = Recording().train(), methods().train(), image()
    stop, ready = threading.Event(), threading.Event()

    def train() -> None:
        while not stop.is_set():
            training(torch.randn(2, 3))
            ready.set()

    thread = threading.Thread(target=train)
    thread.start()
    try:
        assert ready.wait(30)
        for wrap in ("closure", "slots", "list of a module", "method that calls"):
            EXPLAIN["rise"](HIDDEN[wrap](model), x)
    finally:
        stop.set()
        thread.join()
    assert all(training.modes)
    assert all(part.training for part in training.modules())


def test_threads_that_share_a_model() -> None:
    """The last explanation puts the mode back, whichever began it."""
    model, x = methods(), image()
    expected = EXPLAIN["rise"](model, x)
    model.train()

    def explain(index: int) -> bool:
        wrap = list(HIDDEN.values())[index % 4]
        return all(torch.equal(EXPLAIN["rise"](wrap(model), x), expected) for _ in range(5))

    with unchanged(model), ThreadPoolExecutor(4) as pool:
        assert all(pool.map(explain, range(8)))


def test_a_module_that_another_thread_runs_too() -> None:
    class Forked(Hiding):
        def forward(self, x: Tensor, forks: bool = True) -> Any:
            if forks:
                with ThreadPoolExecutor(1) as pool:
                    pool.submit(self, torch.zeros_like(x), False).result()
            return self.held[0](x) if forks else x

    forked, model, x = Forked(methods()).train(), methods(), image()
    expected = fastsal.Saliency(model).attribute(x, target=1)
    forked.held[0].train()
    for _ in range(2):
        assert torch.equal(fastsal.Saliency(forked).attribute(x, target=1), expected)
    assert modules_of(forked) == [forked, *forked.held]


class Changing(nn.Module):
    """Runs more than its parts once it has been given more; tries it without at first."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = methods()
        self.grad_modes: list[bool] = []
        self.fails = False

    def forward(self, x: Tensor) -> Any:
        self.grad_modes.append(torch.is_grad_enabled())
        out = self.inner(x)
        if self.fails:
            raise ValueError
        return out + self.extra[0].scores(x) if hasattr(self, "extra") else out


def test_a_module_that_is_given_another_to_run() -> None:
    changing, model, x = Changing().train(), methods(), image()
    fastsal.Saliency(changing).attribute(x, target=1)
    assert modules_of(changing) == [changing]
    changing.extra = [model]
    model.eval()
    expected = fastsal.Saliency(lambda z: changing(z)).attribute(x, target=1)
    model.train()
    assert torch.equal(fastsal.Saliency(changing).attribute(x, target=1), expected)
    assert modules_of(changing) == [changing, model]


def test_a_module_that_fails_is_not_known() -> None:
    changing, model, x = Changing().train(), methods().train(), image()
    changing.extra = [model]

    def forward(z: Tensor) -> Any:
        changing.fails = not changing.grad_modes
        try:
            return changing(z)
        except ValueError:
            return z.flatten(1)

    fastsal.Saliency(forward).attribute(x, target=1)
    changing.fails = False
    for part in parts(changing, model):
        part.training = False
    expected = fastsal.Saliency(lambda z: changing(z)).attribute(x, target=1)
    for part in parts(changing, model):
        part.training = True
    assert torch.equal(fastsal.Saliency(forward).attribute(x, target=1), expected)


def test_a_pass_that_is_run_again_begins_without_gradients_too() -> None:
    changing, x = Changing(), image()
    changing.extra = [methods().train()]
    fastsal.GradCAM(changing, "inner.last").attribute(x, target=1)
    assert changing.grad_modes == [False, False]
