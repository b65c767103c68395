"""A few seconds of ``make interrupts`` and ``make soak``."""

from __future__ import annotations

import signal

import pytest

from tests.fuzz import interrupts, soak

METHODS = ("saliency", "gradcam", "AblationCAM", "lrp", "layer-ig", "occlusion of a function", "layers", "estimate")


@pytest.mark.parametrize("name", METHODS)
def test_interrupts_at_lines(name: str) -> None:
    """At every fortieth line; the handler of SIGINT is the user's."""
    handler = signal.getsignal(signal.SIGINT)
    one = interrupts.Interrupts(name)
    for line in one.lines[METHODS.index(name) :: 40]:
        assert not one.at(line), line
    assert one.still_right()
    assert signal.getsignal(signal.SIGINT) is handler


def test_soak() -> None:
    soaked = soak.Soak(["saliency", "gradcam", "layer-ig", "lrp", "occlusion"])
    soaked.run(2.0, 8)
    assert not soaked.wrong
    assert sum(soaked.done.values()) > 8
