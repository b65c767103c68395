"""What ``import fastsal`` gives, and what it does not import."""

from __future__ import annotations

import os
import pkgutil
import subprocess
import sys
from pathlib import Path
from types import FunctionType, ModuleType

import pytest
import torch
from torch import Tensor, nn

import fastsal
from fastsal import explainers, lrp, targets

FUNCTIONS = ("compile", "explain", "export", "layers", "load", "methods", "prepare")
ROOMS = ("compat", "deploy", "explainers", "explanation", "lrp", "metrics", "models", "ops", "targets", "viz")
HEAVY = ("torch", "numpy", "PIL", "triton", "tqdm")


def _python(root: Path, code: str) -> None:
    """Runs code in a fresh process."""
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join([str(root), str(root / "kernels")]))
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    "code",
    [
        "import fastsal; fastsal.__version__",
        "from fastsal.cli import main\ntry: main(['--help'])\nexcept SystemExit as end: assert not end.code",
        "from fastsal.cli import main\ntry: main(['--version'])\nexcept SystemExit as end: assert not end.code",
        "from fastsal.cli import main\ntry: main(['explain', '--help'])\nexcept SystemExit as end: assert not end.code",
    ],
    ids=["import", "help", "version", "help of a command"],
)
def test_nothing_heavy_is_imported(root: Path, code: str) -> None:
    _python(
        root, f"{code}\nimport sys\nfound = [name for name in {HEAVY} if name in sys.modules]\nassert not found, found"
    )


def test_rooms_are_there_without_an_import_of_their_own(root: Path) -> None:
    _python(
        root, f"import fastsal, types\nfor room in {ROOMS}: assert isinstance(getattr(fastsal, room), types.ModuleType)"
    )


@pytest.mark.parametrize(
    "order", ["", pytest.param(", reverse=True", marks=pytest.mark.slow)], ids=["forwards", "backwards"]
)
def test_functions_stay_functions_whatever_is_imported(root: Path, order: str) -> None:
    _python(
        root,
        "import fastsal, importlib, pkgutil, types\n"
        "found = [m.name for m in pkgutil.walk_packages(fastsal.__path__, 'fastsal.') if '__main__' not in m.name]\n"
        f"for name in sorted(found{order}): importlib.import_module(name)\n"
        f"for name in {FUNCTIONS}: assert isinstance(getattr(fastsal, name), types.FunctionType), name",
    )


def test_no_module_has_a_functions_name() -> None:
    modules = {module.name for module in pkgutil.iter_modules(fastsal.__path__)}
    assert not modules & set(FUNCTIONS)
    assert all(isinstance(getattr(fastsal, name), FunctionType) for name in FUNCTIONS)


def test_every_name_is_listed_and_found() -> None:
    assert {*fastsal.__all__, *ROOMS} <= set(dir(fastsal))
    found: dict[str, object] = {}
    exec("from fastsal import *", found)
    assert {*fastsal.__all__, "__builtins__"} == set(found)
    assert isinstance(found["targets"], ModuleType)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'fastsal' has no attribute 'Gradcam'"):
        fastsal.Gradcam  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'Gradcam' from 'fastsal'"):
        exec("from fastsal import Gradcam")


def test_names_are_the_same_objects_wherever_they_are_taken_from() -> None:
    assert fastsal.GradCAM is explainers.GradCAM
    assert fastsal.Attribution is explainers.base.Attribution
    assert targets.Logit is explainers.targets.Logit
    assert lrp.EpsilonRule is explainers.lrp.rules.EpsilonRule
    assert fastsal.targets is targets


@pytest.mark.parametrize("room", ["targets", "lrp"])
def test_thin_rooms_list_what_they_have(room: str) -> None:
    module = getattr(fastsal, room)
    assert module.__doc__
    assert all(getattr(module, name).__doc__ for name in module.__all__)


def test_a_rule_of_ones_own() -> None:
    """The names that a rule needs are all in fastsal.lrp."""

    class Plain(lrp.PropagationRule):
        def parts(self, layer: lrp.RelevanceLayer) -> list[tuple[float, list[lrp.Term]]]:
            return [(1.0, [lrp.Term(layer.inputs, layer.weight, layer.bias)])]

    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    x: Tensor = torch.randn(2, 3)
    found = []
    for rule in (Plain(), lrp.EpsilonRule(1e-9)):
        model[0].rule = model[2].rule = rule
        found.append(fastsal.LRP(model).attribute(x, target=1))
    torch.testing.assert_close(*found)
