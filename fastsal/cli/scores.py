"""What a model's output says: logits, probabilities, or one score, and how sure it is."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fastsal.cli.errors import Failed
from fastsal.explainers.outputs import main_output


class Scores(NamedTuple):
    """One row of an output.

    Attributes:
        probabilities: float64 [K], on the CPU.
        final: what the model itself ends in: ``"softmax"``, ``"sigmoid"`` or ``""``.
        note: what is to be said of it.
        squeezed: the output is [B], without a dimension of classes.
    """

    probabilities: Tensor
    final: str
    note: str
    squeezed: bool


def read_scores(model: nn.Module, inputs: Tensor, output: Any) -> Scores:
    """The output for one image [1, ...] as probabilities.

    Raises:
        Failed: for another form of output, or scores that are not finite.
    """
    output = main_output(output)
    squeezed = isinstance(output, Tensor) and output.dim() == 1 and output.shape[0] == 1
    fits = isinstance(output, Tensor) and output.dim() == 2 and output.shape[0] == 1 and output.shape[1] > 0
    if not (squeezed or fits) or output.is_complex():
        found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise Failed(f"the model must return one row of scores for an image, [1, classes], got {found}")
    row = output.detach().reshape(-1).to("cpu", torch.float64)
    if row.isnan().any() or row.eq(torch.inf).any() or row.eq(-torch.inf).all():
        raise Failed("the model's scores are not finite, so that there is no prediction to explain")
    kinds = f"{len(row)} outputs" if len(row) > 1 else "one output"
    within = bool(((row >= 0) & (row <= 1)).all())
    # Rounding of so many terms in the output's precision.
    rounding = min(0.02, max(1e-5, 4 * len(row) * torch.finfo(output.dtype).eps)) if output.is_floating_point() else 0.0
    if len(row) > 1 and within and abs(float(row.sum()) - 1) <= rounding:
        note = f"the model ends in a softmax: its {kinds} are taken as probabilities, without another softmax"
        return Scores(row, "softmax", note, squeezed)
    if within and _ends_in_sigmoid(model, inputs):
        note = f"the model ends in a sigmoid: its {kinds} are taken as probabilities, each for itself"
        return Scores(row, "sigmoid", note, squeezed)
    if len(row) == 1:
        return Scores(row.sigmoid(), "", "the model has one output: the percentage is its sigmoid", squeezed)
    return Scores(row.softmax(0), "", "", squeezed)


def _ends_in_sigmoid(model: nn.Module, inputs: Tensor) -> bool:
    """By the last operation that autograd saw; False where it saw none."""
    try:
        with torch.enable_grad():
            # Not a leaf, so that a model may write to it.
            output = main_output(model(inputs.clone().requires_grad_() * 1))
    except Exception:  # a model that runs without gradients alone
        return False
    function = getattr(output, "grad_fn", None)
    for _ in range(8):
        if function is None:
            return False
        name = function.name()
        if name.startswith("SigmoidBackward"):
            return True
        if not name.startswith(
            ("View", "Squeeze", "Unsqueeze", "Reshape", "ToCopy", "Select", "Slice", "Alias", "Clone")
        ):
            return False
        function = function.next_functions[0][0] if function.next_functions else None
    return False
