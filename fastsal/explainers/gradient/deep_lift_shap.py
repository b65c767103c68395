"""DeepLIFT SHAP: DeepLIFT averaged over a distribution of baselines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastsal.engine.run import tell
from fastsal.explainers.anytime import relative
from fastsal.explainers.arguments import Inputs
from fastsal.explainers.base import Estimating, attribution
from fastsal.explainers.call import Anytime, Call
from fastsal.explainers.gradient.deep_lift import Custom, DeepLift
from fastsal.explainers.gradient.distribution import distribution_of
from fastsal.explainers.scores import Target
from fastsal.explainers.seeds import generator
from fastsal.explainers.task import Task
from fastsal.ops import noise


class DeepLiftShap(Estimating, DeepLift):
    """Mean of DeepLIFT over baselines: Lundberg, Lee, "A Unified Approach to Interpreting Model Predictions" (NeurIPS
    2017), section 4.2.

    Adds up, or warns, as :class:`fastsal.DeepLift` does for each pair. Costs two forward passes and a backward pass per
    example and baseline; memory does not grow with the baselines. An estimate takes the baselines in a random order,
    the same in each call; its error is that of a part of them for all of them, and 0 after the last.

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

        def described(order: Tensor | None) -> Call[Any]:
            return _Sweep(self, task, rows, order, custom, return_convergence_delta, options).described()

        def anytime() -> Anytime:
            if return_convergence_delta:
                raise ValueError("tolerance, deadline: they go without return_convergence_delta")
            found = described(torch.randperm(total, generator=generator(0), device="cpu")).anytime
            assert found is not None
            return found()

        return Call(task, lambda: described(None).run(), anytime)


class _Sweep:
    """The sweep over the baselines, which keeps the moments of what is found for each, and their deltas."""

    def __init__(
        self,
        explainer: DeepLiftShap,
        task: Task,
        rows: tuple[Tensor, ...],
        order: Tensor | None,
        custom: Custom | None,
        with_delta: bool,
        options: dict[str, Any],
    ) -> None:
        self._explainer, self._task, self._custom, self._options = explainer, task, custom, options
        self._rows, self._order, self._with_delta, self._total = rows, order, with_delta, len(rows[0])
        self._state: list[Tensor] = []
        self._dtypes: list[torch.dtype] = []
        self._deltas: list[Tensor] = []
        self._told: list[str] = []
        self._was_told = False
        self._shaped: Callable[[Sequence[Tensor]], Any] | None = None

    def described(self) -> Call[Any]:
        return self._task.sweep(
            self._total,
            self.work,
            self.keep,
            self.finish,
            chunk_sizes=self._task.chunk_sizes(self._total, cost=3),
            estimate=self.estimate,
            limit=f"{self._total} baselines",
        )

    def work(self, start: int, stop: int) -> Any:
        task, count = self._task, stop - start
        ends = tuple(tensor.repeat(count, *[1] * (tensor.dim() - 1)) for tensor in task.inputs)
        starts = tuple(
            self._chosen(each, start, stop)
            .detach()
            .to(tensor)
            .expand(count, *tensor.shape[1:])
            .repeat_interleave(task.examples, 0)
            for each, tensor in zip(self._rows, task.inputs, strict=True)
        )
        found, delta, excess, shaped = self._explainer.attributions(
            task, ends, starts, self._custom, count, **self._options
        )
        folded = [
            noise.fold(
                part.detach(),
                count,
                start=start,
                partial=self._state[i] if self._state else None,
                second=self._order is not None,
            )
            for i, part in enumerate(found)
        ]
        return folded, [part.dtype for part in found], delta.reshape(count, -1), excess, shaped

    def _chosen(self, rows: Tensor, start: int, stop: int) -> Tensor:
        return rows[start:stop] if self._order is None else rows[self._order[start:stop].to(rows.device)]

    def keep(self, start: int, stop: int, found: Any) -> None:
        self._state, self._dtypes, delta, excess, self._shaped = found
        if self._with_delta:
            self._deltas.append(delta)
        if excess is not None:
            self._told.append(excess)

    def finish(self) -> Any:
        self._tell()
        result = self._like([moments[0] for moments in self._state])
        return (result, torch.cat(self._deltas).T.reshape(-1)) if self._with_delta else result

    def _tell(self) -> None:
        """Where a sum was far off, once."""
        if self._told and not self._was_told:
            self._was_told = True
            tell(f"{type(self._explainer).__name__}: {self._told[0]}")

    def estimate(self, done: int) -> tuple[Any, Any, float, int]:
        self._tell()
        means = [moments[0] for moments in self._state]
        left = 1 - done / self._total
        errors = [
            (moments[1] * (left / (done * max(done - 1, 1)))).sqrt()
            if done > 1 or left == 0
            else torch.full_like(moments[0], torch.inf)
            for moments in self._state
        ]
        return self._like(means), self._like(errors), relative(tuple(means), tuple(errors)), done

    def _like(self, values: Sequence[Tensor]) -> Any:
        assert self._shaped is not None
        return self._shaped([value.to(dtype) for value, dtype in zip(values, self._dtypes, strict=True)])
