"""Which architectures: the smallest of each family of timm and torchvision, found by asking the packages themselves."""

from __future__ import annotations

import importlib
import re
import warnings
from collections.abc import Callable, Iterable

import torch

TOO_LARGE = 60_000_000
"""A family whose smallest variant has more parameters is left out."""


def family(module: str, name: str) -> tuple[str, str]:
    """What a variant is one of: its file of definitions, and its name up to the first size.

    >>> family("resnet", "resnet18d"), family("byobnet", "botnet26t_256")
    (('resnet', 'resnet'), ('byobnet', 'botnet'))
    """
    word = re.match(r"[a-z]+(?:v\d+)?(?:_(?:reg|conv|hybrid|mlp|relpos)(?=_|\d|$))?", name)
    return module, word[0] if word else name


def smallest(names: Iterable[tuple[str, str]], parameters: Callable[[str], int | None]) -> list[str]:
    """Of (family's module, variant) the variant with the fewest parameters of each family, in order of these."""
    best: dict[tuple[str, str], tuple[int, str]] = {}
    for module, name in names:
        count = parameters(name)
        if count is None:
            continue
        key = family(module, name)
        best[key] = min(best.get(key, (count, name)), (count, name))
    return [name for count, name in sorted(best.values()) if count <= TOO_LARGE]


def timm_names() -> list[str]:
    """timm's, without weights; parameters are counted on the device ``meta``, which holds none."""
    timm = importlib.import_module("timm")

    def parameters(name: str) -> int | None:
        try:
            with torch.device("meta"), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model = timm.create_model(name, num_classes=10)
        except Exception:  # some need a real device, or a package that is not there: counted for real
            return None
        return int(sum(parameter.numel() for parameter in model.parameters()))

    names = [(timm.model_entrypoint(name).__module__.rpartition(".")[2], name) for name in timm.list_models()]
    return [f"timm:{name}" for name in smallest(names, parameters)]


def torchvision_names() -> list[str]:
    """torchvision's classifiers, segmenters, detectors and video models."""
    models = importlib.import_module("torchvision.models")
    found: list[str] = []
    for room in ("", ".segmentation", ".detection", ".video"):
        module = importlib.import_module(f"torchvision.models{room}")
        given = {"weights_backbone": None} if room in (".segmentation", ".detection") else {}

        def parameters(name: str, given: dict[str, None] = given) -> int | None:
            with torch.device("meta"):
                return int(sum(p.numel() for p in models.get_model(name, weights=None, **given).parameters()))

        names = [name for name in models.list_models(module=module) if not name.startswith("quantized")]
        origin = [(models.get_model_builder(name).__module__.rpartition(".")[2], name) for name in names]
        found += smallest(origin, parameters)
    return [f"torchvision:{name}" for name in found]


def names() -> list[str]:
    """Every architecture of the matrix."""
    from tools.models.transformers_small import CONFIGURATIONS

    return [*timm_names(), *torchvision_names(), *(f"transformers:{name}" for name in CONFIGURATIONS)]
