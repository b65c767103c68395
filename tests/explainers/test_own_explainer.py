"""An explainer of one's own: its file, a line that registers it, and it works wherever ours do (CONTRIBUTING)."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import fastsal
from fastsal import Call, PerturbationAttribution, attribution, register
from fastsal.cli import main
from fastsal.explainers import registry
from tests.explainers.networks import image, small

MOST_NAMES = 8


class BandDarkening(PerturbationAttribution):
    """What the score loses where a band of the image's rows is darkened: a sweep of a few lines."""

    summary = "drop of the score where rows are darkened"
    cost = "1 forward for each band, 1 forward"
    fixed = exportable = True
    shape = "positions"

    @attribution
    def attribute(
        self,
        inputs: Any,
        target: Any = None,
        additional_forward_args: Any = None,
        *,
        n_bands: int = 4,
        perturbations_per_eval: int | None = None,
        show_progress: bool = False,
    ) -> Call[Tensor]:
        """Maps [B, 1, H, W] of images [B, C, H, W]."""
        task = self.task(
            inputs, target, additional_forward_args, per_call=perturbations_per_eval, show_progress=show_progress
        )
        (images,) = task.inputs
        height, width = images.shape[2:]
        band = torch.arange(height, device=images.device) * n_bands // height
        scores: dict[int, Tensor] = {}

        def work(start: int, stop: int) -> Tensor:
            light = torch.stack([band != each for each in range(start, stop)]).to(images)
            altered = images * light.view(stop - start, 1, 1, height, 1)
            return task.scores(stop - start, {0: altered.flatten(0, 1)})[..., 0]

        def keep(start: int, stop: int, found: Tensor) -> None:
            scores.update(zip(range(start, stop), found, strict=True))

        def finish() -> Tensor:
            clean = task.scores(1, {})[0, :, 0]
            drops = clean - torch.stack([scores[each] for each in range(n_bands)])
            return drops[band].T[:, None, :, None].expand(-1, 1, -1, width).contiguous()

        return task.sweep(n_bands, work, keep, finish)


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    known = dict(registry._registered)
    register(BandDarkening)
    yield
    registry._registered.clear()
    registry._registered.update(known)


def by_hand(model: Any, x: Tensor, target: Tensor, bands: int) -> Tensor:
    rows = torch.arange(x.shape[2]) * bands // x.shape[2]
    result = torch.zeros(len(x), 1, *x.shape[2:], dtype=x.dtype)
    clean = model(x).gather(1, target[:, None])[:, 0]
    for each in range(bands):
        darkened = x.clone()
        darkened[:, :, rows == each] = 0
        drop = clean - model(darkened).gather(1, target[:, None])[:, 0]
        result[:, :, rows == each] = drop[:, None, None, None]
    return result.detach()


def test_the_map() -> None:
    model, x, target = small(), image(), torch.tensor([1, 0, 3])
    expected = by_hand(model, x, target, 4)
    for size in (None, 1, 3):
        found = BandDarkening(model).attribute(x, target, perturbations_per_eval=size)
        torch.testing.assert_close(found, expected)


def test_explain_knows_it() -> None:
    model, x = small(), image()
    explanation = fastsal.explain(model, x, "band-darkening", n_bands=2, score="output")
    assert torch.equal(torch.as_tensor(explanation.target), model(x).argmax(1))
    torch.testing.assert_close(explanation.map, by_hand(model, x, model(x).argmax(1), 2))
    assert "band-darkening" in fastsal.methods()
    assert explanation.options == {"band-darkening": {"n_bands": 2}}


def test_it_compiles() -> None:
    model, x = small(), image()
    compiled = fastsal.compile(BandDarkening(model), x, n_bands=3)
    found = compiled(x)
    torch.testing.assert_close(found.output, model(x).detach())
    torch.testing.assert_close(found.attribution, by_hand(model, x, model(x).argmax(1), 3))


@pytest.mark.native
@pytest.mark.skipif(torch.__version__ < (2, 11), reason="fastsal.export needs PyTorch 2.11")
def test_it_is_exported(tmp_path: Path) -> None:
    model, x = small(), image()
    package = fastsal.load(fastsal.export(BandDarkening(model), x, tmp_path / "bands.pt2", n_bands=3), trust_code=True)
    found = package(x, torch.tensor([2, 1, 0]))
    torch.testing.assert_close(found.attribution, by_hand(model, x, torch.tensor([2, 1, 0]), 3))


def test_the_command_line_knows_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    canvas = next(Path(fastsal.models.__path__[0], "data").glob("canvas-*.png"))
    code = main(["explain", str(canvas), "--method", "band-darkening", "--out", str(tmp_path), "--json"])
    document = json.loads(capsys.readouterr().out)
    assert code == 0
    assert document["images"][0]["methods"]["band-darkening"]["finite"]
    assert (tmp_path / f"{canvas.stem}.band-darkening.png").is_file()


def test_it_imports_few_names() -> None:
    tree = ast.parse(Path(__file__).read_text())
    used = next(node for node in tree.body if isinstance(node, ast.ClassDef))
    imported = {
        alias.asname or alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fastsal")
        for alias in node.names
    }
    names = {node.id for node in ast.walk(used) if isinstance(node, ast.Name)} & (imported | {"fastsal"})
    assert len(names | {"register"}) <= MOST_NAMES


@pytest.mark.parametrize(
    ("explainer", "error", "message"),
    [
        (object, TypeError, "is no Attribution"),
        (fastsal.Attribution, TypeError, "with an attribute under"),
        (type("Plain", (BandDarkening,), {"summary": ""}), ValueError, "Plain has no summary"),
        (type("GradCAM", (BandDarkening,), {}), ValueError, "the name 'grad-cam' is GradCAM's"),
    ],
)
def test_what_is_not_registered(explainer: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        register(explainer)
