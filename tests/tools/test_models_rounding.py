"""DeepLIFT on a network of timm that Captum explains exactly too: what is left of both sums is float32's rounding."""

from __future__ import annotations

import pytest

from tools.models.building import build
from tools.models.cell import OK, Wrong, run_cell
from tools.models.checks import METHODS

pytest.importorskip("timm", reason="timm is not installed")


@pytest.mark.slow
def test_a_delta_of_rounding_is_not_wrong() -> None:
    """In float32 it is some 1e-6 of the change, and may be several times Captum's; in float64 some 1e-14."""
    subject = build("timm:mobilenetv4_conv_small_035")
    try:
        detail = METHODS["deep-lift"](subject)
    except Wrong as wrong:
        detail = str(wrong)
    assert float(detail.split()[1]) < 1e-4
    assert float(METHODS["deep-lift"](subject.double()).split()[1]) < 1e-11
    assert run_cell(subject, "deep-lift", METHODS["deep-lift"], 120).status == OK
