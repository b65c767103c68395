"""What a native library of kernels has inside, for ``fastsal doctor --native``."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Any

from fastsal.cli.errors import Refused, first_line

NAME = "libfastsal_kernels.so"
PLACES = ("build/kernels/native", "build/lib", "/usr/local/lib", "/usr/lib")
VARIABLE = "FASTSAL_NATIVE_LIBRARY"


class _Cubin(ctypes.Structure):
    _fields_ = (
        ("kernel", ctypes.c_char_p),
        ("signature", ctypes.c_char_p),
        ("architecture", ctypes.c_int),
        ("bytes", ctypes.c_size_t),
    )


def library_path(given: str) -> Path:
    """The library that is meant: a file, or without one that of the environment or of the usual places.

    Raises:
        Refused: where there is none, saying where was looked.
    """
    named = given or os.environ.get(VARIABLE, "")
    if named:
        if not Path(named).is_file():
            raise Refused(f"--native: there is no file {named!r}")
        return Path(named).resolve()
    for place in PLACES:
        if (Path(place) / NAME).is_file():
            return (Path(place) / NAME).resolve()
    raise Refused(
        f"--native: no {NAME} in {', '.join(PLACES)}; build it (cmake -B build && cmake --build build), "
        f"or name it: --native FILE or {VARIABLE}=FILE"
    )


def native_report(given: str) -> dict[str, Any]:
    """The facts, ready for JSON.

    Raises:
        Refused: where there is no library, or the file is none of fastsal's.
    """
    path = library_path(given)
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise Refused(f"--native: {path} cannot be loaded: {first_line(error)}") from None
    for name in ("fastsal_version", "fastsal_architectures", "fastsal_error"):
        if not hasattr(library, name):
            raise Refused(f"--native: {path} is not fastsal's library of kernels")
        getattr(library, name).restype = ctypes.c_char_p
    library.fastsal_cubin_count.restype = ctypes.c_size_t
    library.fastsal_cubin_at.argtypes = (ctypes.c_size_t, ctypes.POINTER(_Cubin))
    cubins = []
    for index in range(library.fastsal_cubin_count()):
        cubin = _Cubin()
        library.fastsal_cubin_at(index, ctypes.byref(cubin))
        cubins.append(
            {
                "kernel": cubin.kernel.decode(),
                "signature": cubin.signature.decode(),
                "architecture": f"sm_{cubin.architecture}",
                "bytes": cubin.bytes,
            }
        )
    usable = library.fastsal_driver() == 0
    return {
        "library": str(path),
        "fastsal": library.fastsal_version().decode(),
        "architectures": [f"sm_{each}" for each in library.fastsal_architectures().decode().split(",")],
        "driver": "usable" if usable else library.fastsal_error().decode(),
        "cubins": cubins,
    }


def native_text(found: dict[str, Any]) -> str:
    """The report for a person: each kernel's cubins by architecture."""
    cubins = found["cubins"]
    lines = [
        f"library      {found['library']}",
        f"fastsal      {found['fastsal']}",
        f"driver       {found['driver']}",
        f"cubins       {len(cubins)}, {sum(each['bytes'] for each in cubins) / 2**20:.1f} MiB",
    ]
    for architecture in found["architectures"]:
        own = [each for each in cubins if each["architecture"] == architecture]
        lines.append(f"{architecture:<12} {len(own)} cubins, {sum(each['bytes'] for each in own) / 2**20:.1f} MiB")
        for kernel in sorted({each["kernel"] for each in own}):
            these = [each for each in own if each["kernel"] == kernel]
            lines.append(
                f"  {kernel:<28} {len(these):>3} cubins, {sum(each['bytes'] for each in these) / 1024:.0f} KiB"
            )
    return "\n".join(lines)
