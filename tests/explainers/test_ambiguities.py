"""Where a batch of altered copies could change what the model computes, the map is that of one copy at a time."""

from __future__ import annotations

from typing import Any

import captum.attr as captum
import pytest
import torch
from torch import Tensor, nn

import fastsal


@pytest.fixture
def model() -> nn.Module:
    layers = nn.Conv2d(3, 4, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 5)
    return nn.Sequential(*layers).double().eval()


@pytest.mark.parametrize("size", [None, 3, 6, 24])
@pytest.mark.parametrize("reduce", [torch.mean, torch.sum])
def test_one_score_per_call_does_not_mix_the_steps(model: nn.Module, size: int | None, reduce: Any) -> None:
    x = torch.randn(3, 3, 8, 8, dtype=torch.float64)
    explainer = fastsal.IntegratedGradients(lambda z: reduce(model(z) ** 2))
    got = explainer.attribute(x, n_steps=8, internal_batch_size=size)
    each = [fastsal.IntegratedGradients(lambda z: model(z).pow(2).sum(1)).attribute(x, n_steps=8)]
    torch.testing.assert_close(got, each[0] / (15 if reduce is torch.mean else 1))


@pytest.mark.parametrize("examples", [1, 5])
def test_an_argument_as_long_as_the_batch_is_not_repeated_unasked(model: nn.Module, examples: int) -> None:
    x, weight = torch.randn(examples, 3, 8, 8, dtype=torch.float64), torch.ones(examples, dtype=torch.float64)

    def forward(z: Tensor, w: Tensor) -> Tensor:
        return model(z) * w.sum()

    arguments = (x, (3, 4, 4), (3, 2, 2), None, 1, weight)
    got = fastsal.Occlusion(forward).attribute(*arguments)
    torch.testing.assert_close(got.float(), captum.Occlusion(forward).attribute(*arguments), rtol=1e-5, atol=1e-6)
    maps = fastsal.RISE(forward).attribute(x, 1, additional_forward_args=weight, n_masks=6)
    expected = fastsal.RISE(lambda z: model(z) * examples).attribute(x, 1, n_masks=6)
    torch.testing.assert_close(maps, expected)


def test_default_layer_with_an_argument_as_long_as_the_batch(model: nn.Module) -> None:
    class Projected(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = model

        def forward(self, x: Tensor, projection: Tensor) -> Tensor:
            return self.body(x) @ projection

    x, projection = torch.randn(5, 3, 8, 8).double(), torch.randn(5, 2).double()
    assert fastsal.GradCAM(Projected()).attribute(x, 1, projection).shape == (5, 1, 8, 8)


@pytest.mark.parametrize("name", ["rise", "integrated-gradients"])
def test_a_function_as_target_is_refused_where_copies_are_altered(model: nn.Module, name: str) -> None:
    calls = {
        "rise": lambda x, t: fastsal.RISE(model).attribute(x, t, n_masks=4),
        "integrated-gradients": lambda x, t: fastsal.IntegratedGradients(model).attribute(x, target=t, n_steps=3),
    }
    with pytest.raises(TypeError, match="target: a function"):
        calls[name](torch.randn(2, 3, 8, 8).double(), lambda output: output.argmax(1))


def test_large_integer_baselines_are_exact() -> None:
    tokens = torch.full((1, 2), 2**53 + 1)
    odd = fastsal.Occlusion(lambda b: (b % 2).float()).attribute(tokens, (1,), target=0, baselines=2**53 + 1)
    assert not odd.any()


def test_small_shapes_and_seeds(model: nn.Module) -> None:
    cube = fastsal.IntegratedGradients(lambda z: z**3)
    _, delta = cube.attribute(torch.randn(4).double(), return_convergence_delta=True)
    assert delta.abs().max() < 1e-10
    none = torch.randn(0, 3, 8, 8).double()
    assert fastsal.Saliency(model).attribute(none, []).shape == none.shape
    with pytest.raises(TypeError, match=r"seed: 1\.5 is neither an int nor None"):
        fastsal.RISE(model).attribute(torch.randn(1, 3, 8, 8).double(), 1, seed=1.5)  # type: ignore[arg-type]


UNFIT = [
    (torch.uint8, torch.tensor([[300, 0]])),
    (torch.uint8, -1),
    (torch.uint8, 300),
    (torch.bool, 2),
    (torch.int32, torch.tensor([[2**40, 0]])),
    (torch.float16, torch.tensor([[1e6, 0]])),
    (torch.float16, 1e6),
    (torch.int64, 0.5),
]


@pytest.mark.parametrize(
    ("name", "dtype", "baseline"),
    [
        (name, *unfit)
        for name in ("Occlusion", "FeatureAblation", "ShapleyValues", "KernelShap")
        for unfit in UNFIT
        # FeatureAblation takes integers as floating point for a fraction, as Captum.
        if name != "FeatureAblation" or unfit[0] != torch.int64
    ],
    ids=str,
)
def test_baselines_that_the_dtype_cannot_hold(name: str, dtype: torch.dtype, baseline: Any) -> None:
    arguments = ((1,),) if name == "Occlusion" else ()
    with pytest.raises(ValueError, match=r"baselines: .* does not fit in an input of"):
        getattr(fastsal, name)(lambda z: z.double().sum(1)).attribute(
            torch.ones(1, 2, dtype=dtype), *arguments, baselines=baseline
        )
    finite = torch.tensor([[torch.inf, 1.0]])
    fastsal.FeatureAblation(lambda z: z.nan_to_num().sum(1)).attribute(torch.ones(1, 2).half(), baselines=finite)


def test_small_probabilities_of_a_half_precision_model_are_not_rounded_away() -> None:
    scores = lambda z: z.float().flatten(1).sum(1, keepdim=True) * 1e-11  # noqa: E731
    found = fastsal.Occlusion(scores).attribute(torch.ones(1, 1, 4, 4).half(), (1, 2, 2), (1, 2, 2), target=0)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.full((1, 1, 4, 4), 4e-11))


def test_rises_seed_and_gradient_modes() -> None:
    x, explainer = torch.rand(1, 1, 8, 8), fastsal.RISE(lambda z: z.flatten(1).sum(1))
    torch.manual_seed(1)
    first, second = (explainer.attribute(x, n_masks=20, seed=None) for _ in range(2))
    assert not torch.equal(first, second)
    with torch.inference_mode():
        found = explainer.attribute(x, n_masks=20)
    weight = torch.ones((), requires_grad=True)
    (found * weight).sum().backward()
    with pytest.raises(TypeError, match=r"n_masks: 10\.5"):
        explainer.attribute(x, n_masks=10.5)


def test_occlusions_arguments_are_named_as_the_caller_names_them() -> None:
    x, explainer = torch.ones(1, 3), fastsal.Occlusion(lambda z: z.sum(1))
    for arguments, message in ((((4,),), "sliding_window_shapes: .4"), (((1,), 0), "strides: 0")):
        with pytest.raises(ValueError, match=message):
            explainer.attribute(x, *arguments)
    with pytest.raises(ValueError, match=r"inputs: shape \(4,\) has nothing"):
        fastsal.explain(lambda z: z * 2, torch.randn(4), "occlusion")
    with pytest.raises(ValueError, match="batch_size: -3"):
        fastsal.explain(lambda z: z, x, "saliency", target=0, batch_size=-3)
