"""Score-CAM and what grew from it: channels weighed by the score that each leaves when it masks the input."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastsal.engine.run import Plan, evaluation, run, scratch
from fastsal.explainers._old import could_be_per_example, sweep
from fastsal.explainers.arguments import Inputs, as_arguments, as_inputs, at_least_one, examples_of
from fastsal.explainers.cam.base import CamReading, ReshapeTransform
from fastsal.explainers.cam.swept import SweptMap
from fastsal.explainers.scores import Target, one_score_each, resolved, tile, tile_target
from fastsal.explainers.seeds import as_seed
from fastsal.ops import accumulation_dtype, cam, noise, wide_dtype


class ScoreCAM(SweptMap):
    """Wang et al., "Score-CAM" (CVPR Workshops 2020), equations 4 to 6.

    Each channel, resized to the input and scaled to [0, 1], masks the input; the softmax of the scores over the
    channels weighs them. (The score of the unmasked input that the paper takes off is the same for all channels, so it
    is of no effect.) Costs one forward pass, and one for each channel; no mask is kept.

    Args:
        model, layer, reshape_transform: as of :class:`fastsal.GradCAM`.
        perturbations_per_eval: channels per model call; chosen from memory when None.
        show_progress: show a bar.
    """

    needs_gradients = False
    samples = 1
    """Masks of one channel."""

    def field(self, activations: Tensor, gradients: Tensor) -> Tensor:
        return activations  # replaced by the softmax of the scores

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
            raise ValueError(f"targets: {type(self).__name__} scores one target a pass; call it for each")
        if create_graph:
            raise ValueError(f"create_graph: {type(self).__name__} takes no gradient, so its map has no graph")
        found = super().read(inputs, None, additional_forward_args)
        tensors, _ = as_inputs(inputs)
        target = resolved(target, found.output)
        one_score_each(found.output, target, examples_of(tensors))  # refuses what names no score, before the passes
        fields = []
        for activations in found.activations:
            if activations.dim() != tensors[0].dim():
                raise ValueError(
                    f"layer: its output {tuple(activations.shape)} cannot mask the input {tuple(tensors[0].shape)}"
                )
            scores = self._scores_of_masks(activations, tensors, target, as_arguments(additional_forward_args))
            weights = scores.softmax(1)
            fields.append(weights.reshape(*weights.shape, *[1] * (activations.dim() - 2)))
        return CamReading(found.output, found.activations, fields)

    def _scores_of_masks(
        self, activations: Tensor, tensors: tuple[Tensor, ...], target: Target, additional: tuple[Any, ...]
    ) -> Tensor:
        """[B, C], each channel's score: the mean over its masks."""
        x = scratch(tensors[0]) if tensors[0].is_inference() else tensors[0].detach()
        examples, channels = activations.shape[:2]
        size = list(x.shape[2:])
        given = self.perturbations_per_eval
        if given is None and could_be_per_example(additional, examples):
            given = 1
        row_bytes = sum(t[:1].numel() * t.element_size() for t in tensors)
        plan = Plan(channels * self.samples, examples, row_bytes, x.device, given, self.forward_func)
        with torch.inference_mode(False):
            total = torch.zeros((channels, examples), dtype=wide_dtype(x.device), device=x.device)

        def step(start: int, stop: int) -> Callable[[], None]:
            pieces = []
            for first, last, channel in _spans(start, stop, self.samples):
                mask = self._mask(activations[:, channel : channel + 1], size)
                pieces.append(self._masked(x, mask[:, None].to(accumulation_dtype(x.dtype)), channel, first, last))
            batch = torch.cat(pieces) if len(pieces) > 1 else pieces[0]
            count = stop - start
            others = tuple(tile(scratch(tensor), count, examples) for tensor in tensors[1:])
            extra = tuple(tile(scratch(value), count, examples) for value in additional)
            output = run(self.forward_func, (batch, *others), extra)
            scores = one_score_each(output, tile_target(target, count, examples), count * examples)
            added = torch.arange(start, stop, device=x.device) // self.samples
            rows = scores.detach().reshape(count, examples).to(total.dtype)

            def commit() -> None:
                total.index_put_((added,), rows, accumulate=True)

            return commit

        with evaluation(self.forward_func), torch.no_grad():
            sweep(
                channels * self.samples, step, plan, show_progress=self.show_progress, description=type(self).__name__
            )
        return (total / self.samples).T.to(accumulation_dtype(activations.dtype))

    def _mask(self, channel: Tensor, size: list[int]) -> Tensor:
        """Masks [B, *size] in [0, 1] of one channel [B, 1, *layer]."""
        return cam.finish(channel[:, 0], size, relu=False)

    def _masked(self, x: Tensor, mask: Tensor, channel: int, first: int, last: int) -> Tensor:
        """Masked inputs [(last - first) * B, ...], samples first to last of a channel's masks [B, 1, *spatial]."""
        return (x.to(mask.dtype) * mask).to(x.dtype)


def _spans(start: int, stop: int, samples: int) -> Iterator[tuple[int, int, int]]:
    """(first sample, last, channel) of the masks start to stop, which are numbered channel by channel."""
    while start < stop:
        channel, first = divmod(start, samples)
        last = min(samples, first + stop - start)
        yield first, last, channel
        start += last - first


class SSCAM(ScoreCAM):
    """Naidu and Michael, "SS-CAM: Smoothed Score-CAM" (2020), equations 4 and 5: the mean over masks with noise.

    Costs one forward pass, and num_samples for each channel.

    Args:
        model, layer, reshape_transform, perturbations_per_eval, show_progress: as of :class:`ScoreCAM`.
        num_samples: noisy masks of a channel.
        std: standard deviation of the noise; a mask has values in [0, 1].
        seed: chooses the noise; None draws it from torch's global generator.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        layer: nn.Module | str | Sequence[nn.Module | str] | None = None,
        *,
        reshape_transform: ReshapeTransform | None = None,
        perturbations_per_eval: int | None = None,
        show_progress: bool = False,
        num_samples: int = 35,
        std: float = 2.0,
        seed: int | None = 0,
    ) -> None:
        super().__init__(
            model,
            layer,
            reshape_transform=reshape_transform,
            perturbations_per_eval=perturbations_per_eval,
            show_progress=show_progress,
        )
        self.samples, self.std, self.seed = at_least_one("num_samples", num_samples), std, seed

    def _scores_of_masks(
        self, activations: Tensor, tensors: tuple[Tensor, ...], target: Target, additional: tuple[Any, ...]
    ) -> Tensor:
        self._key = as_seed(self.seed)
        return super()._scores_of_masks(activations, tensors, target, additional)

    def _masked(self, x: Tensor, mask: Tensor, channel: int, first: int, last: int) -> Tensor:
        noisy = noise.batch(mask, first, last, std=self.std, seed=(self._key + channel) % 2**63)
        masked: Tensor = (noisy.unflatten(0, (last - first, -1)) * x.to(mask.dtype)).flatten(0, 1).to(x.dtype)
        return masked


class ISCAM(ScoreCAM):
    """Naidu et al., "IS-CAM: Integrated Score-CAM" (2020), equations 5 and 6: the mean over masks times 1/n to n/n.

    Costs one forward pass, and num_samples for each channel.

    Args:
        model, layer, reshape_transform, perturbations_per_eval, show_progress: as of :class:`ScoreCAM`.
        num_samples: n, masks of a channel.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        layer: nn.Module | str | Sequence[nn.Module | str] | None = None,
        *,
        reshape_transform: ReshapeTransform | None = None,
        perturbations_per_eval: int | None = None,
        show_progress: bool = False,
        num_samples: int = 10,
    ) -> None:
        super().__init__(
            model,
            layer,
            reshape_transform=reshape_transform,
            perturbations_per_eval=perturbations_per_eval,
            show_progress=show_progress,
        )
        self.samples = at_least_one("num_samples", num_samples)

    def _masked(self, x: Tensor, mask: Tensor, channel: int, first: int, last: int) -> Tensor:
        shares = torch.arange(first + 1, last + 1, device=x.device, dtype=mask.dtype) / self.samples
        masks = shares.view(-1, *[1] * mask.dim()) * mask
        masked: Tensor = (masks * x.to(mask.dtype)).flatten(0, 1).to(x.dtype)
        return masked
