"""Rows that depend on each other: a sweep scores one copy at a time, as Captum does where it is not told otherwise."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from typing import Any

import captum.attr as captum
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastsal
from tests.explainers.calls import PERTURBATION
from tests.explainers.coupled import IMAGES, Attending, InTime, Nodes, Scaled, batch_statistics, peak, standard
from tests.explainers.networks import image, small, unchanged

TOLD = "copies are run one at a time"


def told_of(explain: Callable[[], Any]) -> bool:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        explain()
    return any(TOLD in str(each.message) for each in told)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("name", PERTURBATION)
@pytest.mark.parametrize("kind", IMAGES)
def test_images_of_coupled_rows(name: str, kind: str) -> None:
    """The map of one copy per call, which is what the caller would have to ask for."""
    model, x = IMAGES[kind]().eval(), image(batch=2)
    expected = PERTURBATION[name](model, x, perturbations_per_eval=1)
    with unchanged(model, x), pytest.warns(UserWarning, match=TOLD):
        found = PERTURBATION[name](model, x)
    torch.testing.assert_close(found, expected, equal_nan=True)  # 0 by 0, where all is absent


@pytest.mark.parametrize("kind", IMAGES)
def test_paths_and_noise_of_coupled_rows(kind: str) -> None:
    model, x = IMAGES[kind]().eval(), image(batch=2)
    for explainer, options, one in (
        (fastsal.IntegratedGradients(model), {"n_steps": 6, "baselines": 0.1}, {"internal_batch_size": 1}),
        (fastsal.SmoothGrad(model), {"n_samples": 4}, {"perturbations_per_eval": 1}),
        (
            fastsal.GradientShap(model),
            {"baselines": torch.full_like(x[:1], 0.1), "seed": 0},
            {"perturbations_per_eval": 1},
        ),
        (fastsal.ScoreCAM(model, "2" if kind == "batch statistics" else "net.last"), {}, {"perturbations_per_eval": 1}),
    ):
        expected = explainer.attribute(x, target=1, **options, **one)
        with pytest.warns(UserWarning, match=TOLD):
            found = explainer.attribute(x, target=1, **options)
        torch.testing.assert_close(found, expected)
        assert TOLD.split()[-1] in str(explainer.plan()) or "one at a time" in str(explainer.plan())


def test_graphs_as_captum_does() -> None:
    edges = torch.tensor([[0, 1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 0]])
    nodes, labels = torch.rand(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])
    for model, extra in ((Nodes().eval(), (edges,)), (Attending().eval(), None), (InTime().eval(), None)):
        options: dict[str, Any] = {"target": labels, "additional_forward_args": extra}
        for ours, theirs, given in (
            (fastsal.FeatureAblation, captum.FeatureAblation, ()),
            (fastsal.Occlusion, captum.Occlusion, ((2,),)),
        ):
            with pytest.warns(UserWarning, match=TOLD):
                found = ours(model).attribute(nodes, *given, **options)
            torch.testing.assert_close(found.float(), theirs(model).attribute(nodes, *given, **options).float())
        with pytest.warns(UserWarning, match=TOLD):
            found = fastsal.IntegratedGradients(model).attribute(nodes, n_steps=20, **options)
        expected = captum.IntegratedGradients(model).attribute(nodes, n_steps=20, internal_batch_size=6, **options)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_the_peak_is_not_in_the_first_chunk() -> None:
    """The windows of every chunk but one leave the maximum as it is: no first batch would tell."""
    model, x = Scaled(peak).eval(), torch.rand(1, 3, 24, 24)
    x[0, 0, 21, 20] = 9.0
    expected = captum.Occlusion(model).attribute(x, (3, 4, 4), (3, 4, 4), target=1)
    with pytest.warns(UserWarning, match=f"{TOLD}, not perturbations_per_eval=4, with which the map would be wrong"):
        found = fastsal.Occlusion(model).attribute(x, (3, 4, 4), (3, 4, 4), target=1, perturbations_per_eval=4)
    torch.testing.assert_close(found, expected)
    for setting in ("auto", False):
        with pytest.warns(UserWarning, match=TOLD):
            again = fastsal.Occlusion(model).attribute(x, (3, 4, 4), (3, 4, 4), target=1, incremental=setting)
        torch.testing.assert_close(again, expected)
    with pytest.raises(ValueError, match="incremental: not possible: the rows of a batch depend on each other"):
        fastsal.Occlusion(model).attribute(x, (3, 4, 4), (3, 4, 4), target=1, incremental=True)


def test_a_given_number_is_named() -> None:
    model, x = IMAGES["mean and deviation"]().eval(), image(batch=2)
    with pytest.warns(UserWarning, match="not internal_batch_size=8, with which the map would be wrong"):
        found = fastsal.IntegratedGradients(model).attribute(x, 0.1, target=1, n_steps=6, internal_batch_size=8)
    expected = fastsal.IntegratedGradients(model).attribute(x, 0.1, target=1, n_steps=6, internal_batch_size=1)
    torch.testing.assert_close(found, expected)


def test_layers_behind_which_rows_are_coupled() -> None:
    model, x = batch_statistics(), image(batch=1)
    with pytest.warns(UserWarning, match=TOLD):
        found = fastsal.LayerIntegratedGradients(model, "0").attribute(x, target=1, n_steps=6)
    expected = fastsal.LayerIntegratedGradients(model, "0").attribute(x, target=1, n_steps=6, internal_batch_size=1)
    torch.testing.assert_close(found, expected)


def test_estimates_too() -> None:
    model, x = Scaled(standard).eval(), image(batch=1)
    with pytest.warns(UserWarning, match=TOLD):
        found = fastsal.RISE(model).estimate(x, 1, n_masks=40)
    expected = fastsal.RISE(model).estimate(x, 1, n_masks=40, perturbations_per_eval=1)
    torch.testing.assert_close(found.attribution, expected.attribution)


def test_explain_asks_once_for_all_methods() -> None:
    model, x = Scaled(standard).eval(), image(batch=1)
    calls: list[int] = []
    model.register_forward_pre_hook(lambda _, args: calls.append(len(args[0])))
    options = {"n_masks": 20, "feature_mask": torch.arange(9) // 3, "n_samples": 30}
    for times in range(2):
        calls.clear()
        with pytest.warns(UserWarning, match=TOLD):
            fastsal.explain(model, x, ["rise", "feature-ablation", "kernel-shap"], **options)
        assert calls.count(2) == (0 if times else 1)


class Independent(nn.Module):
    """No rows are coupled here: normalisation of an example alone, gates, ties of values, NaN in some places."""

    def __init__(self, nans: bool = False) -> None:
        super().__init__()
        self.net, self.nans = small(), nans

    def forward(self, x: Tensor) -> Tensor:
        x = (x - x.mean((1, 2, 3), keepdim=True)) / (1e-3 + x.amax((1, 2, 3), keepdim=True).abs())
        found: Tensor = self.net(F.instance_norm(x))
        return torch.where(found > found.mean(1, keepdim=True), torch.nan, found) if self.nans else found


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("nans", [False, True])
def test_independent_rows_stay_in_batches(dtype: torch.dtype, nans: bool) -> None:
    model, x = Independent(nans).eval().to(dtype), image(batch=2, dtype=dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        explainer = fastsal.RISE(model)
        explainer.attribute(x, 1, n_masks=24)
    assert explainer.plan().sweeps[0].sizes == (24,)
    assert explainer.plan().sweeps[0].alone == ""


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", IMAGES)
def test_coupled_rows_of_half_precision(dtype: torch.dtype, kind: str) -> None:
    model, x = IMAGES[kind]().eval().to(dtype), 8 * image(batch=2, dtype=dtype)
    with pytest.warns(UserWarning, match=TOLD):
        fastsal.RISE(model).attribute(x, 1, n_masks=4)


def test_nan_in_one_row_that_comes_from_another() -> None:
    model = Scaled(lambda x: torch.where(x.amin() < 1.1 * x.amin((1, 2, 3), keepdim=True), torch.nan, x)).eval()
    with pytest.warns(UserWarning, match=TOLD):
        fastsal.RISE(model).attribute(image(batch=1), 1, n_masks=4)


def test_a_change_of_the_model_is_seen() -> None:
    """A flag, a hook, a setting, another part, an argument: each couples the rows of what had none coupled."""

    class Optional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.flag = small(), False
            self.settings = type("Settings", (), {})()
            self.settings.scaled = False
            self.runs = 0

        def forward(self, x: Tensor, word: str = "") -> Tensor:
            self.runs += 1  # what a pass changes itself is no change
            found: Tensor = self.net(standard(x) if self.flag or self.settings.scaled or word else x)
            return found

    model, x = Optional().eval(), image(batch=2)

    def coupled(*extra: Any) -> bool:
        explainer = fastsal.RISE(model)
        return told_of(lambda: explainer.attribute(x, 1, n_masks=4, additional_forward_args=extra or None))

    assert not coupled()
    runs = model.runs
    assert not coupled()
    assert model.runs == runs + 1  # it was known
    model.flag = True
    assert coupled()
    model.flag = False
    assert not coupled()
    model.settings.scaled = True
    assert coupled()
    model.settings.scaled = False
    handle = model.net.stem.register_forward_hook(lambda _m, _i, output: output - output.mean())
    assert coupled()
    handle.remove()
    assert not coupled()
    model.net.stem.forward = lambda z: standard(F.conv2d(z, model.net.stem.weight, padding=1))  # type: ignore[assignment]
    assert coupled()
    del model.net.stem.forward
    assert not coupled()
    assert coupled("scaled")
    before, model.net.norm = model.net.norm, nn.BatchNorm2d(5, track_running_stats=False)
    assert coupled()
    model.net.norm = before
    assert not coupled()


SCALED = False
NET = small()


def by_global(x: Tensor) -> Tensor:
    found: Tensor = NET(standard(x) if SCALED else x)
    return found


def test_a_function_by_what_it_closes_over_and_its_globals(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x, scaled = small(), image(batch=2), False

    def closing(z: Tensor) -> Tensor:
        found: Tensor = net(standard(z) if scaled else z)
        return found

    def coupled(function: Callable[..., Any]) -> bool:
        return told_of(lambda: fastsal.explain(function, x, "rise", n_masks=4))

    assert not coupled(closing)
    scaled = True
    assert coupled(closing)
    assert not coupled(by_global)
    monkeypatch.setitem(globals(), "SCALED", True)
    assert coupled(by_global)


def test_detectors_whose_targets_read_a_part_for_each_example() -> None:
    net = small()

    def detector(scale: Callable[[Tensor], Tensor]) -> Callable[[Tensor], list[dict[str, Tensor]]]:
        return lambda x: [{"scores": row.softmax(0).repeat(1 + len(x))} for row in net(scale(x))]

    x, target = image(batch=2), [lambda part: part["scores"][1]] * 2
    windows = (3, 4, 4), (3, 2, 2)
    for scale, expected in ((standard, True), (lambda x: x, False)):
        explainer = fastsal.Occlusion(detector(scale))
        assert told_of(lambda explainer=explainer: explainer.attribute(x, *windows, target=target)) == expected  # type: ignore[misc]
        alone = explainer.attribute(x, *windows, target=target, perturbations_per_eval=1)
        torch.testing.assert_close(explainer.attribute(x, *windows, target=target), alone)


def test_random_models_are_told_as_such() -> None:
    class Random(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = small()

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = F.dropout(self.net(x), 0.5, training=True)
            return found

    x, explainer = image(batch=2), fastsal.RISE(Random().eval())
    maps = []
    for _ in range(2):
        torch.manual_seed(3)
        with pytest.warns(UserWarning, match="changes from run to run"):
            maps.append(explainer.attribute(x, 1, n_masks=24))
        assert explainer.plan().sweeps[0].sizes == (24,)
    assert torch.equal(*maps)  # looking for it draws nothing


def test_a_model_for_its_own_number_of_rows() -> None:
    """An embedding of each row's place: two copies do not fit."""

    class Placed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.places, self.net = nn.Parameter(torch.randn(3, 1, 1, 1)), small()

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.net(x + self.places)
            return found

    model, x = Placed().eval(), image(batch=3)
    with pytest.warns(UserWarning, match="does not take two copies in one batch"):
        found = fastsal.Occlusion(model).attribute(x, (3, 4, 4), (3, 2, 2), target=1)
    torch.testing.assert_close(found, captum.Occlusion(model).attribute(x, (3, 4, 4), (3, 2, 2), target=1))


def test_a_model_that_refuses_altered_values_is_asked_for_those_as_they_are() -> None:
    class Strict(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = small()

        def forward(self, x: Tensor) -> Tensor:
            if x[0].abs().amax() < 1.0:
                raise ValueError("too dark")
            found: Tensor = self.net(x) / len(x)
            return found

    with pytest.warns(UserWarning, match=TOLD):
        fastsal.FeatureAblation(Strict().eval()).attribute(
            image(batch=1).clamp(-1.5, 1.5), target=1, feature_mask=torch.arange(9) // 3, baselines=1.2
        )


def test_export_refuses_what_would_be_wrong() -> None:
    model, x = Scaled(standard).eval(), image(batch=1)
    with pytest.warns(UserWarning, match=TOLD), pytest.raises(ValueError, match=r"perturbations_per_eval: .* pass 1"):
        fastsal.export(fastsal.Occlusion(model), x, "no.pt2", sliding_window_shapes=(3, 4, 4), strides=(3, 4, 4))


@pytest.mark.filterwarnings("ignore:.*copies are run one at a time")
@pytest.mark.parametrize("kind", [fastsal.RISE, fastsal.IntegratedGradients, fastsal.KernelShap, fastsal.GradientShap])
def test_a_number_of_rows_that_copies_happen_to_have(kind: Any) -> None:
    """Eight queries whatever the batch: eight copies in one call are no eight scores."""
    torch.manual_seed(0)
    queries = torch.randn(8, 4)

    def forward(x: Tensor) -> Tensor:
        return queries * x.flatten(1).mean(0)[:4].tanh()

    x = torch.randn(1, 3, 8, 8)
    parameters = inspect.signature(kind.attribute).parameters
    count = next(name for name in ("n_masks", "n_steps", "n_samples") if name in parameters)
    options: dict[str, Any] = {"baselines": 0 * x} if kind is fastsal.GradientShap else {}
    with pytest.raises(ValueError, match=r"\(8,\)"):
        kind(forward).attribute(x, target=1, **{count: 8}, **options)
