"""Ablation-CAM: channels weighed by the share of the score that goes with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastsal._torch import tree_leaves
from fastsal.engine.reading.tail import Tail, begins_with
from fastsal.engine.run import Plan, evaluation
from fastsal.explainers._old import could_be_per_example, sweep
from fastsal.explainers.arguments import Inputs, as_arguments, as_inputs
from fastsal.explainers.cam.base import CamReading
from fastsal.explainers.cam.swept import SweptMap
from fastsal.explainers.scores import Target, one_score_each, resolved, target_of, tile_target
from fastsal.ops import accumulation_dtype


class AblationCAM(SweptMap):
    """Desai and Ramaswamy, "Ablation-CAM" (WACV 2020), equation 2: w_c = (y - y_c) / y, y_c without channel c.

    Where the score is an affine function of the layer (average pooling and linear maps behind it), a channel's part of
    it is known exactly from one gradient: costs what Grad-CAM does. Else the model behind the layer runs once for each
    channel, and what is before it once. A score of 0 has no shares: there y - y_c weighs.

    Args:
        model, layer, reshape_transform: as of :class:`fastsal.GradCAM`; the layer's value has the channels that are
            ablated, so a reshape_transform must keep their number.
        perturbations_per_eval: channels per call of the rest; chosen from memory when None.
        show_progress: show a bar.
    """

    asks_affine = True

    def field(self, activations: Tensor, gradients: Tensor) -> Tensor:
        dtype, spatial = accumulation_dtype(activations.dtype), tuple(range(2, activations.dim()))
        taken = activations.to(dtype) - self._replacement(activations.to(dtype))
        return (gradients.to(dtype) * taken).sum(spatial, keepdim=True)

    def _replacement(self, value: Tensor) -> Tensor:
        """What stands in a channel that is ablated, for each example of a layer's value [B, ...]: [B, 1, ...]."""
        return value.new_zeros((value.shape[0], *[1] * (value.dim() - 1)))

    def read(
        self,
        inputs: Inputs,
        target: Target = None,
        additional_forward_args: Any = None,
        *,
        targets: Sequence[Target] | None = None,
        create_graph: bool = False,
    ) -> CamReading:
        if targets is not None:
            raise ValueError("targets: AblationCAM ablates for one target; call it for each")
        if create_graph:
            raise ValueError("create_graph: AblationCAM's weights are differences of scores; take HiResCAM")
        found = super().read(inputs, target, additional_forward_args)
        tensors, _ = as_inputs(inputs)
        additional = as_arguments(additional_forward_args)
        target = resolved(target, found.output)
        scores = one_score_each(found.output, target, tensors[0].shape[0])
        fields = []
        for layer, activations, drops in zip(self.layers, found.activations, found.fields, strict=True):
            if not found.affine:
                drops = self._drops(layer, activations, tensors, additional, found.output, target)
            whole = scores.to(drops.dtype).reshape(-1, *[1] * (drops.dim() - 1))
            fields.append(drops / torch.where(whole == 0, 1, whole))
        return CamReading(found.output, found.activations, fields)

    def _drops(
        self,
        layer: nn.Module,
        activations: Tensor,
        tensors: tuple[Tensor, ...],
        additional: tuple[Any, ...],
        output: Any,
        target: Target,
    ) -> Tensor:
        """y - y_c, [B, C, 1, ...]."""
        examples, channels = activations.shape[:2]
        rows = []
        with evaluation(self.forward_func, eager=True), torch.no_grad():
            for row in range(examples):
                tail = self._tail(layer, tensors, additional, output, row)
                axis = self._channel_axis(tail.value, channels, tensors)
                rows.append(self._drops_of(tail, axis, channels, target_of(target, row, examples)))
        return torch.stack(rows).reshape(examples, channels, *[1] * (activations.dim() - 2))

    def _tail(
        self, layer: nn.Module, tensors: tuple[Tensor, ...], additional: tuple[Any, ...], output: Any, row: int
    ) -> Tail:
        """One example's: with its part of the extra arguments, or all of them, whichever gives the model's output."""
        examples = tensors[0].shape[0]

        def part(values: tuple[Any, ...]) -> tuple[Any, ...]:
            return tuple(
                value[row : row + 1] if could_be_per_example((value,), examples) else value for value in values
            )

        expected = [leaf[row : row + 1] for leaf in tree_leaves(output) if isinstance(leaf, Tensor) and leaf.dim()]
        for extra in (part(additional), additional):
            try:
                tail = Tail(self.forward_func, layer, part(tensors), extra)
            except RuntimeError:  # what a model says of shapes that do not fit
                if extra is additional:
                    raise
                continue
            found = [leaf for leaf in tree_leaves(tail.output) if isinstance(leaf, Tensor) and leaf.dim()]
            if all(map(begins_with, found, expected)):
                return tail
        raise ValueError(
            "inputs: the model's output for one example differs from that in the batch, so channels cannot be ablated "
            "one example after the other; pass one example"
        )

    def _drops_of(self, tail: Tail, axis: int, channels: int, target: Target) -> Tensor:
        """One example's, [C]."""
        value = tail.value
        clean = one_score_each(tail.output, target, 1)
        replacement = self._replacement(value).reshape(())
        result = torch.empty(channels, dtype=accumulation_dtype(value.dtype), device=value.device)

        def step(start: int, stop: int) -> Callable[[], None]:
            count = stop - start
            values = value.repeat(count, *[1] * (value.dim() - 1))
            each = torch.arange(count, device=value.device)
            values.movedim(axis, 1)[each, each + start] = replacement
            drops = clean - one_score_each(tail(values), tile_target(target, count, 1), count)

            def commit() -> None:
                result[start:stop] = drops

            return commit

        given = 1 if tail.one_at_a_time else self.perturbations_per_eval
        plan = Plan(channels, 1, value.numel() * value.element_size(), value.device, given)
        sweep(channels, step, plan, show_progress=self.show_progress, description="Ablation-CAM")
        return result

    def _channel_axis(self, value: Tensor, channels: int, tensors: tuple[Tensor, ...]) -> int:
        arranged = self._arrange(value, tensors)
        if arranged.shape == value.shape and arranged.data_ptr() == value.data_ptr():
            return 1
        if value.shape[-1] == channels:
            return value.dim() - 1
        if value.shape[1] == channels:
            return 1
        raise ValueError("reshape_transform: AblationCAM must find the layer's channels in dimension 1 or in the last")
