"""Ablation-CAM: channels weighed by the share of the score that goes with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastsal._torch import tree_leaves
from fastsal.engine.reading.tail import Tail, begins_with
from fastsal.engine.run import ChunkSizes
from fastsal.explainers.arguments import Inputs
from fastsal.explainers.base import attribution
from fastsal.explainers.call import Call
from fastsal.explainers.cam._places import View
from fastsal.explainers.cam.records import LayerValues, Rendering
from fastsal.explainers.cam.swept import SweptMap
from fastsal.explainers.scores import Target, one_score_each
from fastsal.explainers.task import Task
from fastsal.ops import accumulation_dtype


class AblationCAM(SweptMap):
    """Desai and Ramaswamy, "Ablation-CAM" (WACV 2020), equation 2: w_c = (y - y_c) / y, y_c without channel c.

    Where the score is an affine function of the layer (average pooling and linear maps behind it), a channel's part of
    it is known exactly from one gradient: costs what Grad-CAM does. Else the model behind the layer runs once for each
    channel, and what is before it once. A score of 0 has no shares: there y - y_c weighs. The layer's value has the
    channels that are ablated, so a reshape_transform must keep their number.

    >>> maps = fastsal.AblationCAM(model, "last").attribute(images, target=classes)

    Args:
        model: a torch.nn.Module, or a callable around one.
        layer: one of its modules, its dotted name, or a list of these, whose maps are fused. None takes the last layer
            that has positions and influence on the target, at the first call.
        reshape_transform: function of a layer's value that returns [B, C, *spatial], or a
            :class:`fastsal.Geometry` that says where its positions are. None finds that out.
    """

    summary = "channels weighed by the score's drop without them"
    cost = "1 forward, 1 backward to the layer; 1 of the rest a channel where that is not affine"
    needs_gradients = asks_affine = True

    @attribution
    def attribute(
        self,
        inputs: Inputs,
        target: Target = None,
        additional_forward_args: Any = None,
        *,
        perturbations_per_eval: int | None = None,
        show_progress: bool = False,
        targets: Sequence[Target] | None = None,
        relu_attributions: bool = True,
        upsample: bool = True,
        normalize: bool = True,
        fuse: str | None = None,
        eigen_smooth: bool = False,
        aug_smooth: bool = False,
        create_graph: bool = False,
    ) -> Call[Any]:
        """Maps [B, 1, *spatial], in the size of the input or of the layer; on the device, in the finer of the layer's
        dtype and the first input's. Where the layer looks at several inputs there is one for each of these, in the form
        of the inputs: None stands for an input that it does not look at.

        Args:
            inputs: tensor [B, C, *spatial], tuple of tensors, or mapping.
            target: which output to explain, one for all or one per example; also one of :mod:`fastsal.targets`.
            additional_forward_args: further arguments of the model.
            perturbations_per_eval: channels per call of the rest; chosen from memory when None.
            show_progress: show a bar.
            targets: refused: call it for each.
            relu_attributions: keep what speaks for the target only.
            upsample: resize to the input, linearly with half-pixel centres; the (largest) layer's size otherwise.
            normalize: to [0, 1] per map, from the extremes of the resized map.
            fuse: of several layers' normalised maps: ``mean``, ``max`` or ``product``; None takes the method's own.
            eigen_smooth: instead of the sum over channels, their first principal component (Muhammad and Yeasin,
                "Eigen-CAM", IJCNN 2020).
            aug_smooth: the mean of six maps: of the input and its mirror image, times 0.9, 1 and 1.1, at six times the
                cost.
            create_graph: refused: no graph is kept of the scores that are compared; take HiResCAM.

        Raises:
            TypeError, ValueError: for arguments outside of the above, or a layer without positions.
        """
        self.refuse(targets, create_graph)
        task = self.task(
            inputs, target, additional_forward_args, per_call=perturbations_per_eval, show_progress=show_progress
        )
        how = Rendering(relu_attributions, upsample, normalize, fuse, eigen_smooth, aug_smooth)
        return self.described(task, self._shares, how)

    def replacement(self, value: Tensor) -> Tensor:
        """What stands in a channel that is ablated, for each example of a layer's value [B, ...]: [B, 1, ...]."""
        return value.new_zeros((value.shape[0], *[1] * (value.dim() - 1)))

    def _shares(self, task: Task, values: LayerValues) -> list[Tensor | None]:
        """(y - y_c) / y, [B, C, 1, ...] per layer."""
        scores = one_score_each(task.output, task.tiled_target(1), task.examples)
        fields: list[Tensor | None] = []
        for view, activations, gradients in zip(values.views, values.activations, values.gradients, strict=True):
            drops = self._parts(activations, gradients) if values.affine else self._drops(task, view, activations)
            whole = scores.to(drops.dtype).reshape(-1, *[1] * (drops.dim() - 1))
            fields.append(drops / torch.where(whole == 0, 1, whole))
        return fields

    def _parts(self, activations: Tensor, gradients: Tensor) -> Tensor:
        """y - y_c where y is affine, [B, C, 1, ...]."""
        wide = activations.to(accumulation_dtype(activations.dtype))
        taken = wide - self.replacement(wide)
        return (gradients.to(wide.dtype) * taken).sum(tuple(range(2, wide.dim())), keepdim=True)

    def _drops(self, task: Task, view: View, activations: Tensor) -> Tensor:
        """y - y_c, [B, C, 1, ...]."""
        channels, rows = activations.shape[1], []
        with task.context(eager=True):
            for row in range(task.examples):
                tail = self._tail(task, self.layers[view.layer], row)
                axis = self._channel_axis(view, tail.value, channels, task.inputs)
                rows.append(self._drops_of(task, tail, axis, channels, row))
        return torch.stack(rows).reshape(task.examples, channels, *[1] * (activations.dim() - 2))

    def _tail(self, task: Task, layer: nn.Module, row: int) -> Tail:
        """One example's: with its part of the extra arguments, or all of them, whichever gives the model's output."""
        expected = [leaf[row : row + 1] for leaf in tree_leaves(task.output) if isinstance(leaf, Tensor) and leaf.dim()]
        inputs, part = task.example(row)
        for extra in (part, task.additional):
            try:
                tail = Tail(task.forward_func, layer, inputs, extra)
            except RuntimeError:  # what a model says of shapes that do not fit
                if extra is task.additional:
                    raise
                continue
            found = [leaf for leaf in tree_leaves(tail.output) if isinstance(leaf, Tensor) and leaf.dim()]
            if all(map(begins_with, found, expected)):
                return tail
        raise ValueError(
            "inputs: the model's output for one example differs from that in the batch, so channels cannot be ablated "
            "one example after the other; pass one example"
        )

    def _drops_of(self, task: Task, tail: Tail, axis: int, channels: int, row: int) -> Tensor:
        """One example's, [C]."""
        value = tail.value
        clean = one_score_each(tail.output, task.target_of(row), 1)
        if value.shape[0] != 1:
            raise ValueError(
                f"layer: its value {tuple(value.shape)} has {value.shape[0]} rows for one example, so no channel is of "
                "that alone; name a layer with a row for each example"
            )
        replacement = self.replacement(value).reshape(())
        result = torch.empty(channels, dtype=accumulation_dtype(value.dtype), device=value.device)

        def work(start: int, stop: int) -> Tensor:
            count = stop - start
            values = value.repeat(count, *[1] * (value.dim() - 1))
            each = torch.arange(count, device=value.device)
            values.movedim(axis, 1)[each, each + start] = replacement
            return clean - one_score_each(tail(values), task.target_of(row, count), count)

        def keep(start: int, stop: int, drops: Tensor) -> None:
            result[start:stop] = drops

        given = 1 if tail.one_at_a_time else task.per_call
        chunk_sizes = ChunkSizes(channels, 1, value.numel() * value.element_size(), value.device, given)
        # The tail has looked itself.
        task.swept(channels, work, keep, chunk_sizes=chunk_sizes, checked=False).run()
        return result

    def _channel_axis(self, view: View, value: Tensor, channels: int, inputs: tuple[Tensor, ...]) -> int:
        if view.geometry is not None:
            if view.geometry.examples != 0:
                raise ValueError("layer: AblationCAM repeats examples, which are not dimension 0 of this layer")
            return view.geometry.channels
        arranged = self._places.arrange(view, value, inputs)
        if arranged.shape == value.shape and arranged.data_ptr() == value.data_ptr():
            return 1
        if value.shape[-1] == channels:
            return value.dim() - 1
        if value.shape[1] == channels:
            return 1
        raise ValueError("reshape_transform: AblationCAM must find the layer's channels in dimension 1 or in the last")
