"""Every kernel compiled ahead of time, as sources of the native library: an assembler file with the machine code and
tables for C++. Needs no GPU.

    python -m fastsal_gate.embed --out DIR [--architectures 80,90] [--modules path,cam]
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from fastsal_gate import ARCHITECTURES
from fastsal_gate.library import launches_for
from fastsal_gate.signatures import Signature, compiled_for, signature_of

TUNING = Path(__file__).resolve().parents[1] / "fastsal_kernels" / "tuning.json"


class Cubin(NamedTuple):
    """A kernel of one signature for one architecture."""

    kernel: str
    signature: str
    architecture: int
    function: str
    shared: int
    threads: int
    file: Path


def name_of(kernel: Any) -> str:
    """``path.batch_kernel``, as C++ calls it."""
    return f"{kernel.__module__.rsplit('.', 1)[-1]}.{kernel.__name__}"


def parameters_of(kernel: Any) -> str:
    """A letter for each parameter: c, a constant; s, specialised; n, not; S and N, the same of 64-bit integers.

    kernels/native/src/kernels.cpp makes a launch's signature from it.
    """
    letters = []
    for parameter in kernel.params:
        letter = "n" if parameter.do_not_specialize else "s"
        wide = parameter.annotation_type == "i64"
        letters.append("c" if parameter.is_constexpr else letter.upper() if wide else letter)
    return "".join(letters)


def text_of(kernel: Any, signature: Signature) -> str:
    """The signature as C++ writes it: the parameters' types or =values, ``:16`` where divisible, and the warps."""
    parts = []
    for parameter in kernel.params:
        kind = signature.types[parameter.name]
        if kind == "constexpr":
            parts.append(f"={int(signature.constants[parameter.name])}")
        else:
            parts.append(kind + (":16" if parameter.num in signature.divisible else ""))
    return ",".join(parts) + f"|{signature.num_warps}"


def general(kernel: Any, signature: Signature) -> Signature:
    """The signature for every size: elements one by one and integers of any value, at the cost of speed."""
    types, constants = dict(signature.types), dict(signature.constants)
    for parameter in kernel.params:
        if types[parameter.name] == "constexpr" and not parameter.is_constexpr:
            types[parameter.name] = parameter.annotation_type or "i32"
            del constants[parameter.name]
    if "VECTOR" in constants:
        constants["VECTOR"] = 1
    names = {parameter.num: parameter.name for parameter in kernel.params}
    divisible = tuple(number for number in signature.divisible if types[names[number]].startswith("*"))
    return Signature(types, constants, divisible, signature.num_warps)


class Work(NamedTuple):
    """What is to be compiled: a launch at its own signature, or at the general one."""

    kernel: str
    signature: str
    architecture: int
    launch: int
    general: bool


def _work(architecture: int, modules: set[str] | None) -> Iterator[Work]:
    """Each different one once."""
    seen = set()
    for index, (launch, own) in enumerate(launches_for(architecture)):
        kernel, signature = launch.kernel, signature_of(launch)
        name = name_of(kernel)
        if modules is not None and name.split(".")[0] not in modules:
            continue
        for wide in (False, True) if own else (True,):
            text = text_of(kernel, general(kernel, signature) if wide else signature)
            if (name, text) not in seen:
                seen.add((name, text))
                yield Work(name, text, architecture, index, wide)


def _compile(work: Work, folder: Path) -> Cubin:
    kernel, signature, architecture, index, wide = work
    launch = launches_for(architecture)[index].launch
    own = signature_of(launch)
    compiled = compiled_for(launch.kernel, general(launch.kernel, own) if wide else own, architecture)
    facts = compiled.metadata
    for name in ("global_scratch_size", "profile_scratch_size"):
        if getattr(facts, name, 0):
            raise RuntimeError(f"{kernel}: needs scratch memory ({name}), which the native library does not give it")
    file = folder / f"{kernel}.{index}{'g' if wide else ''}.sm_{architecture}.cubin"
    file.write_bytes(compiled.asm["cubin"])
    return Cubin(kernel, signature, architecture, facts.name, facts.shared, 32 * facts.num_warps, file)


def _assembler(cubins: list[Cubin]) -> str:
    lines = ["\t.section .rodata"]
    for number, cubin in enumerate(cubins):
        label = f"fastsal_cubin_{number}"
        lines += ["\t.balign 64", f"\t.hidden {label}", f"\t.globl {label}", f"{label}:", f'\t.incbin "{cubin.file}"']
    return "\n".join([*lines, '\t.section .note.GNU-stack,"",@progbits', ""])


def _tables(cubins: list[Cubin], kernels: dict[str, str], architectures: list[int]) -> str:
    lines = [f'#define FASTSAL_ARCHITECTURES "{",".join(map(str, architectures))}"', 'extern "C" {']
    lines += [f"extern const unsigned char fastsal_cubin_{number}[];" for number in range(len(cubins))]
    lines += ["}", "static const Kernel kernels[] = {"]
    lines += [f'    {{"{name}", "{letters}"}},' for name, letters in sorted(kernels.items())]
    lines += ["};", "static const Setting settings[] = {"]
    for architecture, of_kernels in json.loads(TUNING.read_text()).items():
        number = architecture.removeprefix("sm_") if architecture != "any" else "0"
        for kernel, sizes in of_kernels.items():
            for size, blocks in sorted(sizes.items()):
                at = "-1" if size == "*" else size
                lines += [f'    {{{number}, "{kernel}", {at}, "{name}", {value}}},' for name, value in blocks.items()]
    lines += ["};", "static const Cubin cubins[] = {"]
    lines += [
        f'    {{"{c.kernel}", "{c.signature}", {c.architecture}, fastsal_cubin_{number}, {c.file.stat().st_size}, '
        f'"{c.function}", {c.shared}, {c.threads}}},'
        for number, c in enumerate(cubins)
    ]
    return "\n".join([*lines, "};", ""])


def write(folder: Path, architectures: list[int], modules: set[str] | None, jobs: int) -> list[Cubin]:
    """Compile and write cubins.S, cubins.inc and the cubins that they name, below a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    work = [each for architecture in architectures for each in _work(architecture, modules)]
    with ProcessPoolExecutor(jobs) as pool:
        waiting = [pool.submit(_compile, each, folder) for each in work]
        cubins = [each.result() for each in waiting]
    kernels = {
        name_of(launch.kernel): parameters_of(launch.kernel)
        for architecture in architectures
        for launch, _ in launches_for(architecture)
    }
    (folder / "cubins.S").write_text(_assembler(cubins))
    (folder / "cubins.inc").write_text(_tables(cubins, kernels, architectures))
    return cubins


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Compile every kernel ahead of time.")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--architectures", default=",".join(map(str, ARCHITECTURES)), metavar="80,90")
    parser.add_argument("--modules", default="", metavar="path,cam", help="of these modules alone")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    # Names of source lines are two thirds of a kernel's bytes.
    os.environ.setdefault("TRITON_DISABLE_LINE_INFO", "1")
    architectures = sorted({int(part) for part in arguments.architectures.split(",")})
    modules = set(arguments.modules.split(",")) if arguments.modules else None
    cubins = write(arguments.out.resolve(), architectures, modules, arguments.jobs)
    size = sum(cubin.file.stat().st_size for cubin in cubins)
    named = ", ".join(f"sm_{each}" for each in architectures)
    print(f"{len(cubins)} cubins for {named}, {size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
