"""docs/models.md, from the cells."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from tools.models import claims
from tools.models.cell import NONE, OK, REFUSED, Cell
from tools.models.checks import METHODS
from tools.models.claims import BUILDING
from tools.models.results import Key, catalogued

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
SUBSET = Path(__file__).parent / "subset.txt"
SIGNS = {OK: "ok", REFUSED: "R", NONE: "–", "wrong": "**W**", "error": "**E**", "timeout": "T", "memory": "M"}
SHORT = {
    "saliency": "sal", "integrated-gradients": "ig", "grad-cam": "gcam", "layer-cam": "lcam", "eigen-cam": "ecam",
    "occlusion": "occ", "incremental": "inc", "rise": "rise", "prepare": "prep", "guided-backprop": "gbp",
    "deep-lift": "dlift", "lrp": "lrp", "ablation-cam": "abl", "le-grad": "legrad", "compile": "comp", "export": "exp",
    "package": "pkg",
}  # fmt: skip
WRAPPED = "wrapped: "
INTRODUCTION = """\
# Architectures

Every architecture of the table ran every method once, in a process of its own, and each cell was compared with
something that shares no code with fastsal. `make models` runs what is missing and writes this page;
`make models-small` runs the {small} of `tools/models/subset.txt`, without packages. Cells are kept in
`tools/models/results`, so that a run goes on where it was.

- **Models.** The smallest variant of each family of timm; torchvision's classifiers, segmenters, detectors and video
  models; transformers' families of vision, sound and text from small configurations. Random weights, those that start
  at zero moved away from it, batch norms calibrated; the model in training mode before each call; one thread. Images
  are two of 96 x 128, or the first larger size that the architecture takes and that leaves its last stage six places;
  every method has a meaning there, and the hundreds of passes of a cell end. Integrated Gradients has 3 steps, RISE 8
  masks, Occlusion windows of a third of each side.
- **Gradients.** Saliency and Integrated Gradients against autograd by hand; Guided Backprop against hooks on the nodes
  of autograd's graph; the convergence delta of DeepLift is at most 1.25 times Captum 0.9.0's (where Captum cannot run
  the model, that of the gradient times the input). LRP, in float64, against the input times the gradient in which
  activations pass on their slope from zero; of products of two activations only its sum is told.
- **Maps of a layer.** Grad-CAM, LayerCAM, EigenCAM and AblationCAM against a hook of our own at the layer that was
  taken by default, whose value is arranged by the grid that the model's own settings say (`patch_embed.grid_size`,
  `feature_info`, `config.patch_size`, strides of its convolutions). A default layer without such a grid is wrong.
  LeGrad against the attention weights as they ran, and their gradients.
- **Sweeps.** Occlusion, incremental too, and RISE against one alteration at a time.
- **Ways to run.** Prepared, compiled and exported against the plain model, and its map by hand. Wrapped:
  `torch.compile`, `DataParallel`, bfloat16 and float16 on the CPU, dynamic quantisation (whose gradient is to be
  refused), a forward that was put on the module.
- **Signs.** ok; R refused, in one line; **W** another value; **E** an error that is no refusal; T ended by its limit
  of time (a minute of the processor), M of memory; – no meaning; an empty cell was not run. What is off in float32 ran
  again in float64, where rounding is no excuse.
- **Order.** Every architecture runs the methods of one or few passes first, the smallest of each file of definitions
  before any second one of it; then those of hundreds of passes; packages, which compile C++, last.
- After each cell the model's hooks, flags, gradients, versions and values were compared with those before: {changed}.
"""


def page(cells: dict[Key, Cell]) -> str:
    """The page's text."""
    small = len(SUBSET.read_text().split())
    found = [cell for cell in cells.values() if cell.method in METHODS]
    changed = [cell for cell in found if cell.changed]
    told = f"{len(changed)} of {len(found)} left something changed"
    parts = [
        INTRODUCTION.format(small=small, changed=told),
        _runs(found),
        "## Counts\n",
        _counts(found),
        _held(found),
        "## Cells that are not ok\n",
        _not_ok(found),
        "## No meaning\n",
        _excluded(found),
        "## Architectures and methods\n",
        _table(cells),
    ]
    return "\n".join(parts).rstrip() + "\n"


def _runs(cells: list[Cell]) -> str:
    commits = Counter(cell.commit for cell in cells)
    versions = cells[0].versions if cells else {}
    names = ", ".join(f"{name} {version}" for name, version in versions.items())
    runs = ", ".join(f"{commit} ({count})" for commit, count in commits.most_common())
    models = len({cell.model for cell in cells})
    known = catalogued()
    of = f" of the {len(known)} that there are" if known else ""
    return (
        f"{models} architectures{of}, {len(cells)} cells, CPU, {names}. Run at (cells): {runs}. "
        "What is not in the table was not run yet.\n"
    )


def _counts(cells: list[Cell]) -> str:
    lines = ["| method | ok | of | share | refused | wrong | ended | |", "|---|---|---|---|---|---|---|---|"]
    for method in METHODS:
        each = claims.count(cells, method)
        share = f"{100 * each.ok / each.meant:.1f} %" if each.meant else ""
        held = f"97 % asked: {'kept' if each.ok >= claims.LEAST_OK * each.meant else 'not kept'}"
        asked = held if method in claims.HELD and each.meant else ""
        counts = " | ".join(map(str, (each.refused, each.wrong, each.ended)))
        lines.append(f"| {method} | {each.ok} | {each.meant} | {share} | {counts} | {asked} |")
    return "\n".join(lines) + "\n"


def _held(cells: list[Cell]) -> str:
    grids, refused = claims.same_grids(cells), claims.refused_for_geometry(cells)
    return (
        f"The default layer's grid is the one that their own patch sizes or strides say on {len(grids)} transformers "
        f"and hybrids; Grad-CAM's default layer is refused on {len(refused)} architectures.\n"
    )


def _not_ok(cells: list[Cell]) -> str:
    groups: dict[tuple[str, str, str], list[str]] = {}
    for cell in cells:
        if cell.status not in (OK, NONE):
            groups.setdefault((cell.method, cell.status, cell.detail), []).append(cell.model)
        if cell.changed:
            groups.setdefault((cell.method, "left changed", cell.changed), []).append(cell.model)
    order = list(METHODS)
    lines = []
    for (method, status, detail), models in sorted(groups.items(), key=lambda item: order.index(item[0][0])):
        who = ", ".join(models[:6]) + (f" and {len(models) - 6} more" if len(models) > 6 else "")
        lines.append(f"- {method}, {status}: {who}: `{detail.replace('`', chr(39))}`")
    return "\n".join(lines or ["None."]) + "\n"


def _excluded(cells: list[Cell]) -> str:
    lines = []
    for reason, found in sorted(claims.excluded(cells).items()):
        methods = ", ".join(sorted({cell.method for cell in found}))
        lines.append(f"- {reason} ({methods}): {', '.join(dict.fromkeys(cell.model for cell in found))}")
    return "\n".join(lines or ["None."]) + "\n"


def _table(cells: dict[Key, Cell]) -> str:
    models = sorted({model for model, method in cells if method in METHODS})
    head = [*SHORT.values(), "wrapped", "unchanged"]
    lines = [f"| model | {' | '.join(head)} |", "|---" * (len(head) + 1) + "|"]
    for model in models:
        row = [_sign(cells.get((model, method))) for method in SHORT]
        own = [cell for (name, method), cell in cells.items() if name == model and method in METHODS]
        wrapped = [cell for cell in own if cell.method.startswith(WRAPPED)]
        failed = [f"{cell.method[len(WRAPPED) :]} {_sign(cell)}" for cell in wrapped if cell.status != OK]
        row.append("; ".join(failed) if failed else "ok" if wrapped else "")
        row.append("ok" if not any(cell.changed for cell in own) else "**no**")
        lines.append(f"| {model} | {' | '.join(row)} |")
    missing = [cell for cell in cells.values() if cell.method == BUILDING and cell.status != OK]
    told = [f"\nNot built: {cell.model} (`{cell.detail}`)" for cell in missing]
    return "\n".join([*lines, *told]) + "\n"


def _sign(cell: Cell | None) -> str:
    return "" if cell is None else SIGNS[cell.status]
