"""Threads that explain and predict with one model for as long as one likes: the bits of one thread, and no growth.

python -m tests.fuzz.soak --minutes 30 --threads 16
"""

from __future__ import annotations

import argparse
import gc
import random
import sys
import threading
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tests.explainers.calls import CALLS
from tests.explainers.networks import image, small, state

IMAGES = 4


def resident() -> float:
    """MB of memory of this process; 0 where the system does not tell."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * 4096 / 2**20 if statm.exists() else 0.0


class Soak:
    """One model, what one thread makes of it, and what several do.

    Args:
        names: of the methods.
        seed: of what each thread does when.
    """

    def __init__(self, names: list[str], seed: int = 0) -> None:
        self.names, self.seed = names, seed
        self.images = [image(seed=number, batch=2) for number in range(IMAGES)]
        self.model = small(dropout=0.5)
        self.scores = [self.model(x).detach() for x in self.images]
        self.right = {(name, i): self._made(name, self.model, x) for name in names for i, x in enumerate(self.images)}
        self.done: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._lock = threading.Lock()

    @staticmethod
    def _made(name: str, model: nn.Module, x: Tensor) -> Tensor:
        found: Tensor = CALLS[name](model, x)
        return found

    def work(self, number: int, until: float) -> None:
        """What one thread does: methods in a random order, predictions between them."""
        generator = random.Random(f"{self.seed}/{number}")
        while time.monotonic() < until and len(self.wrong) < 20:
            i, name = generator.randrange(IMAGES), generator.choice([*self.names, "prediction"])
            try:
                if name == "prediction":
                    with torch.no_grad():
                        found: Any = self.model(self.images[i])
                    ok = torch.equal(found, self.scores[i]) and not found.requires_grad
                else:
                    ok = torch.equal(self._made(name, self.model, self.images[i]), self.right[name, i])
            except Exception as error:
                ok = False
                name = f"{name}: {error!r}"[:300]
                traceback.print_exc()
            with self._lock:
                self.done[name] += 1
                if not ok:
                    self.wrong.append(name)
                    print(f"wrong: {name}", flush=True)

    def run(self, seconds: float, threads: int, told: Any = None) -> None:
        """So many threads for so long; each minute is told."""
        before, until = state(self.model), time.monotonic() + seconds
        switch = sys.getswitchinterval()
        sys.setswitchinterval(1e-4)
        try:
            workers = [threading.Thread(target=self.work, args=(number, until)) for number in range(threads)]
            for worker in workers:
                worker.start()
            while told is not None and any(worker.is_alive() for worker in workers):
                workers[0].join(60)
                gc.collect()
                told(f"{sum(self.done.values())} calls, {len(self.wrong)} wrong, {resident():.0f} MB")
            for worker in workers:
                worker.join()
        finally:
            sys.setswitchinterval(switch)
        after = state(self.model)
        self.wrong += [key for key in before if key != "values" and before[key] != after[key]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--threads", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    # Draws of the global generator, which threads share, are no thread's own: these methods are given seeds.
    soak = Soak([name for name in CALLS if name != "explain"], arguments.seed)
    began = time.monotonic()
    soak.run(
        60 * arguments.minutes,
        arguments.threads,
        lambda text: print(f"{(time.monotonic() - began) / 60:.1f} min: {text}", flush=True),
    )
    print(f"{len(soak.done)} kinds of call, {sum(soak.done.values())} calls, {len(soak.wrong)} wrong")
    for name in sorted(set(soak.wrong)):
        print(name)
    sys.exit(1 if soak.wrong else 0)


if __name__ == "__main__":
    main()
