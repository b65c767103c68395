"""Rules of layer-wise relevance propagation: how a layer's relevance is shared among its inputs.

Notation: a layer computes z_k = sum_j x_j w_jk + b_k; R_k is the relevance of its output k, R_j that of its input j.
Every quotient R_k / z_k is R_k / (z_k + epsilon * sign(z_k)) with sign(0) = 1.

Set a rule as ``module.rule = GammaRule()``, as with Captum, or through ``composite`` of :class:`fastsal.LRP`. Weights
are never written to: rules compute with altered copies.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from fastsal.explainers.lrp.layer import HALF, RelevanceLayer, widen


@dataclass(frozen=True)
class Term:
    """sign * layer(inputs, weight, bias)."""

    inputs: tuple[Tensor, ...]
    weight: Tensor | None
    bias: Tensor | None
    sign: float = 1.0


def _same(layer: RelevanceLayer) -> Term:
    return Term(layer.inputs, layer.weight, layer.bias)


def _positive(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.clamp_min(0)


def _negative(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.clamp_max(0)


class PropagationRule(ABC):
    """Base of the rules. A rule of one's own overrides :meth:`parts`, or :meth:`relevance`.

    Attributes:
        STABILITY_FACTOR: the epsilon of the quotient.
        splits: whether the rule takes weights apart by sign, so that it needs z to be linear in them.
    """

    STABILITY_FACTOR: float = 1e-9
    splits: ClassVar[bool] = False

    @abstractmethod
    def parts(self, layer: RelevanceLayer) -> list[tuple[float, list[Term]]]:
        """Shares of the relevance, and the terms whose sum z shares it among the inputs by their contributions."""

    def relevance(self, layer: RelevanceLayer, relevance: Tensor) -> tuple[Tensor, ...]:
        """[R_j] of each input of the layer from the relevance of its output, in the inputs' dtypes.

        Half precision is computed in float32.
        """
        dtypes = [tensor.dtype for tensor in layer.inputs]
        if relevance.dtype in HALF or any(dtype in HALF for dtype in dtypes):
            with torch.autocast(relevance.device.type, enabled=False):
                shared = self._shared(layer.widened(), widen(relevance))
        else:
            shared = self._shared(layer, relevance)
        return tuple(part.to(dtype) for part, dtype in zip(shared, dtypes, strict=True))

    def _shared(self, layer: RelevanceLayer, relevance: Tensor) -> list[Tensor]:
        # What autograd saved for that run is gone where the model has overwritten an input since.
        if layer.graph is not None and layer.output is not None and not any(saved.copied for saved in layer.saved):
            leaves, output = layer.graph
            quotient = self._quotient(relevance, layer.output.tensor)
            gradients = torch.autograd.grad(output, leaves, quotient)
            return [x * gradient for x, gradient in zip(layer.inputs, gradients, strict=True)]
        totals: list[Tensor] = []
        for share, terms in self.parts(layer):
            z, runs = torch.zeros((), dtype=relevance.dtype, device=relevance.device), []
            for term in terms:
                with torch.enable_grad():
                    leaves = tuple(x.detach().requires_grad_() for x in term.inputs)
                    assert layer.run is not None
                    output = layer.run(leaves, term.weight, term.bias)
                runs.append((leaves, output))
                z = z + term.sign * output.detach()
            quotient = self._quotient(share * relevance, z)
            for term, (leaves, output) in zip(terms, runs, strict=True):
                gradients = torch.autograd.grad(output, leaves, quotient)
                given = [term.sign * x * g for x, g in zip(term.inputs, gradients, strict=True)]
                totals = [total + part for total, part in zip(totals, given, strict=True)] if totals else given
        return totals

    def _quotient(self, relevance: Tensor, z: Tensor) -> Tensor:
        z = z + 0.0  # so that -0.0, whose sign is 0 too, is 0.0
        epsilon = torch.full((), self.STABILITY_FACTOR, dtype=z.dtype, device=z.device)
        return relevance / z.add_(torch.copysign(epsilon, z))

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in vars(self).items() if name != "STABILITY_FACTOR")
        return f"{type(self).__name__}({options})"


class EpsilonRule(PropagationRule):
    """R_j = x_j sum_k w_jk R_k / (z_k + epsilon sign(z_k)): Bach et al., "On Pixel-Wise Explanations" (2015),
    equation 58.

    The bias is part of z, and takes its share of the relevance with it.

    Args:
        epsilon: what keeps the quotient finite; greater values absorb weak contributions.
    """

    def __init__(self, epsilon: float = 1e-9) -> None:
        if not epsilon >= 0:
            raise ValueError(f"epsilon: {epsilon} is not 0 or more")
        self.epsilon = self.STABILITY_FACTOR = epsilon

    def parts(self, layer: RelevanceLayer) -> list[tuple[float, list[Term]]]:
        return [(1.0, [_same(layer)])]


class GammaRule(PropagationRule):
    """R_j = x_j sum_k (w_jk + gamma w_jk^+) R_k / (sum_j x_j (w_jk + gamma w_jk^+) + b_k): Montavon et al.,
    "Layer-Wise Relevance Propagation: An Overview" (2019), section 10.2.

    It is made for inputs of one sign, as after a ReLU. The bias is as it is, as in Captum.

    Args:
        gamma: how much positive weights are favoured.
        set_bias_to_zero: leave the bias out, so that it absorbs nothing.
    """

    def __init__(self, gamma: float = 0.25, set_bias_to_zero: bool = False) -> None:
        if not gamma >= 0:
            raise ValueError(f"gamma: {gamma} is not 0 or more")
        self.gamma = gamma
        self.set_bias_to_zero = set_bias_to_zero

    def parts(self, layer: RelevanceLayer) -> list[tuple[float, list[Term]]]:
        weight = None if layer.weight is None else layer.weight + self.gamma * layer.weight.clamp_min(0)
        return [(1.0, [Term(layer.inputs, weight, None if self.set_bias_to_zero else layer.bias)])]


class Alpha1_Beta0_Rule(PropagationRule):
    """R_j = x_j sum_k w_jk^+ R_k / (sum_j x_j w_jk^+ + b_k): Captum's form of alpha = 1, beta = 0, for inputs that are
    not negative.

    :class:`ZPlusRule` is the one for inputs of both signs.

    Args:
        set_bias_to_zero: leave the bias out, so that it absorbs nothing.
    """

    def __init__(self, set_bias_to_zero: bool = False) -> None:
        self.set_bias_to_zero = set_bias_to_zero

    def parts(self, layer: RelevanceLayer) -> list[tuple[float, list[Term]]]:
        bias = None if self.set_bias_to_zero else layer.bias
        return [(1.0, [Term(layer.inputs, _positive(layer.weight), bias)])]


class AlphaBetaRule(PropagationRule):
    """R_j = sum_k (alpha (x_j w_jk)^+ / z_k^+ - beta (x_j w_jk)^- / z_k^-) R_k: Bach et al. (2015), equation 60.

    z^+ and z^- are the sums of the positive and of the negative contributions, the bias among them. alpha - beta = 1
    conserves relevance where both kinds exist. Layers without weights (pooling, sums) share by the epsilon rule.

    Args:
        alpha: weight of the contributions for the output.
        beta: weight of those against it.
        set_bias_to_zero: leave the bias out, so that it absorbs nothing.

    Raises:
        ValueError: unless alpha - beta = 1 and beta >= 0.
    """

    splits = True

    def __init__(self, alpha: float = 2.0, beta: float = 1.0, set_bias_to_zero: bool = False) -> None:
        if beta < 0 or abs(alpha - beta - 1) > 1e-6:
            raise ValueError(f"alpha, beta: {alpha} and {beta} do not conserve relevance; alpha - beta = 1, beta >= 0")
        self.alpha, self.beta = alpha, beta
        self.set_bias_to_zero = set_bias_to_zero

    def parts(self, layer: RelevanceLayer) -> list[tuple[float, list[Term]]]:
        if layer.weight is None:
            return [(1.0, [_same(layer)])]
        up, down = tuple(x.clamp_min(0) for x in layer.inputs), tuple(x.clamp_max(0) for x in layer.inputs)
        positive, negative = _positive(layer.weight), _negative(layer.weight)
        bias = None if self.set_bias_to_zero else layer.bias
        found = [(self.alpha, [Term(up, positive, _positive(bias)), Term(down, negative, None)])]
        if self.beta:
            found.append((-self.beta, [Term(up, negative, _negative(bias)), Term(down, positive, None)]))
        return found


class ZPlusRule(AlphaBetaRule):
    """R_j = sum_k (x_j w_jk)^+ / z_k^+ R_k: Montavon et al., "Explaining Nonlinear Classification Decisions with Deep
    Taylor Decomposition" (2017), section 4.1, for inputs of both signs.

    Args:
        set_bias_to_zero: leave the bias out; its positive part is in z^+ otherwise.
    """

    def __init__(self, set_bias_to_zero: bool = False) -> None:
        super().__init__(1.0, 0.0, set_bias_to_zero)

    def __repr__(self) -> str:
        return f"ZPlusRule(set_bias_to_zero={self.set_bias_to_zero})"


class FlatRule(PropagationRule):
    """R_j = sum_k R_k / n_k, with n_k the number of inputs of k: Lapuschkin et al., "Unmasking Clever Hans Predictors"
    (2019). For the first layer, whose relevance then does not depend on the pixels' values.

    Layers without weights share by the epsilon rule.
    """

    splits = True

    def parts(self, layer: RelevanceLayer) -> list[tuple[float, list[Term]]]:
        if layer.weight is None:
            return [(1.0, [_same(layer)])]
        return [(1.0, [Term(tuple(map(torch.ones_like, layer.inputs)), torch.ones_like(layer.weight), None)])]


class BoxRule(PropagationRule):
    """R_j = sum_k (x_j w_jk - l_j w_jk^+ - h_j w_jk^-) / (the sum of it over j) R_k: the z^B rule of Montavon et al.
    (2017), section 4.1, for a first layer whose inputs lie in [l, h]. The bias is left out.

    Layers without weights share by the epsilon rule.

    Args:
        low, high: numbers or tensors that broadcast to the layer's input; None is the least and the greatest value of
            each example.
    """

    splits = True

    def __init__(self, low: float | Tensor | None = None, high: float | Tensor | None = None) -> None:
        self.low, self.high = low, high

    def parts(self, layer: RelevanceLayer) -> list[tuple[float, list[Term]]]:
        if layer.weight is None:
            return [(1.0, [_same(layer)])]
        ends = []
        for given, least in ((self.low, True), (self.high, False)):
            values = []
            for x in layer.inputs:
                if given is None:
                    rows = x.reshape(x.shape[0], -1)
                    bound = rows.amin(1) if least else rows.amax(1)
                    bound = bound.reshape(-1, *[1] * (x.dim() - 1))
                else:
                    bound = torch.as_tensor(given, dtype=x.dtype, device=x.device)
                values.append(bound.expand_as(x))
            ends.append(tuple(values))
        low = Term(ends[0], _positive(layer.weight), None, -1.0)
        high = Term(ends[1], _negative(layer.weight), None, -1.0)
        return [(1.0, [Term(layer.inputs, layer.weight, None), low, high])]


class IdentityRule(EpsilonRule):
    """R_j = R_j: relevance passes unchanged, from an output to an input of the same shape.

    Args:
        source: which input takes all of it, where the function has several, from 0 on: the signal of a product of
            signal and gate, say ("signal-takes-all" of Arras et al., "Explaining and Interpreting LSTMs", 2019).
    """

    def __init__(self, source: int | None = None) -> None:
        super().__init__()
        self.source = source

    def relevance(self, layer: RelevanceLayer, relevance: Tensor) -> tuple[Tensor, ...]:
        inputs = layer.inputs
        source = self.source
        if source is None and len(inputs) == 1:
            source = 0
        if source is None or not 0 <= source < len(inputs):
            raise ValueError(
                f"IdentityRule: {layer.name} has {len(inputs)} inputs that carry relevance; name one by source="
            )
        if inputs[source].shape != relevance.shape:
            raise ValueError(
                f"IdentityRule: {layer.name} makes {tuple(relevance.shape)} of {tuple(inputs[source].shape)}; "
                "the rule needs equal shapes"
            )
        return tuple(
            relevance.to(x.dtype) if i == source else torch.zeros_like(x, memory_format=torch.preserve_format)
            for i, x in enumerate(inputs)
        )

    def __repr__(self) -> str:
        return "IdentityRule()" if self.source is None else f"IdentityRule(source={self.source})"


def as_rule(rule: Any, where: str) -> PropagationRule:
    """A rule of ours from one of ours, or from an object of Captum's class of the same name.

    Raises:
        TypeError: for anything else.
    """
    if isinstance(rule, PropagationRule):
        return rule
    kind = type(rule).__name__
    if type(rule).__module__.startswith("captum."):
        if kind == "EpsilonRule":
            return EpsilonRule(rule.STABILITY_FACTOR)
        if kind == "GammaRule":
            return GammaRule(rule.gamma, rule.set_bias_to_zero)
        if kind == "Alpha1_Beta0_Rule":
            return Alpha1_Beta0_Rule(rule.set_bias_to_zero)
        if kind == "IdentityRule":
            return IdentityRule()
    raise TypeError(f"{where}: {kind} is not a PropagationRule of fastsal.explainers.lrp.rules")
