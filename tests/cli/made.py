"""Models that people bring to the command line, as a module in the current folder."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

MODULE = '''
import os
import sys
import torch
from torch import nn

def net(num_classes=5):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes)
    )

class After(nn.Module):
    def __init__(self, then, classes=5):
        super().__init__()
        self.net, self.then = net(classes), then
    def forward(self, x):
        return self.then(self.net(x))

def prints():
    print("loading ...")
    os.write(1, b"")
    return After(lambda y: (print("a pass"), y)[1])

def soft(): return After(lambda y: (30 * y).softmax(1))
def log_soft(): return After(lambda y: (30 * y).log_softmax(1))
def nan(): return After(lambda y: y * float("nan"))
def single(): return After(lambda y: 3 * y, 1)
def single_sigmoid(): return After(lambda y: (3 * y).sigmoid(), 1)
def labels(): return After(lambda y: (3 * y).sigmoid())
def squeezed(): return After(lambda y: y[:, 0])
def named(): return After(lambda y: {"logits": y})
def raises(): raise RuntimeError("boom\\nand more")
def leaves(): sys.exit(3)
def key(): return After(lambda y: {}["nothing"])

class Dark(nn.Module):
    """Fails on dark images."""
    def __init__(self):
        super().__init__()
        self.net = net()
    def forward(self, x):
        if float(x.max()) < 0:
            raise ValueError("too dark")
        return self.net(x)
'''


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """The module's name, of this test alone; the test runs in its folder."""
    name = f"brought_{abs(hash(request.node.nodeid))}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    return name
