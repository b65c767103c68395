"""What may change of a model between two calls, and what each shortcut makes of it: the table of docs/changes.md.

python -m tools.changes            # writes the table
python -m tools.changes --check    # what would change in it
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import fastsal
from fastsal.engine.incremental import Memory
from tools.changes_of import CHANGES, HIDDEN, Change, Net

PAGE = Path(__file__).resolve().parents[1] / "docs" / "changes.md"
BEGIN, END = "<!-- table: python -m tools.changes -->", "<!-- end -->"
WAYS = ("prepare", "compile", "incremental", "integrated gradients", "tails")
TOLERANCE = 1e-6
"""Of maps in float64, as a share of the largest value: a fold's roundings are a millionth of that."""


def network() -> Net:
    torch.manual_seed(0)
    model = Net().double()
    with torch.no_grad():
        for _ in range(3):
            model.train()(torch.randn(8, 3, 12, 12, dtype=torch.float64))
    return model.eval()


def inputs() -> Tensor:
    return torch.rand(2, 3, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


class Way:
    """A shortcut: made ready by a first call, asked again after the change, and beside a plain way that has none."""

    def __init__(self, name: str, model: Net, arguments: tuple[Any, ...]) -> None:
        self.name, self.model = name, model
        if name == "prepare":
            self._fast = fastsal.prepare(model, inputs(), arguments, probe_seconds=0)
            self._explainer: Any = fastsal.Saliency(self._fast)
        elif name == "compile":
            self._explainer = fastsal.compile(fastsal.Saliency(model), inputs(), 1, additional_forward_args=arguments)
        else:
            kinds = {"incremental": fastsal.Occlusion, "integrated gradients": fastsal.IntegratedGradients}
            self._explainer = self._new(kinds[name]) if name in kinds else fastsal.AblationCAM(model, "act")

    def _new(self, kind: Any) -> Any:
        return kind(self.model)

    def shortcut(self, arguments: tuple[Any, ...]) -> Tensor:
        """The map by the shortcut, as it was made ready before."""
        x, extra = inputs(), _named(arguments)
        if self.name == "compile":
            if arguments:  # they are fixed when it is compiled
                self._explainer = fastsal.compile(fastsal.Saliency(self.model), x, 1, **extra)
            found: Tensor = self._explainer(x, 1).attribution
            return found
        if self.name == "incremental":
            try:
                return self._occluded(self._explainer, True, extra)
            except ValueError:  # not possible: what "auto" tells, and takes the plain sweep
                return self._occluded(self._explainer, "auto", extra)
        options: dict[str, Any] = {"n_steps": 16} if self.name == "integrated gradients" else {}
        if self.name == "tails":
            options = {"relu_attributions": False, "upsample": False, "normalize": False}
        mapped: Tensor = self._explainer.attribute(x, target=1, **extra, **options)
        return mapped

    def plain(self, arguments: tuple[Any, ...]) -> Tensor:
        """The same of an explainer of its own, the plain way."""
        x, extra = inputs(), _named(arguments)
        if self.name == "incremental":
            return self._occluded(fastsal.Occlusion(self.model), False, extra)
        if self.name == "integrated gradients":
            ig = fastsal.IntegratedGradients(self.model)
            found: Tensor = ig.attribute(x, target=1, n_steps=16, first_layer_once=False, **extra)
            return found
        if self.name == "tails":
            return _ablated(self.model, x, extra)
        saliency: Tensor = fastsal.Saliency(self.model).attribute(x, target=1, **extra)
        return saliency

    def _occluded(self, explainer: Any, setting: bool | str, extra: dict[str, Any]) -> Tensor:
        found: Tensor = explainer.attribute(inputs(), (3, 4, 4), (3, 4, 4), target=1, incremental=setting, **extra)
        return found

    def was_incremental(self) -> bool:
        """Whether the last call was."""
        return "incremental (" in str(self._explainer.plan())

    def state(self) -> Any:
        """What was made ready, which another stands in the place of once it was made anew."""
        if self.name == "prepare":
            return self._fast._snapshot or self._fast.as_it_is
        if self.name == "incremental":
            memory = self._explainer.state.found.get("incremental", Memory())
            return memory._known
        return None


def _ablated(model: Net, x: Tensor, extra: dict[str, Any]) -> Tensor:
    """AblationCAM by its definition: whole passes, in each of which a hook of our own sets a channel to zero."""
    arguments = extra.get("additional_forward_args", ())
    kept: list[Tensor] = []
    off: list[int] = []

    def hook(_module: Any, _args: Any, output: Tensor) -> Tensor | None:
        kept.append(output)
        if not off:
            return None
        changed = output.clone()
        changed[:, off[0]] = 0
        return changed

    handle = model.act.register_forward_hook(hook)
    try:
        with torch.no_grad():
            score = model(x.clone(), *arguments)[:, 1]
            activations = kept[0]
            drops = []
            for channel in range(activations.shape[1]):
                off[:] = [channel]
                drops.append((score - model(x.clone(), *arguments)[:, 1]) / score)
    finally:
        handle.remove()
    weights = torch.stack(drops, 1)
    field = (weights[:, :, None, None] * activations).sum(1, keepdim=True)
    return field


def judged(change: Change, name: str) -> str:
    """What a way makes of a change: ``right`` or ``rebuilt``, ``plain`` where it is not used, or what is wrong."""
    model = network()
    with contextlib.ExitStack() as undo:
        first = change.arguments(False)
        undo.callback(HIDDEN.update, copy.deepcopy(HIDDEN))
        undo.callback(HIDDEN.clear)
        change.before(model, undo)
        if name == "incremental" and (first or change.arguments(True)):
            return "plain"  # of more than one input
        way = Way(name, model, first)
        old = way.shortcut(first)
        state = way.state()
        change.apply(model, undo)
        second = change.arguments(True)
        found, expected = way.shortcut(second), way.plain(second)
        scale = float(expected.abs().max()) or 1.0
        apart = float((found - expected).abs().max()) / scale
        if not apart <= TOLERANCE:
            return f"STALE by {apart:.1e}"
        if (float((old - expected).abs().max()) <= TOLERANCE * scale) != change.same:
            return "CHANGED" if change.same else "NO CHANGE"
        if name == "incremental" and not way.was_incremental():
            return "plain"
        return "right" if way.state() is state else "rebuilt"


def _named(arguments: tuple[Any, ...]) -> dict[str, Any]:
    return {"additional_forward_args": arguments} if arguments else {}


def row(change: Change) -> str:
    """A line of the table."""
    return f"| {change.name} | {' | '.join(judged(change, name) for name in WAYS)} |"


def page() -> str:
    """The page with the table as it is now."""
    text = PAGE.read_text()
    head = [f"| between two calls | {' | '.join(WAYS)} |", "|---" * (len(WAYS) + 1) + "|"]
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    return "\n".join([before + BEGIN, "", *head, *map(row, CHANGES), "", END]) + after


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="say whether the table is as it is kept")
    wanted, kept = page(), PAGE.read_text()
    if parser.parse_args(arguments).check:
        print("as it is kept" if wanted == kept else "another one")
        return int(wanted != kept)
    PAGE.write_text(wanted)
    return 0


if __name__ == "__main__":
    sys.exit(main())
