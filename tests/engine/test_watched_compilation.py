"""What torch.compile made runs while modules are watched, and nothing is compiled for the watch."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastsal
from fastsal.engine.run import evaluation
from tests.engine.callables import (
    EXPLAIN,
    Hiding,
    methods,
)
from tests.explainers.networks import image, unchanged


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
