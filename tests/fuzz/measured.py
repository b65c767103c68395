"""Random small networks, each layer measured whether or not its geometry is proved, against what is known of it.

``python -m tests.fuzz.measured --n 500 --seed 1``. Few layers are not proved, so the search of positions.py measures
one of ten; here every one is. Each answer must read the layer's value as the network itself does and look where single
elements of the input show; a layer without positions must be refused.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from random import Random

import torch

from fastsal.engine.reading import Geometry
from fastsal.engine.reading.geometry.measuring import measured
from tests.fuzz import cases
from tests.fuzz.assembled import Network
from tests.fuzz.networks import Truth
from tests.fuzz.positions import Wrong, influence, looks_there

LAYERS = 4
"""Of a network."""


class Measured:
    """Networks one after the other, and what was found of their layers."""

    def __init__(self) -> None:
        self.layers: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()

    def one(self, random: Random) -> str:
        """One network: "right" where a layer was; what is wrong is raised."""
        network = Network(random)
        if "pad" in network.kinds:
            return "padded"  # whether a cell of padding is a position or a token of no place is a matter of words
        names = random.sample(list(network.truths), min(LAYERS, len(network.truths)))
        wanted = [(name, run) for name in names for run in range(len(network.truths[name]))]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = measured(network, [(network.get_submodule(name), run) for name, run in wanted], network.inputs)
        right = 0
        for name, run in wanted:
            truth, geometry = network.truths[name][run], found[network.get_submodule(name), run]
            if isinstance(geometry, str):
                self.layers["refused" if truth else "refused, as it must be"] += 1
                self.reasons[geometry] += bool(truth)
            else:
                self.compared(network, name, run, truth, geometry)
                self.layers["right"] += 1
                right += 1
        return "right" if right else "refused"

    def compared(self, network: Network, name: str, run: int, truth: Truth | None, geometry: Geometry) -> None:
        said = f"{name}, run {run}, of {network.together} {[(raw.kind, raw.shape) for raw in network.raws]}"
        if truth is None:
            raise Wrong(f"{said} has no positions, but is taken for {geometry}")
        for each in (geometry, *geometry.others):
            if each.input not in truth.looks:
                raise Wrong(f"{said}: looks at {each.input}, but does at {list(truth.looks)}")
            seen = influence(network, [name], each.input)[name, run]
            looks_there(each, truth, network.raws[each.input], seen, f"{said}, run {run}")
            carried = torch.arange(4.0 * math.prod(truth.grid)).view(1, 4, *truth.grid)
            extra = truth.form.before + truth.form.behind
            value = truth.form.make(carried, torch.full((1, extra, 4), -1.0) if extra else None)
            if (each.before, each.behind) != (truth.form.before, truth.form.behind) or not torch.equal(
                each.arrange(value), carried
            ):
                raise Wrong(f"{said}: is of {truth.form}, but is read as {each}")


if __name__ == "__main__":
    all_measured = Measured()
    cases.run_many(__doc__, all_measured.one)
    print(f"layers: {dict(all_measured.layers)}; refused: {dict(all_measured.reasons.most_common())}")
