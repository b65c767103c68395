"""Where a layer's positions are and look: proved by the operations that lead to it, else measured, else refused."""

from fastsal.engine.reading.geometry.asking import Noted, Seen, geometry_of, judged, measured_too, settled, survey
from fastsal.engine.reading.geometry.layout import Cells, Layout
from fastsal.engine.reading.geometry.lineage import Lineage
from fastsal.engine.reading.geometry.measuring import measured
from fastsal.engine.reading.geometry.memory import Kind, for_another_number, kind_of, recall, remember, version
from fastsal.engine.reading.geometry.proof import cells_along, examples_alone
from fastsal.engine.reading.geometry.record import Geometry, Unsettled

__all__ = [
    "Cells",
    "Geometry",
    "Kind",
    "Layout",
    "Lineage",
    "Noted",
    "Seen",
    "Unsettled",
    "cells_along",
    "examples_alone",
    "for_another_number",
    "geometry_of",
    "judged",
    "kind_of",
    "measured",
    "measured_too",
    "recall",
    "remember",
    "settled",
    "survey",
    "version",
]
