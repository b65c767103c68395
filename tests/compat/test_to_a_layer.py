"""Methods put into a layer give Captum 0.9.0's numbers, in any chunks; what Captum has not is checked by hand."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from captum import attr
from torch import Tensor, nn

import fastsal
from tests.compat.test_layers import EXACT, Pairs, check
from tests.explainers.networks import PeakBytes, TwoInputs, image, small, unchanged

ROUNDED = {"rtol": 1e-6, "atol": 1e-8}
"""Captum rounds the positions and weights of a path to float32."""
METHODS: dict[str, dict[str, Any]] = {
    "LayerConductance": {"n_steps": 6},
    "InternalInfluence": {"n_steps": 6},
    "LayerDeepLift": {},
    "LayerFeatureAblation": {},
}
ON_A_PATH = ("LayerConductance", "InternalInfluence")
COMPARED = ("LayerConductance", "InternalInfluence", "LayerDeepLift")


def captum(name: str, model: nn.Module, layer: Any, *arguments: Any, **options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return getattr(attr, name)(model, layer).attribute(*arguments, **options)


@pytest.mark.parametrize(
    ("name", "at_input", "layer"),
    [
        (name, at_input, layer)
        for name in METHODS
        for at_input in (False, True)
        for layer in ("stem", "act", "body", "head")
        # Captum loses the layer's own rule: test_deep_lift_at_the_input_of_a_rectifier_is_complete.
        if not (name == "LayerDeepLift" and at_input and layer == "act")
    ],
)
def test_one_layer(name: str, at_input: bool, layer: str) -> None:
    model, x = small(dtype=torch.float64), image(batch=2, size=6, dtype=torch.float64)
    options = {"target": [1, 3], "attribute_to_layer_input": at_input, **METHODS[name]}
    if name in COMPARED:
        options["baselines"] = torch.full((1, 3, 6, 7), 0.25).double()
    theirs = captum(name, model, getattr(model, layer), x, **options)
    with unchanged(model, x):
        found = getattr(fastsal, name)(model, layer).attribute(x, **options)
    check(found, theirs, **(ROUNDED if name in ON_A_PATH else {"rtol": 1e-6, "atol": 1e-7}))


@pytest.mark.parametrize("method", ["riemann_left", "riemann_trapezoid"])
@pytest.mark.parametrize("name", ON_A_PATH)
def test_rules_and_chunks(name: str, method: str) -> None:
    model, x = small(dtype=torch.float64), image(batch=2, size=6, dtype=torch.float64)
    options = {"target": 1, "method": method, "n_steps": 5}
    theirs = captum(name, model, model.body, x, **options)
    for rows in (None, 1, 4, 100):
        ours = getattr(fastsal, name)(model, "body").attribute(x, internal_batch_size=rows, **options)
        check(ours, theirs, **ROUNDED)


def test_deep_lift_at_the_input_of_a_rectifier_is_complete() -> None:
    model, x = small(dtype=torch.float64), image(batch=2, size=6, dtype=torch.float64)
    options: dict[str, Any] = {"target": 1, "attribute_to_layer_input": True, "return_convergence_delta": True}
    for layer in ("act", "last"):
        found, delta = fastsal.LayerDeepLift(model, layer).attribute(x, 0.25, **options)
        assert delta.abs().max() < 1e-12
        assert found.abs().sum() > 0.1
        _, off = captum("LayerDeepLift", model, getattr(model, layer), x, 0.25, **options)
        assert off.abs().max() > 1e-3


@pytest.mark.parametrize("layers", [0, 1, 2, [0, 2, 4]])
@pytest.mark.parametrize("at_input", [False, True])
def test_lrp(layers: Any, at_input: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3)).double()
    x = torch.randn(3, 5).double()
    if layers == 1:
        layers = [0, 4]  # of activations Captum has no relevance
    chosen = [model[i] for i in layers] if isinstance(layers, list) else model[layers]
    options: dict[str, Any] = {"target": [1, 2, 0], "attribute_to_layer_input": at_input}
    for delta in (False, True):
        options["return_convergence_delta"] = delta
        theirs = captum("LayerLRP", model, chosen, x, **options)
        with unchanged(model, x):
            found = fastsal.LayerLRP(model, chosen).attribute(x, **options)
        check(found, theirs, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ["LayerConductance", "LayerDeepLift"])
def test_deltas(name: str) -> None:
    model, x = small(dtype=torch.float64), image(batch=2, size=6, dtype=torch.float64)
    options = {"target": [2, 0], "return_convergence_delta": True, **METHODS[name]}
    theirs, expected = captum(name, model, model.last, x, **options)
    found, delta = getattr(fastsal, name)(model, "last").attribute(x, **options)
    check(found, theirs, rtol=1e-6, atol=1e-7)
    check(delta, expected, rtol=1e-4, atol=1e-6)


def test_deep_lift_at_two_factors_is_complete() -> None:
    """Of a product Captum keeps the gradient."""
    model, x = Pairs().double().eval(), torch.randn(3, 4).double()
    found, delta = fastsal.LayerDeepLift(model, "split").attribute(x, 0.5, target=1, return_convergence_delta=True)
    assert len(found) == 2
    assert delta.abs().max() < 1e-12
    both, delta = fastsal.LayerDeepLift(model, ["split"]).attribute(x, 0.5, target=1, return_convergence_delta=True)
    check(both[0], found, **EXACT)


@pytest.mark.parametrize("name", ["LayerConductance", "InternalInfluence", "LayerFeatureAblation"])
def test_layers_of_several_tensors_and_residual_branches(name: str) -> None:
    model, x = Pairs().double().eval(), torch.randn(3, 4).double()
    for layer, at_input in ((model.split, False), (model.second, True)):
        options = {"target": 1, "attribute_to_layer_input": at_input, **METHODS[name]}
        if name == "LayerFeatureAblation" and at_input:
            continue  # replacing the layer's input leaves the branch beside it
        check(
            getattr(fastsal, name)(model, layer).attribute(x, **options),
            captum(name, model, layer, x, **options),
            **ROUNDED,
        )


@pytest.mark.parametrize(
    "name", [*METHODS, "LayerLRP", "LayerFeaturePermutation", "LayerGradientShap", "LayerDeepLiftShap"]
)
def test_a_list_of_layers_is_each_by_itself(name: str) -> None:
    model, x = small(dtype=torch.float64), image(batch=2, size=6, dtype=torch.float64)
    options: dict[str, Any] = {"target": 1, **METHODS.get(name, {})}
    if name.endswith("Shap"):
        options["baselines"] = torch.rand(3, 3, 6, 7).double()
    if name in ("LayerGradientShap", "LayerFeaturePermutation"):
        options["seed"] = 3
    method = getattr(fastsal, name)
    together = method(model, ["body", "head"]).attribute(x, **options)
    assert isinstance(together, list)
    for layer, found in zip(["body", "head"], together, strict=True):
        check(found, method(model, layer).attribute(x, **options), **EXACT)


def test_two_inputs_and_extra_arguments() -> None:
    model, inputs = TwoInputs().double().eval(), (torch.randn(3, 3, 4).double(), torch.randn(3, 5).double())
    extra = (torch.randn(3, 8).double(), 2.0)
    for name in ("LayerConductance", "InternalInfluence", "LayerFeatureAblation"):
        options = {"target": [0, 1, 3], "additional_forward_args": extra, **METHODS[name]}
        for chunk in (None, 2):
            ours = dict(options)
            if name == "LayerFeatureAblation":
                ours["perturbations_per_eval"] = chunk
            elif name in ON_A_PATH and chunk:
                ours["internal_batch_size"] = 5
            check(
                getattr(fastsal, name)(model, "relu").attribute(inputs, **ours),
                captum(name, model, model.relu, inputs, **options),
                **ROUNDED,
            )


def test_deep_lift_shap_and_custom_functions() -> None:
    model, x = small(dtype=torch.float64), image(batch=2, size=6, dtype=torch.float64)
    baselines = torch.rand(3, 3, 6, 7).double()
    options: dict[str, Any] = {"target": [1, 2], "return_convergence_delta": True}
    theirs, expected = captum("LayerDeepLiftShap", model, model.last, x, baselines, **options)
    for rows in (None, 1, 2):
        shap = fastsal.LayerDeepLiftShap(model, "last")
        found, delta = shap.attribute(x, baselines, perturbations_per_eval=rows, **options)
        check(found, theirs, rtol=1e-6, atol=1e-7)
        check(delta, expected, rtol=1e-5, atol=1e-7)

    def squared(multipliers: tuple[Tensor, ...], values: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(m * v.square() for m, v in zip(multipliers, values, strict=True))

    options = {"target": 1, "custom_attribution_func": squared}
    check(
        fastsal.LayerDeepLift(model, "last").attribute(x, **options),
        captum("LayerDeepLift", model, model.last, x, **options),
        rtol=1e-6,
        atol=1e-7,
    )


@pytest.mark.parametrize("stdevs", [0.0, 0.1])
def test_gradient_shap_is_a_mean_over_the_same_distribution_as_captums(stdevs: float) -> None:
    """Random on both sides, so that means of many draws are compared; that of a linear tail has no variance in s."""
    torch.manual_seed(0)
    model, x = small(dtype=torch.float64), image(batch=2, size=4, dtype=torch.float64)
    baselines = torch.zeros(2, 3, 4, 5)
    options: dict[str, Any] = {"target": 1, "stdevs": stdevs, "n_samples": 400}
    theirs = captum("LayerGradientShap", model, model.body, x, baselines.double(), **options)
    ours = fastsal.LayerGradientShap(model, "body").attribute(x, baselines.double(), seed=0, **options)
    check(ours, theirs, rtol=0.05, atol=0.05 * float(theirs.abs().max()))


def test_gradient_shap_at_the_input_of_the_first_layer_is_gradient_shap() -> None:
    """The same draws, by another path: a layer's input that is the model's."""
    model, x = small(dtype=torch.float64), image(batch=2, size=6, dtype=torch.float64)
    baselines = torch.rand(3, 3, 6, 7).double()
    for multiply in (True, False):
        options: dict[str, Any] = {"target": [1, 0], "stdevs": 0.2, "n_samples": 5, "seed": 1}
        expected, delta = fastsal.GradientShap(model, multiply).attribute(
            x, baselines, return_convergence_delta=True, **options
        )
        layer = fastsal.LayerGradientShap(model, "stem", multiply_by_inputs=multiply)
        for rows in (None, 1, 2):
            options["perturbations_per_eval"] = rows
            found, off = layer.attribute(
                x, baselines, attribute_to_layer_input=True, return_convergence_delta=True, **options
            )
            check(found, expected, **ROUNDED)
            check(off, delta, **ROUNDED)


def test_permutation_of_a_layer_is_feature_permutation_of_the_tail() -> None:
    model, x = small(dtype=torch.float64), image(batch=3, size=6, dtype=torch.float64)
    mask = (torch.arange(6) // 2)[None]
    values = model.drop(model.last(model.body(model.act(model.norm(model.stem(x))))).flatten(2).mean(2)).detach()
    expected = fastsal.FeaturePermutation(model.head).attribute(values, target=1, feature_mask=mask, seed=5)
    layer = fastsal.LayerFeaturePermutation(model, "drop")
    for chunk in (None, 2):
        found = layer.attribute(x, target=1, layer_mask=mask, seed=5, perturbations_per_eval=chunk)
        check(found, expected, **EXACT)


@pytest.mark.parametrize("composite", [None, "epsilon-plus-flat"])
def test_lrp_rules_count_what_is_before_the_layer(composite: str | None) -> None:
    """At the input of the first layer it is LRP itself, and a layer that is not the first has no first layer's rule."""
    model, x = small(dtype=torch.float64), image(batch=2, size=6, dtype=torch.float64)
    options: dict[str, Any] = {"target": [1, 2], "composite": composite}
    whole = fastsal.LRP(model).attribute(x, **options)
    at_first = fastsal.LayerLRP(model, "stem").attribute(x, attribute_to_layer_input=True, **options)
    check(at_first, whole, **EXACT)
    behind = fastsal.LayerLRP(model, "body").attribute(x, **options)
    score = model(x).gather(1, torch.tensor([[1], [2]]))[:, 0].detach()
    if composite:
        return
    # Epsilon keeps the sum, but for the head's bias, which is spread over its inputs.
    assert behind.shape == (2, 6, 3, 4)
    inputs = model.last(model.body(model.act(model.norm(model.stem(x)))))
    product = inputs * model.head.weight[[1, 2]][:, :, None, None] / 12
    expected = product * (score / product.sum((1, 2, 3)).add(model.head.bias[[1, 2]]))[:, None, None, None]
    check(behind, expected.detach(), rtol=1e-6, atol=1e-7)


def test_conductance_holds_one_batch() -> None:
    model, x = small(), image(batch=4, size=32)
    peaks = []
    for steps in (8, 64):
        conductance = fastsal.LayerConductance(model, "stem")
        with PeakBytes() as peak:
            conductance.attribute(x, target=1, n_steps=steps, internal_batch_size=8)
        peaks.append(peak.peak)
    assert peaks[1] < 1.2 * peaks[0]


REFUSED: list[tuple[Callable[[nn.Module], Any], str]] = [
    (lambda m: fastsal.LayerConductance(m, "stm"), "layer: the model has none named 'stm'; did you mean stem"),
    (lambda m: fastsal.LayerConductance(m, "stem").attribute(image(), n_steps=0, target=1), "n_steps: 0 is below 1"),
    (lambda m: fastsal.InternalInfluence(m, "stem").attribute(image(), method="x", target=1), "method: 'x' is not"),
    (lambda m: fastsal.LayerFeatureAblation(m, "stem").attribute(image(), layer_mask=-torch.ones(1).long()), "below 0"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_refusals(call: Callable[[nn.Module], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(small())


class TimeFirst(nn.Module):
    """Its layer's values are [time, B, features]."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.act, self.head = nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(self.first(x.transpose(0, 1))).mean(0))  # type: ignore[no-any-return]


@pytest.mark.parametrize(("examples", "steps"), [(3, 3), (3, 5), (3, 1), (1, 4)])
def test_relevance_of_a_layer_whose_examples_are_no_first_dimension(examples: int, steps: int) -> None:
    model, x = TimeFirst(), torch.randn(examples, steps, 2)
    explainer = fastsal.LayerLRP(model, model.first)
    alone = [explainer.attribute(each[None], target=1) for each in x]
    torch.testing.assert_close(explainer.attribute(x, target=1), torch.cat(alone, 1))
    if examples != steps:
        with pytest.raises(ValueError, match="return_convergence_delta: the layer's value"):
            explainer.attribute(x, target=1, return_convergence_delta=True)


@pytest.mark.parametrize("kind", [fastsal.LayerDeepLift, fastsal.LayerDeepLiftShap])
def test_differences_at_a_layer_need_a_row_for_each_example(kind: Any) -> None:
    model, x = TimeFirst(), torch.randn(3, 5, 2)
    with pytest.raises(ValueError, match=r"layer: its value of shape \(5, \d, 4\) does not have the \d rows"):
        kind(model, model.first).attribute(x, 0 * x, target=1)


@pytest.mark.parametrize("kind", [fastsal.LayerFeatureAblation, fastsal.LayerFeaturePermutation])
def test_as_many_steps_as_examples_are_not_taken_for_them(kind: Any) -> None:
    model, x = TimeFirst(), torch.randn(3, 3, 2)
    with pytest.raises(ValueError, match="does not have the 3 examples as dimension 0"):
        kind(model, model.first).attribute(x, target=1)


def test_gradcam_at_a_layer_that_begins_with_time() -> None:
    model = TimeFirst()
    with pytest.raises(ValueError, match="does not have the 3 examples as dimension 0 and channels"):
        fastsal.LayerGradCam(model, model.first).attribute(torch.randn(3, 5, 2), target=1)
