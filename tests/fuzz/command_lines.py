"""Hostile option lists for ``fastsal explain``: an exit code and lines; no traceback, nothing run, nothing overwritten.

``python -m tests.fuzz.command_lines --n 10000 --seed 1``
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import shutil
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from fastsal.cli import main
from tests.cli.made import MODULE
from tests.fuzz import attacks, cases

NAMES = ("a.png", "b.png", "a.gradcam.png", "a.sheet.png", "new\nline.png", "\x1b[2J.png", "é.png", "-x.png", "c.d.png")
MADE = (
    *("net", "prints", "soft", "nan", "single", "labels", "squeezed"),
    *("named", "raises", "leaves", "key", "Dark", "absent"),
)
METHODS = (
    *("saliency", "gradcam", "grad-cam", "gradcam++", "input-x-gradient", "eigen-cam", "occlusion", "rise", "le-grad"),
    *("feature-permutation", "nonsense", "", ",", "../grad-cam", "GradCAM", "grad cam", "deep-lift", "lrp"),
)
OPTIONS = (
    *("n_masks=3", "n_masks=0", "n_masks=x", "n_masks=None", "rise.n_masks=4", "seed=1", "seed=" + "9" * 30, "abs=1"),
    *(
        "=",
        "a=b=c",
        "sliding_window_shapes=(3,8,8)",
        "sliding_window_shapes=0",
        "score=x",
        "score=output",
        "batch_size=0",
    ),
    *(
        "strides=-1",
        "baselines=nan",
        "perturbations_per_eval=-3",
        "layer=1",
        "normalize=2",
        "upsample=[]",
        "probability=7",
    ),
    *("baselines=__import__('os').mkdir('mark')", "rise.", ".x=1", "n_masks=" + "[" * 200, "target=1", "model=2"),
)
NUMBERS = ("0", "1", "2", "-1", "1e999", "nan", "", "x", "9" * 40, "0.5", "16", "1_0", "²", "0x10")
VALUED: dict[str, tuple[str, ...]] = {
    "--target": ("auto", "0", "4", "5", *NUMBERS),
    "--layer": ("0", "block2", "", "0.weight", "..", "stem", "1"),
    "--size": ("16", "8x24", "16x", "x16", "1", "99999999", "8192x8193", *NUMBERS),
    "--mean": ("0", "0,0,0", "1,2", "nan", "inf,0,0", "", "a"),
    "--std": ("1", "1,1,1", "0", "-1", "nan", "1e-300", "1e38"),
    "--alpha": ("0", "1", "0.5", *NUMBERS),
    "--batch-size": ("1", "7", *NUMBERS),
    "--precision": ("float32", "float64", "bfloat16", "int8", ""),
    "--device": ("cpu", "cuda:99", "abacus", "meta", ""),
    "--deadline": ("0.05", *NUMBERS),
    "--tolerance": ("0.5", *NUMBERS),
    "--classes": ("5", "10", "1", "0", "two.txt", "broken.json", "none.txt", "in", *NUMBERS),
    "--class-names": ("two.txt", "broken.json", "none.txt", "in", "in/a.png", ""),
}
FLAGS = ("--json", "--overwrite", "--untrained", "--nonsense", "--trust-code=1", "--")


class Commands:
    """A folder with images, models and results of somebody else, and commands in it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.mark = folder, folder / "mark"
        inputs = folder / "in"
        inputs.mkdir()
        for seed, name in enumerate(NAMES):
            pixels = np.random.default_rng(seed).integers(0, 255, (18, 20, 3), dtype=np.uint8)
            Image.fromarray(pixels if seed % 3 else pixels * 0).save(inputs / name)
        self.pictures = {f"in/{name}": (inputs / name).read_bytes() for name in NAMES}
        (inputs / "broken.png").write_bytes((inputs / "a.png").read_bytes()[:60])
        (inputs / "text.jpg").write_text("no image")
        (folder / "two.txt").write_text("cat\n\x1b[31mdog\n")
        (folder / "broken.json").write_text('{"a": [')
        (folder / "brought_here.py").write_text(MODULE)
        files = folder / "files"
        files.mkdir()
        attacks.exported(files / "good.pt2")
        save_file(attacks.network().state_dict(), files / "good.safetensors")
        torch.save(attacks.network().state_dict(), files / "good.pt")
        hostile = {**attacks.archives(files / "good.pt2", files, self.mark), **attacks.others(files, self.mark)}
        self.files = [f"files/{path.name}" for path in hostile.values()]
        self.files += ["files/good.pt2", "files/good.safetensors", "files/good.pt", "files", "in/a.png", "two.txt"]
        theirs = folder / "theirs"
        theirs.mkdir()
        for name in ("a.gradcam.npy", "b.gradcam.png", "a.sheet.png", "notes.txt"):
            (theirs / name).write_text("precious")

    def words(self, random: random.Random) -> list[str]:
        """The arguments of a command."""
        pool = [*NAMES, "broken.png", "text.jpg", "a.png", "b.png"]
        images = [f"in/{random.choice(pool)}" for _ in range(random.randrange(1, 4))]
        if random.random() < 0.05:
            images.append(random.choice(("in", "none.png", "", "in/" + "x" * 300, "-", "in/../in/a.png", "\x00")))
        words = ["explain", *images]
        if random.random() < 0.75:
            made = [f"brought_here:{name}" for name in MADE]
            other = ("demo", "nonsense", "", ":", "a:b", "brought_here:", "timm:", "..:x", "brought_here:MODULE", "/")
            words += ["--model", random.choice(random.choice((made, made, made, made, self.files, other)))]
        if random.random() < 0.1:
            words += ["--weights", random.choice(self.files)]
        if random.random() < 0.8:
            pool = METHODS if random.random() < 0.3 else METHODS[:7]
            words += ["--method", ",".join(random.choices(pool, k=random.randrange(1, 3)))]
        folders = (
            ("out", "out/deep", "in") if random.random() < 0.8 else ("theirs", "two.txt", "two.txt/x", "in/../out")
        )
        words += ["--out", random.choice(folders)]
        if random.random() < 0.95:
            words += ["--size", "16"]
        for _ in range(random.choice((0, 0, 1, 1, 2, 3))):
            if random.random() < 0.35:
                words += ["-O", random.choice(OPTIONS)]
            elif random.random() < 0.45:
                words.append(random.choice(FLAGS))
            else:
                option = random.choice(list(VALUED))
                words.append(f"{option}={random.choice(VALUED[option])}")
        return words

    def one(self, random: random.Random) -> str:
        """One command; its exit code."""
        words = self.words(random)
        before = cases.snapshot(self.folder)
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                code: Any = main(words)
            except SystemExit as stop:
                code = stop.code or 0
        said = f"{words}\n{out.getvalue()}\n{err.getvalue()}"
        assert code in (0, 1, 2), said
        assert "Traceback" not in out.getvalue() + err.getvalue(), said
        assert "(--traceback shows where)" not in err.getvalue(), said
        assert not attacks.cleared(self.mark), said
        lines = [line for line in err.getvalue().splitlines() if line not in ("loading ...", "a pass")]  # a model's own
        assert all(line.startswith("fastsal") for line in lines), said
        assert lines or not code, said
        if "--json" in words[: words.index("--") if "--" in words else None] and out.getvalue():
            document = json.loads(out.getvalue(), parse_constant=lambda name: 1 / 0)
            assert out.getvalue().count("\n") == 1, said
            assert code or not document["errors"], said
        self._nothing_lost(before, said, "--overwrite" in words, random)
        return str(code)

    def _nothing_lost(self, before: dict[str, str], said: str, overwrite: bool, random: random.Random) -> None:
        after = cases.snapshot(self.folder)
        allowed = ("out", "in", "theirs")
        for name, digest in before.items():
            theirs = overwrite and name.startswith("theirs/") and name != "theirs/notes.txt"
            # The word also allows it to replace pictures beside the command's own.
            theirs = theirs or (overwrite and name in self.pictures and repr(name) not in said.splitlines()[0])
            if not (theirs or name.startswith(("out", "__pycache__"))):
                assert after.get(name) == digest, f"{name} was changed\n{said}"
        made = [name for name in after if name not in before]
        assert all(name.split("/")[0] in (*allowed, "__pycache__") for name in made), f"{made}\n{said}"
        assert not any(Path(name).name.startswith(".fastsal-") for name in after), f"{made}\n{said}"
        for name in made:
            place = self.folder / name
            if name.startswith(("in/", "theirs/")) and place.is_file():
                place.unlink()
        if random.random() < 0.2:
            shutil.rmtree(self.folder / "out", ignore_errors=True)
        if overwrite:
            for name, content in self.pictures.items():
                (self.folder / name).write_bytes(content)
            for name in ("a.gradcam.npy", "b.gradcam.png", "a.sheet.png"):
                (self.folder / "theirs" / name).write_text("precious")


@contextlib.contextmanager
def inside(folder: Path) -> Any:
    """The folder as the current one, its modules found first; both as before afterwards."""
    before, path = os.getcwd(), list(sys.path)
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    try:
        yield Commands(folder)
    finally:
        os.chdir(before)
        sys.path[:] = path
        sys.modules.pop("brought_here", None)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name, inside(Path(name)) as commands:
        cases.run_many(__doc__, commands.one)
