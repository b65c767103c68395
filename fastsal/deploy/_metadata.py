"""What a package says of itself: kept inside it as text, which C++ reads too."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from fastsal._torch import valid_vec_isa_list
from fastsal._version import __version__
from fastsal.models.archives import FAULTS, Unsafe, opened

FORMAT = "1"
"""Of packages; kernels/native/run/package.cpp reads the same."""
FLOATS = {
    str(dtype).removeprefix("torch."): dtype for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16)
}


class Metadata(NamedTuple):
    """What a package is.

    Attributes:
        method: the explainer's class.
        options: arguments of its ``attribute``.
        layers: names of the layers that it reads; empty for other methods.
        input_shape: of one example.
        dtype: of the input.
        batch: smallest and largest.
        outputs: the model's, K.
        map_shape: of one example's map.
        device: ``cpu`` or ``cuda``.
        hardware: instruction set or compute capability that it was compiled for.
        fastsal, torch: versions that made it.
    """

    method: str
    options: Mapping[str, Any]
    layers: tuple[str, ...]
    input_shape: tuple[int, ...]
    dtype: torch.dtype
    batch: tuple[int, int]
    outputs: int
    map_shape: tuple[int, ...]
    device: str
    hardware: str = ""
    fastsal: str = __version__
    torch: str = torch.__version__

    def texts(self) -> dict[str, str]:
        """As AOTInductor keeps it."""
        return {
            "fastsal_format": FORMAT,
            "fastsal": self.fastsal,
            "torch": self.torch,
            "method": self.method,
            "options": json.dumps(dict(self.options), sort_keys=True, default=_described),
            "layers": json.dumps(self.layers),
            "input_shape": ",".join(map(str, self.input_shape)),
            "input_dtype": str(self.dtype).removeprefix("torch."),
            "batch": "-".join(map(str, self.batch)),
            "outputs": str(self.outputs),
            "map_shape": ",".join(map(str, self.map_shape)),
            "device": self.device,
        }


def _described(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return f"tensor of {value.dtype}, shape {tuple(value.shape)}"
    return str(value)


def read_metadata(path: str | os.PathLike[str]) -> Metadata:
    """Of a package, without running any of it.

    Raises:
        FileNotFoundError: where there is none.
        ValueError: for a truncated or altered file, one that fastsal did not make, or one of another format.
    """
    path = os.fspath(path)
    if not os.path.isfile(path):
        raise FileNotFoundError(f"path: there is no file {path!r}")
    texts: Any = {}
    try:
        with opened(path) as archive:
            # The directory is at the end of the file, so one that was cut has none; one with a hole fails here.
            broken = archive.testzip()
            name = next((each for each in archive.namelist() if each.endswith("_metadata.json")), None)
            texts = {} if name is None else json.loads(archive.read(name))
    except Unsafe as error:
        raise ValueError(f"path: {error}") from None
    except (*FAULTS, RecursionError):
        broken = path
    if broken is not None:
        raise ValueError(f"path: {path!r} is damaged or truncated; export or copy it again")
    if not isinstance(texts, dict) or "fastsal_format" not in texts:
        raise ValueError(f"path: {path!r} was not made by fastsal.export; torch._inductor.aoti_load_package opens it")
    if texts["fastsal_format"] != FORMAT:
        raise ValueError(
            f"path: {path!r} has format {texts['fastsal_format']} (made by fastsal {texts.get('fastsal')}), this "
            f"fastsal {__version__} reads format {FORMAT}; export it again"
        )
    try:
        return _of_texts(texts)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        what = f"lacks {error}" if isinstance(error, KeyError) else str(error).partition("\n")[0][:200]
        raise ValueError(f"path: {path!r} was altered after its export: its metadata {what}; export it again") from None


def _of_texts(texts: Mapping[str, str]) -> Metadata:
    """What :meth:`Metadata.texts` wrote.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: for what it would not have written.
    """
    for name, text in texts.items():
        if not isinstance(text, str):
            raise ValueError(f"has a {type(text).__name__} as {name!r}")
    low, high = texts["batch"].split("-")
    if texts["device"] not in ("cpu", "cuda"):
        raise ValueError(f"has the device {texts['device']!r}")
    if texts["input_dtype"] not in FLOATS:
        raise ValueError(f"has the dtype {texts['input_dtype']!r}")
    options, layers = json.loads(texts["options"]), json.loads(texts["layers"])
    if not isinstance(options, dict) or not isinstance(layers, list) or not all(isinstance(x, str) for x in layers):
        raise ValueError("has options or layers of another form")
    if re.match(r"\d+\.\d+", texts["torch"]) is None:
        raise ValueError(f"has the torch {texts['torch']!r}")
    cuda = texts["device"] == "cuda"
    found = Metadata(
        method=texts["method"],
        options=options,
        layers=tuple(layers),
        input_shape=_numbers(texts["input_shape"]),
        dtype=FLOATS[texts["input_dtype"]],
        batch=(int(low), int(high)),
        outputs=int(texts["outputs"]),
        map_shape=_numbers(texts["map_shape"]),
        device=texts["device"],
        hardware=texts.get("AOTI_COMPUTE_CAPABILITY" if cuda else "AOTI_CPU_ISA", ""),
        fastsal=texts["fastsal"],
        torch=texts["torch"],
    )
    if not 1 <= found.batch[0] <= found.batch[1] or found.outputs < 1 or min((*found.input_shape, 1)) < 1:
        raise ValueError(
            f"has the batch {texts['batch']!r}, {texts['outputs']!r} outputs, inputs {texts['input_shape']!r}"
        )
    return found


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(",") if part)


def check_runs_here(found: Metadata, path: str) -> None:
    """Refuses what this process cannot run.

    Raises:
        ValueError: for another PyTorch, a device that is not here, or one of another kind.
    """
    if _minor(found.torch) != _minor(torch.__version__):
        raise ValueError(
            f"path: {path!r} was made with torch {found.torch}, this is torch {torch.__version__}: export it again "
            f"with this one, or install torch=={found.torch.split('+')[0]}"
        )
    if found.device == "cpu":
        known = [str(each).upper() for each in valid_vec_isa_list()]
        if found.hardware.startswith("AVX") and found.hardware not in known:
            raise ValueError(
                f"path: {path!r} was compiled for {found.hardware}, which this CPU does not have; export it here, or "
                'with inductor_configs={"cpp.simdlen": 256}'
            )
        return
    if not torch.cuda.is_available():
        raise ValueError(f"path: {path!r} is for a CUDA device, and none is here; export the model on the CPU")
    here = "".join(map(str, torch.cuda.get_device_capability()))
    if found.hardware and here != found.hardware.replace(".", ""):
        raise ValueError(
            f"path: {path!r} was compiled for sm_{found.hardware}, this device is sm_{here}; export it here"
        )


def _minor(version: str) -> list[str]:
    return version.split(".")[:2]
