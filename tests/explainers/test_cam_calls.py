"""How a class activation map's call runs: one pass for prediction and map, options in the call, hooks to override."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastsal
from fastsal.engine.reading import Unrelated
from fastsal.explainers import describe
from tests.explainers.networks import image, small

RAW: dict[str, Any] = {"relu_attributions": False, "upsample": False, "normalize": False}
ONE_PASS = ("GradCAM", "LayerCAM", "EigenCAM", "KPCACAM", "FEM", "RandomCAM", "ShapleyCAM", "CAM")
SWEPT = ("ScoreCAM", "SSCAM", "ISCAM", "AblationCAM", "SmoothGradCAMPlusPlus")


class Chooser:
    """The top class, and what it was asked with."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def __call__(self, output: Tensor) -> Tensor:
        self.seen.append(output)
        return output.argmax(1)


class Counted(nn.Module):
    """Counts its passes."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.passes = small(dtype=torch.float64), 0

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        found: Tensor = self.inner(x)
        return found


def make(name: str, model: nn.Module) -> Any:
    if name in ("FullGrad", "LeGrad"):
        return getattr(fastsal, name)(model)
    return getattr(fastsal, name)(model, model.get_submodule("inner.last") if isinstance(model, Counted) else "last")


@pytest.mark.parametrize("name", [*ONE_PASS, *SWEPT, "FullGrad"])
def test_a_function_is_asked_once_for_the_prediction_of_the_same_pass(name: str) -> None:
    model, x, choose = Counted(), image(dtype=torch.float64), Chooser()
    call = describe(make(name, model), x, choose)
    found = call.run()
    if name not in SWEPT:
        assert model.passes == 1
    expected = model.inner(x).detach()
    assert len(choose.seen) == 1
    assert not choose.seen[0].requires_grad
    torch.testing.assert_close(choose.seen[0], expected)
    torch.testing.assert_close(call.task.output, expected)
    assert not call.task.output.requires_grad
    assert torch.equal(call.task.target, expected.argmax(1))
    torch.testing.assert_close(found, make(name, model).attribute(x, expected.argmax(1)))


@pytest.mark.parametrize("name", ["GradCAM", "EigenCAM", "ScoreCAM"])
def test_smoothed_maps_choose_for_the_inputs_as_they_are(name: str) -> None:
    model, x, choose = small(dtype=torch.float64), image(dtype=torch.float64), Chooser()
    found = make(name, model).attribute(x, choose, aug_smooth=True)
    assert len(choose.seen) == 1
    torch.testing.assert_close(found, make(name, model).attribute(x, model(x).argmax(1), aug_smooth=True))
    call = describe(make(name, model), x, 1, aug_smooth=True)
    call.run()
    torch.testing.assert_close(call.task.output, model(x).detach())


def test_a_default_layer_is_not_taken_from_a_call_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    explainer = fastsal.GradCAM(small())
    with caplog.at_level("INFO", "fastsal"):
        with pytest.raises(ValueError, match="target: 9"):
            explainer.attribute(image(), 9)
        assert caplog.messages == []
        for _ in range(2):
            explainer.attribute(image(), 1)
    assert caplog.messages == ["layer last [6, 4, 5], by default"]


def test_a_layer_off_the_way_is_an_error_of_its_own() -> None:
    class Beside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.beside = small(), nn.Conv2d(3, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            self.beside(x)
            found: Tensor = self.inner(x)
            return found

    with pytest.raises(Unrelated, match="layer: the target does not depend on its value"):
        fastsal.GradCAM(Beside(), "beside").attribute(image(), 1)


@pytest.mark.parametrize("name", [*ONE_PASS, *SWEPT, "FullGrad"])
def test_inputs_by_name(name: str) -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = small(dtype=torch.float64)

        def forward(self, *, pixels: Tensor, word: str) -> Tensor:
            found: Tensor = self.inner(pixels)
            return found if word == "once" else 2 * found

    model, x = Named(), image(dtype=torch.float64)
    layer = () if name == "FullGrad" else ("inner.last",)
    found = getattr(fastsal, name)(model, *layer).attribute({"word": "once", "pixels": x}, 1)
    torch.testing.assert_close(found, make(name, model.inner).attribute(x, 1))


@pytest.mark.parametrize("name", [*ONE_PASS, *SWEPT])
def test_the_parts_of_a_call(name: str) -> None:
    """attribute is read and render, and render combines."""
    model, x = small(dtype=torch.float64), image(dtype=torch.float64)
    explainer = make(name, model)
    options = {"perturbations_per_eval": 2} if name in SWEPT else {}
    reading = explainer.read(x, 1, **options)
    torch.testing.assert_close(reading.output, model(x).detach())
    assert torch.equal(explainer.render(reading, x), explainer.attribute(x, 1, **options))
    combined = explainer.combine(
        reading.activations[0], reading.fields[0], relu_attributions=False, normalize=False, size=x.shape[2:]
    )
    expected = explainer.attribute(x, 1, relu_attributions=False, normalize=False)
    torch.testing.assert_close(combined[:, None], expected)
    with pytest.raises(TypeError, match="n_masks"):
        explainer.read(x, 1, n_masks=3)


@pytest.mark.parametrize("name", SWEPT)
def test_sweeps_are_told_and_leave_inference_mode(name: str) -> None:
    model, x = small(dtype=torch.float64), image(dtype=torch.float64)
    explainer = getattr(fastsal, name)(model, "act")
    with torch.inference_mode():
        found = describe(explainer, x, 1, perturbations_per_eval=2).run()
        read = explainer.read(x, 1, perturbations_per_eval=2)
    assert not found.is_inference()
    assert not any(field.is_inference() for field in read.fields)
    torch.testing.assert_close(found, explainer.attribute(x, 1, perturbations_per_eval=2))
    sweeps = explainer.plan().sweeps
    assert {swept.description for swept in sweeps} == {explainer.get_name()}
    assert all(max(swept.sizes) <= 2 for swept in sweeps)


@pytest.mark.parametrize("name", SWEPT)
def test_a_bar_while_it_runs(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    explainer = getattr(fastsal, name)(small(), "act")
    explainer.attribute(image(), 1)
    assert capsys.readouterr().err == ""
    explainer.attribute(image(), 1, show_progress=True)
    assert explainer.get_name() in capsys.readouterr().err


def halved(base: type[Any], hook: str, change: Callable[[Tensor], Tensor]) -> type[Any]:
    def altered(self: Any, *args: Any) -> Tensor:
        return change(getattr(base, hook)(self, *args))

    return type(base.__name__, (base,), {hook: altered})


def test_masks_and_replacements_are_hooks() -> None:
    model, x = small(dtype=torch.float64), image(dtype=torch.float64)
    none = halved(fastsal.ScoreCAM, "mask", torch.zeros_like)(model, "last").attribute(x, 1, **RAW)
    a = fastsal.EigenCAM(model, "last").read(x).activations[0]
    # Every channel leaves the same, so all weigh alike.
    torch.testing.assert_close(none[:, 0], a.mean(1))
    kept = halved(fastsal.AblationCAM, "replacement", lambda zeros: zeros + 0.5)(model, "last").attribute(x, 1, **RAW)
    weights = model.head.weight[1] * (a - 0.5).flatten(2).mean(2) / model(x)[:, 1:2]
    torch.testing.assert_close(kept[:, 0], torch.einsum("bc,bchw->bhw", weights, a).detach())
