"""The rules of LRP under the module's earlier name; :mod:`fastsal.lrp` is the place to take them from."""

from fastsal.explainers.lrp.rules import (
    Alpha1_Beta0_Rule,
    AlphaBetaRule,
    BoxRule,
    EpsilonRule,
    FlatRule,
    GammaRule,
    IdentityRule,
    PropagationRule,
    ZPlusRule,
)

__all__ = [
    "Alpha1_Beta0_Rule",
    "AlphaBetaRule",
    "BoxRule",
    "EpsilonRule",
    "FlatRule",
    "GammaRule",
    "IdentityRule",
    "PropagationRule",
    "ZPlusRule",
]
