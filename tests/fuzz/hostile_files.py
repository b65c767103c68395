"""Hostile and damaged files for every reader: a result, or one line that says why not; nothing is run or written.

``python -m tests.fuzz.hostile_files --n 10000 --seed 1``
"""

from __future__ import annotations

import contextlib
import json
import random
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

import fastsal
from fastsal import models
from fastsal.deploy import read_metadata
from fastsal.models.files import load_model_file
from fastsal.models.weights import read_names, read_weights
from tests.fuzz import attacks, cases

READERS: tuple[Callable[[Path], Any], ...] = (load_model_file, read_weights, read_metadata, fastsal.load, read_names)
METADATA = {
    "fastsal_format": "1",
    "fastsal": "0.1.0",
    "torch": torch.__version__,
    "method": "Saliency",
    "options": "{}",
    "layers": "[]",
    "input_shape": "3,16,16",
    "input_dtype": "float32",
    "batch": "1-8",
    "outputs": "5",
    "map_shape": "3,16,16",
    "device": "cpu",
}


class Files:
    """Files in a folder, each of a kind that some reader takes, and how they are made hostile."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mark = folder / "mark"
        sources = folder / "sources"
        sources.mkdir()
        self.sources = [attacks.exported(sources / "exported.pt2"), self._package(sources / "package.pt2")]
        state = attacks.network().state_dict()
        torch.save(state, sources / "state.pt")
        torch.save({"state_dict": state, "class_to_idx": {"a": 0}}, sources / "checkpoint.pth")
        torch.save(state, sources / "legacy.bin", _use_new_zipfile_serialization=False)
        save_file(state, sources / "state.safetensors", {"class_names": '["a"]'})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.jit.save(torch.jit.trace(attacks.network(), torch.rand(1, 3, 16, 16)), sources / "script.ts")
        (sources / "names.json").write_text('{"cat": 0, "dog": 1}')
        pixels = np.random.default_rng(0).integers(0, 255, (24, 20, 3), dtype=np.uint8)
        for kind in ("png", "jpg", "gif", "bmp", "tiff", "webp", "ppm", "ico"):
            with contextlib.suppress(OSError, KeyError):
                Image.fromarray(pixels).save(sources / f"image.{kind}")
        self.sources = sorted(path for path in sources.iterdir())
        hostile = folder / "hostile"
        hostile.mkdir()
        self.attacks = [
            *attacks.archives(sources / "exported.pt2", hostile, self.mark).values(),
            *attacks.others(hostile, self.mark).values(),
        ]

    def _package(self, path: Path) -> Path:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("m/archive_format", "pt2")
            archive.writestr("m/data/aotinductor/model/x.wrapper.so", b"\x7fELF" + bytes(64))
            archive.writestr("m/data/aotinductor/model/x_metadata.json", json.dumps(METADATA))
        return path

    def one(self, random: random.Random) -> str:
        """One hostile file given to a reader; the kind of outcome."""
        path = self._made(random, self.folder / "case")
        before = path.read_bytes()
        image = path.suffix in (".png", ".jpg", ".gif", ".bmp", ".tiff", ".webp", ".ppm", ".ico")
        readers = (models.read_image,) if image and random.random() < 0.9 else READERS
        outcome = "refused"
        for read in readers if random.random() < 0.3 else (random.choice(readers),):
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    read(path)
                outcome = "read"
            except (ValueError, OSError) as error:
                text = str(error).replace(str(path), "")
                assert text.strip(), f"{read.__name__}: no reason"
                assert "\n" not in text, f"{read.__name__}: {text!r}"
            assert not attacks.cleared(self.mark), f"{read.__name__} executed or wrote something"
        assert path.read_bytes() == before
        path.unlink()
        found = sorted(each.name for each in self.folder.iterdir())
        assert found == ["hostile", "sources"], found
        return outcome

    def _made(self, random: random.Random, base: Path) -> Path:
        source = random.choice(self.attacks if random.random() < 0.3 else self.sources)
        suffix = source.suffix if random.random() < 0.9 else random.choice((".pt2", ".pt", ".safetensors", ".png", ""))
        path = base.with_suffix(suffix)
        content = source.read_bytes()
        if zipfile.is_zipfile(source) and random.random() < 0.7:
            _rewrite(source, path, random)
        elif source.suffix == ".json":
            path.write_text(json.dumps(cases.altered(json.loads(content), random)))
        else:
            path.write_bytes(cases.damaged(content, random) if random.random() < 0.9 else content)
        return path


def _rewrite(source: Path, path: Path, random: random.Random) -> None:
    """An archive with one member altered: its JSON, its bytes, its name, or all of it."""
    with zipfile.ZipFile(source) as old:
        names = old.namelist()
    chosen = random.choice([name for name in names if name.endswith(".json")] or names)
    if random.random() < 0.4:
        chosen = random.choice(names)
    member = chosen.partition("/")[2]
    way = random.choice(("json", "json", "json", "bytes", "drop", "name", "other"))

    def change(name: str, content: bytes) -> bytes | None:
        if name != member:
            return content
        if way == "drop":
            return None
        if way == "other":
            return source.read_bytes()
        if way == "json" and name.endswith(".json"):
            with contextlib.suppress(ValueError):
                return json.dumps(cases.altered(json.loads(content), random)).encode()
        return cases.damaged(content, random)

    added = {} if way != "name" else {f"ROOT/{random.choice(cases.TEXTS[:4])}{member}"[:200].replace("\x00", ""): b"{}"}
    attacks.rewritten(source, path, change, added)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        cases.run_many(__doc__, Files(Path(folder)).one)
