"""Kernel SHAP of 12 features: how far its values are from Shapley's at some numbers of samples.

    python -m benchmarks.studies.kernel_shap  # writes benchmarks/studies/KERNEL_SHAP.md

Networks with random weights explain 12 numbers against zeros; Shapley's values are sums over all 4,096 coalitions, by
their definition. An error is the root mean square over the features, by that of Shapley's values, averaged over seeds
and networks: `shallow`, a hidden layer of tanh; `deep`, three of them; `rough`, the same with weights three times as
large, in which many features meet at once. Beside Captum and the package shap (`KernelExplainer` with `l1_reg=False`),
where they are installed.
"""

from __future__ import annotations

import argparse
import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import fastsal
from benchmarks.studies.page import about, facts

PAGE = Path(__file__).parent / "KERNEL_SHAP.md"
FEATURES = 12
NETWORKS = 2
SAMPLES = (50, 200, 4094)
Explain = Callable[[nn.Module, Tensor, int, int], Any]
"""(network, input [1, 12], samples, seed) to values [12]."""


def networks() -> dict[str, list[nn.Module]]:
    """Some of each kind, in float64."""
    made: dict[str, list[nn.Module]] = {"shallow": [], "deep": [], "rough": []}
    for seed in range(NETWORKS):
        torch.manual_seed(seed)
        made["shallow"].append(nn.Sequential(nn.Linear(FEATURES, 32), nn.Tanh(), nn.Linear(32, 1)).double())
        layers: list[nn.Module] = [nn.Linear(FEATURES, 32)]
        for _ in range(2):
            layers += [nn.Tanh(), nn.Linear(32, 32)]
        deep = nn.Sequential(*layers, nn.Tanh(), nn.Linear(32, 1)).double()
        made["deep"].append(deep)
        rough = copy.deepcopy(deep)
        for parameter in rough.parameters():
            parameter.data *= 3
        made["rough"].append(rough)
    return made


def shapley(network: nn.Module, x: Tensor) -> Tensor:
    """Shapley's values [12] by their definition."""
    present = (torch.arange(2**FEATURES)[:, None] >> torch.arange(FEATURES)) & 1
    with torch.no_grad():
        scores = network(present * x)[:, 0]
    sizes = present.sum(1)
    values = []
    for feature in range(FEATURES):
        without = (present[:, feature] == 0).nonzero()[:, 0]
        weights = torch.tensor(
            [
                math.factorial(size) * math.factorial(FEATURES - size - 1) / math.factorial(FEATURES)
                for size in sizes[without].tolist()
            ],
            dtype=torch.float64,
        )
        values.append((weights * (scores[without + (1 << feature)] - scores[without])).sum())
    return torch.stack(values)


def ours(network: nn.Module, x: Tensor, samples: int, seed: int) -> Any:
    return fastsal.KernelShap(network).attribute(x, target=0, n_samples=samples, seed=seed)[0]


def packages() -> dict[str, Explain]:
    """By name, those that are installed."""
    found: dict[str, Explain] = {"fastsal": ours}
    try:
        import captum.attr
    except ImportError:
        pass
    else:

        def captums(network: nn.Module, x: Tensor, samples: int, seed: int) -> Any:
            torch.manual_seed(seed)
            explainer = captum.attr.KernelShap(network)
            return explainer.attribute(x, target=0, n_samples=samples, perturbations_per_eval=64)[0]

        found["Captum"] = captums
    try:
        import shap
    except ImportError:
        pass
    else:

        def shaps(network: nn.Module, x: Tensor, samples: int, seed: int) -> Any:
            np.random.seed(seed)

            def scored(rows: Any) -> Any:
                with torch.no_grad():
                    return network(torch.as_tensor(rows))[:, 0].numpy()

            explainer = shap.KernelExplainer(scored, np.zeros((1, FEATURES)))
            return torch.as_tensor(explainer.shap_values(x.numpy(), nsamples=samples, l1_reg=False, silent=True)[0])

        found["shap"] = shaps
    return found


def error(explain: Explain, kind: list[nn.Module], samples: int, seeds: int) -> tuple[float, float]:
    """(mean error over networks and seeds, largest difference of any value)."""
    apart, most = [], 0.0
    for index, network in enumerate(kind):
        x = torch.randn(1, FEATURES, dtype=torch.float64, generator=torch.Generator().manual_seed(index))
        truth = shapley(network, x)
        for seed in range(seeds):
            off = torch.as_tensor(explain(network, x, samples, seed)).double() - truth
            apart.append(float(off.square().mean().sqrt() / truth.square().mean().sqrt()))
            most = max(most, float(off.abs().max()))
    return sum(apart) / len(apart), most


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=50)
    arguments = parser.parse_args()
    known = packages()
    lines = [
        "# Kernel SHAP",
        "",
        about(__doc__),
        "",
        "`python -m benchmarks.studies.kernel_shap` makes this page.",
        "",
        f"{facts('torch', 'date')}, {arguments.seeds} seeds of each of {NETWORKS} networks; "
        f"fastsal's largest difference of any value at {SAMPLES[-1]:,} samples: MOST.",
        "",
        "| networks | samples | " + " | ".join(known) + " |",
        "|---|---|" + "---|" * len(known),
    ]
    most = 0.0
    for name, kind in networks().items():
        for samples in SAMPLES:
            cells = []
            for package, explain in known.items():
                # From all coalitions on nothing is drawn; Captum draws on.
                seeds = min(arguments.seeds, 3) if samples == SAMPLES[-1] else arguments.seeds
                mean, largest = error(explain, kind, samples, seeds)
                cells.append(f"{mean:.2e}")
                if package == "fastsal" and samples == SAMPLES[-1]:
                    most = max(most, largest)
            lines.append(f"| {name} | {samples:,} | {' | '.join(cells)} |")
            print(lines[-1], flush=True)
    PAGE.write_text("\n".join(lines).replace("MOST", f"{most:.1e}") + "\n")


if __name__ == "__main__":
    main()
