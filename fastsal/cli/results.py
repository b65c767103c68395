"""What is written for each image: overlays, raw maps, and the contact sheet."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fastsal.cli.errors import Refused, first_line
from fastsal.explainers.registry import find
from fastsal.viz import Panel, contact_sheet, overlay, plane, seconds_text, to_unit


def make_folder(path: str) -> Path:
    """The output folder, made where it is not there; Refused where it cannot be."""
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Refused(f"--out {path} cannot be a folder: {error.strerror or first_line(error)}") from error
    return folder


def unique_stems(paths: list[Path]) -> list[str]:
    """A name for each image's results: its stem, with -2, -3, ... where another image has that name already.

    Names that differ only in case count as equal, since some file systems take them so.
    """
    taken: set[str] = set()
    names = []
    for path in paths:
        stem = name = path.stem
        number = 1
        while name.casefold() in taken:
            number += 1
            name = f"{stem}-{number}"
        taken.add(name.casefold())
        names.append(name)
    return names


def shown(name: str, attribution: Tensor) -> Tensor:
    """A method's attribution [C, H, W] as a map [H, W] in [0, 1], float32 on the CPU."""
    sign, percentile = find(name).display
    return to_unit(plane(attribution.cpu()), sign=sign, percentile=percentile)


def write(
    folder: Path,
    stem: str,
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
    STEM.sheet.png.
    """
    image = torch.from_numpy(np.array(picture.convert("RGB")))
    panels = [Panel(image, *prediction)]
    methods: dict[str, Any] = {}
    try:
        for name, attribution in attributions.items():
            raw = attribution.detach().float().cpu()
            array, png = folder / f"{stem}.{name}.npy", folder / f"{stem}.{name}.png"
            np.save(array, raw.numpy())
            coloured = overlay(_on_grid(shown(name, raw), picture), image, alpha)
            Image.fromarray(coloured.numpy()).save(png)
            panels.append(Panel(coloured, name, seconds_text(seconds[name])))
            methods[name] = {
                "seconds": round(seconds[name], 6),
                "overlay": str(png),
                "map": str(array),
                "shape": list(raw.shape),
                "finite": bool(raw.isfinite().all()),
            }
        sheet = folder / f"{stem}.sheet.png"
        contact_sheet(panels, title).save(sheet)
    except OSError as error:
        raise Refused(f"results for {stem} cannot be written: {first_line(error)}") from error
    return {"sheet": str(sheet), "methods": methods}


def _on_grid(map: Tensor, picture: Image.Image) -> Tensor:
    """The map at the picture's size, bilinear where it is coarser."""
    size = (picture.height, picture.width)
    if map.shape == size:
        return map
    resized: Tensor = torch.nn.functional.interpolate(map[None, None], size, mode="bilinear", align_corners=False)
    return resized[0, 0]
