"""The matrix of architectures: how cells are judged, and that docs/models.md says what they say."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tools.models import claims, results
from tools.models.cell import NONE, OK, REFUSED, WRONG, Cell, Meaningless, Wrong, apart, is_refusal, near, run_cell
from tools.models.checks import METHODS
from tools.models.publish import page
from tools.models.results import FOLDER
from tools.models.stated import Stated, by_convolutions, strided
from tools.models.subject import Subject, away_from_zero, made, textured

# A cell may be without a meaning for these reasons, and for no other.
EXCLUDED = {
    "LeGrad without attention over patches": {"le-grad"},
    "CAM without positions": {"grad-cam", "layer-cam", "eigen-cam", "ablation-cam"},
    "RISE and Occlusion of token ids": {"rise", "occlusion", "incremental"},
}


class Small(nn.Module):
    """A convolutional network with a parameter that starts at zero."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.body = nn.Conv2d(6, 8, 3, stride=2, padding=1)
        self.gain = nn.Parameter(torch.zeros(8))
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(self.norm(self.stem(x)).relu()).relu()
        found: Tensor = self.head((self.gain * x.mean((2, 3))) + x.mean((2, 3)))
        return found


@pytest.fixture(scope="module")
def small() -> Subject:
    torch.manual_seed(0)
    return made("tests:small", Small(), textured(2, 3, 24, 32), "image", 1, by_convolutions)


@pytest.mark.parametrize(
    "method", [name for name in METHODS if name not in ("package", "le-grad", "wrapped: compiled")]
)
def test_a_plain_network_is_right(small: Subject, method: str) -> None:
    cell = run_cell(small, method, METHODS[method], 60)
    assert (cell.status, cell.changed) == (OK, ""), cell


def test_a_network_without_attention(small: Subject) -> None:
    cell = run_cell(small, "le-grad", METHODS["le-grad"], 60)
    assert cell.status == NONE
    assert cell.detail in EXCLUDED


def test_a_wrong_value_is_wrong(small: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    import fastsal

    monkeypatch.setattr(fastsal.Saliency, "attribute", lambda _self, x, target: torch.ones_like(x))
    assert run_cell(small, "saliency", METHODS["saliency"], 60).status == WRONG


def test_rounding_is_no_fault_of_deep_lift_and_nothing_else_is_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a network that Captum explains exactly too: a delta of 1e-9 of the change is more than rounding."""
    import fastsal

    torch.manual_seed(0)
    layers = nn.Conv2d(3, 6, 3, 2), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)
    exact = made("tests:modules", nn.Sequential(*layers), textured(2, 3, 24, 32), "image", 1, by_convolutions).double()
    assert float(METHODS["deep-lift"](exact).split("rounding ")[1]) < 1e-11
    attribute = fastsal.DeepLift.attribute

    def off(explainer: fastsal.DeepLift, *args: Any, **options: Any) -> Any:
        maps, delta = attribute(explainer, *args, **options)
        return maps * (1 + 1e-9), delta + 1e-9 * maps.flatten(1).sum(1)

    monkeypatch.setattr(fastsal.DeepLift, "attribute", off)
    with pytest.raises(Wrong, match="of the change, Captum's"):
        METHODS["deep-lift"](exact)


def test_what_is_left_on_the_model_is_told(small: Subject) -> None:
    def leaves_a_hook(subject: Subject) -> str:
        subject.model.register_forward_hook(lambda *_: None)
        return ""

    cell = run_cell(small, "saliency", leaves_a_hook, 60)
    small.model._forward_hooks.clear()
    assert "hooks" in cell.changed


def test_refusals_are_the_librarys_own(small: Subject) -> None:
    import fastsal

    with pytest.raises(ValueError, match="target") as refused:
        fastsal.Saliency(small.model).attribute(small.inputs, target=99)
    assert is_refusal(refused.value)
    assert not is_refusal(ValueError("target: raised here"))

    def without(_subject: Subject) -> str:
        raise Meaningless("CAM without positions")

    assert run_cell(small, "grad-cam", without, 60).status == NONE
    assert run_cell(small, "grad-cam", lambda s: str(1 / 0), 60).status == "error"
    assert run_cell(small, "grad-cam", lambda s: METHODS["saliency"](_beyond(s)), 60).status == REFUSED


def _beyond(subject: Subject) -> Subject:
    return Subject(subject.name, subject.model, subject.inputs, subject.kind, 99, subject.stated)


def test_stated_grids_arrange_each_layout() -> None:
    stated = Stated(((3, 4),), before=2, behind=1)
    places = torch.arange(24.0).reshape(1, 2, 3, 4).expand(5, 2, 3, 4)
    tokens = torch.cat([torch.full((5, 2, 2), -1.0), places.flatten(2).mT, torch.full((5, 1, 2), -1.0)], 1)
    for value in (places, places.movedim(1, -1), tokens, tokens.mT):
        found = stated.arrange(value, 5)
        assert found is not None
        assert torch.equal(found[0], places)
    for shape in ((5, 2, 4, 3), (5, 4, 3, 2), (4, 2, 3, 4), (5, 14, 2)):
        assert stated.arrange(torch.zeros(shape), 5) is None
    assert strided((31, 40), [4, 16]).grids == ((2, 3), (1, 2), (8, 10), (7, 10))


def test_weights_at_zero_are_moved_and_others_are_not() -> None:
    model = Small()
    before = model.head.weight.clone()
    away_from_zero(model)
    assert model.gain.min() > 0
    assert torch.equal(model.head.weight, before)


def test_nan_is_never_near() -> None:
    assert apart(torch.tensor([math.nan]), torch.tensor([math.nan])) == math.inf
    assert apart(torch.zeros(2), torch.zeros(3)) == math.inf
    with pytest.raises(Wrong):
        near("map", torch.tensor([1.1]), torch.tensor([1.0]), 1e-2)


def test_cells_are_kept_and_the_last_counts(tmp_path: Path) -> None:
    for status in (WRONG, OK):
        results.append(tmp_path, Cell("timm:a", "saliency", status))
    results.append(tmp_path, Cell("timm:a", "a method that is gone", OK))
    results.compact(tmp_path, METHODS)
    assert list(results.read(tmp_path).values()) == [Cell("timm:a", "saliency", OK)]


def test_the_page_says_what_the_cells_say(root: Path) -> None:
    assert (root / "docs" / "models.md").read_text() == page(results.read(FOLDER))


def test_what_is_without_meaning_is_on_the_list() -> None:
    found = claims.excluded(results.read(FOLDER).values())
    for reason, cells in found.items():
        print(f"{reason}: {', '.join(f'{cell.model} {cell.method}' for cell in cells)}")
        assert {cell.method for cell in cells} <= EXCLUDED[reason]


def test_no_published_cell_is_wrong() -> None:
    assert claims.bad(results.read(FOLDER).values()) == []


@pytest.mark.parametrize("method", claims.HELD)
def test_nearly_all_published_cells_are_ok(method: str) -> None:
    """Of those that have a meaning."""
    count = claims.count(results.read(FOLDER).values(), method)
    assert count.ok >= claims.LEAST_OK * count.meant


def test_default_layers_are_found() -> None:
    cells = list(results.read(FOLDER).values())
    assert len(claims.refused_for_geometry(cells)) <= claims.MOST_REFUSED_FOR_GEOMETRY
