"""Zip archives from strangers: their members' names and sizes are looked at before anything of them is read."""

from __future__ import annotations

import contextlib
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator

FAULTS = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,
    OSError,
    ArithmeticError,
    MemoryError,
    RuntimeError,
    LookupError,
    TypeError,
    ValueError,
)
"""What the reader of zip archives raises on damaged ones: nearly anything."""
_MOST = 64 * 2**20
"""Bytes that an archive may unpack to whatever its size; beyond it, four times the file's."""


class Unsafe(ValueError):
    """An archive that is refused for what it would do, in one line."""


def is_archive(path: str | os.PathLike[str]) -> bool:
    """Whether the file is a zip archive, damaged or not."""
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:  # of a damaged one, in some of Python's releases
        return True


@contextlib.contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[zipfile.ZipFile]:
    """A zip archive whose members all have plain names, each once, and which is no bomb.

    Raises:
        Unsafe: for a member outside of the archive's folder, two of one name, or sizes that no archive of a model has.
        Exception: one of :data:`FAULTS` for a damaged one.
    """
    with zipfile.ZipFile(path) as archive:
        check(archive, path)
        yield archive


def check(archive: zipfile.ZipFile, path: str | os.PathLike[str]) -> None:
    """As :func:`opened`, of an open archive."""
    members = archive.infolist()
    for member in members:
        if not plain(member.orig_filename):
            raise Unsafe(
                f"{path} has the member {member.orig_filename!r}, which would be written outside of its folder"
            )
    names = [member.filename.casefold() for member in members]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise Unsafe(f"{path} has the member {twice!r} twice, so that two readers would see two files")
    if sum(member.file_size for member in members) > max(_MOST, 4 * os.path.getsize(path)):
        raise Unsafe(f"{path} would unpack to many times its size, which no archive of a model does")


def plain(name: str) -> bool:
    """Whether a member's name stays below the folder that it is unpacked to, on every system."""
    if re.search(r"[\x00-\x1f\x7f\\]|^[A-Za-z]:", name) or name.startswith("/"):
        return False
    return ".." not in name.split("/")
