"""The rules of layer-wise relevance propagation, and which layer gets which.

>>> from fastsal import LRP
>>> from fastsal.lrp import BoxRule, Composite, EpsilonRule, GammaRule
>>> composite = Composite(GammaRule(), linear=EpsilonRule(1e-6), first=BoxRule())
>>> relevance = LRP(model).attribute(images, target=0, composite=composite)

A rule of one's own derives from :class:`PropagationRule`.
"""

from fastsal.explainers.lrp.composites import Composite
from fastsal.explainers.lrp.layer import RelevanceLayer
from fastsal.explainers.lrp.rules import (
    Alpha1_Beta0_Rule,
    AlphaBetaRule,
    BoxRule,
    EpsilonRule,
    FlatRule,
    GammaRule,
    IdentityRule,
    PropagationRule,
    Term,
    ZPlusRule,
)

__all__ = [
    "Alpha1_Beta0_Rule",
    "AlphaBetaRule",
    "BoxRule",
    "Composite",
    "EpsilonRule",
    "FlatRule",
    "GammaRule",
    "IdentityRule",
    "PropagationRule",
    "RelevanceLayer",
    "Term",
    "ZPlusRule",
]
