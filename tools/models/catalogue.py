"""Which architectures: the smallest of each family of timm and torchvision, found by asking the packages themselves."""

from __future__ import annotations

import importlib
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch

TOO_LARGE = 60_000_000
"""A family whose smallest variant has more parameters is left out."""
TRIED = 4
KINDS = ("clip", "siglip", "dinov2", "dinov3", "reg1", "reg4", "gap", "distilled", "rpn", "cls")
"""Words of names behind which tokens or poolings differ, not sizes."""
WORDS = (
    "test", "zepto", "atto", "femto", "pico", "nano", "xxxs", "xxs", "xxsmall", "xxtiny", "xs", "xsmall", "xtiny", "ti",
    "tiny", "t", "lite", "slim", "mini", "s", "small", "m", "medium", "b", "base", "l", "large", "xl", "xlarge", "h",
    "huge", "g", "giant", "gigantic", "so", "xxl", "xxlarge", "enormous",
)  # fmt: skip
"""What names call their sizes, in order; a name without one counts as small."""


def family(module: str, name: str) -> tuple[str, str]:
    """What a variant is one of: its file of definitions, and its name up to the first size, with what it was made for.

    >>> family("resnet", "resnet18d"), family("convnext", "convnextv2_atto")
    (('resnet', 'resnet'), ('convnext', 'convnextv2'))
    >>> family("vision_transformer", "vit_small_patch14_reg4_dinov2")
    ('vision_transformer', 'vit reg4')
    """
    word = re.match(r"[a-z]+?(?:v\d+)?(?:_conv|_relpos)?(?=_|\d|$)", name)
    kind = next((part for part in name.split("_") if part in KINDS), "")
    return module, f"{word[0] if word else name} {kind}".strip()


def looks_small(name: str) -> tuple[int, int, int]:
    """An order of a family's variants by what their names say of size: the words, then the first number.

    >>> sorted(["vit_base_patch16_224", "vit_tiny_patch16_224", "vit_small_patch32_224"], key=looks_small)[0]
    'vit_tiny_patch16_224'
    >>> sorted(["resnet50", "resnet18", "resnet101"], key=looks_small)
    ['resnet18', 'resnet50', 'resnet101']
    """
    parts = re.split(r"[_\W]|(?<=\D)(?=\d)|(?<=\d)(?=\D)", name)
    rank = next((WORDS.index(part) for part in parts if part in WORDS), WORDS.index("s"))
    number = next((int(part) for part in parts if part.isdigit()), 0)
    return rank, number, len(name)


class Found(NamedTuple):
    """A family's smallest variant: how many families of its file of definitions are smaller, parameters, name."""

    turn: int
    parameters: int
    name: str


def smallest(names: Iterable[tuple[str, str]], parameters: Callable[[str], int | None]) -> list[Found]:
    """Of (family's module, variant) the variant with the fewest parameters of each family; every module's first one
    comes before any second one, then in order of the parameters.

    Only the :data:`TRIED` whose names look smallest are made and counted: making all takes a quarter of an hour.

    >>> sizes = {"resnet18": 11, "resnet50": 25, "seresnet18": 12, "convnext_atto": 30}
    >>> [each.name for each in smallest([("convnext", n) if "conv" in n else ("resnet", n) for n in sizes], sizes.get)]
    ['resnet18', 'convnext_atto', 'seresnet18']
    """
    families: dict[tuple[str, str], list[str]] = {}
    for module, name in names:
        families.setdefault(family(module, name), []).append(name)
    best = []
    for (module, _), variants in families.items():
        tried = sorted(variants, key=looks_small)[:TRIED]
        counted = [(count, name) for name in tried if (count := parameters(name)) is not None]
        best += [(*min(counted), module)] if counted else []
    turns: Counter[str] = Counter()
    found = []
    for count, name, module in sorted(best):
        if count <= TOO_LARGE:
            found.append(Found(turns[module], count, name))
            turns[module] += 1
    return sorted(found)


def timm_names() -> list[Found]:
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
    return [each._replace(name=f"timm:{each.name}") for each in smallest(names, parameters)]


def torchvision_names() -> list[Found]:
    """torchvision's classifiers, segmenters, detectors and video models."""
    models = importlib.import_module("torchvision.models")
    found: list[Found] = []
    for room in ("", ".segmentation", ".detection", ".video"):
        module = importlib.import_module(f"torchvision.models{room}")
        given = {"weights_backbone": None} if room in (".segmentation", ".detection") else {}

        def parameters(name: str, given: dict[str, None] = given) -> int | None:
            with torch.device("meta"):
                return int(sum(p.numel() for p in models.get_model(name, weights=None, **given).parameters()))

        names = [name for name in models.list_models(module=module) if not name.startswith("quantized")]
        origin = [(models.get_model_builder(name).__module__.rpartition(".")[2], name) for name in names]
        found += smallest(origin, parameters)
    return [each._replace(name=f"torchvision:{each.name}") for each in found]


def names() -> list[str]:
    """Every architecture of the matrix, in the order in which it runs: what is small and of a new kind first."""
    from tools.models.transformers_small import CONFIGURATIONS

    images = sorted([*timm_names(), *torchvision_names()])
    return [*(f"transformers:{name}" for name in CONFIGURATIONS), *(each.name for each in images)]
