"""Kernel SHAP of 12 features: how far its values are from Shapley's at some numbers of samples.

    python -m benchmarks.studies.kernel_shap  # writes benchmarks/studies/KERNEL_SHAP.md

Networks with random weights explain 12 numbers against zeros; Shapley's values are sums over all 4,096 coalitions, by
their definition. An error is the root mean square over the features, by that of Shapley's values, averaged over seeds
and networks: `shallow`, a hidden layer of tanh; `deep`, three of them; `rough`, the same with weights three times as
large, in which many features meet at once. Beside Captum and the package shap (`KernelExplainer` with `l1_reg=False`),
where they are installed.

`bound` is the least that fastsal's coalitions allow. Shapley's values depend on v(S) - v(rest) alone, so on one number
for each pair of complements, a sum of the interactions of 1, 3, 5 ... features. Whoever knows how strong those of each
number are, but not which, has no smaller mean squared error than the conditional mean of a Gaussian process with these
variances, given the pairs that are scored; here it is told the strengths of the very network (those of single features
are left open). It is no weighted regression, which Captum's Kernel SHAP and fastsal's are. Where it is above a third of
Captum's error, a third is out of reach with these coalitions.
"""

from __future__ import annotations

import argparse
import copy
import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import fastsal
from benchmarks.studies.page import about, facts
from fastsal.explainers.perturbation.surrogate._coalitions import design

PAGE = Path(__file__).parent / "KERNEL_SHAP.md"
FEATURES = 12
NETWORKS = 2
SAMPLES = (50, 200, 4094)
PRESENT = (torch.arange(2**FEATURES)[:, None] >> torch.arange(FEATURES)) & 1
ROUNDING = 1e-12
"""Added to the diagonal of a covariance of 1."""
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


def scored(network: nn.Module, x: Tensor) -> Tensor:
    """Scores [4096] of all coalitions: feature i is in those whose number has bit i."""
    with torch.no_grad():
        scores: Tensor = network(PRESENT * x)[:, 0]
    return scores


@functools.cache
def shares() -> Tensor:
    """What the score of each coalition adds to Shapley's values [12, 4096], by their definition."""
    found = []
    for present in PRESENT.tolist():
        size = sum(present)
        with_it = math.factorial(max(size - 1, 0)) * math.factorial(FEATURES - size)
        without = math.factorial(size) * math.factorial(max(FEATURES - size - 1, 0))
        found.append([(with_it if each else -without) / math.factorial(FEATURES) for each in present])
    return torch.tensor(found, dtype=torch.float64).T


def shapley_of(scores: Tensor) -> Tensor:
    """Shapley's values [12] of the scores of all coalitions, by their definition."""
    return shares() @ scores


def shapley(network: nn.Module, x: Tensor) -> Tensor:
    """Shapley's values [12] by their definition."""
    return shapley_of(scored(network, x))


@functools.lru_cache(maxsize=1)
def interactions(network: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """(odd part of all scores [4096], covariance by distance [13], of interactions of three features or more)."""
    scores = scored(network, x)
    odd = (scores - scores.flip(0)) / 2
    # The strength of each set's interaction, by the Walsh-Hadamard transform.
    strengths = odd
    for feature in range(FEATURES):
        halves = strengths.reshape(-1, 2, 1 << feature)
        strengths = torch.stack([halves.sum(1), halves[:, 1] - halves[:, 0]], 1).flatten() / 2
    sizes = PRESENT.sum(1)
    # What two coalitions have in common of all sets of a size.
    distant = torch.zeros(FEATURES + 1, dtype=torch.float64)
    for size in range(3, FEATURES + 1, 2):
        variance = float(strengths[sizes == size].square().mean())
        for distance in range(FEATURES + 1):
            products = [
                (-1) ** inside * math.comb(distance, inside) * math.comb(FEATURES - distance, size - inside)
                for inside in range(min(size, distance) + 1)
            ]
            distant[distance] += variance * sum(products)
    return odd, distant / distant[0]


def bound(network: nn.Module, x: Tensor, samples: int, seed: int) -> Tensor:
    """Shapley's values [12] of the conditional mean, given the scores of the coalitions that fastsal takes."""
    odd, distant = interactions(network, x)
    signs = 2.0 * PRESENT.double() - 1
    present = design(samples, FEATURES, torch.Generator().manual_seed(seed)).present
    numbers = (present.long() << torch.arange(FEATURES)).sum(1)
    known = torch.minimum(numbers, 2**FEATURES - 1 - numbers).unique()
    apart = (FEATURES - signs @ signs[known].T).div(2).round().long()
    between = distant[apart]
    factor = torch.linalg.cholesky(between[known] + ROUNDING * torch.eye(len(known), dtype=torch.float64))

    white = torch.linalg.solve_triangular(factor, torch.cat([signs[known], odd[known, None]], 1), upper=False)
    single = torch.linalg.lstsq(white[:, :-1], white[:, -1:]).solution
    rest = torch.cholesky_solve(odd[known, None] - signs[known] @ single, factor)
    return shapley_of((signs @ single + between @ rest)[:, 0])


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
    found["bound"] = bound
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
    most, shares_of_captum = 0.0, []
    for name, kind in networks().items():
        for samples in SAMPLES:
            cells, errors = [], {}
            for package, explain in known.items():
                # From all coalitions on nothing is drawn; Captum draws on.
                seeds = min(arguments.seeds, 3) if samples == SAMPLES[-1] else arguments.seeds
                mean, largest = error(explain, kind, samples, seeds)
                cells.append(f"{mean:.2e}")
                errors[package] = mean
                if package == "fastsal" and samples == SAMPLES[-1]:
                    most = max(most, largest)
            lines.append(f"| {name} | {samples:,} | {' | '.join(cells)} |")
            print(lines[-1], flush=True)
            if samples == 200 and "Captum" in errors:
                ours_share, least = (errors[package] / errors["Captum"] for package in ("fastsal", "bound"))
                shares_of_captum.append(f"{ours_share:.2f} for {name} networks (bound {least:.2f})")
    if shares_of_captum:
        lines += ["", f"At 200 samples fastsal's error by Captum's is {', '.join(shares_of_captum)}."]
    PAGE.write_text("\n".join(lines).replace("MOST", f"{most:.1e}") + "\n")


if __name__ == "__main__":
    main()
