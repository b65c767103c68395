"""Captum's tutorials of texts and tables with categories: the same code with both packages, the same numbers."""

from __future__ import annotations

import types
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from tests.compat.test_tutorials import CLOSE, Namespace, QuestionAnswering, same


class Block(nn.Module):
    """Attention and a feed-forward part, which returns a tuple as BERT's layers do."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)
        self.norm, self.forward_part = nn.LayerNorm(16), nn.Linear(16, 16)

    def forward(self, hidden: Tensor) -> tuple[Tensor]:
        hidden = self.norm(hidden + self.attention(hidden, hidden, hidden, need_weights=False)[0])
        return (hidden + torch.nn.functional.gelu(self.forward_part(hidden)),)


class Embeddings(nn.Module):
    """Of words and their places, as BERT's: by ids, or by embeddings of the words."""

    def __init__(self) -> None:
        super().__init__()
        self.word_embeddings, self.position_embeddings = nn.Embedding(40, 16), nn.Embedding(12, 16)

    def forward(self, input_ids: Tensor | None = None, inputs_embeds: Tensor | None = None) -> Tensor:
        words = self.word_embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        positions: Tensor = self.position_embeddings(torch.arange(words.shape[1]))
        return words + positions


class Reader(nn.Module):
    """Start and end of the answer to a question, as of BERT for question answering."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embeddings = Embeddings()
        self.layers = nn.ModuleList(Block() for _ in range(3))
        self.head = nn.Linear(16, 2)

    def forward(self, input_ids: Tensor | None = None, inputs_embeds: Tensor | None = None) -> Any:
        hidden = self.embeddings(input_ids, inputs_embeds)
        for layer in self.layers:
            hidden = layer(hidden)[0]
        start, end = self.head(hidden).unbind(2)
        return types.SimpleNamespace(start_logits=start, end_logits=end)


def test_question_answering_layer_by_layer() -> None:
    """LayerConductance at each layer of BERT, from the embeddings of a question to start and end of its answer."""
    model = Reader().eval()
    ids, reference = torch.randint(3, 40, (1, 9)), torch.full((1, 9), 1)
    embedded, plain = (model.embeddings.word_embeddings(each).detach() for each in (ids, reference))

    def scored(inputs: Tensor, position: int = 0) -> Tensor:
        found = model(inputs_embeds=inputs)
        return (found.start_logits if position == 0 else found.end_logits).max(1).values

    def conductances(captum: Namespace) -> Any:
        found = []
        for layer in model.layers:
            for position in (0, 1):
                explainer = captum.LayerConductance(scored, layer)
                value = explainer.attribute(embedded, plain, additional_forward_args=(position,), n_steps=20)
                value = value[0] if isinstance(value, tuple) else value
                found.append(value.sum(2).squeeze(0) / value.norm())
        return tuple(found)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = same(conductances, **CLOSE)
    assert len(found) == 6
    assert all(each.shape == (9,) for each in found)


def test_visual_question_answering() -> None:
    """An image and a question whose embedding is replaced by an interpretable one, and put back."""
    model = QuestionAnswering().eval()
    image, tokens, lengths = torch.rand(1, 3, 12, 12), torch.randint(1, 30, (1, 5)), torch.tensor([4])

    def answered(captum: Namespace) -> Any:
        embedding = captum.configure_interpretable_embedding_layer(model, "embedding")
        reference = captum.TokenReferenceBase(reference_token_idx=0).generate_reference(5, device="cpu")[None]
        try:
            inputs = embedding.indices_to_embeddings(tokens), embedding.indices_to_embeddings(reference)
            maps, delta = captum.IntegratedGradients(model).attribute(
                inputs=(image, inputs[0]),
                baselines=(image * 0.0, inputs[1]),
                target=3,
                additional_forward_args=lengths,
                n_steps=30,
                return_convergence_delta=True,
            )
        finally:
            captum.remove_interpretable_embedding_layer(model, embedding)
        assert isinstance(model.embedding, nn.Embedding)
        return (*maps, delta)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        same(answered, **CLOSE)


class Recommender(nn.Module):
    """Numbers and lists of categories, of any lengths, into the chance of a click, as of DLRM."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.bags = nn.ModuleList(nn.EmbeddingBag(20, 6, mode="sum") for _ in range(2))
        self.dense = nn.Sequential(nn.Linear(4, 6), nn.ReLU())
        self.top = nn.Linear(6 + 3, 1)

    def forward(self, numbers: Tensor, first: Tensor, second: Tensor, starts: Tensor) -> Tensor:
        parts = [self.dense(numbers)]
        parts += [bag(ids, row) for bag, ids, row in zip(self.bags, (first, second), starts, strict=True)]
        pairs = [(parts[i] * parts[j]).sum(1, keepdim=True) for i, j in ((0, 1), (0, 2), (1, 2))]
        found: Tensor = self.top(torch.cat([parts[0], *pairs], 1)).sigmoid()
        return found


def test_sparse_features() -> None:
    """Lists of categories: ablated by their entries and as a whole, with one score a call; gradients of the numbers."""
    model = Recommender().eval()
    numbers, starts = torch.randn(2, 4), torch.tensor([[0, 3], [0, 1]])
    first, second = torch.randint(1, 20, (5,)), torch.randint(1, 20, (3,))

    def total(*given: Tensor) -> Tensor:
        return model(*given, starts).sum()

    def ablated(captum: Namespace) -> Any:
        found: Any = captum.FeatureAblation(total).attribute((numbers, first, second))
        return found

    def by_lists(captum: Namespace) -> Any:
        masks = torch.arange(4)[None], torch.tensor([4]), torch.tensor([5])
        found: Any = captum.FeatureAblation(total).attribute((numbers, first, second), feature_mask=masks)
        return found

    def dense(captum: Namespace) -> Any:
        return captum.IntegratedGradients(lambda x: model(x, first, second, starts)).attribute(
            numbers, target=0, n_steps=20, internal_batch_size=2
        )

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for tutorial in (ablated, by_lists, dense):
            same(tutorial, **CLOSE)
