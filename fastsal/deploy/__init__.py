"""Explanations in production: exported, compiled ahead of time, run without the model's code or without Python."""

from fastsal.deploy._export import export
from fastsal.deploy._load import Package, load
from fastsal.deploy._metadata import Metadata, read_metadata

__all__ = ["Metadata", "Package", "export", "load", "read_metadata"]
