"""Models whose inputs are embeddings instead of tokens, and sequences of a reference token, as Captum has them.

:class:`fastsal.LayerIntegratedGradients` at the embedding needs neither, and leaves the model as it is.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fastsal.engine.run import tell


class InterpretableEmbeddingBase(nn.Module):
    """Stands in the place of an embedding, and passes on what it is given: the model takes embeddings then.

    Args:
        embedding: the layer whose place it takes.
        full_name: its dotted name in the model.

    Attributes:
        embedding, full_name: as given.
        num_embeddings, embedding_dim: the layer's; None where it has none.
    """

    def __init__(self, embedding: nn.Module, full_name: str) -> None:
        super().__init__()
        self.num_embeddings = getattr(embedding, "num_embeddings", None)
        self.embedding_dim = getattr(embedding, "embedding_dim", None)
        self.embedding = embedding
        self.full_name = full_name

    def forward(self, *inputs: Any, **kwargs: Any) -> Any:
        """The first argument as it is.

        Raises:
            ValueError: without arguments.
        """
        if not inputs and not kwargs:
            raise ValueError("inputs: none given; pass what indices_to_embeddings returned")
        return inputs[0] if inputs else next(iter(kwargs.values()))

    def indices_to_embeddings(self, *input: Any, **kwargs: Any) -> Any:
        """What the embedding returns for indices: arguments for the model as it is now."""
        return self.embedding(*input, **kwargs)


class TokenReferenceBase:
    """Sequences of one reference token, such as the padding, to be baselines of texts.

    >>> fastsal.TokenReferenceBase(7).generate_reference(3, "cpu").tolist()
    [7, 7, 7]

    Args:
        reference_token_idx: the token.
    """

    def __init__(self, reference_token_idx: int = 0) -> None:
        self.reference_token_idx = reference_token_idx

    def generate_reference(self, sequence_length: int, device: torch.device | str) -> Tensor:
        """The token, int64 of the shape [sequence_length]."""
        return torch.full((sequence_length,), self.reference_token_idx, dtype=torch.int64, device=device)


def configure_interpretable_embedding_layer(
    model: nn.Module, embedding_layer_name: str = "embedding"
) -> InterpretableEmbeddingBase:
    """Put an :class:`InterpretableEmbeddingBase` in the place of a model's embedding, which changes the model.

    Args:
        model: which is changed, until :func:`remove_interpretable_embedding_layer`.
        embedding_layer_name: dotted name of the layer.

    Returns:
        What stands there now; its ``indices_to_embeddings`` makes the model's inputs.

    Raises:
        ValueError: for a name that the model does not have, or a layer that is configured already.
    """
    return put_for_embedding(InterpretableEmbeddingBase, model, embedding_layer_name)


def put_for_embedding(
    kind: type[InterpretableEmbeddingBase], model: nn.Module, embedding_layer_name: str
) -> InterpretableEmbeddingBase:
    """As :func:`configure_interpretable_embedding_layer`, by a kind of :class:`InterpretableEmbeddingBase`."""
    embedding = dict(model.named_modules(remove_duplicate=False)).get(embedding_layer_name)
    if embedding is None or not embedding_layer_name:
        raise ValueError(f"embedding_layer_name: the model has no module {embedding_layer_name!r}")
    if isinstance(embedding, InterpretableEmbeddingBase):
        raise ValueError(f"embedding_layer_name: {embedding_layer_name!r} is an InterpretableEmbeddingBase already")
    tell("the model takes embeddings from now on; remove_interpretable_embedding_layer puts its own layer back")
    made = kind(embedding, embedding_layer_name)
    _set(model, embedding_layer_name, made)
    return made


def remove_interpretable_embedding_layer(model: nn.Module, interpretable_emb: InterpretableEmbeddingBase) -> None:
    """Put the embedding back that :func:`configure_interpretable_embedding_layer` replaced.

    Args:
        model: which was changed.
        interpretable_emb: what was returned then.
    """
    _set(model, interpretable_emb.full_name, interpretable_emb.embedding)


def _set(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, module)
