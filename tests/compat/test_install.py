"""fastsal.compat.captum: the names, and putting them in place of Captum's in a running program."""

from __future__ import annotations

import inspect
import subprocess
import sys
import types
import warnings
from collections.abc import Iterator
from typing import Any

import captum.attr
import captum.metrics
import pytest
import torch
from torch import nn

import fastsal
import fastsal.metrics
from fastsal.compat import captum as compat
from tests.explainers.networks import image, small

NAMES = [each.__name__ for each in (*compat.CLASSES, *compat.TEXTS)]
ORIGINAL = {name: getattr(captum.attr, name) for name in (*NAMES, *compat.BASES)}


@pytest.fixture(autouse=True)
def nothing_stays() -> Iterator[None]:
    yield
    compat.uninstall()
    for name, original in ORIGINAL.items():
        assert getattr(captum.attr, name) is original


@pytest.fixture
def library() -> Iterator[types.ModuleType]:
    """A module of somebody's that imported Captum's classes before."""
    module = types.ModuleType("somebodys_library")
    module.IG, module.attr = captum.attr.IntegratedGradients, captum.attr  # type: ignore[attr-defined]
    module.own = fastsal.Saliency  # type: ignore[attr-defined]
    sys.modules[module.__name__] = module
    yield module
    del sys.modules[module.__name__]


def test_every_class_that_both_have_is_there() -> None:
    both = [name for name in captum.attr.__all__ if hasattr(fastsal, name) and name not in compat.BASES]
    around = [each.__name__ for each in compat.AROUND]
    assert sorted(both) == sorted([*NAMES, *around, "StatValue"])
    assert len(both) + len(compat.BASES) + 1 == 72  # of 75; and the module of pictures, which is fastsal.viz here
    for name in NAMES:
        assert issubclass(getattr(compat, name), getattr(fastsal, name))


def test_install_names_what_it_replaced_and_uninstall_puts_it_back(library: Any) -> None:
    before = {name: dict(vars(module)) for name, module in sys.modules.items() if name.startswith("captum")}
    replaced = compat.install()
    assert "captum.attr.IntegratedGradients" in replaced
    assert "captum.metrics.infidelity" in replaced
    assert "somebodys_library.IG" in replaced
    assert "somebodys_library.own" not in replaced
    assert not [name for name in replaced if name.startswith("captum.attr._")]
    assert issubclass(captum.attr.IntegratedGradients, fastsal.IntegratedGradients)
    assert library.IG is captum.attr.IntegratedGradients
    assert library.own is fastsal.Saliency
    assert compat.install() == []
    assert compat.uninstall() == sorted(replaced)
    assert library.IG is ORIGINAL["IntegratedGradients"]
    assert before == {name: dict(vars(module)) for name, module in sys.modules.items() if name.startswith("captum")}
    assert compat.uninstall() == []


def test_modules_loaded_while_installed_get_ours_and_are_undone_too(library: Any) -> None:
    with compat.install():
        later = types.ModuleType("loaded_later")
        exec(  # what an import statement in it would do
            "from captum.attr import Occlusion, Saliency as S\nfrom fastsal.compat.captum import Lime", vars(later)
        )
        sys.modules["loaded_later"] = later
        library.IG = None  # bound anew meanwhile
        mine = later.Lime
        assert issubclass(later.Occlusion, fastsal.Occlusion)
    try:
        assert later.Occlusion is ORIGINAL["Occlusion"]
        assert later.S is ORIGINAL["Saliency"]
        assert later.Lime is mine
        assert library.IG is None
    finally:
        del sys.modules["loaded_later"]


def test_base_classes_hold_for_both_packages() -> None:
    model = small()
    theirs = ORIGINAL["Saliency"](model)
    with compat.install():
        for explainer in (theirs, captum.attr.Saliency(model), fastsal.Saliency(model)):
            assert isinstance(explainer, captum.attr.GradientAttribution)
            assert isinstance(explainer, captum.attr.Attribution)
            assert not isinstance(explainer, captum.attr.PerturbationAttribution)
        assert issubclass(captum.attr.LayerGradCam, captum.attr.LayerAttribution)

        class Own(captum.attr.Attribution):  # type: ignore[misc]
            pass

        assert isinstance(Own(model), Own)
        assert isinstance(Own(model), captum.attr.Attribution)
        assert not isinstance(fastsal.Saliency(model), Own)
        maps = torch.randn(1, 1, 2, 2)
        assert captum.attr.LayerAttribution.interpolate(maps, (4, 4)).shape == (1, 1, 4, 4)


def test_a_library_that_finds_classes_by_name() -> None:
    """As quality metrics do: the class by name, keyword arguments, a batch with a target each."""
    model, x = small(), image()

    def explain(name: str, **options: Any) -> torch.Tensor:
        explainer = getattr(captum.attr, name)(model)
        return explainer.attribute(inputs=x, target=torch.tensor([1, 2, 0]), **options)

    calls: dict[str, dict[str, Any]] = {
        "Saliency": {},
        "InputXGradient": {},
        "IntegratedGradients": {"baselines": torch.zeros_like(x), "n_steps": 8, "method": "riemann_trapezoid"},
        "GuidedBackprop": {},
        "Deconvolution": {},
        "FeatureAblation": {"feature_mask": torch.arange(72).reshape(1, 1, 8, 9) // 10},
        "Occlusion": {"sliding_window_shapes": (3, 4, 4), "strides": (3, 2, 2)},
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = {name: explain(name, **options) for name, options in calls.items()}
    with compat.install():
        for name, options in calls.items():
            torch.testing.assert_close(explain(name, **options), theirs[name].detach(), rtol=1e-4, atol=1e-5)


def test_the_dtypes_are_captums() -> None:
    for dtype in (torch.float64, torch.float16, torch.bfloat16):
        model, x = small(dtype=dtype), image(dtype=dtype)
        for name, options in (
            ("Occlusion", {"sliding_window_shapes": (3, 8, 9)}),
            ("ShapleyValueSampling", {"feature_mask": torch.zeros(1, 1, 1, 1).long(), "n_samples": 1}),
            ("ShapleyValues", {"feature_mask": torch.zeros(1, 1, 1, 1).long()}),
            ("IntegratedGradients", {"n_steps": 2}),
            ("Saliency", {}),
        ):
            theirs = getattr(captum.attr, name)(model).attribute(x, target=1, **options)
            with compat.install():
                ours = getattr(captum.attr, name)(model).attribute(x, target=1, **options)
            assert ours.dtype == theirs.dtype, (name, dtype)
            assert getattr(compat, name)(model).attribute(x, target=1, **options).dtype == theirs.dtype
            assert getattr(fastsal, name)(model).attribute(x, target=1, **options).dtype == dtype


def test_signatures_survive_and_captum_calls_what_is_wrapped() -> None:
    for name in (each.__name__ for each in compat.CLASSES):
        ours, theirs = getattr(compat, name).attribute, getattr(fastsal, name).attribute
        assert inspect.signature(ours) == inspect.signature(theirs)
    model, x = small(dtype=torch.float64), image(dtype=torch.float64)
    explainer = compat.Occlusion(model)
    assert explainer.attribute.__wrapped__(explainer, x, (3, 8, 9), target=1).dtype == torch.float32


def test_metrics_with_explainers_of_either_package() -> None:
    model, x = small(dtype=torch.float64), image(dtype=torch.float64)

    def perturb(inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        noise = 0.1 * torch.ones_like(inputs)
        return noise, inputs - noise

    for namespace in (fastsal, captum.attr):
        explainer = namespace.Saliency(model)
        found = explainer.attribute(x.clone(), target=1).detach()
        expected = captum.metrics.infidelity(model, perturb, x, found, target=1)
        torch.testing.assert_close(fastsal.metrics.infidelity(model, perturb, x, found, target=1), expected)
        for metric in (captum.metrics.sensitivity_max, fastsal.metrics.sensitivity_max):
            assert metric(explainer.attribute, x, target=1).shape == (3,)


def test_without_captum_there_is_a_clear_error() -> None:
    code = (
        "import sys; sys.modules['captum'] = None; sys.modules['captum.attr'] = None\n"
        "from fastsal.compat import captum\n"
        "assert captum.uninstall() == []\n"
        "try: captum.install()\n"
        "except ImportError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "captum is not installed" in done.stdout


class Words(nn.Module):
    """With an embedding inside of another module."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.ModuleDict({"words": nn.Embedding(7, 3)})

    def forward(self, x: torch.Tensor) -> Any:
        return self.inner["words"](x).sum(1)


def test_what_stands_for_an_embedding_is_of_the_class_that_the_program_imported() -> None:
    model, tokens = Words(), torch.tensor([[1, 2, 5]])
    own, expected = model.inner["words"], model(tokens)
    with compat.install():
        made = captum.attr.configure_interpretable_embedding_layer(model, "inner.words")
        assert model.inner["words"] is made
        assert type(made) is captum.attr.InterpretableEmbeddingBase
        for kind in (ValueError, AssertionError):  # ours and Captum's
            with pytest.raises(kind, match="InterpretableEmbeddingBase already"):
                captum.attr.configure_interpretable_embedding_layer(model, "inner.words")
        torch.testing.assert_close(model(made.indices_to_embeddings(tokens)), expected)
        captum.attr.remove_interpretable_embedding_layer(model, made)
    assert model.inner["words"] is own


def test_statistics_are_of_the_classes_that_the_program_imported() -> None:
    before = captum.attr.Mean()
    with compat.install():
        assert all(isinstance(each, captum.attr.Mean) for each in (before, captum.attr.Mean(), fastsal.Mean()))
        assert not isinstance(captum.attr.Max(), captum.attr.Mean)
        assert {type(each).__name__ for each in captum.attr.CommonStats() if isinstance(each, captum.attr.Var)}
        summarizer = captum.attr.Summarizer([captum.attr.Mean(), captum.attr.StdDev()])
        summarizer.update(torch.tensor([1.0, 2.0]))
        with pytest.raises(AssertionError, match="in the same form"):
            summarizer.update((torch.tensor([1.0, 2.0]),))
        assert summarizer.summary["mean"].tolist() == [1.0, 2.0]
