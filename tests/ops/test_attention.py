"""attention: sums over queries of A, of the rectified gradient by A and of their product, against stored matrices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fastsal import ops
from fastsal.ops import attention, backend
from fastsal.reference import attention as reference
from tests.ops import harness
from tests.ops.harness import Case

INF = float("inf")


def tensors(
    queries: int = 5,
    keys: int = 7,
    width: int = 16,
    heads: int = 2,
    key_heads: int = 2,
    batch: int = 2,
    value_width: int | None = None,
    seed: int = 0,
) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float64, generator=generator)

    wide = width if value_width is None else value_width
    found = {
        "query": draw(batch, heads, queries, width),
        "key": draw(batch, key_heads, keys, width),
        "value": draw(batch, key_heads, keys, wide),
        "gradient": draw(batch, heads, queries, wide),
        "weights": draw(batch, heads, queries).abs(),
    }
    return found | {"lse": draw(batch, heads, queries) + 3, "row": draw(batch, queries).abs()}


NAMES = {
    "logsumexp": ("query", "key"),
    "received": ("query", "key", "weights", "lse"),
    "gradient_received": ("gradient", "value", "weights"),
    "relevance": ("query", "key", "value", "gradient", "weights", "lse"),
    "extreme": ("query", "key", "row", "lse"),
}


def case(op: str, name: str, mask: Callable[[], Tensor] | None = None, **given: Any) -> Case:
    """An op on the tensors of its arguments; ``options`` go to it as they are."""
    options = given.pop("options", {})
    smooth = given.pop("smooth", op in ("logsumexp", "received"))
    names = NAMES[op]

    def call(*values: Tensor) -> Tensor:
        named = dict(zip(names, values, strict=False))
        extra = {"mask": values[-1]} if mask is not None else {}
        lse = {"lse": named.pop("lse")} if "lse" in named else {}
        found: Tensor = getattr(attention, op)(*named.values(), **lse, **extra, **options)
        return found

    def make() -> tuple[Tensor, ...]:
        made = tensors(**given)
        return (*(made[each] for each in names), *([] if mask is None else [mask()]))

    return Case(f"{op} {name}", call, make, smooth=smooth, slack=64.0)


def numbers(*shape: int) -> Callable[[], Tensor]:
    def made() -> Tensor:
        generator = torch.Generator().manual_seed(5)
        found = torch.randn(shape, dtype=torch.float64, generator=generator)
        found[..., 1, :] = -INF  # a query without keys
        found[..., 0, 2] = -INF
        return found

    return made


def flags(*shape: int) -> Callable[[], Tensor]:
    return lambda: torch.rand(shape, generator=torch.Generator().manual_seed(5)) < 0.6


def each(name: str, mask: Callable[[], Tensor] | None = None, **given: Any) -> list[Case]:
    return [case(op, name, mask, **given) for op in NAMES]


LEAST: dict[str, object] = {"largest": False}
CASES = [
    *each("two blocks and tails", queries=70, keys=67, width=24, heads=2, key_heads=1, batch=1),
    *each("one pair", queries=1, keys=1, heads=1, key_heads=1, batch=1),
    *each("one query", queries=1, keys=33, width=3),
    *each("causal", queries=37, keys=40, width=16, batch=1, options={"causal": True}),
    *each("numbers as mask", numbers(2, 1, 37, 35), queries=37, keys=35, width=8),
    *each("flags as mask, causal", flags(2, 37, 35), queries=37, keys=35, width=8, options={"causal": True}),
    *each("wide heads", queries=20, keys=34, width=80, heads=1, key_heads=1, batch=1),
    *each("widest heads", queries=18, keys=34, width=256, heads=1, key_heads=1, batch=1),
    case("extreme", "least", queries=37, keys=35, width=8, options=LEAST),
    case("extreme", "least, masked", numbers(2, 2, 37, 35), queries=37, keys=35, width=8, options=LEAST),
    case("relevance", "values of another width", queries=9, keys=12, width=16, value_width=40),
]
SMALL = [
    *each("plain", queries=3, keys=4, width=2, key_heads=1, batch=2, heads=2),
    case("received", "masked", numbers(1, 1, 3, 4), queries=3, keys=4, width=2, smooth=False),
    case("gradient_received", "causal", queries=3, keys=4, width=2, options={"causal": True}),
]


def test_kernel_of_sums_of_rows() -> None:
    made = {name: value.float().to(harness.KERNEL_DEVICE) for name, value in tensors(37, 35, 8).items()}
    for options in ({}, LEAST, {"causal": True}):
        with backend(harness.KERNEL_BACKEND), harness.poisoned():
            got = attention.extreme(made["query"], made["key"], **options)  # type: ignore[arg-type]
        with backend("reference"):
            expected = attention.extreme(made["query"].double(), made["key"].double(), **options)  # type: ignore[arg-type]
        torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-6)


globals().update(harness.suite(CASES, SMALL, gradients=CASES[:4], compiled=SMALL[:4]))


def stored(made: dict[str, Tensor], mask: Tensor | None = None, causal: bool = False, scale: float = 0.3) -> Any:
    """(A, the gradient by A through autograd, which pairs take part), as [B, heads, queries, keys] matrices."""
    group = made["query"].shape[1] // made["key"].shape[1]
    scores = made["query"] @ made["key"].repeat_interleave(group, 1).mT * scale
    if mask is not None:
        scores = scores.masked_fill(~mask, -INF) if mask.dtype == torch.bool else scores + mask
    if causal:
        scores = scores.masked_fill(~torch.ones(scores.shape[-2:], dtype=torch.bool).tril(), -INF)
    weights = torch.nan_to_num(scores.softmax(-1)).requires_grad_()
    output = weights @ made["value"].repeat_interleave(group, 1)
    (by,) = torch.autograd.grad(output, weights, made["gradient"])
    return weights.detach(), by, scores != -INF, scores.logsumexp(-1)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("mask", [None, "numbers", "flags"])
def test_sums_are_those_of_stored_matrices(mask: str | None, causal: bool) -> None:
    """More queries than a tile of the reference has."""
    queries, keys = 2 * reference.ROWS + 3, 41
    made = tensors(queries, keys, width=6, heads=4, key_heads=2)
    given = None
    if mask is not None:
        given = (numbers if mask == "numbers" else flags)(2, 1, queries, keys)()
    a, by, part, lse = stored(made, given, causal)
    options: Any = {"mask": given, "causal": causal, "scale": 0.3}
    q, k, v, g, w = (made[name] for name in ("query", "key", "value", "gradient", "weights"))
    torch.testing.assert_close(attention.logsumexp(q, k, **options), lse)
    torch.testing.assert_close(attention.received(q, k, w, **options), (w[..., None] * a).sum(2))
    torch.testing.assert_close(attention.received(q, k, **options), a.mean(2))
    torch.testing.assert_close(attention.relevance(q, k, v, g, w, **options), (w[..., None] * (a * by).relu()).sum(2))
    for largest in (True, False):
        fused = a.amax(1) if largest else a.amin(1)
        columns = attention.extreme(q, k, w[:, 0], largest=largest, **options)
        torch.testing.assert_close(columns, (w[:, 0, :, None] * fused).sum(1))
        torch.testing.assert_close(attention.extreme(q, k, largest=largest, **options), fused.sum(2))
    torch.testing.assert_close(attention.gradient_received(g, v, w), (w[..., None] * by.relu()).sum(2))
    alone = attention.gradient_received(g, v, w[:, 0], mask=given, causal=causal)
    torch.testing.assert_close(alone, (w[:, :1, :, None] * (by.relu() * part)).sum(2))
    index = torch.tensor([4, 0, queries - 1])
    torch.testing.assert_close(attention.rows(q, k, index, **options), a[:, :, index])


def test_attention_is_pytorchs() -> None:
    made = tensors(9, 9, width=8, heads=4, key_heads=2)
    q, k, v = made["query"], made["key"], made["value"]
    out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    rows = attention.rows(q, k, torch.arange(9), causal=True)
    torch.testing.assert_close(rows @ v.repeat_interleave(2, 1), out)


@pytest.mark.parametrize("op", NAMES)
def test_kernel_of_strided_views_and_large_logits(op: str) -> None:
    """Of a packed q, k, v whose surroundings are NaN, and of logits that overflow an exponential."""
    packed = torch.full((2, 40, 3, 2, 24), float("nan"))
    packed[:, 3:36, :, :, 4:20] = torch.randn((2, 33, 3, 2, 16), generator=torch.Generator().manual_seed(3))
    q, k, v = packed[:, 3:36, :, :, 4:20].permute(2, 0, 3, 1, 4).to(harness.KERNEL_DEVICE).unbind(0)
    made = {"query": q * 20, "key": k, "value": v, "gradient": v.flip(2), "weights": torch.rand(2, 2, 33)}
    made["row"] = made["weights"][:, 0]
    named = {name: made[name].to(q.device) for name in NAMES[op] if name != "lse"}
    with backend(harness.KERNEL_BACKEND), harness.poisoned():
        got = getattr(attention, op)(*named.values())
    with backend("reference"):
        expected = getattr(attention, op)(*(each.double() for each in named.values()))
    assert expected.isfinite().all()
    # The logits are of the order of 300, where a float32 has a spacing of 3e-5.
    torch.testing.assert_close(got.double(), expected, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("op", NAMES)
def test_derivatives_through_the_log_sum_exp(op: str) -> None:
    """Of first and second order, against stored matrices; over two tiles."""
    made = {name: value.requires_grad_() for name, value in tensors(reference.ROWS + 2, 3, width=2, batch=1).items()}
    named = {name: made[name] for name in NAMES[op] if name != "lse"}

    def by_matrices() -> Tensor:
        a = (made["query"] @ made["key"].mT * 0.5).softmax(-1)
        by = made["gradient"] @ made["value"].mT
        w = made["weights"][..., None]
        return {
            "logsumexp": lambda: (made["query"] @ made["key"].mT * 0.5).logsumexp(-1),
            "received": lambda: (w * a).sum(2),
            "gradient_received": lambda: (w * by.relu()).sum(2),
            "relevance": lambda: (w * (a * by).relu()).sum(2),
            "extreme": lambda: (made["row"][..., None] * a.amax(1)).sum(1),
        }[op]()

    scale: Any = {} if op == "gradient_received" else {"scale": 0.5}
    results = []
    for value in (getattr(attention, op)(*named.values(), **scale), by_matrices()):
        first = torch.autograd.grad(value.square().sum(), list(named.values()), create_graph=True)
        second = torch.autograd.grad(sum(each.square().sum() for each in first), list(named.values()))
        results.append((value, *first, *second))
    torch.testing.assert_close(results[0], results[1])


def test_memory_grows_with_the_keys() -> None:
    """No tensor of queries x keys is made, forwards or backwards; the largest one is a tile."""
    largest = 0

    class Sizes(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal largest
            result = func(*args, **(kwargs or {}))
            for each in result if isinstance(result, (tuple, list)) else (result,):
                if isinstance(each, Tensor):
                    largest = max(largest, each.untyped_storage().nbytes() // each.element_size())
            return result

    count = 1200
    made = {name: value.requires_grad_() for name, value in tensors(count, count, 4, 1, 1, 1).items()}
    q, k, v, g, w = (made[name] for name in ("query", "key", "value", "gradient", "weights"))
    with Sizes():
        total = attention.relevance(q, k, v, g, w).sum() + attention.gradient_received(g, v, w).sum()
        torch.autograd.grad(total, [q, k, v, g, w])
    assert reference.ROWS * count <= largest <= 2 * reference.ROWS * count


@pytest.mark.slow
def test_many_keys() -> None:
    """16384 of them: what a query gives away sums to 1."""
    q, k = torch.randn(1, 1, 2**14, 8), torch.randn(1, 1, 2**14, 8)
    torch.testing.assert_close(attention.received(q, k).sum(), torch.tensor(1.0))


def test_not_a_number_stays() -> None:
    made = tensors(9, 6)
    made["gradient"][0, 0, 4, 1] = float("nan")
    found = attention.gradient_received(made["gradient"], made["value"])
    assert found[0, 0].isnan().all()
    assert found[1].isfinite().all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda q: attention.received(q[0], q),
            r"query: torch.float32 of shape \(2, 4, 8\) is not .* \[B, heads, N, D\]",
        ),
        (lambda q: attention.received(q, q[:, :, :, :3]), r"key: shape .* does not go with the query's \(1, 2, 4, 8\)"),
        (lambda q: attention.logsumexp(q, q.double()), r"key: torch.float64 on cpu is not torch.float32 on cpu"),
        (lambda q: attention.received(q, q, mask=torch.ones(3, 3) > 0), r"mask: shape \(3, 3\) does not broadcast"),
        (lambda q: attention.received(q, q, mask=torch.ones(4, 4).long()), "mask: torch.int64 is neither bool"),
        (
            lambda q: attention.received(q, q, torch.ones(1, 3)),
            r"weights: shape \(1, 3\) does not broadcast to \(1, 4\)",
        ),
        (lambda q: attention.received(q, q, lse=q), r"lse: shape \(1, 2, 4, 8\) is not \(1, 2, 4\)"),
        (lambda q: attention.relevance(q, q, q[:, :, :2], q), "gradient, value: shapes .* do not go with 4 queries"),
        (lambda q: attention.rows(q, q, torch.ones(1)), r"index: torch.float32 of shape \(1,\) is not int64"),
    ],
)
def test_errors_name_the_argument(call: Callable[[Tensor], Tensor], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        call(torch.zeros(1, 2, 4, 8))


def test_heads_too_wide_for_the_kernels_take_the_reference() -> None:
    wide = torch.zeros(1, 1, 2, 257, device=harness.KERNEL_DEVICE)
    with backend(harness.KERNEL_BACKEND):
        (found,) = ops.why(attention.logsumexp, wide, wide)
    assert found == ops.Choice(
        "attention.logsumexp", "reference", "the kernels are for heads of up to 256 channels, not 257"
    )
