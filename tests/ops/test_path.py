"""path: the straight-line batch of Integrated Gradients and its fold."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fastsal.ops import backend, path
from tests.ops import harness
from tests.ops.harness import KERNEL_BACKEND, KERNEL_DEVICE, Case


def batch(x: Tensor, alphas: Tensor, baseline: Tensor | None = None) -> Tensor:
    return path.batch(x, alphas, baseline=0.25 if baseline is None else baseline)


def attribution(gradients: Tensor, weights: Tensor, x: Tensor, baseline: Tensor | None = None) -> Tensor:
    return path.fold(gradients, weights, input=x, baseline=0.25 if baseline is None else baseline)


def streamed(gradients: Tensor, weights: Tensor, partial: Tensor) -> Tensor:
    return path.fold(gradients, weights, partial=partial.to(torch.promote_types(partial.dtype, torch.float32)))


def tensors(*shapes: tuple[int, ...]) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.randn(shape, dtype=torch.float64, generator=generator) for shape in shapes)


def with_alphas(steps: int, *shapes: tuple[int, ...]) -> tuple[Tensor, ...]:
    first, *others = tensors(*shapes)
    return first, torch.linspace(0, 1, steps, dtype=torch.float64), *others


def not_finite() -> tuple[Tensor, ...]:
    x, alphas = with_alphas(4, (2, 3, 5))
    x[0, 1, 1], x[1, 2, 3] = float("nan"), float("inf")
    return x, alphas


CASES = [
    Case("image", batch, lambda: with_alphas(9, (2, 3, 12, 16))),
    Case("tensor baseline", batch, lambda: with_alphas(5, (2, 3, 11, 13), (2, 3, 11, 13))),
    Case("one step", batch, lambda: with_alphas(1, (1, 7))),
    Case("one element", batch, lambda: with_alphas(3, (1,))),
    Case("many steps", batch, lambda: with_alphas(50, (1, 33))),
    Case("volume", batch, lambda: with_alphas(3, (1, 2, 5, 6, 7))),
    Case("tail", batch, lambda: with_alphas(2, (1, 1025))),
    Case("nan and inf", batch, not_finite),
    Case("attribution", attribution, lambda: tensors((18, 3, 8, 8), (9,), (2, 3, 8, 8))),
    Case("attribution, tensor baseline", attribution, lambda: tensors((10, 3, 7, 5), (5,), (2, 3, 7, 5), (2, 3, 7, 5))),
    Case("sum alone", path.fold, lambda: tensors((7, 2, 3, 87), (7,))),
    Case("streamed", streamed, lambda: tensors((8, 3, 9), (4,), (2, 3, 9))),
]
SMALL = [
    Case("batch", batch, lambda: (*with_alphas(3, (2, 2, 3, 2), (2, 2, 3, 2)),)),
    Case("attribution", attribution, lambda: tensors((4, 2, 3), (2,), (2, 2, 3), (2, 2, 3))),
    Case("streamed", streamed, lambda: tensors((6, 3), (3,), (2, 3))),
]


globals().update(harness.suite(CASES, SMALL, gradients=[CASES[0], CASES[1], CASES[9], CASES[11]], compiled=SMALL[:2]))


@pytest.mark.parametrize("selected", ["reference", KERNEL_BACKEND])
@pytest.mark.parametrize("dtype", harness.DTYPES, ids=str)
def test_kernel_path_is_exact_at_both_ends(selected: str, dtype: torch.dtype) -> None:
    device = KERNEL_DEVICE if selected == KERNEL_BACKEND else "cpu"
    x, baseline = torch.randn(2, 3, 17, device=device).to(dtype), 1e3 * torch.randn(2, 3, 17, device=device).to(dtype)
    with backend(selected):
        got = path.batch(x, torch.tensor([0.0, 1.0], device=device), baseline=baseline)
    assert torch.equal(got[:2], baseline)
    assert torch.equal(got[2:], x)


@pytest.mark.parametrize("selected", ["reference", KERNEL_BACKEND])
def test_kernel_chunks_give_the_bits_of_one_call(selected: str) -> None:
    device = KERNEL_DEVICE if selected == KERNEL_BACKEND else "cpu"
    gradients, weights = torch.randn(22, 3, 17, device=device), torch.rand(11, device=device)
    x = torch.randn(2, 3, 17, device=device)
    with backend(selected):
        whole = path.fold(gradients, weights, input=x)
        partial = path.fold(gradients[:6], weights[:3])
        partial = path.fold(gradients[6:8], weights[3:4], partial=partial)
        chunked = path.fold(gradients[8:], weights[4:], input=x, partial=partial)
    assert torch.equal(chunked, whole)


def test_half_precision_accumulates_in_float32() -> None:
    """2048 steps of 1.0 and then small ones: float16 alone would lose the small ones."""
    gradients = torch.ones(4096, 1, dtype=torch.float16)
    gradients[2048:] = 2**-3
    weights = torch.ones(4096)
    assert path.fold(gradients, weights).item() == 2048 + 256


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, a: path.batch(x.long(), a), "input: torch.int64"),
        (lambda x, a: path.batch(x, a[None]), r"alphas: torch.float32 of shape \(1, 3\)"),
        (lambda x, a: path.batch(x, a[:0]), r"alphas: torch.float32 of shape \(0,\)"),
        (lambda x, a: path.batch(x, a, baseline=torch.zeros(7)), r"baseline: shape \(7,\)"),
        (lambda x, a: path.fold(x, a), "gradients: .* 3 rows"),
        (lambda x, a: path.fold(x, a[:2], input=x), "input: shape"),
        (lambda x, a: path.fold(x, a[:2], partial=torch.zeros(1, 5, dtype=torch.float64)), "partial: torch.float64"),
    ],
)
def test_errors_name_the_argument(call: object, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        call(torch.zeros(2, 5), torch.zeros(3))
