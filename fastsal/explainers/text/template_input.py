"""A prompt made from a template, whose blanks are the features."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from fastsal.explainers.text.interpretable_input import InterpretableInput, is_there


class TextTemplateInput(InterpretableInput):
    """A text with blanks, each filled with its value or, where it is taken away, with its baseline.

    >>> prompt = fastsal.TextTemplateInput("{} feels {} right now", ["He", "depressed"], ["It", "neutral"])
    >>> prompt.to_model_input(torch.tensor([[0, 1]]))
    'It feels depressed right now'

    Args:
        template: a string with ``{}`` or ``{name}`` for each value, or a function of the values that returns the text.
        values: of the blanks, in a list or by name.
        baselines: in the form of the values, or a function that returns them (a :class:`fastsal.ProductBaselines`,
            say), which is called for each text; None is the empty string.
        mask: ids in the form of the values: those of one id are one feature.

    Attributes:
        dict_keys: names of the values, in their order; empty for a list.
        formatted_mask: each value's feature, from 0; only with a mask.

    Raises:
        TypeError: for baselines or a mask in another form than the values.
        ValueError: for another number of them, or without values.
    """

    def __init__(
        self,
        template: str | Callable[..., str],
        values: list[str] | dict[str, str],
        baselines: list[str] | dict[str, str] | Callable[[], Any] | None = None,
        mask: list[int] | dict[str, int] | None = None,
    ) -> None:
        if not isinstance(values, (list, dict)):
            raise TypeError(f"values: {type(values).__name__} is neither a list nor a dict of strings")
        if not isinstance(template, str) and not callable(template):
            raise TypeError(f"template: {type(template).__name__} is neither a string nor a function")
        self.dict_keys = list(values) if isinstance(values, dict) else []
        self.values = list(values.values()) if isinstance(values, dict) else list(values)
        if not self.values:
            raise ValueError("values: there are none to explain")
        self.template = template
        self.format_fn: Callable[..., str] = template.format if isinstance(template, str) else template
        self.baselines: Any = [""] * len(self.values)
        if baselines is not None:
            self.baselines = baselines if callable(baselines) else self._in_order("baselines", baselines)
        self.n_features = self.n_itp_features = len(self.values)
        self.mask: list[int] | None = None
        if mask is not None:
            self.mask = self._in_order("mask", mask)
            ids = sorted(set(self.mask))
            self.formatted_mask = [ids.index(each) for each in self.mask]
            self.n_itp_features = len(ids)

    def _in_order(self, name: str, given: Any) -> list[Any]:
        """What has one for each value, in their order."""
        other = isinstance(given, Mapping) != bool(self.dict_keys)
        if other or not isinstance(given, (Mapping, list, tuple)):
            form = "dict" if self.dict_keys else "list"
            raise TypeError(f"{name}: {type(given).__name__} given, but the values are a {form}; pass its like")
        if isinstance(given, Mapping):
            missing = [key for key in self.dict_keys if key not in given]
            if missing:
                raise ValueError(f"{name}: there is none for {missing[0]!r}")
            return [given[key] for key in self.dict_keys]
        if len(given) != len(self.values):
            raise ValueError(f"{name}: {len(given)} given for {len(self.values)} values; one each is needed")
        return list(given)

    def to_tensor(self) -> Tensor:
        return torch.ones(1, self.n_itp_features)

    def to_model_input(self, perturbed_tensor: Tensor | None = None) -> str:
        """The text, as of :meth:`InterpretableInput.to_model_input`."""
        chosen = list(self.values)
        if perturbed_tensor is not None:
            given = self.baselines
            absent = self._in_order("baselines", given()) if callable(given) else given
            there = is_there(perturbed_tensor)
            of = range(self.n_features) if self.mask is None else self.formatted_mask
            chosen = [
                value if there[feature] else other for value, other, feature in zip(chosen, absent, of, strict=True)
            ]
        if self.dict_keys:
            return self.format_fn(**dict(zip(self.dict_keys, chosen, strict=True)))
        return self.format_fn(*chosen)

    def format_attr(self, itp_attr: Tensor) -> Tensor:
        """Attributions [..., features] as those of the values [..., values]: of one id they share it."""
        if self.mask is None:
            return itp_attr
        return itp_attr[..., torch.tensor(self.formatted_mask, device=itp_attr.device)]
