"""The pointing game on the held-out canvases: how often each method's maximum lies on the digit.

    python -m tools.pointing [--canvases N] [--methods NAME,...]

Prints the tables of docs/metrics.md. J. Zhang et al., "Top-down Neural Attention by Excitation Backprop" (ECCV
2016), section 4: a hit is a map whose maximum lies in the object; here the object is the digit's box, without a margin.
The map explains the true digit. A map at random would hit with the share of the canvas that the boxes cover.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import fastsal
from fastsal import explainers, models, viz
from fastsal.explainers.registry import find

OPTIONS: Mapping[str, Mapping[str, Any]] = {"rise": {"n_masks": 2000}}


@dataclass(frozen=True)
class Score:
    """A method's result: share of maps with their maximum in the box and on the stroke, and seconds a canvas."""

    box: float
    stroke: float
    seconds: float


def maps(model: torch.nn.Module, canvases: models.Canvases, method: str, **options: Any) -> tuple[Tensor, float]:
    """The maps [n, 96, 96] of the true digits, and the seconds that they took together."""
    found = []
    seconds = 0.0
    # Evidence for the target is what counts: where a method's sign says "against", a maximum of |map| would be no hit.
    # A gradient's sign says nothing before it is multiplied by the input.
    explainer = find(method)
    of_input = explainer.reads != "layer" and explainer.for_model(model).multiplies_by_inputs
    by_size = explainer.display.sign == "absolute" and not of_input
    for start in range(0, len(canvases), 10):
        rows = slice(start, start + 10)
        explained = fastsal.explain(
            model, canvases.images[rows], method=method, target=canvases.labels[rows], **options
        )
        attribution = explained.maps[method].detach().float()
        found.append(viz.plane(attribution.abs() if by_size else attribution))
        seconds += explained.seconds[method]
    return torch.cat(found), seconds


def hit_rate(found: Tensor, objects: Tensor) -> float:
    """Share of the maps [n, H, W] whose maximum lies in objects, bool [n, H, W]."""
    places = found.flatten(1).argmax(1, keepdim=True)
    return objects.flatten(1).gather(1, places).float().mean().item()


def play(canvases: models.Canvases, methods: Sequence[str]) -> dict[str, Score]:
    """Each method's score on the demo model."""
    model = models.demo()
    boxes = canvases.box_masks()
    scores = {}
    for method in methods:
        found, seconds = maps(model, canvases, method, **OPTIONS.get(method, {}))
        scores[method] = Score(hit_rate(found, boxes), hit_rate(found, canvases.masks), seconds / len(canvases))
    return scores


def table(scores: Mapping[str, Score], canvases: models.Canvases) -> str:
    """The scores in Markdown, with the shares that chance would reach."""
    box = canvases.box_masks().float().mean().item()
    stroke = canvases.masks.float().mean().item()
    lines = [
        "| method | maximum in the digit's box | on its stroke | time a canvas |\n|---|---|---|---|",
        *(
            f"| {name} | {100 * score.box:.0f} % | {100 * score.stroke:.0f} % | {viz.seconds_text(score.seconds)} |"
            for name, score in scores.items()
        ),
        f"| a place at random | {100 * box:.0f} % | {100 * stroke:.0f} % | |",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--canvases", type=int, help="how many (default: all)")
    parser.add_argument("--methods", default=",".join(explainers.methods()), help="names, with commas (default: all)")
    arguments = parser.parse_args()
    canvases = models.demo_canvases(arguments.canvases)
    print(table(play(canvases, arguments.methods.split(",")), canvases))


if __name__ == "__main__":
    main()
