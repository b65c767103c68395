"""Captum's attribution of models behind an API, made to take our methods and prompts: it stays Captum's otherwise."""

from __future__ import annotations

import functools
from typing import Any

import fastsal


def taking_ours(theirs: Any) -> type:
    """A subclass of Captum's ``RemoteLLMAttribution`` that supports what its ``LLMAttribution`` has of either package.

    Of our methods a provider is asked about one prompt at a time, as of Captum's.
    """
    ours = fastsal.LLMAttribution
    methods = [getattr(ours, name) for name in ("SUPPORTED_METHODS", "SUPPORTED_PER_TOKEN_ATTR_METHODS")]
    original = theirs.attribute

    @functools.wraps(original)
    def attribute(self: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(self.attr_method, methods[0]):
            kwargs.setdefault("perturbations_per_eval", 1)
        return original(self, *args, **kwargs)

    members = {
        "SUPPORTED_METHODS": (*theirs.SUPPORTED_METHODS, *methods[0]),
        "SUPPORTED_PER_TOKEN_ATTR_METHODS": (*theirs.SUPPORTED_PER_TOKEN_ATTR_METHODS, *methods[1]),
        "SUPPORTED_INPUTS": (*theirs.SUPPORTED_INPUTS, *ours.SUPPORTED_INPUTS),
        "attribute": attribute,
        "__module__": "captum.attr",
        "__doc__": theirs.__doc__,
    }
    return type(theirs.__name__, (theirs,), members)
