"""What is written for each image: overlays, raw maps and the contact sheet, aside first and then renamed."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from fastsal.cli.errors import Failed, Refused, first_line
from fastsal.cli.streams import printable
from fastsal.explainers.registry import find
from fastsal.viz import Panel, contact_sheet, overlay, plane, seconds_text, to_unit

_SOURCE = "fastsal-source"
"""What a picture of ours says of the image that it is of, in a text chunk."""
_LONGEST = 120
"""Characters of an image's name in its results' names: file systems take 255 bytes."""


def make_folder(path: str) -> Path:
    """The output folder, made where it is not there; Refused where it cannot be."""
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise Refused(f"--out {path} cannot be a folder: {reason}") from error
    return folder


def unique_stems(paths: Sequence[Path], spoken_for: Callable[[str], bool] = lambda name: False) -> list[str]:
    """A name for each image's results: its stem, with -2, -3, ... where another image has that name already.

    Names that differ only in case count as equal, since some file systems take them so. ``spoken_for`` tells of further
    names that are not free.
    """
    taken: set[str] = set()
    names = []
    for path in paths:
        stem = name = "".join(each if each.isprintable() else "_" for each in path.stem)[:_LONGEST]
        number = 1
        while name.casefold() in taken or spoken_for(name):
            number += 1
            name = f"{stem}-{number}"
        taken.add(name.casefold())
        names.append(name)
    return names


class Results:
    """Where the results of a command go, so that nothing is lost: neither an input nor the results of another image.

    A later command may replace what an earlier one wrote of the same image, told by a mark in the pictures.
    """

    def __init__(self, folder: Path, inputs: Sequence[Path], overwrite: bool = False) -> None:
        self.folder, self.overwrite = folder, overwrite
        self._inputs = [path for path in inputs if os.path.exists(path)]

    def stems(self, images: Sequence[Path], methods: Sequence[str]) -> list[str]:
        """A name for each image's results, so that none is in the place of an input.

        Refused where a result's place is taken by something else that may not be replaced.
        """

        def is_input(name: str) -> bool:
            return any(self._is_input(place) for place in self._places(name, methods))

        stems = unique_stems(images, is_input)
        for image, stem in zip(images, stems, strict=True):
            for place in self._places(stem, methods):
                self._check(place, image)
        return stems

    def _places(self, stem: str, methods: Sequence[str]) -> list[Path]:
        names = [f"{stem}.{method}.{end}" for method in methods for end in ("png", "npy")]
        return [self.folder / name for name in [*names, f"{stem}.sheet.png"]]

    def _is_input(self, place: Path) -> bool:
        if not os.path.lexists(place):
            return False
        for each in self._inputs:
            with contextlib.suppress(OSError):
                if os.path.samefile(place, each):
                    return True
        return False

    def _check(self, place: Path, image: Path) -> bool:
        """Whether there is something that may be replaced; Refused where it may not."""
        if not os.path.lexists(place):
            return False
        if self._is_input(place):
            raise Refused(f"{printable(str(place))} is an input, which a result would replace: give another --out")
        if place.is_dir():
            raise Refused(f"{printable(str(place))} is a folder, where a result would be: give another --out")
        if not self.overwrite and _mark_in(place.with_suffix(".png")) != _mark(image):
            raise Refused(
                f"{printable(str(place))} is there already, and not of {printable(str(image))}: give another --out, or "
                f"--overwrite to replace it"
            )
        return True

    @contextlib.contextmanager
    def aside(self) -> Iterator[Path]:
        """A folder on the same file system, gone afterwards."""
        folder = tempfile.mkdtemp(prefix=".fastsal-", dir=self.folder)
        try:
            yield Path(folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def place(self, made: Path, image: Path) -> Path:
        """Put a file that is complete in its place, at once."""
        place = self.folder / made.name
        if self._check(place, image):
            os.replace(made, place)
            return place
        try:
            os.link(made, place)  # which fails where somebody else has been quicker
        except FileExistsError:
            raise Failed(f"{place} was written by somebody else in the meantime: give another --out") from None
        except OSError:  # a file system without links
            os.replace(made, place)
        return place


def _mark(image: Path) -> str:
    return hashlib.sha256(os.fsencode(os.path.abspath(image))).hexdigest()[:32]


def _mark_in(picture: Path) -> str | None:
    if not picture.is_file():
        return None
    try:
        with Image.open(picture, formats=("PNG",)) as opened:
            found = opened.info.get(_SOURCE)
    except Exception:  # whatever somebody else's file makes of Pillow
        return None
    return found if isinstance(found, str) else None


def shown(name: str, attribution: Tensor) -> Tensor:
    """A method's attribution [C, H, W] as a map [H, W] in [0, 1], float32 on the CPU."""
    sign, percentile = find(name).display
    return to_unit(plane(attribution.cpu()), sign=sign, percentile=percentile)


def write(
    results: Results,
    stem: str,
    source: Path,
    picture: Image.Image,
    title: str,
    prediction: tuple[str, str],
    attributions: Mapping[str, Tensor],
    seconds: Mapping[str, float],
    alpha: float = 0.5,
) -> dict[str, Any]:
    """Writes one image's files and returns their paths and the maps' facts, ready for JSON.

    attributions: for each method [C, H, W], on the picture's grid or a coarser one. prediction: the two lines below the
    input. Files: STEM.METHOD.png (overlay), STEM.METHOD.npy (float32 [C, H, W], as the method returns it) and
    STEM.sheet.png. Each is written whole or not at all.
    """
    image = torch.from_numpy(np.array(picture.convert("RGB")))
    panels = [Panel(image, *prediction)]
    methods: dict[str, Any] = {}
    told = PngInfo()
    told.add_text(_SOURCE, _mark(source))
    try:
        with results.aside() as folder:
            made = []
            for name, attribution in attributions.items():
                raw = attribution.detach().float().cpu()
                array, png = folder / f"{stem}.{name}.npy", folder / f"{stem}.{name}.png"
                coloured = overlay(_on_grid(shown(name, raw), picture), image, alpha)
                Image.fromarray(coloured.numpy()).save(png, pnginfo=told)
                np.save(array, raw.numpy())
                panels.append(Panel(coloured, name, seconds_text(seconds[name])))
                made += [png, array]
                methods[name] = {
                    "seconds": round(seconds[name], 6),
                    "overlay": str(results.folder / png.name),
                    "map": str(results.folder / array.name),
                    "shape": list(raw.shape),
                    "finite": bool(raw.isfinite().all()),
                }
            made.append(folder / f"{stem}.sheet.png")
            contact_sheet(panels, title).save(made[-1], pnginfo=told)
            for each in made:
                results.place(each, source)
    except OSError as error:
        raise Failed(f"results for {stem} cannot be written: {first_line(error)}") from error
    return {"sheet": str(results.folder / f"{stem}.sheet.png"), "methods": methods}


def _on_grid(map: Tensor, picture: Image.Image) -> Tensor:
    """The map at the picture's size, bilinear where it is coarser."""
    size = (picture.height, picture.width)
    if map.shape == size:
        return map
    resized: Tensor = torch.nn.functional.interpolate(map[None, None], size, mode="bilinear", align_corners=False)
    return resized[0, 0]
