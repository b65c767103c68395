"""A subject from its name."""

from __future__ import annotations

import importlib
import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tools.models.stated import Stated, by_convolutions, strided, timm_states
from tools.models.subject import Score, Subject, made, textured

SIZES: tuple[tuple[int, int], ...] = ((96, 128), (128, 160), (128, 128), (192, 192))
"""Of images, the first that a model takes and that leaves it places; unequal sides tell height from width."""
FEW = 6
"""Places of the last stage: fewer are no map."""


def build(name: str) -> Subject:
    """The subject of "package:architecture".

    Raises:
        ValueError: for a package that the matrix does not have.
    """
    package, _, architecture = name.partition(":")
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if package == "timm":
            return _timm(name, architecture)
        if package == "torchvision":
            return _torchvision(name, architecture)
        if package == "transformers":
            from tools.models.transformers_small import CONFIGURATIONS

            return CONFIGURATIONS[architecture](name)
    raise ValueError(f"name: {name!r} begins with none of timm, torchvision, transformers")


def _first(candidates: list[Callable[[], Subject]]) -> Subject:
    """The first that can be built, runs and has places left at its last stage; the last one's error where none does."""
    for attempt in candidates[:-1]:
        try:
            found = attempt()
        except Exception:  # a size that this architecture does not take: whatever it raises
            continue
        if not found.stated.grids or math.prod(found.stated.grids[0]) >= FEW:
            return found
    return candidates[-1]()


def _timm(name: str, architecture: str) -> Subject:
    timm = importlib.import_module("timm")

    def attempt(size: tuple[int, int] | None, given: bool) -> Callable[[], Subject]:
        def subject() -> Subject:
            torch.manual_seed(0)
            options: dict[str, Any] = {"img_size": size} if given else {}
            model = timm.create_model(architecture, num_classes=10, **options)
            shape = model.default_cfg["input_size"][1:] if size is None else size
            return made(name, model, textured(2, 3, *shape), "image", 1, timm_states)

        return subject

    tried = [attempt(size, given) for size in SIZES for given in (True, False)]
    return _first([*tried, attempt(None, False)])


def _swin_strides(model: nn.Module, inputs: Tensor) -> Stated:
    """Of torchvision's Swin: the patches' stride, then twice that after each merging."""
    parts: Any = model
    first = next(part for part in parts.modules() if isinstance(part, (nn.Conv2d, nn.Conv3d)))
    merges = sum(type(part).__name__.startswith("PatchMerging") for part in parts.modules())
    base = tuple(map(int, first.stride))
    strides = [(*base[:-2], *(side * 2**level for side in base[-2:])) for level in range(merges + 1)]
    return strided(inputs.shape[2:], strides, 0, "patch size and mergings")


def _vit_patches(model: nn.Module, inputs: Tensor) -> Stated:
    parts: Any = model
    return strided(inputs.shape[2:], [parts.patch_size], 1, "patch_size")


def _mvit_strides(model: nn.Module, inputs: Tensor) -> Stated:
    """Of torchvision's MViT: the patches' stride times the strides of the pooled queries so far."""
    parts: Any = model
    stride = tuple(map(int, parts.conv_proj.stride))
    found = [stride]
    for block in parts.blocks:
        pooled = block.attn.pool_q
        if pooled is not None:
            steps = tuple(map(int, pooled.pool.stride))
            stride = tuple(a * b for a, b in zip(stride, steps, strict=True))
            found.append(stride)
    return strided(inputs.shape[2:], list(dict.fromkeys(found)), 1, "conv_proj and the strides of the queries")


def _of_backbone(model: nn.Module, inputs: Tensor) -> Stated:
    """Of a detector or segmenter: what its backbone's convolutions leave, not its head of scores."""
    return by_convolutions(model, inputs, "backbone")


def _detections(output: Any) -> Tensor:
    """The sum of the five best detections' scores, for each image."""
    return torch.stack([each["scores"][:5].sum() for each in output])


def _segments(output: Mapping[str, Tensor]) -> Tensor:
    """A class's scores over a region."""
    return output["out"][:, 1, 8:40, 8:40].mean((1, 2))


def _torchvision(name: str, architecture: str) -> Subject:
    models = importlib.import_module("torchvision.models")
    module = models.get_model_builder(architecture).__module__
    options: dict[str, Any] = {"weights": None}

    def attempt(shape: tuple[int, ...], kind: str, target: Any, stated: Any, **more: Any) -> Callable[[], Subject]:
        def subject() -> Subject:
            torch.manual_seed(0)
            model = models.get_model(architecture, **options, **more)
            return made(name, model, textured(*shape), kind, target, stated)

        return subject

    if ".segmentation" in module:
        more = {"weights_backbone": None, "num_classes": 5}
        return attempt((2, 3, 96, 128), "image", Score(_segments), _of_backbone, **more)()
    if ".detection" in module:
        few: dict[str, Any] = {"weights_backbone": None, "num_classes": 5, "min_size": 96, "max_size": 128}
        regions = {"box_score_thresh": 0.0, "box_detections_per_img": 20, "rpn_post_nms_top_n_test": 50}
        single = {"score_thresh": 0.0, "detections_per_img": 20}
        ssd = {"weights_backbone": None, "num_classes": 5, **single}
        shape = (1, 3, 96, 128)
        tried = [{**few, **regions}, {**few, **single}, ssd]
        return _first([attempt(shape, "image", Score(_detections), _of_backbone, **more) for more in tried])
    if ".video" in module:
        stated = (
            _swin_strides if "swin" in architecture else _mvit_strides if "mvit" in architecture else by_convolutions
        )
        clips = [(1, 3, 8, 64, 96), (1, 3, 16, 64, 64), (1, 3, 16, 112, 112), (1, 3, 16, 224, 224)]
        return _first([attempt(clip, "video", 1, stated, num_classes=10) for clip in clips])
    transformer = {"vit": _vit_patches, "swin": _swin_strides}
    stated = next((state for start, state in transformer.items() if architecture.startswith(start)), by_convolutions)
    attempts: list[Callable[[], Subject]] = []
    for size in (*SIZES, (224, 224), (299, 299)):
        if architecture.startswith(("vit", "maxvit")):
            side = size[0] if architecture.startswith("vit") else size
            shape = (2, 3, size[0], size[0]) if architecture.startswith("vit") else (2, 3, *size)
            given = {"image_size": side} if architecture.startswith("vit") else {"input_size": size}
            attempts.append(attempt(shape, "image", 1, stated, num_classes=10, **given))
        attempts.append(attempt((2, 3, *size), "image", 1, stated, num_classes=10))
    return _first(attempts)
