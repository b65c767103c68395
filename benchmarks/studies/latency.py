"""Latency of Grad-CAM for one image: exported, eager, and beside plain predictions of both kinds.

    python -m benchmarks.studies.latency  # writes benchmarks/studies/LATENCY.md

ResNet-50 with random weights, 224 x 224, batch 1. The ways are run in turn, each round beginning with another one;
ratios are of the same round.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

import fastsal
from benchmarks.measure import rounds
from benchmarks.models import resnet50
from benchmarks.studies.page import about, facts

PAGE = Path(__file__).parent / "LATENCY.md"
PLAIN, EXPORTED = "eager prediction", "exported prediction"


def ways(model: nn.Module, folder: Path) -> dict[str, Callable[[], Any]]:
    """What answers one image."""
    import torch._inductor

    image = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    explainer = fastsal.GradCAM(model, "stages")
    program = torch.export.export(model, (image,))
    torch._inductor.aoti_compile_and_package(program, package_path=str(folder / "plain.pt2"))
    plain = torch._C._aoti.AOTIModelPackageLoader(str(folder / "plain.pt2"), "model", False, 1, -1)
    compiled = fastsal.compile(explainer, image, 7)
    package = fastsal.load(fastsal.export(explainer, image, folder / "gradcam.pt2"), trust_code=True)

    def predict() -> Any:
        with torch.inference_mode():
            return model(image)

    return {
        EXPORTED: lambda: plain.run([image]),
        "exported GradCAM and prediction": lambda: package(image, 7),
        PLAIN: predict,
        "eager GradCAM and prediction": lambda: compiled(image, 7),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=150)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = ways(resnet50("cpu").eval(), Path(folder))
        seconds = rounds(run, arguments.rounds, warm_up=3)
    figures = {name: torch.tensor(each, dtype=torch.float64) * 1000 for name, each in seconds.items()}
    lines = [
        "# Latency",
        "",
        about(__doc__),
        "",
        "`python -m benchmarks.studies.latency` makes this page.",
        "",
        f"{facts('device', 'threads', 'torch', 'date')}, {arguments.rounds} rounds.",
        "",
        f"| way | p50, ms | p99, ms | by {EXPORTED} (p50 of rounds) | by {PLAIN} |",
        "|---|---|---|---|---|",
    ]
    for name, each in figures.items():
        ratios = [float((each / figures[other]).median()) for other in (EXPORTED, PLAIN)]
        low, high = each.quantile(torch.tensor([0.5, 0.99], dtype=torch.float64)).tolist()
        lines.append(f"| {name} | {low:.1f} | {high:.1f} | {ratios[0]:.3f} | {ratios[1]:.3f} |")
    PAGE.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
