"""Models to explain: the built-in demo with its canvases, and loaders for files, modules, timm, torchvision and hf."""

from fastsal.models.builtin import (
    Canvases,
    demo,
    demo_canvases,
    demo_facts,
    demo_images,
    demo_photos,
)
from fastsal.models.images import read_image
from fastsal.models.loading import LoadedModel, load
from fastsal.models.preprocess import Preprocess

__all__ = [
    "Canvases",
    "LoadedModel",
    "Preprocess",
    "demo",
    "demo_canvases",
    "demo_facts",
    "demo_images",
    "demo_photos",
    "load",
    "read_image",
]
