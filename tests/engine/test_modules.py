"""The modules behind a callable are found however they are hidden, run in evaluation mode, and stay as they were."""

from __future__ import annotations

import collections
import contextvars
import copy
import functools
import gc
import operator
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
import torch.nn.modules.module as torch_module
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import fastsal
from fastsal.engine.run import ChunkSizes, evaluation, find, module_of, modules_of, run
from fastsal.engine.run.session import _evaluated, current
from tests.explainers.networks import Small, image, small, unchanged

ASKED_FOR_HOOKS = getattr(torch_module, "_has_any_global_hook", None)
Wrap = Callable[[nn.Module], Callable[..., Any]]


class Methods(Small):
    """Has methods that run it without its call; the first of their operations depend on the mode."""

    def __init__(self) -> None:
        super().__init__(dropout=0.5)
        self.register_buffer("mean", torch.zeros(3))
        self.register_buffer("variance", torch.ones(3))
        self.register_buffer("weight", torch.linspace(-1, 1, 3 * 4).reshape(3, 4))

    def scores(self, x: Tensor) -> Tensor:
        return self(F.dropout(x, 0.5, self.training))

    def normalised(self, x: Tensor) -> Tensor:
        x = F.batch_norm(x, self.mean, self.variance, training=self.training)
        return self.head(self.drop(self.last(self.body(self.act(self.norm(self.stem(x))))).flatten(2).mean(2)))

    def chosen(self, x: Tensor) -> Tensor:
        return self.stem(x).mean((2, 3))[:, :4] if self.training else self(x)

    def functions(self, x: Tensor) -> Tensor:
        return F.dropout(x.square(), 0.5, self.training).mean((2, 3)) @ self.weight


class Slots:
    __slots__ = ("model",)

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def __call__(self, x: Tensor) -> Any:
        return self.model(x)


class OfClass:
    models: ClassVar[list[nn.Module]] = []

    def __call__(self, x: Tensor) -> Any:
        return self.models[-1](x)

    @classmethod
    def predict(cls, x: Tensor) -> Any:
        return cls.models[-1](x)


class Hiding(nn.Module):
    """Runs a module, or a method of one, that is not among its parts."""

    def __init__(self, model: nn.Module, method: str = "__call__") -> None:
        super().__init__()
        self.held = [model]
        self.method = method
        self.scale = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Any:
        return getattr(self.held[0], self.method)(self.scale(x))


class Service:
    def __init__(self, model: nn.Module) -> None:
        self.members = {"model": model}

    def predict(self, x: Tensor) -> Any:
        return self.members["model"](x)


def _of_class(model: nn.Module) -> Any:
    OfClass.models[:] = [model]
    return OfClass


def _attribute(model: nn.Module) -> nn.Module:
    outer = nn.Sequential()
    object.__setattr__(outer, "inner", model)
    outer.forward = lambda x: outer.inner(x)  # type: ignore[assignment]
    return outer


def _cached(model: nn.Module) -> Callable[..., Any]:
    @functools.lru_cache(1)
    def get(_name: str) -> nn.Module:
        return model

    return lambda x: get("model")(x)


def _generator(model: nn.Module) -> Callable[..., Any]:
    def models() -> Iterator[nn.Module]:
        while True:
            yield model

    made = models()
    return lambda x: next(made)(x)


def _variable(model: nn.Module) -> Callable[..., Any]:
    variable: contextvars.ContextVar[nn.Module] = contextvars.ContextVar("model")
    variable.set(model)
    return lambda x: variable.get()(x)


def _global(model: nn.Module) -> Callable[..., Any]:
    names: dict[str, Any] = {"models": {"a": model}}
    exec("def predict(x):\n    return models['a'](x)", names)
    return names["predict"]  # type: ignore[no-any-return]


def _functional(model: nn.Module) -> Callable[..., Any]:
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return lambda x: torch.func.functional_call(model, tensors, (x,))


def _exported(model: nn.Module) -> Callable[..., Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        batch = ({0: torch.export.Dim.DYNAMIC},)
        module = torch.export.export(copy.deepcopy(model).eval(), (image(),), dynamic_shapes=batch).module()
    return lambda x: module(x)


def _weak(model: nn.Module, held: list[nn.Module] = []) -> Callable[..., Any]:  # noqa: B006
    held.append(model)
    reference = weakref.ref(model)
    return lambda x: reference()(x)  # type: ignore[misc]


def _around(outer: nn.Module) -> Callable[..., Any]:
    return lambda x: outer(x)


def _in_a_pool(model: nn.Module) -> Callable[..., Any]:
    pool = ThreadPoolExecutor(1)
    return lambda x: pool.submit(model, x[:]).result()


HIDDEN: dict[str, Wrap] = {
    "slots": Slots,
    "class attribute": lambda model: _of_class(model)(),
    "class method": lambda model: _of_class(model).predict,
    "deque": lambda model, held=collections.deque(): (held.append(model), lambda x: held[-1](x))[1],
    "closure": lambda model: lambda x: model(x),
    "global dict": _global,
    "generator": _generator,
    "lru_cache": _cached,
    "partial in C": lambda model: functools.partial(functools.reduce, lambda x, part: part(x), [model]),
    "methodcaller": lambda model: lambda x: operator.methodcaller("__call__", x)(model),
    "partial": lambda model: functools.partial(model),
    "forward": lambda model: model.forward,
    "partial of forward": lambda model: functools.partial(model.forward),
    "method of an object": lambda model: Service(model).predict,
    "weak reference": _weak,
    "context variable": _variable,
    "list of a module": Hiding,
    "attribute of a module": _attribute,
    "list of a module in a closure": lambda model: _around(Hiding(model)),
    "functional_call": _functional,
    "checkpoint": lambda model: lambda x: checkpoint(model, x, use_reentrant=False),
    "exported": _exported,
    "another thread": _in_a_pool,
    "DataParallel": nn.DataParallel,
    "DataParallel in a closure": lambda model: _around(nn.DataParallel(model)),
    "a copy at each call": lambda model: lambda x: copy.deepcopy(model)(x),
    "method that calls": lambda model: lambda x: model.scores(x),
    "method with buffers": lambda model: lambda x: model.normalised(x),
    "method that chooses": lambda model: lambda x: model.chosen(x),
    "method of functions": lambda model: lambda x: model.functions(x),
    "method of a hidden module": lambda model: Hiding(model, "scores"),
    "decorated method": lambda model: functools.wraps(model.scores)(lambda x: model.scores(x)),
}


def methods() -> Methods:
    torch.manual_seed(0)
    model = Methods()
    model.load_state_dict(small(dropout=0.5).state_dict(), strict=False)
    model.mean += 0.2
    return model.eval()


def parts(callable: Any, model: nn.Module) -> list[nn.Module]:
    return [*model.modules(), *(callable.modules() if isinstance(callable, nn.Module) else ())]


def nothing_is_left() -> None:
    assert not torch_module._global_forward_pre_hooks
    assert not torch_module._global_forward_hooks
    assert getattr(torch_module, "_has_any_global_hook", None) is ASKED_FOR_HOOKS
    assert torch.overrides._get_current_function_mode() is None
    assert current() is None
    assert not _evaluated


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    yield
    nothing_is_left()


EXPLAIN: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "saliency": lambda f, x: fastsal.Saliency(f).attribute(x, target=1),
    "rise": lambda f, x: fastsal.RISE(f).attribute(x, target=1, n_masks=24, perturbations_per_eval=8),
    "occlusion": lambda f, x: fastsal.Occlusion(f).attribute(x, (3, 4, 4), (3, 3, 3), target=1),
    "ig": lambda f, x: fastsal.IntegratedGradients(f).attribute(x, target=1, n_steps=20),
}


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
    """A module that runs in a later pass for the first time is in evaluation mode there too."""
    one, many, x = methods(), methods(), image(batch=1)
    with torch.no_grad():
        many.head.weight.mul_(2)

    def chosen(z: Tensor) -> Tensor:
        return one(z) if len(z) == 1 else many.scores(z)

    def explain() -> Tensor:
        return fastsal.Occlusion(chosen).attribute(x, (3, 4, 4), (3, 3, 3), target=1, perturbations_per_eval=3)

    expected = explain()
    one.train()
    many.train()
    with unchanged(one), unchanged(many):
        assert torch.equal(explain(), expected)
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
    for forward in (_around(model), service.predict, Slots(model), Hiding(model)):
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


class Tiny(nn.Module):
    """Quick to compile."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.drop, self.last = nn.Linear(6, 5), nn.Dropout(0.5), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.drop(self.first(x).tanh()))

    def scores(self, x: Tensor) -> Tensor:
        return self(F.dropout(x, 0.5, self.training))


class Twice(Hiding):
    def forward(self, x: Tensor) -> Any:
        return (self.held[0](x) + self.held[0](x)) / 2


class Compiled:
    """A model that was compiled in some way, and run in the forms in which it is explained.

    Attributes:
        calls: it, and callables around it.
        compilations: graphs that were compiled so far.
        graph_runs: how often one of them ran.
    """

    def __init__(self, where: str, backend: str) -> None:
        torch._dynamo.reset()
        self.compilations = self.graph_runs = 0

        def compiled(graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
            self.compilations += 1
            made: Any = graph.forward if backend == "eager" else torch._dynamo.lookup_backend(backend)(graph, inputs)

            def counted(*args: Any) -> Any:
                self.graph_runs += 1
                return made(*args)

            return counted

        options: dict[str, Any] = {"backend": compiled, "fullgraph": True, "dynamic": True}
        self.model = model = Tiny().eval()
        wrapped: Any = model
        if where == "in place":
            model.compile(**options)
        elif where == "forward":
            model.forward = torch.compile(model.forward, **options)  # type: ignore[method-assign]
        elif where == "function":
            wrapped = torch.compile(lambda z: model.scores(z), **options)
        else:
            wrapped = torch.compile(model, **options)
        if where == "hidden":
            wrapped = Twice(wrapped).eval()
        elif where == "inside":
            wrapped = nn.Sequential(wrapped)
        self.calls: list[Callable[..., Any]] = [lambda z: wrapped(z), wrapped, lambda z: self.calls[0](z)]
        self.x = torch.randn(2, 6)
        for rows in (2, 16):
            leaf = self.x.repeat(8, 1)[:rows].requires_grad_()
            wrapped(leaf.clone())
            with torch.no_grad():
                wrapped(leaf.detach())

    def explain(self, call: Callable[..., Any]) -> tuple[Tensor, Tensor]:
        ablation = fastsal.FeatureAblation(call).attribute(self.x, target=1, perturbations_per_eval=3)
        return fastsal.Saliency(call).attribute(self.x, target=1), ablation


INDUCTOR = pytest.param("closure", "inductor", marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("where", "backend"),
    [(each, "eager") for each in ("closure", "inside", "in place", "forward", "function", "hidden")] + [INDUCTOR],
)
def test_nothing_is_compiled_for_the_watch(where: str, backend: str) -> None:
    plain = Tiny().eval()
    compiled = Compiled(where, backend)
    expected = compiled.explain(plain)
    before = compiled.compilations
    assert before
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for repeat in range(3):
            for call in compiled.calls:
                compiled.graph_runs = 0
                torch.testing.assert_close(compiled.explain(call), expected)
                # Four passes. A function is run as it is until it has shown its modules.
                passes = 3 if where == "function" and not repeat else 4
                assert compiled.graph_runs == (2 * passes if where == "hidden" else passes)
    assert compiled.compilations == before
    compiled.model.train()
    with unchanged(compiled.model):
        for call in compiled.calls:
            torch.testing.assert_close(compiled.explain(call), expected)
    assert torch._dynamo.eval_frame._stance.stance == "default"


def test_what_other_threads_compiled_is_left_alone() -> None:
    compiled, model, x = Compiled("closure", "eager"), methods().train(), image()
    training = compiled.calls[1]
    before = compiled.compilations
    pool = ThreadPoolExecutor(1)

    def forward(z: Tensor) -> Any:
        pool.submit(training, compiled.x).result()
        return model(z)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            EXPLAIN["rise"](forward, x)
            fastsal.GradCAM(forward, model.last).attribute(x, target=1)
    assert compiled.compilations == before


def test_threads_leave_the_users_stance() -> None:
    """Whoever begins or ends first: what is compiled is run as such by everybody afterwards."""
    compiled = Compiled("closure", "eager")
    first, second = (evaluation(compiled.calls[1], eager=True) for _ in range(2))
    with torch.compiler.set_stance("eager_then_compile"):
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert torch._dynamo.eval_frame._stance.stance == "force_eager"
        second.__exit__(None, None, None)
        assert torch._dynamo.eval_frame._stance.stance == "eager_then_compile"


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
