"""Baselines drawn from what each value of a template might be instead."""

from __future__ import annotations

import random
from typing import Any


class ProductBaselines:
    """Draws a baseline for each value, independently: a sample of their Cartesian product.

    >>> import random
    >>> random.seed(0)
    >>> draw = fastsal.ProductBaselines({("name", "pronoun"): [("Ann", "she"), ("Bob", "he")], "city": ["Paris"]})
    >>> sorted(draw())
    ['city', 'name', 'pronoun']

    Args:
        baseline_values: for each value a list of baselines; a list of these, or by the value's name. A tuple of names
            has a list of tuples, whose entries are drawn together.

    Attributes:
        dict_keys: the names; empty for a list.
        baseline_values: the lists, in their order.
    """

    def __init__(self, baseline_values: list[list[Any]] | dict[Any, list[Any]]) -> None:
        by_name = isinstance(baseline_values, dict)
        self.dict_keys = list(baseline_values) if by_name else []
        self.baseline_values = list(baseline_values.values() if isinstance(baseline_values, dict) else baseline_values)
        if any(not each for each in self.baseline_values):
            raise ValueError("baseline_values: one of the lists is empty")

    def sample(self) -> list[Any] | dict[str, Any]:
        """One baseline for each value, drawn from Python's global generator: a list, or by name."""
        drawn = [random.choice(each) for each in self.baseline_values]
        if not self.dict_keys:
            return drawn
        found: dict[str, Any] = {}
        for key, value in zip(self.dict_keys, drawn, strict=True):
            if isinstance(key, tuple):
                found.update(zip(key, value, strict=True))
            else:
                found[key] = value
        return found

    def __call__(self) -> list[Any] | dict[str, Any]:
        """The same as :meth:`sample`."""
        return self.sample()
