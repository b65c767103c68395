"""What an input is made of for its readers: features that are there or not, and the model's input for these."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor


class InterpretableInput(ABC):
    """An input of a model in the features that are to be explained: words of a prompt, segments of an image.

    Ribeiro, Singh, Guestrin, "Why Should I Trust You? Explaining the Predictions of Any Classifier" (KDD 2016), section
    3.1, calls it an interpretable representation. Derive from it for inputs of other kinds.

    Attributes:
        n_itp_features: number of features.
        values: what each part of the input reads, for people.
    """

    n_itp_features: int
    values: list[str]

    @abstractmethod
    def to_tensor(self) -> Tensor:
        """Ones [1, features]: each feature is there."""

    @abstractmethod
    def to_model_input(self, perturbed_tensor: Tensor | None = None) -> Any:
        """The model's input.

        Args:
            perturbed_tensor: [1, features], where another value than 1 takes a feature away; None: all are there.
        """

    def format_attr(self, itp_attr: Tensor) -> Tensor:
        """Attributions [..., features] as those of :attr:`values`."""
        return itp_attr


def is_there(indicator: Tensor) -> list[bool]:
    """Which features are there, of one row [1, features]."""
    there: list[bool] = (indicator[0] == 1).tolist()
    return there
