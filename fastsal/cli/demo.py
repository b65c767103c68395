"""``fastsal demo``: every method on the built-in model and the packaged canvases."""

from __future__ import annotations

import argparse

import torch

from fastsal import explainers, models
from fastsal._version import __version__
from fastsal.cli import results
from fastsal.cli.console import Console
from fastsal.cli.errors import Refused, first_line
from fastsal.cli.explain import Job
from fastsal.cli.results import Results
from fastsal.cli.session import Session
from fastsal.explainers.registry import family, registered

# Fewer masks than RISE's default: on 96x96 images the map hardly changes after these, and a CPU is done in seconds.
_OPTIONS = {"rise": {"n_masks": 1000}, "shapley-value-sampling": {"n_samples": 4}}


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Explains the packaged canvases and ends with the paths of the contact sheets."""
    try:
        loaded = models.load("demo", device=arguments.device)
    except ValueError as error:
        raise Refused(first_line(error)) from error
    folder = results.make_folder(arguments.out)
    facts = models.demo_facts()
    cams = [each.name for each in registered() if family(each) == "cam"]
    others = [each for each in registered() if family(each) not in ("cam", "layer") and each.reads != "attention"]
    methods = [explainers.GradCAM.name, *(each.name for each in others if each.exportable or each.per_call is None)]
    slow = [each.name for each in others if each.name not in methods]
    paths = models.demo_images()
    console.expect(len(paths) * len(methods) + len(cams) + len(slow))
    console.line(
        f"fastsal {__version__} on {loaded.device}, torch {torch.__version__}: a digit classifier of "
        f"{int(facts['parameters']):,} parameters, right on {100 * float(facts['accuracy']):.1f} % of "
        f"{int(facts['accuracy_canvases']):,} held-out canvases"
    )
    jobs = [
        Job(Session(loaded, names, every=True), names, _OPTIONS, None, Results(into, paths, arguments.overwrite), 0.6)
        for names, into in ((methods, folder), (cams, folder / "cams"), (slow, folder / "sweeps"))
    ]
    try:
        for job, of, title in zip(
            jobs,
            (paths, paths[:1], paths[:1]),
            ("", "every class activation map", "methods with many passes"),
            strict=True,
        ):
            if title:
                console.line(f"\n{title}, of the first:")
            results.make_folder(str(job.places.folder))
            job.run(of, job.places.stems(of, job.methods), console)
    finally:
        explained = [image for job in jobs for image in job.explained]
        errors = [error for job in jobs for error in job.errors]
        console.document(
            {
                "fastsal": __version__,
                "model": "demo",
                "device": str(loaded.device),
                "layer": jobs[0].session.layer_used,
                "accuracy": float(facts["accuracy"]),
                "images": explained,
                "errors": errors,
            }
        )
    console.line("\ncontact sheets:")
    for image in explained:
        console.line(f"  {image['sheet']}")
    return 1 if errors else 0
