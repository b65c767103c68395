"""A prompt whose tokens are the features."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastsal.explainers.text.interpretable_input import InterpretableInput


class TextTokenInput(InterpretableInput):
    """A text in the tokens that a tokenizer makes of it, each replaced by one token where it is taken away.

    Args:
        text: of the prompt.
        tokenizer: as of transformers: with ``encode``, ``convert_ids_to_tokens`` and ``convert_tokens_to_ids``.
        baselines: the token that stands for one that is taken away, or its id.
        skip_tokens: tokens, or their ids, that are no features and stay, such as those of the beginning of a text.

    Attributes:
        inp_tensor: ids [1, tokens].
        itp_tensor: those of the features, [1, features].
        itp_mask: which tokens are features, [1, tokens]; None where all are.

    Raises:
        ValueError: where no token is a feature.
    """

    def __init__(
        self,
        text: str,
        tokenizer: Any,
        baselines: int | str = 0,
        skip_tokens: list[int] | list[str] | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.inp_tensor: Tensor = tokenizer.encode(text, return_tensors="pt")
        self.itp_tensor, self.itp_mask = self.inp_tensor, None
        self.skip_tokens = ids_of(tokenizer, skip_tokens) if skip_tokens else skip_tokens
        if self.skip_tokens:
            self.itp_mask = ~torch.isin(self.inp_tensor, torch.tensor(self.skip_tokens))
            self.itp_tensor = self.inp_tensor[self.itp_mask][None]
        if not self.itp_tensor.numel():
            raise ValueError(f"text: {text!r} has no token that is to be explained")
        self.values: list[str] = tokenizer.convert_ids_to_tokens(self.itp_tensor[0].tolist())
        self.n_itp_features = len(self.values)
        self.baselines: int = baselines if isinstance(baselines, int) else ids_of(tokenizer, [baselines])[0]

    def to_tensor(self) -> Tensor:
        return torch.ones_like(self.itp_tensor)

    def to_model_input(self, perturbed_tensor: Tensor | None = None) -> Tensor:
        """Ids [rows, tokens], for rows [rows, features] or for all features there."""
        if perturbed_tensor is None:
            return self.inp_tensor
        device, count = perturbed_tensor.device, perturbed_tensor.shape[0]
        all_there = self.itp_tensor.to(device).expand(count, -1)
        chosen: Tensor = all_there.masked_fill(perturbed_tensor != 1, self.baselines)
        if self.itp_mask is None:
            return chosen
        ids: Tensor = self.inp_tensor.to(device).repeat(count, 1)
        ids[self.itp_mask.to(device).expand(count, -1)] = chosen.reshape(-1)
        return ids


def ids_of(tokenizer: Any, tokens: list[int] | list[str]) -> list[int]:
    """Ids of tokens that are given so or by what they read."""
    if isinstance(tokens[0], str):
        found: list[int] = tokenizer.convert_tokens_to_ids(tokens)
        return found
    return [int(token) for token in tokens]
