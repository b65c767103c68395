"""Scores of inputs that are changed in one place each, by :mod:`fastsal.engine.incremental` where that is the way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from fastsal.engine.incremental import Asked, Memory, attempt
from fastsal.explainers.base import PerturbationAttribution
from fastsal.explainers.perturbation.altered import AlteredScores
from fastsal.explainers.perturbation.occlusion._changes import Changes
from fastsal.ops import patches


def checked_setting(incremental: Any) -> bool | str:
    """``"auto"``, True or False.

    Raises:
        ValueError: for anything else.
    """
    if incremental is True or incremental is False or incremental == "auto":
        return incremental  # type: ignore[no-any-return]
    raise ValueError(f'incremental: {incremental!r} is none of "auto", True and False')


def incremental_scores(
    explainer: PerturbationAttribution,
    scores: AlteredScores,
    inputs: tuple[Tensor, ...],
    changes: Callable[[], Changes],
    setting: bool | str,
    rows: int | None,
    show_progress: bool,
) -> Tensor | None:
    """Scores [P, outputs] of the changed inputs; None where the plain sweep is the way, as ``plan()`` then tells.

    Call inside ``evaluation`` and ``torch.no_grad``.

    Args:
        explainer: whose model it is.
        scores: of the plain sweep.
        inputs: of the explainer, one image tensor where it can be done.
        changes: makes the changes of the one image tensor.
        setting: ``"auto"``: where it pays; True: wherever it is possible; False: not.
        rows: changed inputs per call, chosen when None.
        show_progress: show a bar.

    Raises:
        ValueError: with ``setting`` True, where it is not possible, saying why.
    """
    explainer.state.step = None
    if setting is False:
        return None
    asked = Asked(
        scores.task.forward_func, inputs, scores, changes, patches.gather, rows, explainer.get_name(), show_progress
    )
    memory = explainer.state.found.setdefault("incremental", Memory())
    found = attempt(asked, memory, forced=setting is True)
    explainer.state.step = found.step
    return found.scores
