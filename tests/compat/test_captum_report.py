"""What a program takes from Captum is told without running it, and is what install() replaces."""

from __future__ import annotations

from pathlib import Path

import captum.attr
import captum.metrics
import pytest

from fastsal.compat import captum as compat
from fastsal.compat.captum.report import main, uses

PROGRAM = """
import captum
import captum.attr as attribution
from captum.attr import LayerConductance as Conductance, visualization as viz
from captum import metrics
from captum.concept import TCAV

def explain(model, x):
    attribution.IntegratedGradients(model).attribute(x)
    captum.attr.Summarizer([captum.attr.Mean()])
    return metrics.infidelity, attribution.IntegratedGradients, attribution.GradientAttribution
"""


def test_every_way_to_take_a_name() -> None:
    found = {use.name: use.ours for use in uses(PROGRAM)}
    assert found == {
        "captum.attr.LayerConductance": "fastsal.compat.captum.LayerConductance",
        "captum.attr.visualization": "fastsal.compat.captum.visualization",
        "captum.concept.TCAV": "",
        "captum.attr.IntegratedGradients": "fastsal.compat.captum.IntegratedGradients",
        "captum.attr.Summarizer": "fastsal.Summarizer",
        "captum.attr.Mean": "fastsal.Mean",
        "captum.metrics.infidelity": "fastsal.metrics.infidelity",
        "captum.attr.GradientAttribution": "either package's GradientAttribution",
    }
    assert uses(PROGRAM)[0].line == 4


def test_it_is_what_install_replaces() -> None:
    names = [f"captum.attr.{name}" for name in captum.attr.__all__]
    source = "\n".join(f"from captum.attr import {name.rpartition('.')[2]}" for name in names)
    told = {use.name for use in uses(source) if use.ours}
    with compat.install() as replaced:
        assert told == {name for name in names if name in replaced}


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole, part, broken = (tmp_path / name for name in ("whole.py", "part.py", "broken.py"))
    whole.write_text("from captum.attr import Saliency\n")
    part.write_text(PROGRAM)
    broken.write_text("def")
    assert main([str(whole)]) == 0
    assert "1 of 1 names" in capsys.readouterr().out
    assert main([str(part), str(broken)]) == 1
    told = capsys.readouterr()
    assert "7 of 8 names" in told.out
    assert "broken.py" in told.err
