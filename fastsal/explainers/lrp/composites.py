"""Which layer gets which rule."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from fastsal.explainers.lrp.rules import (
    AlphaBetaRule,
    BoxRule,
    EpsilonRule,
    FlatRule,
    GammaRule,
    PropagationRule,
    ZPlusRule,
    as_rule,
)

Rules = Mapping[Any, PropagationRule] | Callable[[str, nn.Module | None], PropagationRule | None]


@dataclass(frozen=True)
class Composite:
    """Rules by kind of layer. A module's own ``rule`` goes first, then ``rules``, then the kind.

    Attributes:
        convolution: of convolutions, transposed too.
        linear: of linear layers and products with a constant matrix.
        other: of sums, pooling, resizing and batch normalisation on its own.
        first: of convolutions and linear layers with none before them; None is as the others.
        merge_batch_norm: batch normalisation right after a convolution or linear layer is one layer with it, of
            weights w * gamma / sigma; a layer of its own otherwise, as in Captum.
        rules: a mapping from a module's dotted name, a module type or a function's name ("softmax") to a rule, or a
            function of (name, module) that returns a rule or None; it is asked for modules without children, and for
            functions, for which the module is None.
    """

    convolution: PropagationRule = field(default_factory=EpsilonRule)
    linear: PropagationRule = field(default_factory=EpsilonRule)
    other: PropagationRule = field(default_factory=EpsilonRule)
    first: PropagationRule | None = None
    merge_batch_norm: bool = False
    rules: Rules | None = None

    def of_module(self, name: str, module: nn.Module) -> PropagationRule | None:
        """The rule that ``rules`` has for a module, by its name first."""
        if self.rules is None:
            return None
        found: Any
        if callable(self.rules):
            # Not of containers, whose layers get their own.
            found = None if next(module.children(), None) else self.rules(name, module)
        else:
            types = (rule for key, rule in self.rules.items() if isinstance(key, type) and isinstance(module, key))
            found = self.rules[name] if name in self.rules else next(types, None)
        return None if found is None else as_rule(found, f"composite: {name}")

    def of_function(self, name: str) -> PropagationRule | None:
        """The rule that ``rules`` has for a function."""
        if self.rules is None:
            return None
        found = self.rules(name, None) if callable(self.rules) else self.rules.get(name)
        return None if found is None else as_rule(found, f"composite: {name}")


def _named() -> dict[str, Composite]:
    # 1e-6 is small against activations of order 1 and still stops quotients by float32 rounding errors.
    small: dict[str, Any] = {"linear": EpsilonRule(1e-6), "other": EpsilonRule(1e-6), "merge_batch_norm": True}
    plus, alpha_beta, flat = ZPlusRule(), AlphaBetaRule(2, 1), FlatRule()
    return {
        "epsilon": Composite(EpsilonRule(1e-6), **small),
        "epsilon-plus": Composite(plus, **small),
        "epsilon-plus-flat": Composite(plus, first=flat, **small),
        "epsilon-gamma-box": Composite(GammaRule(), first=BoxRule(), **small),
        "epsilon-alpha2-beta1": Composite(alpha_beta, **small),
        "epsilon-alpha2-beta1-flat": Composite(alpha_beta, first=flat, **small),
    }


def as_composite(composite: Any) -> Composite:
    """The composite that ``LRP.attribute`` was given: None, a name, a Composite, a mapping or a function.

    Raises:
        TypeError, ValueError: for something else, or an unknown name.
    """
    if composite is None:
        return Composite()
    if isinstance(composite, str):
        named = _named()
        if composite not in named:
            raise ValueError(f"composite: {composite!r} is none of {', '.join(named)}")
        return named[composite]
    if isinstance(composite, Mapping) or (callable(composite) and not isinstance(composite, type)):
        composite = Composite(rules=composite)
    if not isinstance(composite, Composite):
        raise TypeError(f"composite: {type(composite).__name__} is no name, Composite, mapping or function")
    if isinstance(composite.rules, Mapping):
        for key, rule in composite.rules.items():
            as_rule(rule, f"composite: {key}")
            if not isinstance(key, (str, type)):
                raise TypeError(f"composite: the key {key!r} is no module name, type or function name")
    return composite
