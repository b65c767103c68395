"""What is kept between calls is bounded, freed when asked for, and changes no result."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import fastsal
from fastsal.engine.reading.geometry import geometry_of
from fastsal.engine.run.caches import Bounded
from fastsal.explainers.perturbation.rise import _designs, _regression
from tests.explainers.calls import CALLS
from tests.explainers.networks import image, small


def test_so_many_bytes_at_most() -> None:
    made: list[Any] = []

    def make(size: int) -> Tensor:
        made.append(size)
        return torch.zeros(size)

    kept: Bounded[Tensor] = Bounded(4000, lambda value: [value])
    for size in (400, 500, 400, 600, 100, 500, 2000, 600):
        assert len(kept.get(size, lambda size=size: make(size))) == size
        assert kept.bytes <= 4000
    # 400 is used again before 600 comes, so 500 goes; then 400 for 100, 600 for 500; 2000 is too large to be kept.
    assert made == [400, 500, 600, 100, 500, 2000, 600]
    kept.clear()
    assert kept.bytes == 0


def test_rise_keeps_what_is_stated() -> None:
    """Whatever is asked for, one after the other."""
    x = image(batch=1)
    for seed in range(3):
        fastsal.RISE(lambda x: x.mean((1, 2, 3))[:, None]).attribute(x, target=0, n_masks=20000, seed=seed)
        for kept in (_designs._kept, _regression._kept):
            assert 0 < kept.bytes <= _designs.MOST_BYTES
    fastsal.clear_caches()
    assert _designs._kept.bytes == _regression._kept.bytes == 0


@pytest.mark.parametrize("name", ["rise", "ig", "gradcam-default", "RandomCAM", "occlusion"])
def test_results_stay_the_same(name: str) -> None:
    model, x = small(), image()
    before = CALLS[name](model, x)
    fastsal.clear_caches()
    assert torch.equal(CALLS[name](model, x), before)


def test_geometries_of_any_number_of_shapes() -> None:
    from fastsal.engine.reading.geometry import memory

    model = small()
    for size in range(8, 8 + memory.MOST + 6):
        geometry_of(model, model.last, (image(batch=1, size=size),))
    known = memory._kept.get(model)
    assert known is not None
    layer = known.get(model.last)
    assert layer is not None
    assert len(layer) <= memory.MOST


ALONE = """
    import resource, sys
    import torch, fastsal
    x, f = torch.rand(1, 1, 32, 32), lambda z: z.mean((1, 2, 3))[:, None]
    explainer = fastsal.RISE(f)
    explainer.attribute(x, target=0, n_masks=100)
    explainer.attribute(x, target=0, n_masks=100, design="independent")
    fastsal.SmoothGrad(f).attribute(x, target=0, n_samples=3)
    assert "torch._dynamo" not in sys.modules, "a first call imports what takes over a second"
    peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    before = peak()
    explainer.attribute(x, target=0, n_masks=50000)
    print((peak() - before) / 50000)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's unit of a process's largest memory")
def test_a_process_of_its_own() -> None:
    """RISE takes what its docstring says, about 3 kB a mask; nothing imports torch._dynamo at its first call."""
    root = Path(__file__).resolve().parents[2]
    found = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(ALONE)],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    assert float(found.stdout) < 4000
