"""The kernel gate: what can be known of every kernel without a GPU.

Runs the kernels in Triton's interpreter against the float64 reference (tests/ops), compiles each of their real
signatures for four architectures, and prints registers, spills, the widest global store, shared memory and seconds.
Fails on a wrong value, on a spill, and on a batch writer whose aligned case has no 128-bit store.

    python -m tools.kernel_gate [--compile-only] [--architectures 80,90] [--only TEXT] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
ARCHITECTURES = (80, 90, 100, 120)
PROCESS_SECONDS = 120
"""A kernel that spills can take the assembler minutes; past this the case has failed."""

TYPES = {
    "torch.float32": "fp32",
    "torch.bfloat16": "bf16",
    "torch.float16": "fp16",
    "torch.uint8": "u8",
    "torch.int32": "i32",
    "torch.int64": "i64",
}


class Signature(NamedTuple):
    """What Triton specialises a launch on: argument types, constants, which arguments are divisible by 16."""

    types: dict[str, str]
    constants: dict[str, Any]
    divisible: tuple[int, ...]
    num_warps: int

    def key(self) -> str:
        """Text that is equal for equal signatures."""
        return json.dumps([self.types, self.constants, self.divisible, self.num_warps], sort_keys=True)


def signature_of(launch: Any) -> Signature:
    """The signature that the just-in-time compiler would give a launch."""
    types: dict[str, str] = {}
    constants: dict[str, Any] = {}
    divisible = []
    values = iter(launch.args)
    for parameter in launch.kernel.params:
        if parameter.is_constexpr:
            types[parameter.name] = "constexpr"
            constants[parameter.name] = launch.constexprs[parameter.name]
            continue
        value = next(values)
        specialize = not parameter.do_not_specialize
        if hasattr(value, "data_ptr"):
            types[parameter.name] = "*" + TYPES[str(value.dtype)]
            aligned = value.data_ptr() % 16 == 0
        elif isinstance(value, float):
            types[parameter.name] = "fp32"
            aligned = False
        elif specialize and value == 1:
            types[parameter.name] = "constexpr"
            constants[parameter.name] = 1
            aligned = False
        else:
            small = -(2**31) <= value < 2**31
            types[parameter.name] = parameter.annotation_type or ("i32" if small else "i64")
            aligned = specialize and value % 16 == 0
        if aligned:
            divisible.append(parameter.num)
    return Signature(types, constants, tuple(divisible), launch.num_warps)


def _tool(name: str, *arguments: str) -> str:
    import triton

    path = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name
    return subprocess.run([str(path), *arguments], capture_output=True, text=True, check=True).stdout


def compiled_for(kernel: Any, signature: Signature, architecture: int) -> Any:
    """A kernel's machine code and what Triton says of it, without a GPU."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    source = ASTSource(
        fn=kernel,
        signature=signature.types,
        constexprs=signature.constants,
        attrs={(number,): [["tt.divisibility", 16]] for number in signature.divisible},
    )
    target = GPUTarget("cuda", architecture, 32)
    return triton.compile(source, target=target, options={"num_warps": signature.num_warps})


def compile_case(index: int, architecture: int) -> dict[str, Any]:
    """Compile one case for one architecture and read its resources from the machine code."""
    case = cases_for(architecture)[index]
    signature = signature_of(case.launch)
    began = time.perf_counter()
    compiled = compiled_for(case.launch.kernel, signature, architecture)
    seconds = time.perf_counter() - began
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = _tool("cuobjdump", "--dump-resource-usage", file.name)
        code = _tool("nvdisasm", "-c", file.name)
    resources = re.search(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", usage)
    if resources is None:
        raise RuntimeError(f"no resource usage in: {usage}")
    registers, stack, _, local = (int(group) for group in resources.groups())
    stores = Counter(_width(text) for text in re.findall(r"\bSTG\.E[\w.]*", code))
    spills = len(re.findall(r"\b(?:LDL|STL)\b", code))
    failures = []
    if spills or stack or local:
        failures.append(f"spills ({spills} local loads and stores, {stack} bytes of stack)")
    if case.wide and max(stores, default=0) < 128:
        failures.append(f"widest store is {max(stores, default=0)} bits, the rows are aligned for 128")
    return {
        "case": case.name,
        "architecture": f"sm_{architecture}",
        "registers": registers,
        "spills": spills,
        "widest_store_bits": max(stores, default=0),
        "shared_bytes": compiled.metadata.shared,
        "seconds": round(seconds, 2),
        "failures": failures,
    }


def _width(instruction: str) -> int:
    for bits in (256, 128, 64, 16, 8):
        if re.search(rf"\.(?:[US])?{bits}\b", instruction):
            return bits
    return 32


_found: dict[int | None, list[Any]] = {}


def cases_for(architecture: int | None = None) -> list[Any]:
    """Cases of different signatures, with the blocks that an architecture has in the shipped tuning table."""
    if architecture not in _found:
        from fastsal_kernels._tuning import assumed
        from tools.kernel_cases import cases

        if architecture is not None:
            names = {case.name for case in cases_for()}
            with assumed(f"sm_{architecture}"):
                _found[architecture] = [case for case in cases() if case.name in names]
            return _found[architecture]
        found: dict[tuple[str, ...], Any] = {}
        for case in cases():
            kernel = case.launch.kernel
            found.setdefault((kernel.__module__, kernel.__name__, signature_of(case.launch).key()), case)
        _found[None] = list(found.values())
    return _found[architecture]


def _compile_quietly(index: int, architecture: int) -> dict[str, Any]:
    try:
        return compile_case(index, architecture)
    except Exception as error:
        name = cases_for()[index].name
        reason = f"does not compile: {type(error).__name__}: {str(error)[:300]}"
        return {"case": name, "architecture": f"sm_{architecture}", "failures": [reason]}


def run(architectures: list[int], only: str, workers: int) -> list[dict[str, Any]]:
    """Compile all cases; prints the table as the results come."""
    chosen = [index for index, case in enumerate(cases_for()) if only in case.name]
    width = max((len(cases_for()[index].name) for index in chosen), default=10)
    print(f"{'kernel and signature':{width}} {'arch':7} {'regs':>4} {'spills':>6} {'store':>5} {'shared':>7}  compile")
    results = []
    with ProcessPoolExecutor(workers) as pool:
        futures = [pool.submit(_compile_quietly, index, arch) for index in chosen for arch in architectures]
        for future in futures:
            row = future.result(timeout=PROCESS_SECONDS * max(1, len(futures)))
            results.append(row)
            line = f"{row['case']:{width}} {row['architecture']:7} "
            if "registers" in row:
                line += f"{row['registers']:4} {row['spills']:6} {row['widest_store_bits']:5} "
                line += f"{row['shared_bytes']:7} {row['seconds']:7.2f}s"
            print(line + "".join(f"  FAIL {failure}" for failure in row["failures"]), flush=True)
    return results


def interpret() -> int:
    """Run the ops' kernel tests in the interpreter; the exit status."""
    environment = dict(os.environ, TRITON_INTERPRET="1", PYTHONPATH=f"{ROOT}:{ROOT / 'kernels'}")
    command = [sys.executable, "-m", "pytest", "-q", "tests/ops", "-k", "kernel", "-p", "no:cacheprovider"]
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


def main() -> int:
    """Entry point; 0 when every kernel passes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--compile-only", action="store_true", help="leave the interpreter's tests out")
    parser.add_argument("--architectures", default=",".join(map(str, ARCHITECTURES)))
    parser.add_argument("--only", default="", help="cases whose name contains this text")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", type=Path, help="write the table here too")
    options = parser.parse_args()
    os.environ.pop("TRITON_INTERPRET", None)
    sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]
    import torch

    torch.set_num_threads(1)  # a fork cannot use the threads that its parent has started
    began = time.perf_counter()
    results = run([int(arch) for arch in options.architectures.split(",")], options.only, options.workers)
    failed = [row for row in results if row["failures"]]
    elapsed = time.perf_counter() - began
    print(f"{len(results)} compilations in {elapsed:.0f} s, {len(failed)} failed")
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    status = 0 if options.compile_only else interpret()
    return 1 if failed or status else 0


if __name__ == "__main__":
    sys.exit(main())
