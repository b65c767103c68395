"""patches: regions of a map with altered parts pasted in, against a loop over the elements."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fastsal.ops import patches
from tests.ops import harness
from tests.ops.harness import Case


def at(*pairs: tuple[int, int]) -> Tensor:
    return torch.tensor(pairs, dtype=torch.int64, device=harness.KERNEL_DEVICE)


STARTS = ((-1, -2), (0, 0), (3, 1), (6, 5))
ORIGINS = ((0, 0), (1, 1), (2, 2), (7, 4))


def cut(cached: Tensor) -> Tensor:
    return patches.gather(cached, at(*STARTS).to(cached.device), (4, 5), fill=-2.0)


def pasted(cached: Tensor, patch: Tensor) -> Tensor:
    starts, origins = at(*STARTS).to(cached.device), at(*ORIGINS).to(cached.device)
    return patches.gather(cached, starts, (4, 5), patch=patch, origins=origins)


def whole(cached: Tensor, patch: Tensor) -> Tensor:
    count = patch.shape[0]
    zeros = torch.zeros((count, 2), dtype=torch.int64, device=cached.device)
    return patches.gather(cached, zeros, tuple(cached.shape[2:]), patch=patch, origins=zeros + 1, fill=float("-inf"))


def tensors(*shapes: tuple[int, ...]) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.randn(shape, dtype=torch.float64, generator=generator) for shape in shapes)


def not_finite() -> tuple[Tensor, ...]:
    cached, patch = tensors((1, 8, 9, 7), (4, 8, 2, 3))
    cached[0, 1, 1, 1], patch[1, 3, 0, 0] = float("nan"), float("inf")
    return cached, patch


CASES = [
    Case("crop over the edges", cut, lambda: tensors((1, 8, 9, 7))),
    Case("pasted", pasted, lambda: tensors((1, 8, 9, 7), (4, 8, 2, 3))),
    Case("odd channels", pasted, lambda: tensors((1, 5, 9, 7), (4, 5, 2, 3))),
    Case("one channel", pasted, lambda: tensors((1, 1, 9, 7), (4, 1, 3, 3))),
    Case("many channels", pasted, lambda: tensors((1, 384, 9, 7), (4, 384, 2, 3))),
    Case("made whole", whole, lambda: tensors((1, 16, 6, 6), (3, 16, 2, 2))),
    Case("patch of one element", whole, lambda: tensors((1, 3, 2, 2), (1, 3, 1, 1))),
    Case("patch over the edge", whole, lambda: tensors((1, 4, 3, 3), (2, 4, 3, 3))),
    Case("nan and inf", pasted, not_finite),
]
SMALL = [
    Case("crop", cut, lambda: tensors((1, 2, 3, 2))),
    Case("pasted", pasted, lambda: tensors((1, 2, 3, 3), (4, 2, 2, 1))),
]


def by_loop(
    cached: Tensor, starts: Tensor, size: tuple[int, int], patch: Tensor, origins: Tensor, fill: float
) -> Tensor:
    """Every element asked where it comes from."""
    found = torch.empty(len(starts), cached.shape[1], *size, dtype=cached.dtype)
    for b, ((top, left), (down, right)) in enumerate(zip(starts.tolist(), origins.tolist(), strict=True)):
        for i in range(size[0]):
            for j in range(size[1]):
                y, x = top + i, left + j
                if not (0 <= y < cached.shape[2] and 0 <= x < cached.shape[3]):
                    found[b, :, i, j] = fill
                elif 0 <= y - down < patch.shape[2] and 0 <= x - right < patch.shape[3]:
                    found[b, :, i, j] = patch[b, :, y - down, x - right]
                else:
                    found[b, :, i, j] = cached[0, :, y, x]
    return found


def test_reference_is_the_loop() -> None:
    generator = torch.Generator().manual_seed(2)
    for _ in range(40):
        height, width, tall, wide, rows, columns = torch.randint(1, 7, (6,), generator=generator).tolist()
        cached, patch = torch.randn(1, 3, height, width), torch.randn(5, 3, tall, wide)
        starts, origins = (torch.randint(-4, 8, (5, 2), generator=generator) for _ in range(2))
        got = patches.gather(cached, starts, (rows, columns), patch=patch, origins=origins, fill=0.5)
        assert torch.equal(got, by_loop(cached, starts, (rows, columns), patch, origins, 0.5))


def test_integers_are_copied_too() -> None:
    cached = torch.arange(12).reshape(1, 1, 3, 4)
    got = patches.gather(cached, torch.tensor([[1, 2]]), (2, 3), fill=7)
    assert got.tolist() == [[[[6, 7, 7], [10, 11, 7]]]]


globals().update(harness.suite(CASES, SMALL, gradients=CASES[:3]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cached": torch.zeros(2, 3, 4, 4)}, r"cached: shape \(2, 3, 4, 4\) is not \[1, C, H, W\]"),
        ({"starts": torch.zeros(5)}, r"starts: shape \(5,\) is not \[B, 2\]"),
        ({"starts": torch.zeros(5, 2)}, r"starts: torch.float32 of shape \(5, 2\) is not int64"),
        ({"size": (2, 0)}, "size: .* below 1"),
        ({"origins": None}, "origins: needed with patch"),
        ({"patch": torch.zeros(4, 3, 2, 2)}, r"patch: shape \(4, 3, 2, 2\) is not \[5, 3, h, w\]"),
        ({"patch": torch.zeros(5, 3, 2, 2, dtype=torch.float64)}, "patch: torch.float64 is not torch.float32"),
    ],
)
def test_errors_name_the_argument(change: dict[str, object], message: str) -> None:
    given: dict[str, object] = {
        "cached": torch.zeros(1, 3, 4, 4),
        "starts": torch.zeros(5, 2, dtype=torch.int64),
        "size": (2, 2),
        "patch": torch.zeros(5, 3, 2, 2),
        "origins": torch.zeros(5, 2, dtype=torch.int64),
        **change,
    }
    with pytest.raises((TypeError, ValueError), match=message):
        patches.gather(given.pop("cached"), given.pop("starts"), given.pop("size"), **given)
