"""Attributions of generated texts by transformers' decoders against Captum's, which runs the model for each token."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("transformers")

import captum.attr
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import fastsal

WORDS = ("<unk>", *"abcdefghijklmnopqrstuvwxyz")


def tokenizer() -> Any:
    made = Tokenizer(models.WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>")


def decoder(name: str) -> nn.Module:
    torch.manual_seed(0)
    if name == "gpt2":
        return GPT2LMHeadModel(GPT2Config(vocab_size=27, n_positions=32, n_embd=16, n_layer=2, n_head=2)).eval()
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=27, max_position_embeddings=32, **sizes, **heads)).eval()


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_they_are_captums(name: str) -> None:
    model, words = decoder(name), tokenizer()
    found, expected = (
        package.LLMAttribution(package.FeatureAblation(model), words).attribute(
            package.TextTemplateInput("{} b {} {}", ["a c", "d", "e"], ["f", "g", "h"]), "m n o", **options
        )
        for package, options in ((fastsal, {}), (captum.attr, {"use_cached_outputs": False}))
    )
    assert found.output_tokens == expected.output_tokens == ["m", "n", "o"]
    torch.testing.assert_close(found.token_attr, expected.token_attr, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(found.seq_attr, expected.seq_attr, rtol=1e-3, atol=1e-5)


def test_gradients_of_a_text_that_is_generated() -> None:
    model, words = decoder("gpt2"), tokenizer()
    options = {"gen_args": {"max_new_tokens": 3, "do_sample": False}, "n_steps": 10}
    found, expected = (
        package.LLMGradientAttribution(package.LayerIntegratedGradients(model, model.transformer.wte), words).attribute(
            package.TextTokenInput("a b c", words), **options
        )
        for package in (fastsal, captum.attr)
    )
    assert found.output_tokens == expected.output_tokens
    torch.testing.assert_close(found.token_attr, expected.token_attr, rtol=1e-3, atol=1e-5)
