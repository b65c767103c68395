"""LRP at a layer: the relevance that a layer's values share."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from fastsal.engine.reading import Unrelated, values_at
from fastsal.engine.run import run as run_model
from fastsal.engine.run import scratch
from fastsal.explainers.arguments import Inputs
from fastsal.explainers.base import attribution
from fastsal.explainers.call import Call
from fastsal.explainers.layer.layer_attribution import LayerAttribution
from fastsal.explainers.lrp.composites import Composite, Rules
from fastsal.explainers.lrp.lrp import LRP
from fastsal.explainers.scores import Target


class LayerLRP(LayerAttribution, LRP):
    """The relevance that arrives at the values of a layer, or of each of a list of layers, by the rules of
    :class:`fastsal.LRP`: Bach et al. (PLOS ONE 2015).

    Costs one forward pass, and one backward pass to the first layer.

    >>> maps = fastsal.LayerLRP(model, "last").attribute(images, target=classes)

    Args:
        model: a torch.nn.Module in Python code. A module's attribute ``rule`` is its rule, as with Captum.
        layer: one of its modules or its dotted name, or a list of these.

    Raises:
        TypeError: for what is not a module, has TorchScript parts, or a ``rule`` that is no rule.
    """

    several = True
    summary = "the score, shared out backwards among the values of a layer"
    cost = "1 forward, 1 backward to the layer"

    def __init__(self, model: nn.Module, layer: Any) -> None:
        super().__init__(model, layer)

    @classmethod
    def get_name(cls) -> str:
        return "Layer L R P"

    @attribution
    def attribute(  # type: ignore[override]
        self,
        inputs: Inputs,
        target: Target = None,
        additional_forward_args: Any = None,
        return_convergence_delta: bool = False,
        attribute_to_layer_input: bool = False,
        verbose: bool = False,
        *,
        composite: str | Composite | Rules | None = None,
    ) -> Call[Any]:
        """Relevances in the shape of the layer's value, a tuple where it has several tensors; a list for a list.

        Args:
            inputs: tensor [B, ...] or tuple of them, floating point.
            target: which output to explain, one for all or one per example.
            additional_forward_args: further arguments of the model; no relevance goes to them.
            return_convergence_delta: also return score minus sum of relevances, [B]; a list for a list.
            attribute_to_layer_input: to the layer's input rather than its output.
            verbose: print each layer's rule when it runs.
            composite: the rules of layers that have none of their own, as of :meth:`fastsal.LRP.attribute`.

        Raises:
            TypeError: for a function of the model that has no rule, naming it.
            TypeError, ValueError: for arguments outside of the above, or a layer that the target does not depend on.
        """
        task = self.task(inputs, target, additional_forward_args)
        propagation = self.propagation(task, composite, verbose)
        found: list[tuple[Tensor, ...]] = []

        @contextlib.contextmanager
        def watching() -> Iterator[None]:
            with values_at(self.layers(task), at_input=attribute_to_layer_input) as passed:
                yield
            found[:] = [tuple(tensor for use in uses for tensor in use) for uses in passed]

        def run() -> Any:
            propagation.watch(watching, attribute_to_layer_input)
            with task.context(eager=True), torch.enable_grad():
                # From the inputs on, since what rule a layer has may depend on what was before it.
                leaves = tuple(tensor.detach().clone().requires_grad_() for tensor in task.inputs)
                copies = tuple(leaf.clone() for leaf in leaves)
                output = run_model(propagation.forward, copies, tuple(map(scratch, task.additional)))
                task.note(output)
                scores = task.select()(output)
                propagation.begin(scores)
                flat = [tensor for tensors in found for tensor in tensors]
                wanted = [tensor for tensor in flat if tensor.requires_grad]
                if not all(found):
                    raise ValueError("layer: the model did not run it; choose one that its forward calls")
                if not wanted or not scores.requires_grad:
                    raise Unrelated
                gradients = iter(torch.autograd.grad(scores.sum(), wanted, allow_unused=True))
            shares = [next(gradients) if tensor.requires_grad else None for tensor in flat]
            if all(share is None for share in shares):
                raise Unrelated
            shares = [torch.zeros_like(t) if s is None else s for t, s in zip(flat, shares, strict=True)]
            each = iter(propagation.scaled([share for share in shares if share is not None]))
            results = [[next(each) for _ in tensors] for tensors in found]
            if not return_convergence_delta:
                return self.result(results)
            for part in (part for parts in results for part in parts):
                if part.dim() == 0 or len(part) != task.examples:
                    raise ValueError(
                        f"return_convergence_delta: the layer's value of shape {tuple(part.shape)} does not have the "
                        f"{task.examples} examples as dimension 0; leave it out, or choose another layer"
                    )
            deltas = [self.compute_convergence_delta(tuple(parts), propagation.scores) for parts in results]
            return self.result(results), deltas if isinstance(self.layer, list) else deltas[0]

        return task.once(run)
