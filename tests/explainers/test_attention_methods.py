"""Methods on attention against their formulas with stored matrices N x N in float64, for every spelling and head."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.utils.checkpoint
from torch import Tensor, nn

import fastsal
from tests.explainers.attending import MODULES, SPELLINGS, Transformer, images, transformer

READ = {"class": 1, "mean": 1, "dense": (1, 2, 3)}
"""The target of each way to read the tokens."""
PLAIN: dict[str, Any] = {"upsample": False, "normalize": False}
METHODS = ("RawAttention", "AttentionRollout", "GradientAttention", "AttentionRelevance", "LeGrad", "GradECLIP")


def by_matrices(method: str, read: str, x: Tensor) -> Tensor:
    """[B, 1, 4, 6] by the equations, from the matrices that a written-out model keeps."""
    model = transformer("stored", read)
    output = model(x)
    score = {"class": output[:, 1], "mean": output[:, 1], "dense": output[:, 1, 2, 3] if read == "dense" else None}[
        read
    ]
    assert score is not None
    attentions = [block.attn for block in model.blocks]
    weights = [each.stored[0] for each in attentions]
    gradients = torch.autograd.grad(
        score.sum(), [*weights, *(each.output[0] for each in attentions)], retain_graph=True
    )
    by_weights, by_outputs = gradients[:3], gradients[3:]
    count, eye = weights[0].shape[-1], torch.eye(weights[0].shape[-1], dtype=x.dtype)
    start = {"class": eye[0], "mean": torch.full((count,), 1 / count, dtype=x.dtype), "dense": eye[2 * 6 + 3]}[read]
    if method == "RawAttention":
        row = (start @ weights[-1]).mean(1)
    elif method == "AttentionRollout":
        whole = eye
        for each in weights:
            whole = (each.mean(1) / 2 + eye / 2) @ whole
        row = start @ whole
    elif method == "GradientAttention":
        row = start @ (weights[-1] * by_weights[-1]).relu().mean(1)
    elif method == "AttentionRelevance":
        whole = eye.expand(len(x), -1, -1)
        for each, by in zip(weights, by_weights, strict=True):
            whole = whole + (each * by).relu().mean(1) @ whole
        row = start @ whole
    elif method == "LeGrad":
        row = torch.stack([by.relu().mean((1, 2)) for by in by_weights]).mean(0)
    else:
        return grad_eclip(attentions[-1].heads[0], by_outputs[-1], start, model.extra)
    return row[:, model.extra :].view(len(x), 1, 4, 6)


def grad_eclip(heads: tuple[Tensor, Tensor, Tensor], by: Tensor, start: Tensor, extra: int) -> Tensor:
    """A loop over the queries that are read, examples and patches."""
    q, k, v, w = (each.transpose(1, 2).flatten(2) for each in (*heads, by))
    found = torch.zeros(len(q), 24, dtype=q.dtype)
    for b in range(len(q)):
        for c in start.nonzero()[:, 0]:
            alike = torch.stack([torch.cosine_similarity(q[b, c], k[b, extra + i], dim=0) for i in range(24)])
            alike = (alike - alike.min()) / (alike.max() - alike.min())
            for i in range(24):
                found[b, i] += (w[b, c] * v[b, extra + i] * alike[i]).sum()
    return found.relu().view(len(q), 1, 4, 6)


@pytest.mark.parametrize("read", READ)
@pytest.mark.parametrize("method", METHODS)
def test_fused_attention_gives_the_formula(method: str, read: str) -> None:
    x = images()
    found = getattr(fastsal, method)(transformer("fused", read)).attribute(x, READ[read], **PLAIN)
    torch.testing.assert_close(found, by_matrices(method, read, x), rtol=1e-9, atol=1e-12)
    assert found.abs().max() > 0


@pytest.mark.parametrize("spelling", [*SPELLINGS, *MODULES])
def test_every_spelling_gives_the_formula(spelling: str) -> None:
    x, model = images(), transformer(spelling)
    for method in METHODS:
        found = getattr(fastsal, method)(model).attribute(x, 1, **PLAIN)
        torch.testing.assert_close(found, by_matrices(method, "class", x), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("fuse", ["max", "min"])
@pytest.mark.parametrize("spelling", ["fused", "matmul"])
def test_rollout_by_the_extremes_of_heads(fuse: str, spelling: str) -> None:
    x, stored = images(), transformer("stored")
    stored(x)
    whole = eye = torch.eye(26, dtype=x.dtype)
    for block in stored.blocks:
        weights = block.attn.stored[0]
        each = (weights.amax(1) if fuse == "max" else weights.amin(1)) / 2 + eye / 2
        whole = each / each.sum(-1, keepdim=True) @ whole
    found = fastsal.AttentionRollout(transformer(spelling)).attribute(x, 1, fuse=fuse, **PLAIN)
    torch.testing.assert_close(found, whole[:, 0, 2:].view(2, 1, 4, 6))
    with pytest.raises(ValueError, match="fuse: 'sum' is not one of mean, max, min"):
        fastsal.AttentionRollout(transformer()).attribute(x, 1, fuse="sum")


def test_chosen_queries_layers_and_heads() -> None:
    x = images()
    stored = transformer("stored")
    stored(x)
    first = stored.blocks[0].attn.stored[0]
    found = fastsal.RawAttention(transformer()).attribute(x, 1, attention_layer=0, head=1, queries=[3, 5], **PLAIN)
    torch.testing.assert_close(found, first[:, 1, [3, 5], 2:].mean(1).view(2, 1, 4, 6))
    found = fastsal.RawAttention(transformer()).attribute(x, 1, attention_layer=-3, queries=-1, **PLAIN)
    torch.testing.assert_close(found, first[:, :, -1, 2:].mean(1).view(2, 1, 4, 6))


def test_forward_methods_need_no_gradient_for_chosen_queries() -> None:
    class Detached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = transformer()

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                found: Tensor = self.inner(x)
            return found

    x = images()
    for method in (fastsal.RawAttention, fastsal.AttentionRollout):
        found = method(Detached()).attribute(x, 1, queries=0, **PLAIN)
        torch.testing.assert_close(found, by_matrices(method.__name__, "class", x))
    for method in METHODS:
        with pytest.raises(ValueError, match="does not depend on its attention through autograd"):
            getattr(fastsal, method)(Detached()).attribute(x, 1)


def test_a_batch_is_its_examples() -> None:
    x, model = images(3), transformer()
    for method in METHODS:
        explainer = getattr(fastsal, method)(model)
        whole = explainer.attribute(x, [0, 2, 1])
        each = torch.cat([explainer.attribute(x[i : i + 1], target) for i, target in enumerate([0, 2, 1])])
        torch.testing.assert_close(whole, each)
        assert whole.shape == (3, 1, 16, 24)
        torch.testing.assert_close(whole.amin((1, 2, 3)), torch.zeros(3, dtype=x.dtype), atol=1e-5, rtol=0)
        torch.testing.assert_close(whole.amax((1, 2, 3)), torch.ones(3, dtype=x.dtype), atol=1e-5, rtol=0)


class Words(nn.Module):
    """Token numbers [B, N] with padding, classified by the first."""

    def __init__(self, causal: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.causal = nn.Embedding(20, 8), causal
        layer = nn.TransformerEncoderLayer(8, 2, 12, 0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(8, 3)

    def forward(self, numbers: Tensor) -> Tensor:
        padding = numbers == 0
        return self.head(self.encoder(self.embedding(numbers), src_key_padding_mask=padding)[:, 0])  # type: ignore[no-any-return]


@pytest.mark.parametrize("frozen", [False, True])
def test_text_and_padding(frozen: bool) -> None:
    numbers = torch.tensor([[3, 5, 7, 9, 2], [4, 8, 6, 0, 0]])
    model = Words().double().eval().requires_grad_(not frozen)
    for method in METHODS:
        if method == "LeGrad":
            continue
        found = getattr(fastsal, method)(model).attribute(numbers, 1, normalize=False)
        assert found.shape == (2, 5)
        assert found.isfinite().all()
        assert found.abs().sum() > 0
        if method in ("RawAttention", "AttentionRollout", "GradientAttention", "AttentionRelevance"):
            assert found[1, 3:].abs().max() == 0
        if method == "AttentionRollout":
            torch.testing.assert_close(found.sum(1), torch.ones(2, dtype=found.dtype))


class Stages(Transformer):
    """Half of the tokens behind the first block."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x)
        grid = self.blocks[0](x.flatten(2).mT).mT.view(x.shape)
        x = nn.functional.avg_pool2d(grid, 2)
        return self.head(self.blocks[1](x.flatten(2).mT).mean(1))  # type: ignore[no-any-return]


class Windows(nn.Module):
    """Attention within windows of 2 x 3, then over all patches."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = Transformer("matmul", "mean", 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inner.patch(x).unflatten(2, (2, 2)).unflatten(4, (2, 3)).permute(0, 2, 4, 3, 5, 1)
        windows = self.inner.blocks[0](x.reshape(-1, 6, 8)).view(x.shape)
        tokens = windows.permute(0, 1, 3, 2, 4, 5).reshape(len(x), 24, 8)
        return self.inner.head(self.inner.blocks[1](tokens).mean(1))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(1152, 4)), "no self-attention over the tokens of the first input ran"),
        (Stages("fused", "mean"), "its stages have 24 and 6 tokens"),
        (Windows(), "some of its attention is within windows"),
    ],
)
def test_what_cannot_be_followed_is_refused(model: nn.Module, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fastsal.AttentionRollout(model).attribute(images().float(), 1)


@pytest.mark.parametrize(
    ("method", "given", "message"),
    [
        ("RawAttention", {"attention_layer": 3}, "attention_layer: 3 is not one of the 3 layers of attention, 0 to 2"),
        ("RawAttention", {"head": 2}, "head: 2 is not one of the 2 heads, 0 to 1"),
        ("AttentionRollout", {"queries": 26}, "queries: 26 is outside of the 26 tokens"),
        ("AttentionRollout", {"queries": "class"}, "queries: 'class' is neither a token's number nor a sequence"),
        ("GradientAttention", {"attention_layer": -4}, "attention_layer: -4 is not one of the 3 layers"),
        ("GradECLIP", {"last_layers": 0}, "last_layers"),
    ],
)
def test_errors_name_the_argument(method: str, given: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        getattr(fastsal, method)(transformer()).attribute(images(), 1, **given)


class Units(nn.Module):
    """Hiera's [B, heads, windows, N, N]: attention in windows of 2 x 3 behind the heads, then in one window."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patch, self.head, self.weights = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 4), list[Tensor]()

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).unflatten(2, (2, 2)).unflatten(4, (2, 3)).permute(0, 2, 4, 3, 5, 1).reshape(len(x), 24, 8)
        for windows in (4, 1):
            heads = x.view(len(x), windows, 24 // windows, 2, 4).permute(0, 3, 1, 2, 4)
            self.weights.append((heads @ heads.mT).softmax(-1))
            x = x + (self.weights[-1] @ heads).permute(0, 2, 3, 1, 4).reshape(x.shape)
        return self.head(x.square().mean(1))  # type: ignore[no-any-return]


def test_windows_behind_the_heads() -> None:
    """Of the second layer the keys are in units of 2 x 3 patches."""
    model, x = Units().double(), images()
    score = model(x)[:, 1].sum()
    (by,) = torch.autograd.grad(score, model.weights[1])
    expected = by.relu().mean((1, 2, 3)).view(2, 2, 2, 2, 3).permute(0, 1, 3, 2, 4).reshape(2, 1, 4, 6)
    torch.testing.assert_close(fastsal.LeGrad(model).attribute(x, 1, **PLAIN), expected)
    assert [each.kind for each in fastsal.attention(model, x)] == ["windows", "self"]
    with pytest.raises(ValueError, match="within windows"):
        fastsal.AttentionRelevance(model).attribute(x, 1)


class Reduced(Transformer):
    """Patches that attend to four means of them, as PVT's do, then to each other."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x)
        tokens, means = x.flatten(2).mT[:, None], nn.functional.avg_pool2d(x, (2, 3)).flatten(2).mT[:, None]
        tokens = tokens + nn.functional.scaled_dot_product_attention(tokens, means, means)
        return self.head(self.blocks[0](tokens[:, 0]).mean(1))  # type: ignore[no-any-return]


def test_one_layer_asks_less_than_a_row_that_is_carried() -> None:
    for model, message in (
        (Reduced("fused", "mean"), "in some of its attention 24 tokens of the first input attend to 4 others"),
        (Stages("fused", "mean"), "its stages have 24 and 6 tokens"),
    ):
        for method in (fastsal.RawAttention, fastsal.GradientAttention, fastsal.GradECLIP):
            assert method(model).attribute(images().float(), 1).shape == (2, 1, 16, 24)
        for method in (fastsal.AttentionRollout, fastsal.AttentionRelevance):
            with pytest.raises(ValueError, match=message):
                method(model).attribute(images().float(), 1)
    first = fastsal.RawAttention(model).attribute(images().float(), attention_layer=0, queries=3, **PLAIN)
    assert first.shape == (2, 1, 4, 6)
    with pytest.raises(ValueError, match=r"queries: the layer has 24 tokens, and the last, .*, has 6"):
        fastsal.RawAttention(model).attribute(images().float(), 1, attention_layer=0)
    with pytest.raises(ValueError, match="last_layers: of 2 layers some have 24 tokens, the last has 6"):
        fastsal.GradECLIP(model).attribute(images().float(), 1, last_layers=2)


@pytest.mark.parametrize("frozen", [False, True])
def test_blocks_that_are_computed_again(frozen: bool) -> None:
    class Checkpointed(Transformer):
        def forward(self, x: Tensor) -> Tensor:
            plain = self.blocks
            try:
                self.blocks = nn.Sequential(*(Again(each) for each in plain))
                return super().forward(x)
            finally:
                self.blocks = plain

    class Again(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = torch.utils.checkpoint.checkpoint(self.inner, x, use_reentrant=False)
            return found

    x, model = images(), Checkpointed().double().eval()
    model.load_state_dict(transformer().state_dict())
    model.requires_grad_(not frozen)
    for method in METHODS:
        found = getattr(fastsal, method)(model).attribute(x, 1, **PLAIN)
        torch.testing.assert_close(found, by_matrices(method, "class", x), rtol=1e-9, atol=1e-12)


def test_keys_of_no_token() -> None:
    class Biased(Transformer):
        def __init__(self) -> None:
            super().__init__("module", "mean", 1)
            self.blocks[0].attn.whole = nn.MultiheadAttention(8, 2, add_zero_attn=True, batch_first=True)  # type: ignore[union-attr]

    model, x = Biased(), images().float()
    assert fastsal.LeGrad(model).attribute(x, 1).isfinite().all()
    assert fastsal.RawAttention(model).attribute(x, 1).shape == (2, 1, 16, 24)
    with pytest.raises(ValueError, match="24 tokens attend to 25 keys, of which some are of no token"):
        fastsal.AttentionRollout(model).attribute(x, 1)


def test_by_name() -> None:
    names = [name for name in fastsal.methods() if "attention" in name or name in ("le-grad", "grad-eclip")]
    assert len(names) == len(METHODS)
    model, x = transformer(), images()
    explained = fastsal.explain(model, x, names, 1, last_layers=1)
    assert {tuple(each.shape) for each in explained.maps.values()} == {(2, 1, 16, 24)}
    alone = fastsal.explain(model, x, "attention-relevance", 1, queries=0)
    torch.testing.assert_close(alone.map, fastsal.AttentionRelevance(model).attribute(x, 1))
