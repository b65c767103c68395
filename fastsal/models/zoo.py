"""Pretrained models through the packages that have them: timm, torchvision, transformers."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import urllib.parse
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from fastsal.models.network import Unknown, fetching, hub
from fastsal.models.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from fastsal.models.weights import first_line

Found = tuple[nn.Module, Preprocess, tuple[str, ...] | None]


def _package(name: str, extra: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise ImportError(f"{extra} models need the package {name}: pip install 'fastsal[{extra}]'") from None


def _near(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, known, 3)
    return f"; did you mean {' or '.join(close)}?" if close else ""


def _own(**options: Any) -> dict[str, Any]:
    """The options that are given, so that what the package has by itself stays its own."""
    return {name: value for name, value in options.items() if value is not None}


def from_timm(name: str, pretrained: bool, classes: int | None = None) -> Found:
    """A timm model, with the preprocessing of its own data configuration; ``classes`` in place of its own number.

    Raises ImportError without timm, ValueError for a name that timm does not know, or weights that cannot be had.
    """
    timm = _package("timm", "timm")
    data = importlib.import_module("timm.data")
    known = getattr(timm, "is_model", None)
    if known is not None and "/" not in name and not known(name):
        raise ValueError(f"timm has no model {name!r}{_near(name, timm.list_models())}")
    try:
        with fetching("timm", name, hub()) if pretrained else contextlib.nullcontext():
            try:
                model: nn.Module = timm.create_model(name, pretrained=pretrained, **_own(num_classes=classes))
            except RuntimeError as error:
                if "Unknown model" in str(error):
                    raise Unknown(f"timm has no model {name!r}: {first_line(error)}") from None
                raise
    except (RuntimeError, TypeError, OSError) as error:
        raise ValueError(f"timm cannot make {name!r}: {first_line(error)}") from None
    config: dict[str, Any] = data.resolve_model_data_config(model)
    height, width = config["input_size"][1:]
    preprocess = Preprocess(
        size=(height, width),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        crop=float(config["crop_pct"]),
        interpolation=config["interpolation"] if config["interpolation"] != "random" else "bilinear",
        squash=config.get("crop_mode") == "squash",
    )
    own: Mapping[str, Any] = getattr(model, "pretrained_cfg", None) or {}
    names = own.get("label_names")
    if names is None and own.get("num_classes") == 1000 and hasattr(data, "ImageNetInfo"):
        info = data.ImageNetInfo()
        names = [info.index_to_description(index) for index in range(1000)]
    return model, preprocess, tuple(names) if names else None


def from_torchvision(name: str, pretrained: bool, classes: int | None = None) -> Found:
    """A torchvision classifier, with its default weights' transforms and categories; ``classes`` in place of its own.

    Raises ImportError without torchvision, ValueError for a name that torchvision does not know, or weights that cannot
    be had.
    """
    _package("torchvision", "torchvision")
    models = importlib.import_module("torchvision.models")
    try:
        weights = models.get_model_weights(name).DEFAULT
    except ValueError as error:
        known = models.list_models() if hasattr(models, "list_models") else []
        raise ValueError(f"torchvision has no model {name!r}{_near(name, known)}: {error}") from None
    try:
        host = urllib.parse.urlsplit(getattr(weights, "url", "")).hostname or ""
        with fetching("torchvision", name, host) if pretrained else contextlib.nullcontext():
            model: nn.Module = models.get_model(
                name, weights=weights if pretrained else None, **_own(num_classes=classes)
            )
    except (RuntimeError, TypeError, OSError) as error:
        raise ValueError(f"torchvision cannot make {name!r}: {first_line(error)}") from None
    preset = weights.transforms()
    if not hasattr(preset, "crop_size"):
        raise ValueError(f"torchvision:{name} is no classifier of images")
    crop, resize = int(preset.crop_size[0]), int(preset.resize_size[0])
    preprocess = Preprocess(
        size=(crop, crop),
        mean=tuple(preset.mean),
        std=tuple(preset.std),
        crop=min(1.0, crop / resize),
        interpolation=str(preset.interpolation.value),
    )
    names = weights.meta.get("categories")
    return model, preprocess, tuple(names) if names else None


class Logits(nn.Module):
    """A transformers classifier as a function of its pixels: [B, 3, H, W] -> logits [B, classes]."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor:
        logits: Tensor = self.model(pixel_values=pixel_values).logits
        return logits


def from_hf(name: str, pretrained: bool, classes: int | None = None) -> Found:
    """A transformers image classifier, from the hub or a local folder, with its image processor's configuration.

    ``classes`` is in place of its own number. No code of a hub's repository is run.

    Raises ImportError without transformers, ValueError for a name that is not there or no image classifier.
    """
    transformers = _package("transformers", "hf")
    classifier = transformers.AutoModelForImageClassification
    config: Mapping[str, Any] = {}
    # The configuration is fetched too, weights or not.
    with contextlib.nullcontext() if Path(name).is_dir() else fetching("hf", name, hub()):
        try:
            if pretrained:
                model = classifier.from_pretrained(name)
            else:
                own = transformers.AutoConfig.from_pretrained(name, **_own(num_labels=classes))
                model = classifier.from_config(own)
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise ValueError(f"transformers cannot load {name!r} as an image classifier: {first_line(error)}") from None
        # The dictionary rather than the processor, which would ask for torchvision.
        with contextlib.suppress(OSError):
            config, _ = transformers.ImageProcessingMixin.get_image_processor_dict(name)
    labels: Mapping[int, str] | None = getattr(model.config, "id2label", None)
    names = tuple(labels[index] for index in sorted(labels)) if labels else None
    return Logits(model), hf_preprocess(config), names


def hf_preprocess(config: Mapping[str, Any]) -> Preprocess:
    """The Preprocess of a transformers image processor's dictionary, with ImageNet's values for what it leaves out."""
    size = config.get("size", 224)
    shortest = size if isinstance(size, int) else size.get("shortest_edge")
    exact = None if isinstance(size, int) or "height" not in size else (int(size["height"]), int(size["width"]))
    crop = config.get("crop_size", exact or shortest or 224)
    cropped = (crop, crop) if isinstance(crop, int) else _height_width(crop)
    centre = bool(config.get("do_center_crop", False))
    input_size = cropped if centre else exact or (int(shortest or 224),) * 2
    kept = min(1.0, input_size[0] / shortest) if centre and shortest else 1.0
    if not centre and shortest and "crop_pct" in config and int(shortest) < 384:
        # ConvNeXt's processor enlarges by 1 / crop_pct below 384 pixels, and crops back.
        kept = float(config["crop_pct"])
    normalise = config.get("do_normalize", True)
    return Preprocess(
        size=input_size,
        mean=tuple(config.get("image_mean", IMAGENET_MEAN)) if normalise else (0.0,),
        std=tuple(config.get("image_std", IMAGENET_STD)) if normalise else (1.0,),
        crop=kept,
        interpolation=_PILLOW_FILTERS.get(config.get("resample", 2), "bilinear"),
        squash=exact is not None and not centre,
    )


def _height_width(size: Any) -> tuple[int, int]:
    return (int(size[0]), int(size[1])) if isinstance(size, list | tuple) else (int(size["height"]), int(size["width"]))


_PILLOW_FILTERS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
