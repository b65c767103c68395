"""Feature Permutation at a layer: the drop of the score when examples exchange some of a layer's values."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fastsal.explainers.arguments import Inputs
from fastsal.explainers.base import Display, attribution
from fastsal.explainers.call import Call
from fastsal.explainers.layer._behind import put_behind
from fastsal.explainers.layer._features import POSITIONS
from fastsal.explainers.layer.layer_attribution import LayerAttribution
from fastsal.explainers.perturbation.occlusion.feature_permutation import FeaturePermutation
from fastsal.explainers.scores import Target


class LayerFeaturePermutation(LayerAttribution):
    """F(a) - F(a with a feature of other examples), for the values a of a layer, or of each of a list of layers.

    Costs a forward pass per feature of the layer, and two for the values and the score themselves.

    >>> channels = torch.arange(6)[:, None, None] // 2  # in pairs
    >>> maps = fastsal.LayerFeaturePermutation(model, "last").attribute(images, target=1, layer_mask=channels)
    >>> drops, scores = maps[:, ::2, 0, 0], model(images)[:, 1]
    >>> torch.allclose(drops.sum(1), scores - scores.flip(0), atol=1e-6)  # the model is affine from there on
    True

    Args:
        forward_func: a torch.nn.Module, or a function around one.
        layer: one of its modules or its dotted name, or a list of these, each permuted by itself.
        device_ids: accepted for Captum's sake.
    """

    several = True
    summary = "drop of the score when examples exchange some of a layer's values"
    cost = "2 forward, 1 for each feature of the layer"
    least_examples = 2
    perturbs = True
    per_call = "perturbations_per_eval"
    display = Display("positive", 100.0)

    @classmethod
    def defaults(cls, inputs: tuple[Tensor, ...]) -> dict[str, Any]:
        return {"layer_mask": POSITIONS, "seed": 0}

    @property
    def multiplies_by_inputs(self) -> bool:
        return True

    @attribution
    def attribute(
        self,
        inputs: Inputs,
        target: Target = None,
        additional_forward_args: Any = None,
        layer_mask: Any = None,
        perturbations_per_eval: int | None = None,
        *,
        attribute_to_layer_input: bool = False,
        show_progress: bool = False,
        seed: int | None = None,
    ) -> Call[Any]:
        """Attribution in the shape of the layer's value, a tuple where it has several tensors; a list for a list.

        Args:
            inputs: tensor [B, ...] or tuple of them, any dtype; with one example there are zeros, with a warning.
            target: which output to explain, as of :meth:`fastsal.FeaturePermutation.attribute`.
            additional_forward_args: further arguments of the model; per-example tensors are repeated.
            layer_mask: the feature of each value of the layer, from 0: an int tensor [1 or B, ...] that broadcasts to
                it, or a tuple of these. None takes each value as one; ``"positions"`` all channels of a position of the
                layer, by its :class:`fastsal.Geometry`, which is what :func:`fastsal.explain` does.
            perturbations_per_eval: features per model call; chosen from memory when None.
            attribute_to_layer_input: permute the layer's input rather than its output.
            show_progress: show a bar.
            seed: chooses the orders; None draws it from torch's global generator.

        Raises:
            TypeError, ValueError: for arguments outside of the above, or a layer that does not run, or whose
                positions are asked for and not known.
        """
        task = self.task(inputs, target, additional_forward_args)
        return put_behind(
            self,
            task,
            FeaturePermutation,
            attribute_to_layer_input,
            layer_mask=layer_mask,
            perturbations_per_eval=perturbations_per_eval,
            show_progress=show_progress,
            seed=seed,
        )
