"""``fastsal demo``: every method on the built-in model and the packaged canvases."""

from __future__ import annotations

import argparse

import torch

from fastsal import explainers, models
from fastsal._version import __version__
from fastsal.cli import results
from fastsal.cli.console import Console
from fastsal.cli.errors import Refused, first_line
from fastsal.cli.explain import explain_all
from fastsal.cli.session import Session
from fastsal.explainers.registry import family, registered

# Fewer masks than RISE's default: on 96x96 images the map hardly changes after these, and a CPU is done in seconds.
_OPTIONS = {"rise": {"n_masks": 1000}}


def run(arguments: argparse.Namespace) -> int:
    """Explains the packaged canvases and ends with the paths of the contact sheets."""
    try:
        loaded = models.load("demo", device=arguments.device)
    except ValueError as error:
        raise Refused(first_line(error)) from error
    folder = results.make_folder(arguments.out)
    facts = models.demo_facts()
    cams = [each.name for each in registered() if family(each) == "cam"]
    methods = [explainers.GradCAM.name, *(each.name for each in registered() if family(each) not in ("cam", "layer"))]
    paths = models.demo_images()
    with Console(arguments.json, len(paths) * len(methods) + len(cams)) as console:
        console.line(
            f"fastsal {__version__} on {loaded.device}, torch {torch.__version__}: a digit classifier of "
            f"{int(facts['parameters']):,} parameters, right on {100 * float(facts['accuracy']):.1f} % of "
            f"{int(facts['accuracy_canvases']):,} held-out canvases"
        )
        session = Session(loaded, methods, every=True)
        explained, _ = explain_all(session, paths, methods, _OPTIONS, None, folder, 0.6, console)
        console.line("\nevery class activation map of the first:")
        cam_folder = results.make_folder(str(folder / "cams"))
        of_cams, _ = explain_all(Session(loaded, cams), paths[:1], cams, {}, None, cam_folder, 0.6, console)
        explained += of_cams
        console.line("\ncontact sheets:")
        for image in explained:
            console.line(f"  {image['sheet']}")
        console.document(
            {
                "fastsal": __version__,
                "model": "demo",
                "device": str(loaded.device),
                "layer": session.layer_used,
                "accuracy": float(facts["accuracy"]),
                "images": explained,
            }
        )
    return 0
