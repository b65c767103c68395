"""Memory that runs out, errors and interrupts in the middle: nothing lost, left behind or counted twice."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastsal
from tests.explainers.calls import CALLS
from tests.explainers.networks import image, small, unchanged

SWEPT = ("ig", "smoothgrad", "gradient-shap", "occlusion", "rise", "feature-ablation", "kernel-shap", "ScoreCAM")


class Stopping(nn.Module):
    """Raises at one of its calls, once."""

    def __init__(self, inner: nn.Module, at: int, error: BaseException) -> None:
        super().__init__()
        self.inner, self.at, self.error = inner, at, error
        self.last = inner.last
        self.calls = 0

    def forward(self, x: Tensor) -> Any:
        self.calls += 1
        out = self.inner(x)
        if self.calls == self.at:
            raise self.error
        return out


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("its own"), torch.OutOfMemoryError("no room")])
@pytest.mark.parametrize("name", SWEPT)
def test_a_stop_in_the_middle_leaves_nothing(name: str, error: BaseException) -> None:
    """What is not memory is raised; either way the next explanation is the one of an untouched model."""
    model, x = small(dropout=0.5), image()
    torch.manual_seed(1)
    expected = CALLS[name](model, x)
    for at in (1, 2):
        stopping = Stopping(model, at, error).train()
        with unchanged(stopping.inner):
            torch.manual_seed(1)
            raised: BaseException | None = None
            try:
                found = CALLS[name](stopping, x)
            except (KeyboardInterrupt, RuntimeError) as caught:
                raised = caught
            if raised is None:
                assert isinstance(error, torch.OutOfMemoryError) or stopping.calls < at
                torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
            else:
                assert raised is error or "does not fit in memory" in str(raised)
            assert not torch.is_inference_mode_enabled()
            assert torch.is_grad_enabled()
        stopping.at = 0
        torch.manual_seed(1)
        torch.testing.assert_close(CALLS[name](stopping, x), expected, rtol=1e-5, atol=1e-6)


LIMITED = """
    import resource
    import torch
    from torch import nn
    import fastsal

    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 4))
    x = torch.randn(1, 3, 64, 64)
    arguments = dict(sliding_window_shapes=(3, 4, 4), strides=(3, 4, 4), target=1, incremental=False)
    explainer = fastsal.Occlusion(model)
    expected = explainer.attribute(x, **arguments, perturbations_per_eval=8)
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    # 256 windows at once make activations of 2 * 252 MB.
    resource.setrlimit(resource.RLIMIT_AS, (used + 300_000_000, -1))
    found = explainer.attribute(x, **arguments, perturbations_per_eval=256)
    (swept,) = explainer.plan().sweeps
    assert swept.retried >= 1, swept
    assert sum(swept.sizes) == 256, swept
    torch.testing.assert_close(found, expected)
    print(explainer.plan())
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's accounting of a process's memory")
def test_an_allocators_limit() -> None:
    """A real one, of the process's address space: batches are halved until they fit."""
    root = Path(__file__).resolve().parents[2]
    environment = dict(os.environ, PYTHONPATH=f"{root}{os.pathsep}{root / 'kernels'}", MALLOC_ARENA_MAX="1")
    code = textwrap.dedent(LIMITED)
    ran = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert "halved for want of memory" in ran.stdout


def test_a_random_model_is_told_by_its_map() -> None:
    """Dropout that stays on is seen as noise, not hidden: prepared it is refused preparation and says so."""

    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = small()

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.inner(nn.functional.dropout(x, 0.5, training=True))
            return out

    prepared = fastsal.prepare(Noisy(), image())
    assert "differs from call to call" in str(fastsal.RISE(prepared).plan())
