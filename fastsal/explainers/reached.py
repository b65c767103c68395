"""Whether a gradient reaches the inputs: the map of one that none reaches would be zeros, however much it matters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fastsal.engine.run import changes, evaluation, keeping_random_states, run, scratch, tell
from fastsal.explainers.scores import one_score_each

if TYPE_CHECKING:
    from fastsal.explainers.task import Task

CAUSES = "torch.no_grad, detach, a cast to integers, integer weights or NumPy on the way"
CURES = "FeatureAblation, Occlusion, RISE and KernelShap need no gradient"
BEHIND = "LayerIntegratedGradients explains a layer behind that, such as an embedding"


class Unreached(ValueError):
    """Raised for an input on which the target does not depend through autograd."""


def reached(
    task: Task, gradients: Sequence[Tensor | None], like: Sequence[Tensor], allow_unused: bool = False
) -> tuple[Tensor, ...]:
    """The gradients, and zeros in the place of those that are None by right.

    None says that autograd met no way from the input to the target, not that there is none.

    Args:
        task: what is explained.
        gradients: by its inputs, or the first of them.
        like: tensors in the shapes of the gradients.
        allow_unused: take zeros, with a warning, for an input that the target does not depend on in any way: other
            values leave the target as it was.

    Raises:
        Unreached: for an input that no gradient reaches, and that is not known to be unused.
    """
    parts = list(_parts(task, len(gradients)))
    missing = [(name, places) for name, places in parts if places and all(gradients[place] is None for place in places)]
    if missing and not (allow_unused or task.allows_unused):
        raise Unreached(_refusal([name for name, _ in missing], len(missing) == len(parts), task.parts is not None))
    used = [name for name, places in missing if any(_changes_target(task, place) for place in places)]
    if used:
        raise Unreached(
            f"{', '.join(used)}: not unused, as other values change the target, which does not depend on it through "
            f"autograd ({CAUSES}); {CURES}, {BEHIND}"
        )
    if missing:
        names = ", ".join(name for name, _ in missing)
        tell(f"{names}: the target does not use it, so its attribution is 0")
    return tuple(
        torch.zeros_like(tensor) if gradient is None else gradient
        for gradient, tensor in zip(gradients, like, strict=True)
    )


def _parts(task: Task, count: int) -> Iterator[tuple[str, range]]:
    """(name, places among the inputs) of what must be reached: each input, or what the task says."""
    if task.parts is None:
        for place in range(count):
            yield task.given.called(place), range(place, place + 1)
        return
    start = 0
    for name, size in task.parts:
        yield name, range(start, start + size)
        start += size


def _refusal(names: Sequence[str], all_of_them: bool, of_layer: bool) -> str:
    what = f"{', '.join(names)}: the target does not depend on it through autograd ({CAUSES})"
    if of_layer:
        return f"{what}, or another of the layers between; choose one behind that; {CURES}"
    if all_of_them:
        return f"{what}; {CURES}, {BEHIND}"
    return (
        f"{what}; pass it in additional_forward_args to explain the others; {CURES}, {BEHIND}; allow_unused=True gives "
        "zeros for what the target does not use at all"
    )


def _changes_target(task: Task, place: int) -> bool:
    """Whether other values of an input change the target's scores, or are refused."""
    inputs = list(task.inputs)
    with evaluation(task.model), torch.no_grad():

        def scores(value: Tensor) -> Tensor:
            inputs[place] = value
            with keeping_random_states(task.device):
                output = run(task.forward_func, tuple(map(scratch, inputs)), tuple(map(scratch, task.additional)))
            return one_score_each(output, task.target, task.examples)

        return changes(scores, task.inputs[place])
