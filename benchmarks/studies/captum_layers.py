"""Beside Captum at its fastest batch: methods at a layer, of a neuron and of a generated text; memory of conductance.

    python -m benchmarks.studies.captum_layers  # writes benchmarks/studies/CAPTUM_LAYERS.md

Each round runs fastsal, Captum at its defaults, Captum at the fastest of its batch sizes and the bare model passes, in
turn; ratios are medians of the rounds'. The network is a small convolutional one on an image of 64 x 64, with 50 steps
or samples; the text is 8 tokens that follow a prompt of 12 parts, by a decoder of 4 blocks, where Captum's fastest way
is one pass for each altered prompt. Memory is the most that tensors held at once, on an image of 192 x 192.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.peers import bench_captum_layers as layers
from benchmarks.peers import bench_captum_llm as texts
from benchmarks.studies.page import about, facts

PAGE = Path(__file__).parent / "CAPTUM_LAYERS.md"


class _Kept:
    """What the benchmarks use of pytest-benchmark's fixture."""

    def __init__(self) -> None:
        self.extra_info: dict[str, Any] = {}

    def pedantic(self, *_work: Any, **_options: Any) -> None:
        """Nothing: the figures are taken already."""


def main() -> None:
    lines = [
        "# Beside Captum: layers, neurons and texts",
        "",
        about(__doc__),
        "",
        "`python -m benchmarks.studies.captum_layers` makes this page.",
        "",
        f"{facts('device', 'torch', 'date')}, {layers.ROUNDS} rounds.",
        "",
        "| method | fastsal, s | Captum, s | at its fastest batch, s | Captum's time by ours | at its fastest | "
        "over the bare passes |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in (*layers.METHODS, "LLMAttribution(FeatureAblation)"):
        kept = _Kept()
        if name in layers.METHODS:
            layers.bench_layers(kept, name)
        else:
            texts.bench_ablation(kept)
        found = kept.extra_info
        best = found.get("peer_best_seconds") or found["peer_seconds"]
        over_best = found["speedup_over_best"] or found["speedup"]
        lines.append(
            f"| {name} | {found['seconds']:.4f} | {found['peer_seconds']:.4f} | {best:.4f} | {found['speedup']:.2f} | "
            f"{over_best:.2f} | {found['over_floor']:.2f} |"
        )
        print(lines[-1], flush=True)
    kept = _Kept()
    layers.bench_memory(kept)
    ours, theirs = kept.extra_info["ours_bytes"], kept.extra_info["captum_bytes"]
    lines += ["", f"LayerConductance at 50 steps holds {ours / 2**20:.1f} MiB, Captum's {theirs / 2**20:.1f} MiB."]
    print(lines[-1], flush=True)
    PAGE.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
