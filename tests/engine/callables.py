"""Callables that hide their modules, and what is to be left of an explanation of one: nothing."""

from __future__ import annotations

import collections
import contextvars
import copy
import functools
import operator
import warnings
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
import torch.nn.modules.module as torch_module
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import fastsal
from fastsal.engine.run import training
from fastsal.engine.run.own import owner
from fastsal.engine.run.session import current
from tests.explainers.networks import Small, image, small

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


def around(outer: nn.Module) -> Callable[..., Any]:
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
    "list of a module in a closure": lambda model: around(Hiding(model)),
    "functional_call": _functional,
    "checkpoint": lambda model: lambda x: checkpoint(model, x, use_reentrant=False),
    "exported": _exported,
    "another thread": _in_a_pool,
    "DataParallel": nn.DataParallel,
    "DataParallel in a closure": lambda model: around(nn.DataParallel(model)),
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
    assert training.nothing_held()
    assert not owner().open


EXPLAIN: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "saliency": lambda f, x: fastsal.Saliency(f).attribute(x, target=1),
    "rise": lambda f, x: fastsal.RISE(f).attribute(x, target=1, n_masks=24, perturbations_per_eval=8),
    "occlusion": lambda f, x: fastsal.Occlusion(f).attribute(x, (3, 4, 4), (3, 3, 3), target=1),
    "ig": lambda f, x: fastsal.IntegratedGradients(f).attribute(x, target=1, n_steps=20),
}
