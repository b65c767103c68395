"""How good a map is."""

from fastsal.metrics.pointing_game import pointing_game, pointing_hits

__all__ = ["pointing_game", "pointing_hits"]
