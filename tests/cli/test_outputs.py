"""What the command line writes: nothing is lost, nothing is left half, and each failure is one line."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fastsal import models
from fastsal.cli import demo, results
from fastsal.explainers import registry
from tests.cli.conftest import Command
from tests.cli.made import made

__all__ = ["made"]


def strict(text: str) -> Any:
    """JSON as the standard has it: no NaN."""

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    return json.loads(text, parse_constant=refuse)


def picture(path: Path, seed: int = 0, size: tuple[int, int] = (40, 30)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, "PNG")
    return path


def test_an_input_is_never_overwritten(fastsal: Command, tmp_path: Path) -> None:
    """Its results go elsewhere where their names would be an input's; also by another name of it."""
    first, second = picture(tmp_path / "x.png"), picture(tmp_path / "x.gradcam.png", 1)
    before = second.read_bytes()
    result = fastsal("explain", first, second, "--out", tmp_path, "--overwrite", "--json")
    assert result.code == 0
    assert second.read_bytes() == before
    assert [Path(image["sheet"]).name for image in result.document["images"]] == [
        "x-2.sheet.png",
        "x.gradcam.sheet.png",
    ]
    alias = tmp_path / "alias" / "y.sheet.png"
    alias.parent.mkdir()
    alias.symlink_to(second)
    given = picture(tmp_path / "y.png", 2)
    assert fastsal("explain", given, second, "--out", alias.parent, "--overwrite").code == 0
    assert alias.is_symlink()
    assert second.read_bytes() == before


def test_results_of_another_image_stay(fastsal: Command, refused: Any, tmp_path: Path) -> None:
    cat, dog, out = picture(tmp_path / "cats" / "1.png"), picture(tmp_path / "dogs" / "1.png", 1), tmp_path / "maps"
    assert fastsal("explain", cat, "--out", out).code == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    message = refused("explain", dog, "--out", out)
    assert "1.gradcam.png is there already, and not of" in message
    assert "--overwrite" in message
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert fastsal("explain", cat, "--out", out).code == 0  # its own may be made again
    assert fastsal("explain", dog, "--out", out, "--overwrite").code == 0
    assert (out / "1.gradcam.npy").read_bytes() != before["1.gradcam.npy"]


def test_files_of_other_programs_stay(refused: Any, tmp_path: Path) -> None:
    image, out = picture(tmp_path / "a.png"), tmp_path / "out"
    out.mkdir()
    (out / "a.gradcam.npy").write_text("precious")
    assert "a.gradcam.npy is there already" in refused("explain", image, "--out", out)
    (out / "a.gradcam.npy").unlink()
    (out / "a.sheet.png").mkdir()
    assert "a.sheet.png is a folder" in refused("explain", image, "--out", out, "--overwrite")
    assert [path.name for path in out.iterdir()] == ["a.sheet.png"]


def test_a_full_disk_leaves_nothing_half(fastsal: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image, out = picture(tmp_path / "a.png"), tmp_path / "out"

    def full(file: Any, array: Any) -> None:
        Path(file).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(results.np, "save", full)
    result = fastsal("explain", image, "--out", out)
    assert result.code == 2
    assert "No space left on device" in result.err
    assert result.err.count("\n") == 1
    assert list(out.iterdir()) == []


def test_another_process_is_not_overtaken(tmp_path: Path) -> None:
    """A file that appears between the check and the renaming stays."""
    places = results.Results(tmp_path, [])
    image = picture(tmp_path / "in" / "a.png")
    assert places.stems([image], ["gradcam"]) == ["a"]
    (tmp_path / "a.sheet.png").write_text("quicker")
    with places.aside() as folder:
        (folder / "a.sheet.png").write_text("late")
        with pytest.raises(results.Refused, match="is there already"):
            places.place(folder / "a.sheet.png", image)
    assert (tmp_path / "a.sheet.png").read_text() == "quicker"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.sheet.png", "in"]


def test_a_bad_image_and_a_raising_model_are_a_line_each(fastsal: Command, made: str, tmp_path: Path) -> None:
    dark = tmp_path / "dark.png"
    Image.new("RGB", (20, 20)).save(dark)
    (tmp_path / "text.png").write_text("no image")
    good = [picture(tmp_path / "a.png"), picture(tmp_path / "b.png", 1)]
    images = (good[0], dark, "text.png", good[1])
    result = fastsal("explain", *images, "--model", f"{made}:Dark", "--size", 16, "--out", "out", "--json")
    assert result.code == 1
    assert [image["image"] for image in result.document["images"]] == [str(path) for path in good]
    assert [error["image"] for error in result.document["errors"]] == [str(dark), "text.png"]
    assert "too dark" in result.err.splitlines()[0]
    assert len(result.err.splitlines()) == 2


def test_a_method_that_refuses_leaves_the_others(fastsal: Command, made: str, tmp_path: Path) -> None:
    image = picture(tmp_path / "a.png")
    result = fastsal(
        *("explain", image, "--model", f"{made}:net", "--size", 16, "--out", "out", "--json"),
        *("--method", "saliency,le-grad"),
    )
    assert result.code == 1
    assert list(result.document["images"][0]["methods"]) == ["saliency"]
    assert [error["method"] for error in result.document["errors"]] == ["le-grad"]


@pytest.mark.parametrize(
    ("model", "code", "said"),
    [
        ("prints", 0, None),
        ("named", 0, None),
        ("squeezed", 0, None),
        ("nan", 2, "the model's scores are not finite"),
        ("raises", 2, "RuntimeError: boom"),
        ("leaves", 2, "SystemExit: 3"),
        ("key", 2, "the model fails on an input of shape (1, 3, 16, 16): KeyError: 'nothing'"),
    ],
)
def test_json_whatever_the_model_does(
    fastsal: Command, made: str, tmp_path: Path, model: str, code: int, said: str | None
) -> None:
    image = picture(tmp_path / "a.png")
    result = fastsal("explain", image, "--model", f"{made}:{model}", "--size", 16, "--out", "out", "--json")
    assert result.code == code
    assert result.out.count("\n") == 1
    document = strict(result.out)
    assert ("a pass" in result.err) == (model == "prints")
    if said is not None:
        assert said in json.dumps(document, ensure_ascii=False).replace('\\"', '"')
        assert len(result.err.splitlines()) == 1


def test_values_that_are_not_finite_are_null(capsys: pytest.CaptureFixture[str]) -> None:
    from fastsal.cli.console import Console

    Console(as_json=True).document({"a": [float("nan"), {"b": float("inf")}], "c": "\udcff", "d": (1, 2.5)})
    assert strict(capsys.readouterr().out) == {"a": [None, {"b": None}], "c": "\\udcff", "d": [1, 2.5]}


def test_an_interruption_keeps_what_is_done(fastsal: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = [picture(tmp_path / f"{name}.png", seed) for seed, name in enumerate("abc")]
    read = models.read_image

    def interrupted(path: Path) -> Any:
        if path.stem == "c":
            raise KeyboardInterrupt
        return read(path)

    monkeypatch.setattr(models, "read_image", interrupted)
    result = fastsal("explain", *images, "--out", tmp_path / "out", "--json")
    assert result.code == 130
    document = strict(result.out)
    assert document["interrupted"]
    assert [image["image"] for image in document["images"]] == [str(path) for path in images[:2]]
    for image in document["images"]:
        assert Path(image["sheet"]).is_file()


def test_names_that_terminals_would_obey(fastsal: Command, tmp_path: Path) -> None:
    """Line breaks, escapes, bytes that are no text, and names as long as the file system takes."""
    names = ["new\nline", "\x1b[31mred", "é" * 60, "x" * 240, os.fsdecode(b"\xff\xfe")]
    images = [picture(tmp_path / "in" / f"{name}.png", seed) for seed, name in enumerate(names)]
    broken = tmp_path / "in" / "bro\nken.png"
    broken.write_text("no image")
    result = fastsal("explain", *images, broken, "--out", tmp_path / "out")
    assert result.code == 1
    assert len(result.out.splitlines()) == 1 + len(images)
    assert "\x1b" not in result.out + result.err
    assert result.err.splitlines()[-1].endswith("in/bro\\nken.png is not an image that Pillow can read")
    assert len(list((tmp_path / "out").glob("*.sheet.png"))) == len(images)


def test_a_method_spelled_as_a_path(fastsal: Command, tmp_path: Path) -> None:
    image = picture(tmp_path / "a.png")
    assert fastsal("explain", image, "--method", "../../grad-cam", "--out", tmp_path / "p" / "q").code == 0
    assert (tmp_path / "p" / "q" / "a.grad-cam.npy").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "p"]


def test_a_side_of_just_the_size(fastsal: Command, tmp_path: Path) -> None:
    """The crop's box does not reach out of the image by rounding."""
    for width, height in ((550, 450), (449, 1001), (97, 96)):
        path = picture(tmp_path / f"{width}.png", 0, (height, width))
        assert fastsal("explain", path, "--method", "saliency", "--size", "448", "--out", tmp_path / "out").code == 0


def test_the_demo_twice(fastsal: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = models.demo_images()[:1]
    monkeypatch.setattr(models, "demo_images", lambda: images)
    quick = [registry.find(name) for name in ("saliency", "grad-cam", "feature-ablation")]
    monkeypatch.setattr(demo, "registered", lambda: quick)
    assert fastsal("demo", "--out", tmp_path).code == 0
    shutil.rmtree(tmp_path / "sweeps")
    assert fastsal("demo", "--out", tmp_path).code == 0
