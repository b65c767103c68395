"""Prompts of language models: their features, how likely a model goes on from them, and what matters to that."""
