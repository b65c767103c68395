"""DeepLIFT SHAP: DeepLIFT averaged over a distribution of baselines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fastsal.engine.run import Plan, evaluation
from fastsal.explainers._old import attribute_method, could_be_per_example, sweep
from fastsal.explainers.arguments import Inputs, as_arguments, as_inputs, as_result, at_least_one, examples_of
from fastsal.explainers.gradient._distribution import distribution_of
from fastsal.explainers.gradient.deep_lift import Custom, DeepLift
from fastsal.explainers.scores import Target, tile, tile_target
from fastsal.ops import noise


class DeepLiftShap(DeepLift):
    """Mean of DeepLIFT over baselines: Lundberg, Lee, "A Unified Approach to Interpreting Model Predictions" (NeurIPS
    2017), section 4.2.

    Costs a forward and a backward pass of two rows per example and baseline; memory does not grow with the baselines.

    Args:
        model: a torch.nn.Module in Python code, with the examples as dimension 0 of its activations.
        multiply_by_inputs: the factor (x - b); without it the mean multipliers are returned.
    """

    def __init__(self, model: nn.Module, multiply_by_inputs: bool = True) -> None:
        super().__init__(model, multiply_by_inputs)

    @attribute_method
    def attribute(  # type: ignore[override]
        self,
        inputs: Inputs,
        baselines: Any,
        target: Target = None,
        additional_forward_args: Any = None,
        return_convergence_delta: bool = False,
        custom_attribution_func: Custom | None = None,
        *,
        internal_batch_size: int | None = None,
        show_progress: bool = False,
    ) -> Any:
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
            internal_batch_size: rows per model call. When None, chosen from memory, but one baseline at a time where
                an additional tensor has as many entries as there are examples.
            show_progress: show a bar.

        Raises:
            TypeError, ValueError: for arguments outside of the above, or a model that mixes the examples.
        """
        tensors, given_tuple = as_inputs(inputs)
        examples = examples_of(tensors)
        plain = tuple(tensor.detach() for tensor in tensors)
        rows = distribution_of(baselines, inputs)
        count = len(rows[0])
        if any(len(each) != count for each in rows):
            raise ValueError(f"baselines: {', '.join(str(len(each)) for each in rows)} rows; each input needs as many")
        additional = as_arguments(additional_forward_args)
        size = None
        if internal_batch_size is not None:
            size = max(1, at_least_one("internal_batch_size", internal_batch_size) // (2 * examples))
        elif could_be_per_example(additional, examples):
            size = 1
        row_bytes = sum(t[:1].numel() * t.element_size() for t in plain)
        plan = Plan(count, 2 * examples, 2 * row_bytes, plain[0].device, size, self.forward_func)
        state: list[Tensor] = []
        dtypes: list[torch.dtype] = []
        deltas: list[Tensor] = []

        def step(start: int, stop: int) -> Callable[[], None]:
            number = stop - start
            ends = tuple(tensor.repeat(number, *[1] * (tensor.dim() - 1)) for tensor in plain)
            starts = tuple(
                each[start:stop].detach().to(tensor).expand(number, *tensor.shape[1:]).repeat_interleave(examples, 0)
                for each, tensor in zip(rows, plain, strict=True)
            )
            extra = tuple(tile(value, number, examples) for value in additional)
            wanted = tile_target(target, number, examples)
            found = self._attributions(ends, starts, wanted, extra, custom_attribution_func)
            folded = [
                noise.fold(part.detach(), number, start=start, partial=state[i] if state else None)
                for i, part in enumerate(found)
            ]
            delta = None
            if return_convergence_delta:
                delta = self.compute_convergence_delta(found, starts, ends, wanted, extra).detach()

            def commit() -> None:
                state[:], dtypes[:] = folded, [part.dtype for part in found]
                if delta is not None:
                    deltas.append(delta.reshape(number, examples))

            return commit

        with evaluation(self.forward_func), torch.no_grad():
            sweep(count, step, plan, show_progress=show_progress, description="DeepLIFT SHAP")
            results = [moments[0].to(dtype) for moments, dtype in zip(state, dtypes, strict=True)]
        result = as_result(results, given_tuple)
        return (result, torch.cat(deltas).T.reshape(-1)) if return_convergence_delta else result
