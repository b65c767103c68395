"""torchcam's extractors without gradients: CAM, and those that mask the input with each channel."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from fastsal import explainers
from fastsal.compat.torchcam.methods.core import Classes, Extractor, Targets, Weighed, named, normalized_maps
from fastsal.engine.reading import resolve_layer
from fastsal.explainers.cam.base import ReshapeTransform
from fastsal.ops import cam

logger = logging.getLogger(__name__)
Layer = nn.Module | str


class CAM(Extractor):
    """Zhou et al., "Learning Deep Features for Discriminative Localization" (CVPR 2016): weighed by the classifier.

    Maps are not rectified.

    Args:
        model: a torch.nn.Module.
        target_layer: module of it, or its dotted name; None takes the last one with positions, which a
            pass of zeros finds.
        input_shape: of one example, for that pass.
        enable_hooks: whether passes are read from the start.
        reshape_transform: function of a layer's value that returns [N, C, *spatial].
        fc_layer: the classifier, a linear layer or a 1 x 1 convolution, or its name; None takes the only linear layer.
    """

    rectified = False
    takes_targets = False

    def __init__(
        self,
        model: nn.Module,
        target_layer: Layer | Sequence[Layer] | None = None,
        fc_layer: Layer | None = None,
        input_shape: Sequence[int] = (3, 224, 224),
        enable_hooks: bool = True,
        reshape_transform: ReshapeTransform | None = None,
    ) -> None:
        if isinstance(target_layer, (list, tuple)) and len(target_layer) > 1:
            raise ValueError("target_layer: CAM reads one layer")
        if fc_layer is None:
            linear = [name for name, part in model.named_modules() if isinstance(part, nn.Linear)]
            if len(linear) != 1:
                raise ValueError(f"fc_layer: the model has {len(linear)} linear layers; name the classifier")
            fc_layer = linear[0]
            logger.warning("no value was provided for `fc_layer`, thus set to '%s'.", fc_layer)
        self._classifier = resolve_layer(model, named(model, fc_layer))
        super().__init__(model, target_layer, input_shape, enable_hooks, reshape_transform)

    def weigh(self, class_idx: Classes, scores: Any, targets: Targets) -> Weighed:
        self._one_map_each(scores.sum() if isinstance(scores, Tensor) and scores.requires_grad else None)
        a = self._read(0).detach()
        weights: Any = self._classifier.weight
        rows = weights.detach().flatten(1)[class_idx if isinstance(class_idx, list) else [class_idx]]
        if rows.shape[1] != a.shape[1]:
            raise ValueError(f"fc_layer: it has {rows.shape[1]} inputs, the layer {a.shape[1]} channels")
        field = rows.reshape(*rows.shape, *[1] * (a.dim() - 2)).to(a)
        return Weighed(explainers.GradCAM(self.model, list(self.target_names)), [a], [field])


class _ScaledFirst:
    """Masks scaled to [0, 1] at the layer's resolution, then resized."""

    def mask(self, channels: Tensor, size: list[int]) -> Tensor:
        scaled = normalized_maps(channels[:, 0])[:, None]
        return cam.finish(scaled[:, 0], size, relu=False, normalize=False)


class _ScoreCAM(_ScaledFirst, explainers.ScoreCAM):
    pass


class _SSCAM(_ScaledFirst, explainers.SSCAM):
    pass


class _ISCAM(_ScaledFirst, explainers.ISCAM):
    pass


class ScoreCAM(Extractor):
    """:class:`fastsal.ScoreCAM`, which runs the model on the inputs of its last pass.

    Args:
        model: a torch.nn.Module.
        target_layer: module of it, dotted name, or a list of these; None takes the last one with positions, which a
            pass of zeros finds.
        input_shape: of one example, for that pass.
        enable_hooks: whether passes are read from the start.
        reshape_transform: function of a layer's value that returns [N, C, *spatial].
        batch_size: rows per call of the model; None chooses it from memory.
    """

    needs_input = True

    def __init__(
        self,
        model: nn.Module,
        target_layer: Layer | Sequence[Layer] | None = None,
        batch_size: int | None = None,
        input_shape: Sequence[int] = (3, 224, 224),
        enable_hooks: bool = True,
        reshape_transform: ReshapeTransform | None = None,
    ) -> None:
        super().__init__(model, target_layer, input_shape, enable_hooks, reshape_transform)
        self.bs = batch_size

    source: type[explainers.ScoreCAM] = _ScoreCAM
    """The fastsal explainer."""

    def options(self, examples: int) -> dict[str, Any]:
        """Arguments of its ``attribute`` for so many examples."""
        # A mask has as many rows as there are examples.
        return {"perturbations_per_eval": None if self.bs is None else max(1, self.bs // examples)}

    def weigh(self, class_idx: Classes, scores: Any, targets: Targets) -> Weighed:
        x, *rest = self._inputs
        # Without a function of the user's masks lie where the layer looks.
        arrange = None if self._transform is None else self._arranged
        explainer = self.source(self.model, list(self.target_names), reshape_transform=arrange)
        with self._hooks_off():
            target = self._target(class_idx, targets, len(x))
            found = explainer.read(x, target, tuple(rest), **self.options(len(x)))
        return Weighed(explainer, found.activations, found.fields)


class SSCAM(ScoreCAM):
    """:class:`fastsal.SSCAM`.

    Args:
        model: a torch.nn.Module.
        target_layer: module of it, dotted name, or a list of these; None takes the last one with positions, which a
            pass of zeros finds.
        batch_size: rows per call of the model; None chooses it from memory.
        input_shape: of one example, for that pass.
        enable_hooks: whether passes are read from the start.
        reshape_transform: function of a layer's value that returns [N, C, *spatial].
        num_samples: noisy masks of a channel.
        std: standard deviation of the noise, which is drawn from torch's global generator.
    """

    source = _SSCAM

    def __init__(
        self,
        model: nn.Module,
        target_layer: Layer | Sequence[Layer] | None = None,
        batch_size: int | None = None,
        num_samples: int = 35,
        std: float = 2.0,
        input_shape: Sequence[int] = (3, 224, 224),
        enable_hooks: bool = True,
        reshape_transform: ReshapeTransform | None = None,
    ) -> None:
        super().__init__(model, target_layer, batch_size, input_shape, enable_hooks, reshape_transform)
        self.num_samples, self.std = num_samples, std

    def options(self, examples: int) -> dict[str, Any]:
        return {**super().options(examples), "n_samples": self.num_samples, "stdevs": self.std, "seed": None}


class ISCAM(ScoreCAM):
    """:class:`fastsal.ISCAM`: masks times 1/n to n/n.

    Args:
        model: a torch.nn.Module.
        target_layer: module of it, dotted name, or a list of these; None takes the last one with positions, which a
            pass of zeros finds.
        batch_size: rows per call of the model; None chooses it from memory.
        input_shape: of one example, for that pass.
        enable_hooks: whether passes are read from the start.
        reshape_transform: function of a layer's value that returns [N, C, *spatial].
        num_samples: n.
    """

    source = _ISCAM

    def __init__(
        self,
        model: nn.Module,
        target_layer: Layer | Sequence[Layer] | None = None,
        batch_size: int | None = None,
        num_samples: int = 10,
        input_shape: Sequence[int] = (3, 224, 224),
        enable_hooks: bool = True,
        reshape_transform: ReshapeTransform | None = None,
    ) -> None:
        super().__init__(model, target_layer, batch_size, input_shape, enable_hooks, reshape_transform)
        self.num_samples = num_samples

    def options(self, examples: int) -> dict[str, Any]:
        return {**super().options(examples), "n_samples": self.num_samples}
