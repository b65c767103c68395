"""What each ATen overload makes of a map of which a part has changed: one record each, in one table."""

from __future__ import annotations

from typing import Any

import torch

from fastsal._torch import OpOverload
from fastsal.engine.incremental.rules import positions, products, windows
from fastsal.engine.incremental.rules.positions import POINTWISE
from fastsal.engine.incremental.rules.rule import (
    Average,
    Axes,
    Even,
    Local,
    OperationCall,
    Rows,
    Rule,
    Shape,
    Way,
    as_it_is,
    elements,
)
from fastsal.engine.incremental.rules.windows import CONVOLUTION

RULES: dict[Any, Rule] = {**windows.RULES, **products.RULES, **positions.RULES}
"""By overload. What is not in it is elementwise, where ATen says so, or needs the whole map."""
WHOLE = Rule()


def rule_of(target: Any) -> Rule:
    """The record of an overload."""
    return RULES.get(target) or (POINTWISE if is_pointwise(target) else WHOLE)


def is_pointwise(target: Any) -> bool:
    """Whether ATen says that an overload is elementwise."""
    return isinstance(target, OpOverload) and torch.Tag.pointwise in target.tags


__all__ = [
    "CONVOLUTION",
    "RULES",
    "WHOLE",
    "Average",
    "Axes",
    "Even",
    "Local",
    "OperationCall",
    "Rows",
    "Rule",
    "Shape",
    "Way",
    "as_it_is",
    "elements",
    "is_pointwise",
    "rule_of",
]
