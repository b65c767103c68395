"""Inputs without examples: maps without examples, or a sentence that says so."""

from __future__ import annotations

import pytest

from tests.explainers.calls import CALLS
from tests.explainers.networks import image, small

BASELINES = ("gradient-shap", "deep-lift-shap", "layer-deep-lift-shap", "layer-gradient-shap")
"""Their calls make baselines of the first example."""


@pytest.mark.parametrize("name", [name for name in CALLS if name not in BASELINES])
def test_no_examples(name: str) -> None:
    model, none = small(), image()[:0]
    try:
        found = CALLS[name](model, none)
    except ValueError as error:
        assert any(said in str(error) for said in ("no examples", "is empty", "shape (0, "))  # noqa: PT017
    else:
        assert len(found) == 0
