"""Ablation of a prompt's parts beside Captum's, in one process, in turn: a decoder with random weights."""

from __future__ import annotations

import types
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastsal
from benchmarks.measure import DEVICE, against_peer

captum = pytest.importorskip("captum.attr", reason="captum is not installed")
WORDS, WIDTH, DEPTH, ROUNDS = 500, 128, 4, 9
PARTS, TARGET = 12, 8
"""Of the prompt, of which each is two words; tokens of the text that follows."""


class Words:
    """A token for each word, which is a number."""

    def encode(self, text: str, add_special_tokens: bool = True, return_tensors: str | None = None) -> Any:
        ids = [int(word) for word in text.split()]
        return torch.tensor([ids]) if return_tensors else ids

    def decode(self, ids: Any) -> str:
        return " ".join(str(int(each)) for each in torch.as_tensor(ids).reshape(-1))

    def __call__(self, text: str, **_options: Any) -> Any:
        words = text.split()
        ends = [len(" ".join(words[: i + 1])) for i in range(len(words))]
        return {
            "input_ids": self.encode(text),
            "offset_mapping": [(end - len(word), end) for end, word in zip(ends, words, strict=True)],
        }


class Decoder(nn.Module):
    """Blocks of causal attention between an embedding and logits."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(WORDS, WIDTH)
        block = nn.TransformerEncoderLayer(WIDTH, 4, 4 * WIDTH, dropout=0.0, batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(block, DEPTH, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, WORDS)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, use_cache: bool = False) -> Any:
        mask = nn.Transformer.generate_square_subsequent_mask(input_ids.shape[1], device=input_ids.device)
        return types.SimpleNamespace(logits=self.head(self.blocks(self.embedding(input_ids), mask, is_causal=True)))


@cache
def decoder() -> Decoder:
    return Decoder().eval().to(DEVICE)


def ablation(package: Any, **options: Any) -> Any:
    """Attributions of a text to the parts of a prompt."""
    values = [f"{2 * part + 1} {2 * part + 2}" for part in range(PARTS)]
    prompt = package.TextTemplateInput(" ".join(["{}"] * PARTS), values, ["0 0"] * PARTS)
    explainer = package.LLMAttribution(package.FeatureAblation(decoder()), Words())
    return explainer.attribute(prompt, " ".join(str(100 + token) for token in range(TARGET)), **options)


def passes(rows: int) -> Any:
    """The passes that an ablation needs, in batches."""
    ids = torch.randint(WORDS, (PARTS + 1, 2 * PARTS + TARGET), device=DEVICE)

    def run() -> None:
        with torch.no_grad():
            for batch in ids.split(rows):
                decoder()(batch).logits.log_softmax(2)

    return run


@pytest.mark.benchmark(group="ablation of a prompt")
def bench_ablation(benchmark: Any) -> None:
    """Captum's fastest way is a pass for each altered prompt; its defaults would need a model with a cache."""
    torch.testing.assert_close(
        ablation(fastsal).token_attr,
        ablation(captum, forward_in_tokens=False).token_attr,
        rtol=1e-3,
        atol=1e-4,
    )
    against_peer(
        benchmark,
        lambda: ablation(fastsal),
        lambda: ablation(captum, use_cached_outputs=False),
        lambda _size: lambda: ablation(captum, forward_in_tokens=False),
        passes(8 if DEVICE == "cpu" else PARTS + 1),
        ROUNDS,
        (1,),
    )
