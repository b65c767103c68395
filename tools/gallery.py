"""The gallery: maps of the built-in model, drawn anew whenever the documentation is built.

    python -m tools.gallery DIR [--front FILE]

Writes DIR/index.md and its pictures, and the README's picture. Each section's code stands on the page as it ran.
"""

from __future__ import annotations

import argparse
import inspect
import textwrap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import fastsal
from fastsal import models, viz
from fastsal.explainers.base import Attribution
from fastsal.explainers.registry import family, registered

CANVAS = 2
OPTIONS: Mapping[type, Mapping[str, Any]] = {
    fastsal.RISE: {"n_masks": 256},
    fastsal.SmoothGrad: {"n_samples": 20},
    fastsal.SSCAM: {"n_samples": 4},
    fastsal.ISCAM: {"n_samples": 4},
    fastsal.ShapleyValueSampling: {"n_samples": 4},
}
"""Fewer passes than by default: enough for a picture of 96 x 96."""
FRONT = (
    *(fastsal.GradCAM, fastsal.LayerCAM, fastsal.Saliency, fastsal.SmoothGrad, fastsal.IntegratedGradients),
    *(fastsal.DeepLift, fastsal.GuidedBackprop, fastsal.LRP, fastsal.Occlusion, fastsal.RISE, fastsal.FeatureAblation),
)
"""What the README shows."""
ROOMS = {
    "gradient": "What does the output react to? [Gradient-based explainers](../gradient.md).",
    "cam": "Where does the network see it? [Class activation maps](../cam.md) of the last layer, 12 x 12 positions.",
    "lrp": "How is the score shared out, layer by layer? [LRP](../lrp.md).",
    "perturbation": "What happens when it is gone? [Perturbation-based explainers](../perturbation.md).",
    "layer": "To a layer of the model, and back. [To a layer](../layer.md).",
}
Maps = Iterator[tuple[str, Tensor]]


def layers(model: torch.nn.Module, image: Tensor) -> Maps:
    """Grad-CAM at each layer that it can read: late layers know what, early ones know where."""
    for layer in fastsal.layers(model, image):
        if "." not in layer.name and layer.name != "pool":
            yield layer.name, fastsal.GradCAM(model, layer.name).attribute(image, target=2)[0]


def targets(model: torch.nn.Module, image: Tensor) -> Maps:
    """The same image and pass, explained for several classes: what speaks for a 7 in this 2?"""
    digits = [2, 1, 3, 7]
    maps = fastsal.LayerCAM(model, "block1").attribute(image, targets=digits)
    yield from ((f"for a {digit}", found[0]) for digit, found in zip(digits, maps, strict=True))


def masks(model: torch.nn.Module, image: Tensor) -> Maps:
    """RISE with more and more masks. It scores probabilities, so the function ends in softmax."""
    rise = fastsal.RISE(lambda x: model(x).softmax(1))
    for n_masks in (16, 64, 256):
        yield f"{n_masks} masks", rise.attribute(image, target=2, n_masks=n_masks)[0]


def baselines(model: torch.nn.Module, image: Tensor) -> Maps:
    """Integrated Gradients from several baselines: what equals the baseline gets nothing."""
    colour = image.mean((2, 3), keepdim=True)
    blurred = torch.nn.functional.avg_pool2d(image, 25, stride=1, padding=12, count_include_pad=False)
    for name, baseline in {"black": 0.0, "white": 1.0, "mean colour": colour, "blurred": blurred}.items():
        yield name, fastsal.IntegratedGradients(model).attribute(image, baseline, target=2)[0]


def untrained(model: torch.nn.Module, image: Tensor) -> Maps:
    """The check that a map must pass: of a network with random weights it should be another."""
    torch.manual_seed(0)
    random = models.demo().apply(lambda part: getattr(part, "reset_parameters", lambda: None)())
    for explainer in (fastsal.Saliency, fastsal.GuidedBackprop):
        yield f"{explainer.__name__}", explainer(model).attribute(image, target=2)[0]
        yield "random weights", explainer(random).attribute(image, target=2)[0]


Section = Callable[[torch.nn.Module, Tensor], Maps]
SECTIONS: Mapping[Section, type[Attribution]] = {
    layers: fastsal.GradCAM,
    targets: fastsal.LayerCAM,
    masks: fastsal.RISE,
    baselines: fastsal.IntegratedGradients,
    untrained: fastsal.Saliency,
}
"""What is drawn, and as whose maps it is shown."""


def write(folder: Path) -> None:
    """Writes the page and its pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    model, image = models.demo(), models.demo_canvases(CANVAS + 1).images[CANVAS:]
    lines = [
        "# Gallery",
        "",
        "One canvas with a handwritten 2, explained by the [built-in model](../api/module-models.rst).",
        "`python -m tools.gallery` draws this page; times are of the machine that did.",
        "",
    ]
    for room, classes in _by_room().items():
        panels, refusals = [], []
        for explainer in classes:
            name = explainer.name
            try:
                found = fastsal.explain(model, image, method=name, layer="block2", **OPTIONS.get(explainer, {}))
            except ValueError as refused:
                refusals += [f"`{name}` is not drawn: {refused}.", ""]
                continue
            panels.append(_panel(image, found.maps[name][0], explainer, name, viz.seconds_text(found.seconds[name])))
        _save(folder / f"{room}.png", image, panels)
        alt = ", ".join(explainer.name for explainer in classes)
        lines += [f"## {room}", "", ROOMS.get(room, ""), "", f"![{alt}]({room}.png)", "", *refusals]
    for section, shown_as in SECTIONS.items():
        title, text = section.__name__, inspect.getdoc(section) or ""
        panels = [_panel(image, found, shown_as, name) for name, found in section(model, image)]
        _save(folder / f"{title}.png", image, panels)
        lines += [f"## {title}", "", text, "", f"![{title}]({title}.png)", "", "```python", _code(section), "```", ""]
    (folder / "index.md").write_text("\n".join(lines))


def front(file: Path) -> None:
    """Writes the README's picture, without times."""
    model, image = models.demo(), models.demo_canvases(CANVAS + 1).images[CANVAS:]
    found = fastsal.explain(model, image, method=[explainer.name for explainer in FRONT], layer="block2")
    panels = [_panel(image, found.maps[explainer.name][0], explainer, explainer.name) for explainer in FRONT]
    title = f"a {int(found.target)}, {100 * float(found.output.detach().softmax(1).max()):.1f} %: why?"
    viz.contact_sheet([viz.Panel(_pixels(image), "input"), *panels], title, columns=6, tile=160).save(file)


def _by_room() -> dict[str, list[type[Attribution]]]:
    """The methods whose maps are of the input, by their family."""
    rooms: dict[str, list[type[Attribution]]] = {}
    for explainer in registered():
        if explainer.shape != "layer" and explainer.reads != "attention":
            rooms.setdefault(family(explainer), []).append(explainer)
    return rooms


def _panel(image: Tensor, found: Tensor, shown_as: type[Attribution], name: str, detail: str = "") -> viz.Panel:
    """A map [C, H, W] over the image, as the method's maps are shown."""
    sign, percentile = shown_as.display
    unit = viz.to_unit(viz.plane(found.detach()), sign=sign, percentile=percentile)
    sized = torch.nn.functional.interpolate(unit[None, None], image.shape[2:], mode="bilinear")[0, 0]
    return viz.Panel(viz.overlay(sized, _pixels(image), 0.6), name, detail)


def _pixels(image: Tensor) -> Tensor:
    return (image[0].permute(1, 2, 0) * 255 + 0.5).to(torch.uint8)


def _save(file: Path, image: Tensor, panels: list[viz.Panel]) -> None:
    viz.contact_sheet([viz.Panel(_pixels(image), "input"), *panels], file.stem, columns=5, tile=160).save(file)


def _code(section: Section) -> str:
    """The body of a section's function, without its docstring."""
    source = inspect.getsource(section)
    return textwrap.dedent(source.split('"""', 2)[2]).strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--front", type=Path, metavar="FILE", help="write the README's picture too")
    arguments = parser.parse_args()
    write(arguments.folder)
    if arguments.front is not None:
        front(arguments.front)


if __name__ == "__main__":
    main()
