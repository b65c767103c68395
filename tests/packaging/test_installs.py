"""Editable install, bare checkout, and what an import loads."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fastsal.ops._backend import without_triton
from tests.packaging.building import Isolated

OPTIONAL = ("captum", "matplotlib", "pytorch_grad_cam", "skimage", "sklearn", "timm", "torchvision", "transformers")


@pytest.mark.slow
def test_editable_install_exposes_both_packages(root: Path, tmp_path: Path, isolated: Isolated) -> None:
    # --ignore-installed: the environment's own installation of fastsal must survive this.
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    command += ["--ignore-installed", "--prefix", str(tmp_path / "prefix"), "--editable", str(root)]
    subprocess.run(command, check=True, capture_output=True)
    (site,) = {file.parent for file in (tmp_path / "prefix").rglob("*.pth")}
    code = f"""
import importlib.util, site
site.addsitedir({str(site)!r})
import fastsal
print(fastsal.__file__)
print(importlib.util.find_spec("fastsal_kernels").origin)
"""
    ours, kernels = isolated(code).splitlines()
    assert Path(ours) == root / "fastsal" / "__init__.py"
    assert Path(kernels) == root / "kernels" / "fastsal_kernels" / "__init__.py"
    assert list((tmp_path / "prefix").rglob("bin/fastsal"))


def test_bare_checkout_imports_and_runs_an_op(root: Path, isolated: Isolated) -> None:
    code = """
import fastsal, torch
from fastsal.ops import path
print(fastsal.__file__)
print(tuple(path.batch(torch.ones(2, 3, 4), torch.tensor([0.0, 1.0])).shape))
"""
    where, shape = isolated(code, root).splitlines()
    assert Path(where) == root / "fastsal" / "__init__.py"
    assert shape == "(4, 3, 4)"


@pytest.mark.slow
def test_bare_checkout_finds_the_kernels(root: Path, isolated: Isolated) -> None:
    pytest.importorskip("triton", reason="triton is not installed")
    code = """
from fastsal.ops._backend import kernel_module
print(kernel_module("masks").__file__)
"""
    assert Path(isolated(code, root)) == root / "kernels" / "fastsal_kernels" / "masks.py"


@pytest.mark.slow
def test_import_works_without_triton_and_optional_packages(root: Path, isolated: Isolated) -> None:
    code = f"""
import sys
for name in {(*OPTIONAL, "triton")!r}:
    sys.modules[name] = None
import torch
from fastsal import *
from fastsal.ops import path
print(tuple(path.batch(torch.ones(1, 2, 3), torch.tensor([0.5])).shape))
"""
    assert isolated(code, root, root / "kernels") == "(1, 2, 3)"


def test_import_loads_no_optional_package_and_touches_no_gpu(root: Path, isolated: Isolated) -> None:
    code = f"""
import sys, torch
before = set(sys.modules)
from fastsal import *
loaded = {{name.split(".")[0] for name in set(sys.modules) - before}}
print(sorted(loaded & {{*{(*OPTIONAL, "triton")!r}, "fastsal_kernels"}}), torch.cuda.is_initialized())
"""
    assert isolated(code, root, root / "kernels") == "[] False"


cmake = pytest.mark.skipif(shutil.which("cmake") is None, reason="cmake is not installed")
compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")


@cmake
def test_cmake_configures_without_a_compiler(root: Path, tmp_path: Path) -> None:
    command = ["cmake", "-S", str(root), "-B", str(tmp_path / "build"), "-DFASTSAL_NATIVE=OFF"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "native build off" in result.stdout


@cmake
@pytest.mark.native
@compiler
@pytest.mark.skipif(without_triton() is not None, reason=str(without_triton()))
def test_the_native_build_and_its_tests(root: Path, tmp_path: Path) -> None:
    """One module's kernels for two architectures; all of them for four take some minutes."""
    build = tmp_path / "build"
    options = ["-DFASTSAL_CUDA_ARCHS=80;90", "-DFASTSAL_KERNEL_MODULES=path", f"-DPython3_EXECUTABLE={sys.executable}"]
    for command in (
        ["cmake", "-S", str(root), "-B", str(build), *options],
        ["cmake", "--build", str(build), "--parallel", "2"],
        ["ctest", "--test-dir", str(build), "--output-on-failure"],
    ):
        result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1200)
        assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-4000:]
    assert "100% tests passed" in result.stdout
    assert "fastsal_run" in result.stdout


@cmake
@compiler
def test_a_native_build_without_torch_says_what_is_missing(root: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(bare)], check=True)
    command = ["cmake", "-S", str(root), "-B", str(tmp_path / "build"), f"-DPython3_EXECUTABLE={bare}/bin/python"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode != 0
    assert "run `make test` first" in " ".join(result.stderr.split())
