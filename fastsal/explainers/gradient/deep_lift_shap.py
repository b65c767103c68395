"""DeepLIFT SHAP: DeepLIFT averaged over a distribution of baselines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastsal.engine.run import tell
from fastsal.explainers.arguments import Inputs
from fastsal.explainers.base import attribution
from fastsal.explainers.call import Call
from fastsal.explainers.gradient.deep_lift import Custom, DeepLift
from fastsal.explainers.gradient.distribution import distribution_of
from fastsal.explainers.scores import Target
from fastsal.explainers.task import Task
from fastsal.ops import noise


class DeepLiftShap(DeepLift):
    """Mean of DeepLIFT over baselines: Lundberg, Lee, "A Unified Approach to Interpreting Model Predictions" (NeurIPS
    2017), section 4.2.

    Adds up, or warns, as :class:`fastsal.DeepLift` does for each pair. Costs two forward passes and a backward pass per
    example and baseline; memory does not grow with the baselines.

    >>> maps = fastsal.DeepLiftShap(model).attribute(images, torch.zeros(3, *images.shape[1:]), target=classes)

    Args:
        model: a torch.nn.Module in Python code.
        multiply_by_inputs: the factor (x - b); without it the mean multipliers are returned.
    """

    summary = "DeepLIFT averaged over baselines"
    cost = "2 forward, 1 backward for each example and baseline"
    per_call = "perturbations_per_eval"

    @classmethod
    def defaults(cls, inputs: tuple[Tensor, ...]) -> dict[str, Any]:
        # Compared with nothing at all, and with the batch's other examples.
        baselines = ((torch.zeros_like(tensor[:1]), tensor) for tensor in inputs)
        return {"baselines": tuple(torch.cat(each).detach() for each in baselines)}

    def __init__(self, model: nn.Module, multiply_by_inputs: bool = True) -> None:
        super().__init__(model, multiply_by_inputs)

    @attribution
    def attribute(  # type: ignore[override]
        self,
        inputs: Inputs,
        baselines: Any,
        target: Target = None,
        additional_forward_args: Any = None,
        return_convergence_delta: bool = False,
        custom_attribution_func: Custom | None = None,
        *,
        perturbations_per_eval: int | None = None,
        show_progress: bool = False,
        allow_unused: bool = False,
    ) -> Call[Any]:
        """Attribution in the form, shapes and dtypes of the inputs.

        Args:
            inputs: tensor [B, ...] or tuple of them, floating point.
            baselines: tensor [N, ...], tuple of one per input, or a function (of nothing or of the inputs) that returns
                one; every example is compared with each row.
            target: which output to explain, one for all or one per example.
            additional_forward_args: further arguments of the model; per-example tensors are repeated.
            return_convergence_delta: also return sum(attribution) - (F(x) - F(b)), [B * N], example by example.
            custom_attribution_func: (multipliers[, inputs[, baselines]]), tuples all, into the attributions of some of
                the pairs; their mean is returned.
            perturbations_per_eval: baselines per model call. When None, chosen from memory, but one at a time where an
                additional tensor has as many entries as there are examples.
            show_progress: show a bar.
            allow_unused: give zeros, with a warning, for an input that the target does not use in any way. One that it
                uses in ways without a gradient is an error always.

        Raises:
            TypeError, ValueError: for arguments outside of the above, or a model with one score for the whole batch.
        """
        task = self.task(
            inputs,
            target,
            additional_forward_args,
            per_call=perturbations_per_eval,
            allow_unused=allow_unused,
            show_progress=show_progress,
        )
        return self.averaged(task, inputs, baselines, return_convergence_delta, custom_attribution_func)

    def averaged(
        self,
        task: Task,
        inputs: Inputs,
        baselines: Any,
        return_convergence_delta: bool,
        custom: Custom | None,
        **options: Any,
    ) -> Call[Any]:
        """The mean over the rows of a distribution; ``options`` as of :meth:`compared`."""
        rows = distribution_of(baselines, inputs)
        total = len(rows[0])
        if any(len(each) != total for each in rows):
            raise ValueError(f"baselines: {', '.join(str(len(each)) for each in rows)} rows; each input needs as many")
        state: list[Tensor] = []
        dtypes: list[torch.dtype] = []
        deltas: list[Tensor] = []
        forms: list[Callable[[Sequence[Tensor]], Any]] = []

        told: list[str] = []

        def work(start: int, stop: int) -> Any:
            count = stop - start
            ends = tuple(tensor.repeat(count, *[1] * (tensor.dim() - 1)) for tensor in task.inputs)
            starts = tuple(
                each[start:stop]
                .detach()
                .to(tensor)
                .expand(count, *tensor.shape[1:])
                .repeat_interleave(task.examples, 0)
                for each, tensor in zip(rows, task.inputs, strict=True)
            )
            found, delta, excess, shaped = self.attributions(task, ends, starts, custom, count, **options)
            folded = [
                noise.fold(part.detach(), count, start=start, partial=state[i] if state else None)
                for i, part in enumerate(found)
            ]
            return folded, [part.dtype for part in found], delta.reshape(count, -1), excess, shaped

        def keep(start: int, stop: int, found: Any) -> None:
            state[:], dtypes[:], delta, excess, shaped = found
            forms[:] = [shaped]
            deltas.append(delta)
            if excess is not None:
                told.append(excess)

        def finish() -> Any:
            if told:
                tell(f"{type(self).__name__}: {told[0]}")
            result = forms[0]([moments[0].to(dtype) for moments, dtype in zip(state, dtypes, strict=True)])
            return (result, torch.cat(deltas).T.reshape(-1)) if return_convergence_delta else result

        return task.sweep(total, work, keep, finish, chunk_sizes=task.chunk_sizes(total, cost=3))
