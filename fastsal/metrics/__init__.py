"""How good a map is."""

from fastsal.metrics.faithfulness import Curve, deletion, insertion
from fastsal.metrics.grid_pointing import grid_of_images, grid_pointing
from fastsal.metrics.infidelity import infidelity, infidelity_perturb_func_decorator
from fastsal.metrics.pointing_game import pointing_game, pointing_hits
from fastsal.metrics.sensitivity import default_perturb_func, sensitivity_max

__all__ = [
    "Curve",
    "default_perturb_func",
    "deletion",
    "grid_of_images",
    "grid_pointing",
    "infidelity",
    "infidelity_perturb_func_decorator",
    "insertion",
    "pointing_game",
    "pointing_hits",
    "sensitivity_max",
]
