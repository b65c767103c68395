"""Values at layers: which layers there are, where their positions are, one pass that is read or altered on the way."""

from fastsal.engine.reading.first_layer import FirstLayer, NotTheOnlyWay, first_layer
from fastsal.engine.reading.geometry import Geometry, Unsettled, geometry_of
from fastsal.engine.reading.layers import Layer, default_layer, layers
from fastsal.engine.reading.reading import Reading, Unrelated, check_unused, read, values_at
from fastsal.engine.reading.replaced import Replaced
from fastsal.engine.reading.resolving import resolvable, resolve_layer, resolve_layers
from fastsal.engine.reading.tail import Tail, begins_with

__all__ = [
    "FirstLayer",
    "Geometry",
    "Layer",
    "NotTheOnlyWay",
    "Reading",
    "Replaced",
    "Tail",
    "Unrelated",
    "Unsettled",
    "begins_with",
    "check_unused",
    "default_layer",
    "first_layer",
    "geometry_of",
    "layers",
    "read",
    "resolvable",
    "resolve_layer",
    "resolve_layers",
    "values_at",
]
