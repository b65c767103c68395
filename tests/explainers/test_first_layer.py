"""Integrated Gradients with the first layer's part done once: the same attributions, or the plain way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

import fastsal
from tests.explainers.networks import unchanged


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(108, 16), nn.Tanh(), nn.Linear(16, 4)).double()


class Patches(nn.Module):
    """Scales its input, embeds patches, and mixes them in place."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.embed = nn.Conv2d(3, 12, 2, 2)
        self.head = nn.Linear(12, 4)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        x.sub_(0.5).div_(0.25)
        value = self.embed(x)
        value.tanh_()
        found: Tensor = self.head(value.mean((2, 3)))
        return found


class Residual(Patches):
    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = super().forward(x.clone()) + x.mean((1, 2, 3))[:, None] ** 2
        return found


class Squared(Patches):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * x)


class Twice(Patches):
    def forward(self, x: Tensor) -> Tensor:
        value = self.embed(x)
        found: Tensor = self.head((value + self.embed(x.flip(3))).tanh().mean((2, 3)))
        return found


class Gated(Patches):
    """Decides by a value of its input."""

    def forward(self, x: Tensor) -> Tensor:
        value = self.embed(x).tanh()
        found: Tensor = self.head(value.mean((2, 3)))
        return found if x.isfinite().all() else found * 2


class Masked(nn.Module):
    """Tokens of zeros are padding, which the first example has none of."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.encode, self.out = nn.Linear(8, 8), nn.Linear(8, 3)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        there = (x != 0).any(-1, keepdim=True)
        found: Tensor = self.out((self.encode(x).relu() * there).sum(1))
        return found


class Branching(Masked):
    """Each example goes its own way, which turns within the path of some."""

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.encode(x).relu().sum(1)
        found: Tensor = torch.where(x.sum((1, 2))[:, None] > 1.0, self.out(hidden), self.out(hidden.square()))
        return found


class Watching(Masked):
    """Keeps statistics of what it sees."""

    most: Tensor
    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("most", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(8, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.most.copy_(torch.maximum(self.most, x.max()))
            self.mean.lerp_(x.mean((0, 1)), 0.01)
        found: Tensor = self.out(self.encode(x).relu().sum(1))
        return found


class Clipped(Masked):
    """What the layer gets is between the ends of the path only up to a bound, which one example passes."""

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.out(self.encode(x.clamp(max=2.0)).relu().sum(1))
        return found


def tokens() -> Tensor:
    x = torch.randn(4, 6, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    x[1:, 4:] = 0
    return x


def pixels(batch: int = 2) -> Tensor:
    return torch.rand(batch, 3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def explain(model: Any, x: Tensor, setting: bool | str, **options: Any) -> Tensor:
    found: Tensor = fastsal.IntegratedGradients(model).attribute(
        x, target=1, n_steps=20, first_layer_once=setting, **options
    )
    return found


@pytest.mark.parametrize("make", [mlp, Patches])
@pytest.mark.parametrize("baseline", [0.0, 0.3, "tensor"])
@pytest.mark.parametrize("multiply", [True, False])
def test_it_is_the_plain_way_up_to_rounding(make: Callable[[], nn.Module], baseline: Any, multiply: bool) -> None:
    model, x = make().train(), pixels()
    baselines = torch.rand_like(x[:1]) if baseline == "tensor" else baseline
    results = []
    with unchanged(model):
        for setting in (False, True, "auto"):
            explainer = fastsal.IntegratedGradients(model, multiply_by_inputs=multiply)
            for rows in (None, 7):
                results.append(
                    explainer.attribute(x, baselines, 1, n_steps=20, first_layer_once=setting, internal_batch_size=rows)
                )
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("make", [Residual, Squared, Twice])
def test_another_way_to_the_output_is_seen(make: Callable[[], nn.Module]) -> None:
    model, x = make().eval(), pixels()
    torch.testing.assert_close(explain(model, x, "auto"), explain(model, x, False), rtol=0, atol=0)
    with pytest.raises(ValueError, match="first_layer_once: it needs a model"):
        explain(model, x, True)


@pytest.mark.parametrize("make", [Masked, Branching, Watching])
def test_what_else_reads_the_input_reads_that_of_the_path(make: Callable[[], nn.Module]) -> None:
    """A mask or a gate is made of the path's own inputs, for every example, so the layer can run once all the same."""
    model, x = make().eval(), tokens()
    for setting in ("auto", True):
        torch.testing.assert_close(explain(model, x, setting), explain(model, x, False), rtol=1e-9, atol=1e-12)
    assert all(bool(value.isfinite().all()) for value in model.state_dict().values())


def test_a_gate_on_all_values_is_that_of_the_path() -> None:
    model, x = Gated().eval(), pixels()
    torch.testing.assert_close(explain(model, x, True), explain(model, x, False), rtol=1e-9, atol=1e-12)


def test_a_layer_that_gets_something_else_for_one_example_is_given_up() -> None:
    """The last example's tokens pass the bound late in the path: what was summed before is right, and stays."""
    x = tokens().clamp(-1.5, 1.5)
    x[3, 0, 0] = 2.5
    for rows in (None, 5, 16):
        options = {"internal_batch_size": rows}
        found = explain(Clipped().eval(), x, "auto", **options)
        torch.testing.assert_close(found, explain(Clipped().eval(), x, False, **options), rtol=1e-9, atol=1e-12)
    with pytest.raises(ValueError, match="first_layer_once: it needs a model"):
        explain(Clipped().eval(), x, True)


class Kinked(Masked):
    """Between its ends and at the middle that is tried first, the layer gets what it should; elsewhere not."""

    def forward(self, x: Tensor) -> Tensor:
        late = (x[:, :1, :1] > 1.2) & (x[:, :1, :1] < 1.4)
        found: Tensor = self.out(self.encode(x + late).relu().sum(1))
        return found


@pytest.mark.parametrize("rows", [None, 4, 8, 20])
def test_it_is_checked_at_every_point_of_the_path(rows: int | None) -> None:
    x = tokens()
    x[:, 0, 0] = torch.tensor([0.5, 1.5, -1.0, 3.0], dtype=torch.float64)
    explainer = fastsal.IntegratedGradients(Kinked().eval())
    options: dict[str, Any] = {"target": 1, "n_steps": 40, "internal_batch_size": rows}
    expected = explainer.attribute(x, first_layer_once=False, **options)
    for _ in range(2):
        torch.testing.assert_close(explainer.attribute(x, **options), expected, rtol=1e-9, atol=1e-12)
    estimated = explainer.estimate(x, target=1, n_steps=33)
    plain = explainer.estimate(x, target=1, n_steps=33, first_layer_once=False)
    torch.testing.assert_close(estimated.attribution, plain.attribution, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("of", ["layer", "parent", "all modules"])
def test_hooks_that_came_since_are_seen(of: str) -> None:
    model, x = mlp().eval(), pixels()
    explainer = fastsal.IntegratedGradients(model)
    explainer.attribute(x, target=1, n_steps=20)

    def doubled(part: nn.Module, _args: Any, output: Tensor) -> Tensor | None:
        return output * 2 if part is model or isinstance(part, nn.Linear) else None

    if of == "all modules":
        handle = register_module_forward_hook(doubled)
    else:
        handle = (model if of == "parent" else model[1]).register_forward_hook(doubled)  # type: ignore[index]
    try:
        found = explainer.attribute(x, target=1, n_steps=20)
        torch.testing.assert_close(found, explain(model, x, False), rtol=1e-9, atol=1e-12)
    finally:
        handle.remove()
    torch.testing.assert_close(explainer.attribute(x, target=1, n_steps=20), explain(model, x, False))


def test_the_first_layer_runs_for_the_ends_alone() -> None:
    model, rows = mlp().eval(), list[int]()
    original = nn.Linear.forward

    def counted(self: nn.Linear, x: Tensor) -> Tensor:
        if self is model[1]:  # type: ignore[index]
            rows.append(len(x))
        return original(self, x)

    explainer = fastsal.IntegratedGradients(model)
    nn.Linear.forward = counted  # type: ignore[method-assign]
    try:
        for _ in range(2):
            rows.clear()
            explainer.attribute(pixels(), target=1, n_steps=50)
    finally:
        nn.Linear.forward = original  # type: ignore[method-assign]
    # Both ends, of which one keeps its graph for the gradient's way back, and one between: it is affine.
    assert rows[-3:] == [2] * 3
    assert rows[:-3] in ([], [1])  # the first call looks for the layer


def test_a_changed_model_is_looked_at_again() -> None:
    model, x = nn.Sequential(mlp()).eval(), pixels()
    explainer = fastsal.IntegratedGradients(model)
    explainer.attribute(x, target=1)
    model[0] = Residual().eval()
    torch.testing.assert_close(explainer.attribute(x, target=1, n_steps=20), explain(model, x, False))


def test_prepared_and_wrapped_models() -> None:
    model, x = mlp().eval(), pixels()
    expected = explain(model, x, False)
    prepared = fastsal.prepare(model, x, probe_seconds=0)
    torch.testing.assert_close(explain(prepared, x, True), expected, rtol=1e-9, atol=1e-12)
    shifted = explain(lambda z: model(z) + 1, x, True)
    torch.testing.assert_close(shifted, expected, rtol=1e-9, atol=1e-12)


def test_hooks_of_the_users_keep_their_layer() -> None:
    model, x = mlp().eval(), pixels()
    model[1].register_forward_hook(lambda _module, _args, output: output * 2)  # type: ignore[index]
    torch.testing.assert_close(explain(model, x, "auto"), explain(model, x, False), rtol=0, atol=0)


def test_an_anytime_run_uses_it_too() -> None:
    model, x = mlp().eval(), pixels()
    found = [
        fastsal.IntegratedGradients(model).estimate(x, target=1, n_steps=65, deadline=60.0, first_layer_once=setting)
        for setting in (False, True)
    ]
    torch.testing.assert_close(found[1].attribution, found[0].attribution, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found[1].error, found[0].error, rtol=1e-6, atol=1e-12)


def test_refusals() -> None:
    x = pixels()
    with pytest.raises(TypeError, match="first_layer_once: 'yes'"):
        explain(mlp(), x, "yes")
    with pytest.raises(ValueError, match="goes without create_graph"):
        explain(mlp(), x, True, create_graph=True)
    with pytest.raises(ValueError, match="first_layer_once: it needs a model"):
        explain(torch.jit.script(mlp().eval()), x, True)
