"""The tap on attention: what is listed of every spelling, what is named instead, and that nothing of it stays."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastsal
from fastsal._torch import TorchDispatchMode, len_torch_function_stack
from fastsal.explainers.attending.products import product_of
from fastsal.ops._define import Op
from tests.explainers.attending import MODULES, SPELLINGS, Transformer, images, transformer


@pytest.mark.parametrize("spelling", [*SPELLINGS, *MODULES])
def test_every_spelling_is_listed_with_its_rows(spelling: str) -> None:
    x, stored = images(), transformer("stored")
    stored(x)
    found = fastsal.attention(transformer(spelling), x)
    assert [(each.kind, each.rows, each.heads, each.queries, each.keys) for each in found] == [
        ("self", 2, 2, 26, 26)
    ] * 3
    assert [each.fused for each in found] == [spelling in ("fused", "module")] * 3
    assert [each.name[:13] for each in found] == [f"blocks.{i}.attn" for i in range(3)]
    assert found.unrecognised == ()
    for each, block in zip(found, stored.blocks, strict=True):
        expected = block.attn.stored[0]
        torch.testing.assert_close(each.weights([0, -1]), expected[:, :, [0, -1]])
        torch.testing.assert_close(each.received(), expected.mean(2))
    assert "2 heads, 26 queries, 26 keys" in repr(found)


class Decoder(nn.Module):
    """Five learnt queries that see each other up to themselves, with keys of one head for two, then ask the patches."""

    def __init__(self, spelling: Callable[..., Tensor] | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patch, self.queries, self.spelling = nn.Conv2d(3, 8, 4, 4), nn.Parameter(torch.randn(1, 5, 8)), spelling
        self.joint, self.cross = nn.Linear(8, 16), nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patch(x).flatten(2).mT
        asked = self.queries.expand(len(x), -1, -1)
        q, k, v = self.joint(asked).split([8, 4, 4], 2)
        q, k, v = q.unflatten(2, (2, 4)).transpose(1, 2), k[:, None], v[:, None]
        asked = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True).transpose(1, 2).flatten(2)
        if self.spelling is None:
            return self.cross(asked, tokens, tokens, need_weights=False)[0].mean(1)  # type: ignore[no-any-return]
        return self.spelling(asked[:, None], tokens[:, None], tokens[:, None])[:, 0].mean(1)


@pytest.mark.parametrize("spelling", [None, *(SPELLINGS[name] for name in ("fused", "matmul", "operator", "dots"))])
def test_grouped_causal_and_cross_attention(spelling: Callable[..., Tensor] | None) -> None:
    model, x = Decoder(spelling).double(), images()
    own, crossed = fastsal.attention(model, x)
    assert (own.heads, own.queries, own.keys) == (2, 5, 5)
    rows = own.weights(range(5))
    assert torch.equal(rows, rows.tril())
    torch.testing.assert_close(rows.sum(-1), torch.ones(2, 2, 5, dtype=x.dtype))
    assert (crossed.kind, crossed.queries, crossed.keys) == ("cross", 5, 24)
    assert crossed.heads == (2 if spelling is None else 1)
    torch.testing.assert_close(crossed.weights(2).sum(-1), torch.ones(2, crossed.heads, 1, dtype=x.dtype))


def test_masks_of_fused_attention() -> None:
    q = torch.randn(2, 2, 6, 4, dtype=torch.float64)
    for mask in (torch.rand(6, 6) < 0.7, torch.randn(2, 1, 6, 6).double(), torch.randn(2, 1, 1, 6).double()):
        (found,) = fastsal.attention(lambda x, mask=mask: F.scaled_dot_product_attention(x, x, x, attn_mask=mask), q)
        shown = found.weights(range(6)) @ q
        torch.testing.assert_close(shown, F.scaled_dot_product_attention(q, q, q, attn_mask=mask))


def test_windows_are_named_so() -> None:
    def windows(x: Tensor) -> Tensor:
        parts = x.unflatten(2, (2, 8)).unflatten(4, (3, 8)).permute(0, 2, 4, 3, 5, 1).reshape(-1, 64, 3)[:, None]
        return F.scaled_dot_product_attention(parts, parts, parts).sum((1, 2, 3)).view(2, 6).sum(1)

    (found,) = fastsal.attention(windows, images())
    assert (found.kind, found.rows, found.keys) == ("windows", 12, 64)


def test_what_is_no_attention_is_named_or_left_alone() -> None:
    def program(x: Tensor) -> Tensor:
        scores = x @ x.mT
        unread = scores.softmax(-1).amax(-1)
        over_heads = scores.softmax(1).mean(-1)
        plain = x.softmax(-1).sum(-1)  # of no product
        return unread + over_heads + plain

    x = torch.randn(2, 3, 5, 4)
    found = fastsal.attention(program, x)
    assert [each.queries for each in found] == [5]
    assert found.unrecognised == (
        "softmax over dimension -1 of (2, 3, 5, 5): no product of its weights and values was seen",
        "softmax over dimension -3 of (2, 3, 5, 5): neither queries nor keys of the product before it",
    )
    assert repr(found).count("not recognised: ") == 2
    assert repr(fastsal.attention(nn.Linear(4, 4), x)) == "no attention"


def test_a_gate_is_no_attention() -> None:
    experts = torch.randn(4, 3)
    assert len(fastsal.attention(lambda x: (x @ experts).softmax(-1) @ torch.randn(3, 4), torch.randn(2, 5, 4))) <= 1
    assert product_of("matmul", [torch.zeros(5, 4), experts], {}) is None


def test_nothing_stays_after_an_error() -> None:
    class Broken(Transformer):
        def forward(self, x: Tensor) -> Tensor:
            super().forward(x)
            raise RuntimeError("broken")

    model, function = Broken(), F.multi_head_attention_forward
    for call in (
        lambda: fastsal.attention(model, images().float()),
        lambda: fastsal.AttentionRelevance(model).attribute(images().float(), 1),
    ):
        with pytest.raises(RuntimeError, match="broken"):
            call()
        assert len_torch_function_stack() == 0
        assert F.multi_head_attention_forward is function
        assert not any(each._forward_hooks or each._forward_pre_hooks for each in model.modules())
        assert all(each.grad is None for each in model.parameters())


def test_another_thread_sees_nothing_of_it() -> None:
    found: list[int] = []

    class Waits(Transformer):
        def forward(self, x: Tensor) -> Tensor:
            other = threading.Thread(target=lambda: found.append(len_torch_function_stack()))
            other.start()
            other.join()
            return super().forward(x)

    assert len(fastsal.attention(Waits(), images().float())) == 3
    assert found == [0]


class Largest(TorchDispatchMode):
    """The most elements of a tensor that is made, the ops' own included."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for each in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(each, Tensor):
                self.elements = max(self.elements, each.numel())
        return result


@pytest.mark.parametrize(
    "method", ["RawAttention", "AttentionRollout", "GradientAttention", "AttentionRelevance", "LeGrad", "GradECLIP"]
)
@pytest.mark.parametrize("spelling", ["fused", "module"])
def test_no_matrix_is_made_where_attention_is_fused(method: str, spelling: str) -> None:
    """110 tokens, of which the reference takes 64 queries at a time."""
    model, x = Transformer(spelling, "mean", 2).eval(), torch.randn(1, 3, 40, 44)
    with Largest() as made, mock.patch.object(Op, "__call__", lambda op, *args: op.reference(*args)):
        getattr(fastsal, method)(model).attribute(x, 1)
    assert 110 * 16 < made.elements <= 2 * 64 * 110 < 2 * 110**2


@pytest.mark.parametrize(
    ("queries", "message"),
    [(26, "queries: 26 is outside of the 26 queries, 0 to 25"), ("a", "queries: 'a' is neither a query's number")],
)
def test_errors_name_the_argument(queries: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        fastsal.attention(transformer(), images())[0].weights(queries)
