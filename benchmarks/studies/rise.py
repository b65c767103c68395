"""RISE at equal error: how many masks each design and estimator needs for the map that many masks converge to.

    python -m benchmarks.studies.rise  # writes benchmarks/studies/RISE.md

Scores are the probabilities of the predicted class. The truth of an image is the
regression estimate from very many independent masks (it has no bias, and a small part of the plain one's variance).
The error is the squared distance from it, without the maps' means, which cannot change a ranking; "masks for one" is
how many masks of the published scheme have the error of one, at its rate of one over the number of masks.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

import fastsal
from benchmarks.models import Basic, ResNet
from benchmarks.studies.page import about, facts, section, with_section
from fastsal.explainers.anytime import GROUPS
from fastsal.explainers.perturbation.rise._designs import DESIGNS, Masks
from fastsal.explainers.perturbation.rise._estimators import ESTIMATORS, estimated
from fastsal.metrics import deletion, insertion
from fastsal.models import demo, demo_canvases
from fastsal.ops import masks
from tools import demo_data
from tools.train_demo import accuracy, train

GRID = 7
ROWS = 32
"""Masked images per model call."""
MADE = "`python -m benchmarks.studies.rise` makes this page but its last section, in an hour on two cores."
PAGE = Path(__file__).parent / "RISE.md"
PHOTOGRAPHS = "EfficientNet-Lite0 with ImageNet weights, on photographs"
"""The section that another command writes (photographs.py)."""


class Task(NamedTuple):
    """A network, images [n, 3, S, S], masks of the truth, masks compared, and repeats of each."""

    name: str
    model: nn.Module
    images: Tensor
    truth: int
    counts: tuple[int, ...]
    repeats: int


def scores(model: nn.Module, run: Masks, image: Tensor, label: int, count: int) -> Tensor:
    """[count, 1]: the label's probability under each mask."""
    found = []
    with torch.no_grad():
        for start in range(0, count, ROWS):
            batch = run.batch(image[None], start, min(start + ROWS, count), 0.0)
            found.append(model(batch).softmax(1)[:, label])
    return torch.cat(found)[:, None]


def masks_of(design: str, size: int, count: int, seed: int) -> Masks:
    return Masks(masks.Masks((size, size), GRID, seed=seed), design, count)


def distance(found: Tensor, truth: Tensor) -> float:
    """Squared, relative, without the means."""
    a, b = found - found.mean(), truth - truth.mean()
    return float((a - b).square().sum() / b.square().sum())


def interval(values: Tensor) -> tuple[float, float, float]:
    """Geometric mean over the images [n, ...], and its 95 % interval by 4,000 bootstrap samples of the images."""
    per_image = values.log().flatten(1).mean(1)
    random = torch.Generator().manual_seed(0)
    drawn = torch.randint(len(per_image), (4000, len(per_image)), generator=random)
    low, high = per_image[drawn].mean(1).quantile(torch.tensor([0.025, 0.975]).double()).exp().tolist()
    return math.exp(float(per_image.mean())), low, high


def study(task: Task) -> Iterator[str]:
    """Lines of the page."""
    size = task.images.shape[-1]
    labels = task.model(task.images).argmax(1).tolist()
    errors = {key: torch.zeros(len(labels), task.repeats).double() for key in keys(task)}
    noise: list[float] = []
    maps: dict[tuple[str, str, int], list[Tensor]] = {key: [] for key in keys(task)}
    for index, label in enumerate(labels):
        image = task.images[index]
        run = masks_of("independent", size, task.truth, 1)
        many = scores(task.model, run, image, label, task.truth)
        truth, error = estimated(many, "regression", run, run.groups(task.truth, GROUPS))
        assert error is not None
        noise.append(float(error.square().sum() / (truth - truth.mean()).square().sum()))
        for design in DESIGNS:
            for count in task.counts:
                for repeat in range(task.repeats):
                    run = masks_of(design, size, count, 100 + repeat)
                    few = scores(task.model, run, image, label, count)
                    for estimator in ESTIMATORS:
                        found, _ = estimated(few, estimator, run, run.groups(count, 1))
                        key = design, estimator, count
                        errors[key][index, repeat] = distance(found[0], truth[0])
                        if repeat == 0:
                            maps[key].append(found[0])
        print(task.name, index, flush=True)
    yield f"## {task.name}"
    yield ""
    yield (
        f"{len(labels)} images of {size} x {size}; the truth is of {task.truth:,} masks, its own squared error "
        f"{max(noise):.1e} of the map at most; {task.repeats} repeats."
    )
    yield ""
    yield "| design | estimator | masks | squared error | published masks for one |"
    yield "|---|---|---|---|---|"
    for design, estimator, count in keys(task):
        each = errors[design, estimator, count]
        # Errors of single runs vary; of the plain estimate it is the mean over its repeats that others are held to.
        plain = errors["independent", "plain", count].mean(1, keepdim=True)
        mean, low, high = interval(plain / each.mean(1, keepdim=True))
        yield f"| {design} | {estimator} | {count:,} | {each.mean():.4f} | {mean:.2f} ({low:.2f} to {high:.2f}) |"
    yield ""
    yield from areas(task, torch.tensor(labels), maps)


def keys(task: Task) -> list[tuple[str, str, int]]:
    return [(design, estimator, count) for count in task.counts for design in DESIGNS for estimator in ESTIMATORS]


def areas(task: Task, labels: Tensor, maps: dict[tuple[str, str, int], list[Tensor]]) -> Iterator[str]:
    """Insertion and deletion areas of the first repeat's maps."""
    named = {
        f"{design}, {estimator}, {count:,}": torch.stack(each) for (design, estimator, count), each in maps.items()
    }
    inserted, deleted = (metric(task.model, task.images, named, labels) for metric in (insertion, deletion))
    yield "| masks | insertion (more is better) | deletion (less is better) |"
    yield "|---|---|---|"
    for name in named:
        cells = []
        for curves in (inserted, deleted):
            area = curves[name].area.double()
            cells.append(f"{area.mean():.4f} ± {area.std() / len(area) ** 0.5:.4f}")
        yield f"| {name} | {cells[0]} | {cells[1]} |"
    yield ""


def larger(steps: int) -> tuple[nn.Module, float]:
    """A ResNet-18 trained on canvases of the kind that the built-in model was, and its accuracy on held-out ones."""
    training, held_out = demo_data.sources(held_out=False), demo_data.sources(held_out=True)
    indices = np.arange(32 * steps) % len(training.labels)
    canvases = demo_data.draw(training, indices, np.random.default_rng(0))
    model = train(canvases, steps, 32, 0, lambda: ResNet(Basic, (2, 2, 2, 2)))
    exam = demo_data.draw(held_out, np.arange(len(held_out.labels)), np.random.default_rng(1))
    return model, accuracy(model, exam)


def write(lines: list[str]) -> None:
    """The page, with the section of the photographs as it was."""
    kept = section(PAGE.read_text(), PHOTOGRAPHS) if PAGE.exists() else None
    text = "\n".join(lines)
    PAGE.write_text(text if kept is None else with_section(text, PHOTOGRAPHS, kept))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--truth", type=int, default=65_536, help="masks of the built-in model's truth")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--steps", type=int, default=500, help="of the larger network's training")
    parser.add_argument("--larger-truth", type=int, default=16_384)
    parser.add_argument("--larger-images", type=int, default=8)
    arguments = parser.parse_args()
    lines = ["# RISE with fewer masks", "", MADE, "", about(__doc__), "", facts("device", "torch", "date"), ""]
    images = demo_canvases(max(arguments.images, arguments.larger_images)).images
    counts = (256, 1024, 4096)
    chosen = images[: arguments.images]
    model = fastsal.prepare(demo(), chosen[:1], probe_seconds=0)
    lines += study(Task("The built-in model", model, chosen, arguments.truth, counts, 3))
    write(lines)
    if arguments.steps:
        trained, share = larger(arguments.steps)
        chosen = images[: arguments.larger_images]
        quick = fastsal.prepare(trained, chosen[:1], probe_seconds=0)
        name = f"A ResNet-18 (11 million parameters, {share:.0%} of held-out canvases right)"
        lines += study(Task(name, quick, chosen, arguments.larger_truth, counts[:2], 2))
        write(lines)


if __name__ == "__main__":
    main()
