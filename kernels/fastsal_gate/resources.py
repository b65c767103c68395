"""What each case takes of a GPU: registers, spills, the widest store, shared memory, read from its machine code."""

from __future__ import annotations

import re
import subprocess
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import triton

from fastsal_gate.cases import cases_for
from fastsal_gate.signatures import compiled_for, signature_of

PROCESS_SECONDS = 120
"""A kernel that spills can take the assembler minutes; past this the case has failed."""


def _tool(name: str, *arguments: str) -> str:
    path = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name
    return subprocess.run([str(path), *arguments], capture_output=True, text=True, check=True).stdout


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
