"""Deadlines of the anytime explainers: how long a call with ``deadline=`` takes, over many calls.

    python -m benchmarks.studies.deadline  # writes benchmarks/studies/DEADLINE.md

The model is the built-in one; a deadline is several times what one model call
and one estimate take, since nothing shorter can be kept.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import fastsal
from benchmarks.studies.page import about, facts
from fastsal.models import demo, demo_canvases

PAGE = Path(__file__).parent / "DEADLINE.md"


def calls(model: Any) -> dict[str, Callable[..., Any]]:
    """Explanations of one image that would take longer than any of the deadlines."""
    image, mask = demo_canvases(1).images, torch.arange(64).view(1, 1, 8, 8)
    mask = mask.repeat_interleave(12, 2).repeat_interleave(12, 3)
    return {
        "RISE": lambda **options: fastsal.RISE(model).attribute(image, target=0, n_masks=100_000, **options),
        "SmoothGrad": lambda **options: fastsal.SmoothGrad(model).attribute(
            image, target=0, n_samples=100_000, **options
        ),
        "KernelShap": lambda **options: fastsal.KernelShap(model).attribute(
            image, target=0, feature_mask=mask, n_samples=2_000, **options
        ),
        "ShapleyValueSampling": lambda **options: fastsal.ShapleyValueSampling(model).attribute(
            image, target=0, feature_mask=mask, n_samples=10_000, **options
        ),
        "IntegratedGradients": lambda **options: fastsal.IntegratedGradients(model).attribute(
            image, target=0, n_steps=65_537, **options
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--deadlines", type=float, nargs="+", default=[0.05, 0.2])
    arguments = parser.parse_args()
    lines = [
        "# Deadlines",
        "",
        about(__doc__),
        "",
        "`python -m benchmarks.studies.deadline` makes this page.",
        "",
        f"{facts('device', 'torch', 'date')}, {arguments.calls} calls each.",
        "",
        "| explainer | deadline, s | one chunk and estimate, s | median, s | 99th percentile, s | late | samples |",
        "|---|---|---|---|---|---|---|",
    ]
    model = fastsal.prepare(demo(), demo_canvases(1).images)
    for name, call in calls(model).items():
        call(deadline=0.05)
        began = time.perf_counter()
        call(deadline=1e-9)
        least = time.perf_counter() - began
        for deadline in arguments.deadlines:
            seconds, samples = [], []
            for _ in range(arguments.calls):
                began = time.perf_counter()
                samples.append(call(deadline=deadline).samples)
                seconds.append(time.perf_counter() - began)
            spread = torch.tensor(seconds).quantile(torch.tensor([0.5, 0.99])).tolist()
            late = sum(each > deadline for each in seconds) / len(seconds)
            lines.append(
                f"| {name} | {deadline} | {least:.3f} | {spread[0]:.4f} | {spread[1]:.4f} | {late:.1%} | "
                f"{sorted(samples)[len(samples) // 2]} |"
            )
            print(lines[-1], flush=True)
    PAGE.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
