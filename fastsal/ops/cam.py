"""Grad-CAM's epilogue, from activations and gradients to a map or an overlay. Meaning: :mod:`fastsal.reference.cam`.

Bytes: activations and gradients read once, one map (or overlay and image) written; in one launch for many images or
small layers, in two otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastsal.ops._arguments import per_dimension, spatial
from fastsal.ops._define import Op
from fastsal.ops._vmap import into_batch, one_by_one
from fastsal.reference import cam as reference

LARGEST_LAYER = 4096
"""Positions of a layer that one program of the kernel can hold; larger layers take the reference."""


def _uncovered(activations: Tensor, dimensions: tuple[int, ...]) -> str | None:
    if activations.dim() - 2 not in dimensions:
        taken = " or ".join(str(each) for each in dimensions)
        return f"the kernel takes layers of {taken} dimensions, not of {activations.dim() - 2}"
    positions = activations.shape[2:].numel()
    return None if positions <= LARGEST_LAYER else f"the kernel holds {LARGEST_LAYER} positions, not {positions}"


def _empty_map(activations: Tensor, gradients: Tensor, size: Sequence[int], *rest: Any) -> Tensor:
    return torch.empty((activations.shape[0], *size), dtype=activations.dtype, device=activations.device)


def _vmap_map(info: Any, dims: tuple[Any, ...], activations: Tensor, gradients: Tensor, *rest: Any) -> Any:
    size = info.batch_size
    result = _map.overload(into_batch(activations, dims[0], size), into_batch(gradients, dims[1], size), *rest)
    return result.unflatten(0, (size, result.shape[0] // size)), 0


_map = Op(
    "cam_map(Tensor activations, Tensor gradients, int[] size, bool relu, bool normalize) -> Tensor",
    reference=reference.map,
    kernel="cam.map",
    empty=_empty_map,
    vmap=_vmap_map,
    supported=lambda activations, *rest: _uncovered(activations, (1, 2)),
)


def _empty_overlay(activations: Tensor, gradients: Tensor, image: Tensor, *rest: Any) -> Tensor:
    return torch.empty(image.shape, dtype=image.dtype, device=image.device)


def _vmap_overlay(info: Any, dims: tuple[Any, ...], *args: Any) -> Any:
    if dims[3] is not None:
        return one_by_one(_overlay.overload, info, dims, args)
    size = info.batch_size
    result = _overlay.overload(*[into_batch(args[i], dims[i], size) for i in range(3)], *args[3:])
    return result.unflatten(0, (size, result.shape[0] // size)), 0


_overlay = Op(
    "cam_overlay(Tensor activations, Tensor gradients, Tensor image, Tensor colormap, float alpha) -> Tensor",
    reference=reference.overlay,
    kernel="cam.overlay",
    empty=_empty_overlay,
    vmap=_vmap_overlay,
    supported=lambda activations, *rest: _uncovered(activations, (2,)),
    differentiable=False,
)


def _check_pair(activations: Tensor, gradients: Tensor) -> list[int]:
    layer = spatial("activations", activations)
    if not activations.is_floating_point():
        raise TypeError(f"activations: dtype {activations.dtype} is not floating point")
    if activations.numel() == 0:
        raise ValueError(f"activations: shape {tuple(activations.shape)} is empty")
    if gradients.shape != activations.shape or gradients.dtype != activations.dtype:
        given = f"{gradients.dtype} of shape {tuple(gradients.shape)}"
        raise ValueError(
            f"gradients: {given} is not that of the activations, {activations.dtype} of {tuple(activations.shape)}"
        )
    return layer


def map(
    activations: Tensor,
    gradients: Tensor,
    size: Sequence[int] | None = None,
    *,
    relu: bool = True,
    normalize: bool = True,
) -> Tensor:
    """Grad-CAM map: channel weights are the gradients' spatial means (equation 1), their sum is rectified (equation 2).

    Args:
        activations: [B, C, *layer], one to three spatial dimensions, floating point.
        gradients: of the target by the activations, same shape and dtype.
        size: spatial size of the map; None keeps the layer's.
        relu: keep what speaks for the target only.
        normalize: to [0, 1] per map, from the extremes of the resized map; a constant map becomes 0.

    Returns:
        [B, *size] in the activations' dtype.

    Raises:
        TypeError, ValueError: for arguments outside of the above.
    """
    layer = _check_pair(activations, gradients)
    return _map(
        activations, gradients, layer if size is None else per_dimension("size", size, len(layer)), relu, normalize
    )


def finish(maps: Tensor, size: Sequence[int] | None = None, *, relu: bool = True, normalize: bool = True) -> Tensor:
    """What :func:`map` does to the weighted sum: ReLU, resize and min-max, for maps that are summed already.

    Args:
        maps: [N, *layer], one to three spatial dimensions, floating point.
        size, relu, normalize: as in :func:`map`.

    Returns:
        [N, *size] in the maps' dtype.

    Raises:
        TypeError, ValueError: for arguments outside of the above.
    """
    if not 2 <= maps.dim() <= 4 or not maps.is_floating_point() or maps.numel() == 0:
        given = f"{maps.dtype} of shape {tuple(maps.shape)}"
        raise ValueError(f"maps: {given} is not floating point of shape [N, *spatial] with 1 to 3 spatial dimensions")
    layer = maps.shape[1:]
    extents = list(layer) if size is None else per_dimension("size", size, len(layer))
    # One channel, of weight 1: the kernel and the derivatives are those of map.
    summed = maps[:, None]
    return _map(summed, maps.new_ones(()).expand_as(summed), extents, relu, normalize)


def overlay(activations: Tensor, gradients: Tensor, image: Tensor, colormap: Tensor, *, alpha: float = 0.5) -> Tensor:
    """The normalised Grad-CAM map, coloured and blended over an image, without a map in between.

    Args:
        activations, gradients: [B, C, h, w] as in :func:`map`.
        image: [B, H, W, 3], uint8.
        colormap: [256, 3], uint8: the colour of each level.
        alpha: share of the colour, in [0, 1].

    Returns:
        [B, H, W, 3], uint8; it has no derivative. A pixel whose map is NaN shows the image.

    Raises:
        TypeError, ValueError: for arguments outside of the above.
    """
    layer = _check_pair(activations, gradients)
    if len(layer) != 2:
        raise ValueError(f"activations: shape {tuple(activations.shape)} is not [B, C, h, w]")
    if image.dtype != torch.uint8 or image.dim() != 4 or image.shape[0] != activations.shape[0] or image.shape[3] != 3:
        given = f"{image.dtype} of shape {tuple(image.shape)}"
        raise ValueError(f"image: {given} is not uint8 of shape [{activations.shape[0]}, H, W, 3]")
    if colormap.dtype != torch.uint8 or tuple(colormap.shape) != (256, 3):
        raise ValueError(f"colormap: {colormap.dtype} of shape {tuple(colormap.shape)} is not uint8 of shape [256, 3]")
    if not 0.0 <= alpha <= 1.0:
        raise ValueError(f"alpha: {alpha} is not in [0, 1]")
    return _overlay(activations, gradients, image, colormap, float(alpha))
