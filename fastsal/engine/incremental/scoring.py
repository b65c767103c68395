"""Scores of changed images by incremental inference, checked against the plain forward."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastsal.engine.incremental.asked import Asked, Changes
from fastsal.engine.incremental.layout import Group
from fastsal.engine.incremental.runner import Incremental
from fastsal.engine.run import ChunkSizes, Sweep, Swept, note, observed

ROWS = 32
"""Changed inputs per call: patches are small, and a batch of them must fill the machine."""
TOLERANCE = 1e-2
"""Allowed difference from the plain forward, as a share of what the changes do to the output.

Right runs on five networks stayed below 1e-4; each of six faults put in on purpose was above, at some position.
"""
CHECKS = 8
"""Positions of the first example that are compared with the plain forward in every call: the centre, the corners, and
others that are drawn anew in each, one of each group and one more for every 128 positions; of each further example two.
Of n that are drawn, all miss a fault of a share s of the positions with a probability of (1 - s)^n."""
ROUNDINGS = 64
"""Allowed difference in roundings of the largest output, for changes that do next to nothing."""


class Wrong(Exception):
    """Outputs differ from the plain forward's beyond rounding; says how."""


def scores_of_changes(asked: Asked, changes: Changes, engine: Incremental) -> Tensor:
    """Scores [P, outputs] of all changes of all examples.

    Raises:
        Wrong: where they differ from the model's.
    """
    return _Scoring(asked, changes, engine).all_examples()


class _Scoring:
    """The sweeps of one attribution."""

    def __init__(self, asked: Asked, changes: Changes, engine: Incremental) -> None:
        self._asked, self._changes, self._engine = asked, changes, engine
        self._scorer, (self._image,) = asked.scorer, asked.inputs
        self._examples = self._image.shape[0]
        self._random = np.random.default_rng()  # of the system's: what one call misses the next need not

    def all_examples(self) -> Tensor:
        count = len(self._changes.rectangles)
        found = self._scorer.clean.new_empty((count, *self._scorer.clean.view(self._examples, -1).shape))
        began = time.perf_counter()
        with observed() as sweeps:
            for example in range(self._examples):
                self._engine.prepare(self._image[example : example + 1])
                self._check(example, self._to_check() if example == 0 else self._drawn(2))
                for group in self._engine.groups:
                    self._sweep(example, group, found[:, example])
        how = f"{self._asked.name}, incremental ({self._engine.gain:.1f} times fewer multiply-adds)"
        sizes = tuple(size for each in sweeps for size in each.sizes)
        retried = sum(each.retried for each in sweeps)
        note(Swept(how, count * self._examples, sizes, retried, time.perf_counter() - began))
        return found.flatten(1)

    def _outputs(self, example: int, group: Group, rows: Tensor) -> Any:
        window = self._engine.window(group)
        altered = self._changes.altered(example, group.positions[rows.cpu()], window.starts[rows], window.size)
        return self._engine(group, rows, altered)

    def _plain_outputs(self, example: int, positions: Tensor) -> Any:
        starts = torch.zeros((len(positions), 2), dtype=torch.int64, device=self._image.device)
        height, width = self._image.shape[2:]
        rows = self._changes.altered(example, positions, starts, (height, width))
        # As the images lie in memory, which a model's views may turn on.
        return self._scorer.output_of(rows.contiguous() if self._image.is_contiguous() else rows)

    def _sweep(self, example: int, group: Group, found: Tensor) -> None:
        """One group's scores of one example, into the rows of its positions."""
        total = len(group.positions)
        # Chunks of one size, since each other size makes the libraries choose their algorithms anew.
        size = -(-total // -(-total // (self._asked.rows or ROWS)))

        def work(start: int, stop: int) -> Tensor:
            output = self._outputs(example, group, torch.arange(start, stop, device=self._image.device))
            return self._scorer.of_rows(output, stop - start, example)

        def keep(start: int, stop: int, values: Tensor) -> None:
            found[group.positions[start:stop]] = values

        chunk_sizes = ChunkSizes(total, 1, 0, self._image.device, size)
        Sweep(total, work, keep, chunk_sizes, self._asked.name, self._asked.show_progress).run()

    def _check(self, example: int, positions_checked: list[int]) -> None:
        """Compare some positions with the plain forward."""
        chosen = torch.tensor(positions_checked, device="cpu")
        parts, order = [], []
        for group in self._engine.groups:
            rows = torch.isin(group.positions, chosen).nonzero()[:, 0]
            if len(rows):
                output = self._outputs(example, group, rows.to(self._image.device))
                parts.append(self._scorer.of_rows(output, len(rows), example))
                order.append(group.positions[rows])
        positions = torch.cat(order)
        output = self._plain_outputs(example, positions)
        want = self._scorer.of_rows(output, len(positions), example).double()
        got, clean = torch.cat(parts).double(), self._scorer.clean.view(self._examples, -1)[example].double()
        if not torch.equal(got.isfinite(), want.isfinite()):
            raise Wrong("its outputs are not finite where the model's are")
        got, want, clean = (each.nan_to_num(posinf=0, neginf=0) for each in (got, want, clean))
        apart, effect = float((got - want).abs().max()), float((want - clean).abs().max())
        rounding = ROUNDINGS * torch.finfo(self._image.dtype).eps * float(want.abs().max())
        if apart > max(TOLERANCE * effect, rounding):
            raise Wrong(
                f"outputs at {len(positions)} positions were off by up to {apart:.1e}, with an effect of {effect:.1e}"
            )

    def _to_check(self) -> list[int]:
        """The centre, the corners, one position of each group, and more."""
        rectangles = self._changes.rectangles.double()
        middle = torch.stack([rectangles[:, :2].mean(1), rectangles[:, 2:].mean(1)], 1)
        low, high = middle.amin(0), middle.amax(0)
        places = [(low + high) / 2, low, high, torch.stack([low[0], high[1]]), torch.stack([high[0], low[1]])]
        chosen = [int((middle - place).square().sum(1).argmin()) for place in places]
        chosen += [int(group.positions[self._random.integers(len(group.positions))]) for group in self._engine.groups]
        more = max(0, CHECKS - len(chosen)) + len(rectangles) // 128
        return list(dict.fromkeys([*chosen, *self._drawn(more)]))

    def _drawn(self, count: int) -> list[int]:
        found: list[int] = self._random.integers(len(self._changes.rectangles), size=count).tolist()
        return list(dict.fromkeys(found))
