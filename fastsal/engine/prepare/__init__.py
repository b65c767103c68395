"""Models made ready for many passes, and whether they still are what they were made from."""

from fastsal.engine.prepare.prepared import Prepared, Step, unprepared
from fastsal.engine.prepare.preparing import prepare
from fastsal.engine.run.comparing import difference

__all__ = ["Prepared", "Step", "difference", "prepare", "unprepared"]
