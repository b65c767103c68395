"""How good a map is."""

from fastsal.metrics.infidelity import infidelity, infidelity_perturb_func_decorator
from fastsal.metrics.pointing_game import pointing_game, pointing_hits
from fastsal.metrics.sensitivity import default_perturb_func, sensitivity_max

__all__ = [
    "default_perturb_func",
    "infidelity",
    "infidelity_perturb_func_decorator",
    "pointing_game",
    "pointing_hits",
    "sensitivity_max",
]
