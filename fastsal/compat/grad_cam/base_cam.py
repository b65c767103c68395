"""What pytorch-grad-cam's classes share: the call, targets, and how layers' maps become one, on fastsal's CAMs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fastsal.compat.grad_cam._rendering import scaled
from fastsal.engine.reading import Unsettled
from fastsal.explainers.cam.base import ActivationMap, ReshapeTransform
from fastsal.explainers.cam.placing import placed

if TYPE_CHECKING:
    from typing_extensions import Self

Targets = Sequence[Callable[..., Any]] | None
FACTORS = (0.9, 1.0, 1.1)


def highest_scores(output: Any) -> Tensor:
    """The target where none is given: each row's class of highest score, [B]."""
    if not isinstance(output, Tensor) or output.dim() != 2:
        given = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(
            f"targets: without them the model's output must be [B, K], this is {given}; pass one per image"
        )
    return output.argmax(1)


def read_targets(targets: Targets, examples: int) -> Any:
    """A target of fastsal's.

    Raises:
        TypeError: for one that is not callable.
        ValueError: for another number of targets than there are images.
    """
    if targets is None:
        return highest_scores
    found = list(targets)
    if len(found) != examples:
        raise ValueError(f"targets: {len(found)} given for {examples} images; one each is needed")
    for each in found:
        if not callable(each) or isinstance(each, Tensor):
            raise TypeError(f"targets: {each!r} is not callable; wrap a class as ClassifierOutputTarget(class)")
    return found


class BaseCAM:
    """Base of the classes with pytorch-grad-cam's interface.

    Between calls nothing is left on the model: a call hooks the layers, and puts back training flags, also after an
    exception. Parameters get no gradient, and may be frozen.

    Args:
        model: a torch.nn.Module.
        target_layers: modules of it (or their dotted names), whose maps are averaged.
        reshape_transform: function of a layer's value that returns [B, C, *spatial]; None goes by the
            layer's :class:`fastsal.Geometry`.
        compute_input_gradient, uses_gradients, detach: of no effect: what a method needs is known.
        tta_transforms: what ``aug_smooth`` averages over: objects with ``augment_image`` and ``deaugment_mask``, as
            ttach's; None takes the input and its mirror image, times 0.9, 1 and 1.1.

    Attributes:
        outputs: the model's of the last call, without its graph.
        uses_gradients: whether a backward pass is made.

    Raises:
        TypeError, ValueError: for layers that are no list, empty, or unknown.
    """

    uses_gradients = True
    smooths = True
    """Whether eigen_smooth is of effect."""

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module | str],
        reshape_transform: ReshapeTransform | None = None,
        compute_input_gradient: bool = False,
        uses_gradients: bool = True,
        tta_transforms: Iterable[Any] | None = None,
        detach: bool = True,
    ) -> None:
        if isinstance(target_layers, (nn.Module, str)):
            raise TypeError("target_layers: pass a list of modules, as [model.layer4[-1]]")
        self.model, self.target_layers, self.reshape_transform = model, list(target_layers), reshape_transform
        self.tta_transforms = tta_transforms
        self.outputs: Any = None
        self.explainer()

    def explainer(self) -> ActivationMap:
        """The fastsal explainer that reads the layers."""
        raise NotImplementedError(
            f"{type(self).__name__}: a method of your own returns its explainer here; get_cam_weights() and "
            "get_cam_image() of pytorch-grad-cam are not called"
        )

    def options(self, examples: int) -> dict[str, Any]:
        """Arguments of the explainer's ``attribute`` for so many images."""
        return {}

    def __call__(
        self,
        input_tensor: Tensor,
        targets: Targets = None,
        aug_smooth: bool = False,
        eigen_smooth: bool = False,
    ) -> NDArray[np.float32]:
        """Maps float32 [B, H, W] in [0, 1]; [B, D, H, W] of volumes.

        Args:
            input_tensor: [B, C, H, W] or [B, C, D, H, W]; moved to the model's device.
            targets: one per image, called with that image's part of the output and returning one number as a tensor;
                None takes the class of highest score.
            aug_smooth: the mean of six maps: of the input and its mirror image, times 0.9, 1 and 1.1, or those of
                ``tta_transforms``.
            eigen_smooth: the first principal component of the weighted activations instead of their sum.

        Raises:
            TypeError, ValueError: for arguments outside of the above, or layers without the input's spatial dimensions.
        """
        if not aug_smooth:
            return self.forward(input_tensor, targets, eigen_smooth)
        return self.forward_augmentation_smoothing(input_tensor, targets, eigen_smooth)

    def forward_augmentation_smoothing(
        self, input_tensor: Tensor, targets: Targets = None, eigen_smooth: bool = False
    ) -> NDArray[np.float32]:
        """A call with aug_smooth."""
        maps: list[NDArray[np.float32]] = []
        if self.tta_transforms is not None:
            for transform in self.tta_transforms:
                found = self.forward(transform.augment_image(input_tensor), targets, eigen_smooth)
                maps.append(transform.deaugment_mask(torch.from_numpy(found)[:, None])[:, 0].numpy())
            smoothed: NDArray[np.float32] = np.mean(np.stack(maps), axis=0, dtype=np.float32)
            return smoothed
        for mirrored in (False, True):
            flipped = input_tensor.flip(-1) if mirrored else input_tensor
            for factor in FACTORS:
                each = self.forward(flipped * factor, targets, eigen_smooth)
                maps.append(each[..., ::-1] if mirrored else each)
        total: NDArray[np.float32] = np.mean(np.stack(maps), axis=0, dtype=np.float32)
        return total

    def forward(self, input_tensor: Tensor, targets: Targets = None, eigen_smooth: bool = False) -> NDArray[np.float32]:
        """A call without aug_smooth."""
        return as_array(self.aggregated(self.layer_maps(input_tensor, targets, eigen_smooth)))

    def layer_maps(self, input_tensor: Tensor, targets: Targets = None, eigen_smooth: bool = False) -> list[Tensor]:
        """Each layer's map, from 0 to 1 at its own resolution, then resized: [B, *spatial], float32, on the device."""
        x = self.as_input(input_tensor)
        explainer = self.explainer()
        target = read_targets(targets, len(x)) if self.needs_targets else None
        try:
            found = explainer.read(x, target, **self.options(len(x)))
        except Unsettled as error:
            raise ValueError(self._misfit(error.shape, x, error.why)) from error
        self.outputs = found.output
        maps = []
        with torch.inference_mode(False), torch.no_grad():
            for look, activations, field in zip(found.looks, found.activations, found.fields, strict=True):
                if activations.dim() != x.dim():
                    raise ValueError(self._misfit(tuple(activations.shape), x))
                wide = activations.float() if activations.dtype in (torch.float16, torch.bfloat16) else activations
                summed = self.combined(explainer, wide, field, eigen_smooth and self.smooths)
                if look.centres is None:
                    maps.append(scaled(summed.relu(), x.shape[2:]))
                else:  # mirrored, say, or of a part of the image
                    maps.append(placed(scaled(summed.relu()), look.centres, look.extents))
        return maps

    @staticmethod
    def _misfit(shape: tuple[int, ...], x: Tensor, why: str = "") -> str:
        lacks = f"has no positions that are known: {why}"
        if len(shape) != x.dim():
            lacks = f"has not the dimensions of the input {tuple(x.shape)}"
        return f"target_layers: an output {shape} {lacks}; pass reshape_transform, or another layer"

    needs_targets = True

    def combined(
        self, explainer: ActivationMap, activations: Tensor, field: Tensor | None, eigen_smooth: bool
    ) -> Tensor:
        """A layer's map [B, *layer], before it is rectified."""
        return explainer.combine(
            activations, field, relu_attributions=False, normalize=False, eigen_smooth=eigen_smooth
        )

    def aggregated(self, maps: list[Tensor]) -> Tensor:
        """One map of all layers': their mean, from 0 to 1 again."""
        return scaled(torch.stack(maps).clamp_min(0).mean(0))

    def get_target_width_height(self, input_tensor: Tensor) -> tuple[int, ...]:
        """The size of the maps from the last dimension on: (width, height), of volumes the depth behind them."""
        return tuple(input_tensor.shape[:1:-1])

    def as_input(self, input_tensor: Tensor) -> Tensor:
        """The input on the model's device.

        Raises:
            TypeError, ValueError: for what is no batch of images or volumes.
        """
        if not isinstance(input_tensor, Tensor):
            raise TypeError(f"input_tensor: {type(input_tensor).__name__} is not a tensor")
        if input_tensor.dim() not in (4, 5):
            shape = tuple(input_tensor.shape)
            raise ValueError(f"input_tensor: shape {shape} is neither [B, C, H, W] nor [B, C, D, H, W]")
        first = next(iter(self.model.parameters()), None) if isinstance(self.model, nn.Module) else None
        return input_tensor if first is None else input_tensor.to(first.device)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None


def as_array(maps: Tensor) -> NDArray[np.float32]:
    """float32 on the CPU."""
    found: NDArray[np.float32] = maps.float().cpu().numpy()
    return found
