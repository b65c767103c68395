"""Small language models with random weights, and a tokenizer of letters, in the forms of transformers."""

from __future__ import annotations

import types
from typing import Any

import torch
from torch import Tensor, nn

LETTERS = "abcdefghijklmnopqrstuvwxyz"
SPECIAL = ("<s>", "<unk>")


class Letters:
    """A token for each word: its letter, or ``<unk>`` for another word; ``<s>`` begins a text."""

    words = (*SPECIAL, *LETTERS)

    def encode(self, text: str, add_special_tokens: bool = True, return_tensors: str | None = None) -> Any:
        ids = [self.words.index(word) if word in self.words else 1 for word in text.split()]
        ids = [0, *ids] if add_special_tokens else ids
        return torch.tensor([ids]) if return_tensors else ids

    def decode(self, ids: Any) -> str:
        return " ".join(self.words[int(each)] for each in torch.as_tensor(ids).reshape(-1))

    def convert_ids_to_tokens(self, ids: Any) -> Any:
        return self.words[ids] if isinstance(ids, int) else [self.words[each] for each in ids]

    def convert_tokens_to_ids(self, tokens: Any) -> Any:
        return self.words.index(tokens) if isinstance(tokens, str) else [self.words.index(each) for each in tokens]

    def __call__(self, text: str, add_special_tokens: bool = True, return_offsets_mapping: bool = False) -> Any:
        found: dict[str, Any] = {"input_ids": self.encode(text, add_special_tokens)}
        if return_offsets_mapping:
            ends = [sum(len(word) + 1 for word in text.split()[: i + 1]) - 1 for i in range(len(text.split()))]
            spans = [(end - len(word), end) for end, word in zip(ends, text.split(), strict=True)]
            found["offset_mapping"] = [(0, 0), *spans] if add_special_tokens else spans
        return found


class Language(nn.Module):
    """One block of self-attention between an embedding and logits; dropout where it is in train mode.

    Args:
        causal: no token sees the ones behind it.
        pictures: takes ``pixels`` [rows, n] too, which are added to each token.
    """

    def __init__(self, causal: bool = True, pictures: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.causal, self.calls = causal, 0
        self.embedding = nn.Embedding(len(Letters.words), 8)
        self.queries, self.keys, self.values = (nn.Linear(8, 8) for _ in range(3))
        self.head = nn.Linear(8, len(Letters.words))
        self.pixels = nn.Linear(pictures, 8) if pictures else None
        self.dropout = nn.Dropout(0.5)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator)

    def forward(
        self,
        input_ids: Tensor,
        pixels: Tensor | None = None,
        attention_mask: Tensor | None = None,
        use_cache: bool = False,
    ) -> Any:
        self.calls += 1
        x = self.embedding(input_ids)
        if self.pixels is not None and pixels is not None:
            x = x + self.pixels(pixels)[:, None]
        weights = self.queries(x) @ self.keys(x).transpose(1, 2) / 4
        if self.causal:
            length = input_ids.shape[1]
            weights = weights.masked_fill(torch.ones(length, length).triu(1).bool(), -torch.inf)
        x = self.dropout(x + weights.softmax(2) @ self.values(x))
        return types.SimpleNamespace(logits=self.head(torch.tanh(x)))

    def generate(self, input_ids: Tensor, max_new_tokens: int = 3, **_options: Any) -> Tensor:
        for _ in range(max_new_tokens):
            input_ids = torch.cat([input_ids, self(input_ids).logits[:, -1:].argmax(2)], 1)
        return input_ids


def language_model() -> tuple[Language, Letters]:
    """A model in evaluation mode, and its tokenizer."""
    return Language().eval(), Letters()
