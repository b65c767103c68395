"""Deep feature factorisation: a layer's values as a few concepts and where each is, in pytorch-grad-cam's form."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from fastsal import explainers
from fastsal.compat.grad_cam._optional import optional
from fastsal.compat.grad_cam.utils.image import create_labels_legend, scale_cam_image, show_factorization_on_image
from fastsal.explainers.cam.base import ReshapeTransform

if TYPE_CHECKING:
    from typing_extensions import Self


def dff(activations: NDArray[Any], n_components: int = 5) -> tuple[NDArray[Any], NDArray[Any]]:
    """(concepts [C, n_components], where they are [B, n_components, H, W]) of activations [B, C, H, W].

    Collins, Achanta, Süsstrunk, "Deep Feature Factorization for Concept Discovery" (ECCV 2018): non-negative matrix
    factorisation of all positions together, each channel's minimum taken off before and added to the concepts after.

    Args:
        activations: NaN counts as 0.
        n_components: how many concepts.

    Raises:
        ImportError: without scikit-learn.
    """
    factorise = optional("sklearn.decomposition", "factorises the activations").NMF
    batch, channels, *spatial = activations.shape
    matrix = np.array(np.moveaxis(activations, 1, 0)).reshape(channels, -1)
    matrix[np.isnan(matrix)] = 0
    lowest = matrix.min(axis=1, keepdims=True)
    model = factorise(n_components=n_components, init="random", random_state=0)
    concepts = model.fit_transform(matrix - lowest) + lowest
    places = model.components_.reshape(n_components, batch, *spatial)
    return concepts, np.moveaxis(places, 0, 1)


class DeepFeatureFactorization:
    """:func:`dff` of a layer's value, with the maps of the concepts in the input's size.

    Args:
        model: a torch.nn.Module; it is left as it was.
        target_layer: one of its modules, or its dotted name.
        reshape_transform: function of the layer's value that returns [B, C, h, w]; None leaves it.
        computation_on_concepts: function of the concepts as rows [n_components, C], such as the model's classifier.
    """

    def __init__(
        self,
        model: nn.Module,
        target_layer: nn.Module | str,
        reshape_transform: ReshapeTransform | None = None,
        computation_on_concepts: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.model, self.reshape_transform = model, reshape_transform
        self.computation_on_concepts = computation_on_concepts
        self._reader = explainers.LayerActivation(model, target_layer)

    def __call__(self, input_tensor: Tensor, n_components: int = 16) -> tuple[Any, ...]:
        """(concepts [C, n], a list with the maps [n, H, W] in [0, 1] of each image), and what was made of the concepts.

        Args:
            input_tensor: images [B, C, H, W].
            n_components: how many concepts.

        Raises:
            ValueError: for a layer without two spatial dimensions, or one that runs several times.
            ImportError: without scikit-learn.
        """
        value = self._reader.attribute(input_tensor)
        if not isinstance(value, Tensor):
            raise ValueError("target_layer: it has several tensors, or runs several times; choose one with one value")
        with torch.no_grad():
            value = value if self.reshape_transform is None else self.reshape_transform(value)
        if value.dim() != 4:
            raise ValueError(
                f"target_layer: its value {tuple(value.shape)} is not [B, C, h, w]; pass reshape_transform"
            )
        concepts, places = dff(value.detach().cpu().numpy(), n_components=n_components)
        height, width = input_tensor.shape[-2:]
        maps = [scale_cam_image(each, (width, height)) for each in places]
        if self.computation_on_concepts is None:
            return concepts, maps
        with torch.no_grad():
            rows = torch.from_numpy(np.float32(concepts).T.copy())
            return concepts, maps, self.computation_on_concepts(rows).cpu().numpy()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None


def run_dff_on_image(
    model: nn.Module,
    target_layer: nn.Module | str,
    classifier: Callable[[Tensor], Tensor],
    img_pil: Image.Image,
    img_tensor: Tensor,
    reshape_transform: ReshapeTransform | None = None,
    n_components: int = 5,
    top_k: int = 2,
) -> NDArray[np.uint8]:
    """An image beside its concepts in colours, with the classes nearest to each: uint8 [H, W', 3].

    Args:
        model: a classifier of transformers, whose ``config.id2label`` has the names of its classes.
        target_layer, reshape_transform: as of :class:`DeepFeatureFactorization`.
        classifier: function of concepts [n_components, C] that returns scores of the classes.
        img_pil: the image.
        img_tensor: the same as the model takes it, [C, H, W].
        n_components: how many concepts.
        top_k: how many classes are named for each.

    Raises:
        ImportError: without scikit-learn or Matplotlib.
    """
    factorization = DeepFeatureFactorization(model, target_layer, reshape_transform, classifier)
    _, maps, scores = factorization(img_tensor[None], n_components)
    chances = torch.from_numpy(scores).softmax(-1).numpy()
    config: Any = model.config
    labels = create_labels_legend(chances, labels=config.id2label, top_k=top_k)
    picture = np.array(img_pil)
    shown = show_factorization_on_image(picture / 255, maps[0], image_weight=0.3, concept_labels=labels)
    return np.hstack([picture, shown])
