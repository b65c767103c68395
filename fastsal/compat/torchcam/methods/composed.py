"""torchcam's extractors that are made of another: RefineCAM and FinerCAM."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fastsal.compat.torchcam.methods.core import (
    Classes,
    Extractor,
    Targets,
    checked_maps,
    normalized_maps,
    one_size,
)
from fastsal.compat.torchcam.methods.gradient import GradCAM, GradCAMpp, _Gradient

if TYPE_CHECKING:
    from typing_extensions import Self

Layers = nn.Module | str | Sequence[nn.Module | str] | None
Comparison = int | list[int] | list[list[int]] | None


class _Composed:
    """An extractor around ``base_cam``, whose hooks it has."""

    def __init__(self, base_cam: Extractor) -> None:
        self.base_cam = base_cam

    @property
    def model(self) -> nn.Module:
        return self.base_cam.model

    @property
    def target_names(self) -> list[str]:
        """The layers' names."""
        return self.base_cam.target_names

    def enable_hooks(self) -> None:
        """Read the model's passes."""
        self.base_cam.enable_hooks()

    def disable_hooks(self) -> None:
        """Leave the model's passes alone."""
        self.base_cam.disable_hooks()

    def reset_hooks(self) -> None:
        """Forget what was read."""
        self.base_cam.reset_hooks()

    def remove_hooks(self) -> None:
        """Take the hooks off the model."""
        self.base_cam.remove_hooks()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.base_cam.__exit__()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(base_method={self.base_cam!r})"


class RefineCAM(_Composed):
    """The product of the layers' normalised maps, one map for all of them.

    Args:
        model: a torch.nn.Module.
        target_layer: module of it, dotted name, or a list of these; None takes the last one with positions, which a
            pass of zeros finds.
        input_shape: of one example, for that pass.
        base_method: the class whose maps are multiplied.
        base_kwargs: further arguments of it.
    """

    def __init__(
        self,
        model: nn.Module,
        target_layer: Layers = None,
        input_shape: Sequence[int] = (3, 224, 224),
        *,
        base_method: type[Extractor] = GradCAMpp,
        **base_kwargs: Any,
    ) -> None:
        if not isinstance(base_method, type) or not issubclass(base_method, Extractor):
            raise TypeError("base_method: pass one of the other extractors' classes")
        super().__init__(base_method(model, target_layer, input_shape=input_shape, **base_kwargs))

    def __call__(
        self,
        class_idx: Classes = None,
        scores: Any = None,
        normalized: bool = True,
        target_shape: Sequence[int] | None = None,
        *,
        targets: Targets = None,
        **kwargs: Any,
    ) -> list[Tensor]:
        """A list with one map [N, *spatial].

        Args:
            class_idx: the class to explain, for all examples or a list with one each.
            scores: the model's output, where gradients are taken.
            normalized: to [0, 1] per map.
            target_shape: of the map; None takes the largest layer's.
            targets: in place of class_idx, a function of an example's output that returns one number as a tensor, for
                all examples or a list with one each.
            kwargs: ``retain_graph``, where gradients are taken: keep the pass's graph, for another call.

        Raises:
            TypeError, ValueError: for arguments outside of the above.
        """
        cams = self.base_cam(class_idx, scores, True, targets=targets, **kwargs)
        return [self.fuse_cams(cams, target_shape, normalized)]

    compute_cams = __call__

    @staticmethod
    @torch.no_grad()
    def fuse_cams(cams: list[Tensor], target_shape: Sequence[int] | None = None, normalized: bool = True) -> Tensor:
        """The product [N, *spatial] of maps that are normalised, then resized.

        Raises:
            TypeError, ValueError: for what is no list of maps.
        """
        checked_maps(cams)
        product = torch.stack(one_size([normalized_maps(each) for each in cams], target_shape)).prod(0)
        return normalized_maps(product) if normalized else product


class FinerCAM(_Composed):
    """Zhang et al., "Finer-CAM" (CVPR 2025): a class's score less gamma times the mean of those that it is compared to.

    Args:
        model: a torch.nn.Module.
        target_layer: module of it, dotted name, or a list of these; None takes the last one with positions, which a
            pass of zeros finds.
        input_shape: of one example, for that pass.
        base_method: one of the classes that take gradients.
        gamma: share of the compared scores that is taken off.
        num_references: classes to compare, those with the nearest scores.
        base_kwargs: further arguments of base_method.
    """

    base_cam: Extractor

    def __init__(
        self,
        model: nn.Module,
        target_layer: Layers = None,
        input_shape: Sequence[int] = (3, 224, 224),
        *,
        base_method: type[Extractor] = GradCAM,
        gamma: float = 0.6,
        num_references: int = 3,
        **base_kwargs: Any,
    ) -> None:
        if not isinstance(base_method, type) or not issubclass(base_method, _Gradient):
            raise TypeError("base_method: pass GradCAM, GradCAMpp, XGradCAM or LayerCAM")
        if isinstance(gamma, bool) or not isinstance(gamma, (int, float)):
            raise TypeError(f"gamma: {gamma!r} is not a number")
        if not math.isfinite(gamma) or gamma < 0:
            raise ValueError(f"gamma: {gamma} is not finite and from 0")
        if isinstance(num_references, bool) or not isinstance(num_references, int):
            raise TypeError(f"num_references: {num_references!r} is not an int")
        if num_references < 1:
            raise ValueError(f"num_references: {num_references} is below 1")
        self.gamma, self.num_references = float(gamma), num_references
        super().__init__(base_method(model, target_layer, input_shape=input_shape, **base_kwargs))

    def __call__(
        self,
        class_idx: int | list[int],
        scores: Tensor | None = None,
        comparison_idx: Comparison = None,
        normalized: bool = True,
        **kwargs: Any,
    ) -> list[Tensor]:
        """Maps [N, *spatial] of each layer.

        Args:
            class_idx: the class to explain, for all examples or a list with one each.
            scores: the model's output [N, K].
            comparison_idx: classes to compare with, for all examples or a list for each; None takes those with the
                nearest scores.
            normalized: to [0, 1] per map.
            kwargs: ``retain_graph``: keep the pass's graph, for another call.

        Raises:
            TypeError, ValueError: for arguments outside of the above, or a class that is compared with itself.
        """
        if kwargs.get("targets") is not None:
            raise ValueError("targets: FinerCAM compares classes; give class_idx")
        contrast = self._contrast(class_idx, scores, comparison_idx)
        return self.base_cam([0] * len(contrast), contrast, normalized, **kwargs)

    compute_cams = __call__

    def fuse_cams(self, cams: list[Tensor], target_shape: Sequence[int] | None = None) -> Tensor:
        """As base_method's."""
        return self.base_cam.fuse_cams(cams, target_shape)

    def _contrast(self, class_idx: int | list[int], scores: Tensor | None, comparison_idx: Comparison) -> Tensor:
        """[N, 1]"""
        if scores is None:
            raise ValueError("scores: the model's output is needed")
        if not isinstance(scores, Tensor):
            raise TypeError(f"scores: {type(scores).__name__} is not a tensor")
        if scores.dim() != 2 or scores.shape[1] < 2:
            raise ValueError(f"scores: shape {tuple(scores.shape)} is not [N, K] with two classes or more")
        classes = _indices("class_idx", class_idx, scores)
        if comparison_idx is None:
            distances = (scores - scores.gather(1, classes)).detach().abs().scatter(1, classes, torch.inf)
            count = min(self.num_references, scores.shape[1] - 1)
            compared = distances.topk(count, dim=1, largest=False).indices
        else:
            rows = comparison_idx if isinstance(comparison_idx, list) else [comparison_idx]
            if not rows or (isinstance(rows[0], list) and len(rows) != len(scores)):
                raise ValueError(f"comparison_idx: {len(rows)} given for {len(scores)} examples")
            flat = rows if isinstance(rows[0], list) else [rows] * len(scores)
            columns: list[Any] = list(zip(*flat, strict=True))
            if not columns:
                raise ValueError("comparison_idx: a list of classes is empty")
            compared = torch.cat([_indices("comparison_idx", list(column), scores) for column in columns], 1)
            if (compared == classes).any():
                raise ValueError("comparison_idx: it has the class to explain")
        return scores.gather(1, classes) - self.gamma * scores.gather(1, compared).mean(1, keepdim=True)


def _indices(name: str, given: Any, scores: Tensor) -> Tensor:
    """Classes [N, 1]."""
    rows = given if isinstance(given, list) else [given] * len(scores)
    if not all(isinstance(each, int) and not isinstance(each, bool) for each in rows):
        raise TypeError(f"{name}: {given!r} holds what is no int")
    if len(rows) != len(scores):
        raise ValueError(f"{name}: {len(rows)} given for {len(scores)} examples; one each is needed")
    if not all(0 <= each < scores.shape[1] for each in rows):
        raise ValueError(f"{name}: {given!r} is out of range for {scores.shape[1]} classes")
    return torch.tensor(rows, device=scores.device)[:, None]
