"""Recorded calls: results that must not change by a bit from one commit to the next, on one machine.

    python -m tools.recorded_calls --record old.pt --code ../at-the-old-commit
    python -m tools.recorded_calls --record new.pt
    python -m tools.recorded_calls --compare old.pt new.pt

``--code`` takes the package from another checkout; the calls are this one's. Occlusion's default is not among them:
whether it works incrementally was once decided by what the explainer had done before.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import random
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

GROUPS = ("gradients", "layers", "behind_layers", "neurons", "perturbations", "forms", "services", "faces")
"""Modules of :mod:`tools.recorded`, each with its ``CALLS``."""
Recorded = dict[str, dict[str, Tensor]]


def calls() -> dict[str, Callable[[], Any]]:
    """Every call by its name."""
    modules = [importlib.import_module(f"tools.recorded.{name}") for name in GROUPS]
    found = [
        (f"{name}: {call}", run)
        for name, module in zip(GROUPS, modules, strict=True)
        for call, run in module.CALLS.items()
    ]
    assert len(dict(found)) == len(found)
    return dict(found)


def flat(result: Any, path: str = "") -> dict[str, Tensor]:
    """The tensors of a result by their place in it; numbers are tensors too.

    Raises:
        TypeError: for what cannot be recorded.
    """
    if isinstance(result, Tensor):
        return {path: result.detach().cpu().clone(memory_format=torch.contiguous_format)}
    if isinstance(result, (np.ndarray, bool, int, float)):
        return {path: torch.as_tensor(result).clone()}
    if result is None:
        return {}
    if isinstance(result, dict):
        return {place: value for key, each in result.items() for place, value in flat(each, f"{path}.{key}").items()}
    if isinstance(result, (tuple, list)):
        return {place: value for i, each in enumerate(result) for place, value in flat(each, f"{path}[{i}]").items()}
    raise TypeError(f"{path}: {type(result).__name__} cannot be recorded")


def record(only: str = "") -> tuple[Recorded, list[str]]:
    """(results of every call whose name has this text, names of the calls that failed)."""
    torch.set_num_threads(1)
    results: Recorded = {}
    failed = []
    for name, call in calls().items():
        if only not in name:
            continue
        random.seed(0)
        np.random.seed(0)
        torch.manual_seed(0)
        try:
            results[name] = flat(call())
        except Exception:
            failed.append(name)
            print(f"{name}\n{traceback.format_exc()}", file=sys.stderr)
    return results, failed


def same(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors are of the same dtype, shape and bits."""
    return (
        first.dtype == second.dtype
        and first.shape == second.shape
        and torch.equal(first.reshape(-1).view(torch.uint8), second.reshape(-1).view(torch.uint8))
    )


def differences(first: Recorded, second: Recorded) -> list[str]:
    """One line for each call whose results are not the same."""
    found = []
    for name in {**first, **second}:
        if name not in first or name not in second:
            found.append(f"{name}: only in the {'first' if name in first else 'second'}")
            continue
        one, other = first[name], second[name]
        if one.keys() != other.keys():
            found.append(f"{name}: {', '.join(one)} against {', '.join(other)}")
            continue
        for place in one:
            if not same(one[place], other[place]):
                found.append(f"{name}{place}: {_apart(one[place], other[place])}")
    return found


def _apart(first: Tensor, second: Tensor) -> str:
    if first.dtype != second.dtype or first.shape != second.shape:
        return f"{first.dtype} {list(first.shape)} against {second.dtype} {list(second.shape)}"
    one, other = first.double(), second.double()
    return f"off by {(one - other).abs().max():.2e} of {one.abs().max():.2e}"


def digest(results: Recorded) -> str:
    """SHA-256 of all results."""
    total = hashlib.sha256()
    for name, tensors in sorted(results.items()):
        for place, tensor in tensors.items():
            total.update(f"{name}{place} {tensor.dtype} {list(tensor.shape)}".encode())
            total.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def main(arguments: list[str] | None = None) -> int:
    """Records or compares; 1 for a call that failed or results that differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--record", metavar="FILE", help="run the calls and keep their results")
    what.add_argument("--compare", nargs=2, metavar="FILE", help="compare two records bit for bit")
    parser.add_argument("--code", metavar="FOLDER", help="a checkout whose package is run, in place of this one")
    parser.add_argument("--only", default="", metavar="TEXT", help="calls whose name has this text")
    options = parser.parse_args(arguments)
    if options.compare:
        first, second = (torch.load(file, weights_only=True) for file in options.compare)
        if first["machine"] != second["machine"]:
            print(f"recorded on {first['machine']} and {second['machine']}: bits may differ for that")
        found = differences(first["results"], second["results"])
        print("\n".join(found))
        print(f"{len(first['results'])} and {len(second['results'])} calls, {len(found)} differences")
        return bool(found)
    if options.code:
        sys.path[:0] = [options.code, str(Path(options.code) / "kernels")]
    import fastsal

    began = time.perf_counter()
    results, failed = record(options.only)
    machine = f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}"
    torch.save({"machine": machine, "results": results}, options.record)
    print(f"{len(results)} calls of {Path(fastsal.__file__).parent} in {time.perf_counter() - began:.0f} s")
    print(f"sha256 {digest(results)}; {len(failed)} failed")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
