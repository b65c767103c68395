"""noise: the noisy batch of SmoothGrad and the running moments of its attributions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fastsal.ops import backend, noise
from fastsal.ops.noise import BLOCK
from fastsal.reference import noise as reference
from tests.ops import harness
from tests.ops.harness import KERNEL_BACKEND, KERNEL_DEVICE, Case


def batch(x: Tensor, std: Tensor | None = None) -> Tensor:
    return noise.batch(x, 0, 6, std=0.3 if std is None else std, seed=5)


def later(x: Tensor) -> Tensor:
    return noise.batch(x, 2**34 + 3, 2**34 + 5, std=0.3, seed=-(2**60) - 1)


def mean(values: Tensor) -> Tensor:
    return noise.fold(values, 5)


def both(values: Tensor) -> Tensor:
    return noise.fold(values, 5, second=True)


def streamed(values: Tensor, partial: Tensor) -> Tensor:
    wide = torch.promote_types(partial.dtype, torch.float32)
    return noise.fold(values, 4, start=7, partial=partial.to(wide), second=partial.shape[0] == 2)


def tensors(*shapes: tuple[int, ...]) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.randn(shape, dtype=torch.float64, generator=generator) for shape in shapes)


def positive(*shapes: tuple[int, ...]) -> tuple[Tensor, ...]:
    x, *others = tensors(*shapes)
    return x, *(other.abs() for other in others)


def not_finite() -> tuple[Tensor, ...]:
    (x,) = tensors((2, 3, 5))
    x[0, 1, 1], x[1, 2, 3] = float("nan"), float("inf")
    return (x,)


# A float32 normal is off by its logarithm, root and cosine: 2^-20 of the largest deviate, 5.8, on any hardware.
NORMAL = 64.0
CASES = [
    Case("image", batch, lambda: tensors((2, 3, 12, 16)), slack=NORMAL),
    Case("tensor std", batch, lambda: positive((2, 3, 11, 13), (2, 3, 11, 13)), slack=NORMAL),
    Case("broadcast std", batch, lambda: positive((2, 3, 5, 7), (2, 1, 1, 1)), slack=NORMAL),
    Case("no spread", lambda x: noise.batch(x, 0, 5, std=0.0, seed=1), lambda: tensors((2, 9))),
    Case("one element", batch, lambda: tensors((1,)), slack=NORMAL),
    Case("volume", batch, lambda: tensors((2, 2, 5, 6, 7)), slack=NORMAL),
    Case("tail", batch, lambda: tensors((1, 1025)), slack=NORMAL),
    Case("samples far out", later, lambda: tensors((1, 33)), slack=NORMAL),
    Case("nan and inf", batch, not_finite, slack=NORMAL),
    Case("mean", mean, lambda: tensors((10, 3, 8, 8))),
    Case("two moments", both, lambda: tensors((10, 3, 7, 5))),
    Case("streamed mean", streamed, lambda: tensors((8, 3, 9), (1, 2, 3, 9))),
    Case("streamed moments", streamed, lambda: positive((4, 300), (2, 1, 300))),
]
SMALL = [
    Case("batch", batch, lambda: positive((2, 2, 3), (2, 2, 3))),
    Case("moments", both, lambda: tensors((10, 3))),
    Case("streamed", streamed, lambda: positive((8, 3), (2, 2, 3))),
]


globals().update(harness.suite(CASES, SMALL, gradients=[CASES[0], CASES[1], CASES[10], CASES[12]], compiled=SMALL[:2]))


def normals(shape: tuple[int, ...], count: int, seed: int) -> Tensor:
    return noise.batch(torch.zeros(1, *shape, dtype=torch.float64), 0, count, std=1.0, seed=seed)


def philox(counter: list[int], key: list[int]) -> list[int]:
    """Philox4x64-10 as its paper defines it (section 3.3), in Python's integers."""
    a, b, c, d = counter
    for _ in range(10):
        first, second = a * 0xD2E7470EE14C6C93, c * 0xCA5A826395121157
        a, b = (second >> 64) ^ b ^ key[0], second % 2**64
        c, d = (first >> 64) ^ d ^ key[1], first % 2**64
        key = [(key[0] + 0x9E3779B97F4A7C15) % 2**64, (key[1] + 0xBB67AE8584CAA73B) % 2**64]
    return [a, b, c, d]


def test_philox() -> None:
    """The known answer that the paper's authors publish, for the digits of pi."""
    counter = [0x243F6A8885A308D3, 0x13198A2E03707344, 0xA4093822299F31D0, 0x082EFA98EC4E6C89]
    assert philox(counter, [0x452821E638D01377, 0xBE5466CF34E90C6C]) == [
        0xA528F45403E61D95,
        0x38C72DBD566E9788,
        0xA5A1610E72FD18B5,
        0x57BD43B5E52B7FE6,
    ]


@pytest.mark.parametrize("seed", [99, -5])
def test_the_noise_is_box_and_mullers_of_philox(seed: int) -> None:
    """Element 5 of samples 16 to 23: counter (5, 2, 0, 0)."""
    expected = []
    for word in philox([5, 2, 0, 0], [seed % 2**64, 0]):
        low, high = ((bits + 2**22) % 2**23 - 2**22 for bits in (word % 2**32 >> 9, word >> 41))
        radius = math.sqrt(-2 * math.log((low + 0.5) / 2**23 + 0.5))
        angle = 2 * math.pi * (high + 0.5) / 2**23
        expected += [radius * math.cos(angle), radius * math.sin(angle)]
    found = noise.batch(torch.zeros(1, 7, dtype=torch.float64), 16, 24, std=1.0, seed=seed)[:, 5]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("start", "stop"), [(0, 8), (3, 4), (5, 21), (2**40 + 1, 2**40 + 2)])
def test_numpys_draw_is_the_references(start: int, stop: int) -> None:
    cpu = torch.device("cpu")
    for seed, elements in ((3, 7), (-1, 3), (2**62, BLOCK + 5)):
        found = reference.draw(seed, start, stop, elements, cpu)
        assert torch.equal(found, reference.draw._init_fn(seed, start, stop, elements, cpu))


def test_the_noise_is_standard_normal() -> None:
    """A million draws: each statistic within 5 of its standard errors."""
    z = normals((1000,), 1000, 3)
    n = z.numel()
    assert z.mean().abs() < 5 / n**0.5
    assert (z.var() - 1).abs() < 5 * (2 / n) ** 0.5
    assert (z**3).mean().abs() < 5 * (15 / n) ** 0.5
    assert ((z**4).mean() - 3).abs() < 5 * (96 / n) ** 0.5
    for limit in (1.0, 2.0, 3.0, 4.0):
        share = math.erfc(limit / 2**0.5)
        assert abs((z.abs() > limit).double().mean().item() - share) < 5 * (share * (1 - share) / n) ** 0.5
    # neighbours in the sample, in the element and in the pair of Box and Muller have nothing to do with each other
    pairs = [(z[:-1], z[1:]), (z[:-2], z[2:]), (z[:, :-1], z[:, 1:]), (z[0::2], z[1::2]), (z[0::8], z[2::8])]
    for first, second in pairs:
        assert (first * second).mean().abs() < 5 / first.numel() ** 0.5
        assert (((first**2 - 1) * (second**2 - 1)).mean() / 2).abs() < 5 / first.numel() ** 0.5
    other = normals((1000,), 1000, 4)
    assert (z * other).mean().abs() < 5 / n**0.5


@pytest.mark.parametrize("selected", ["reference", KERNEL_BACKEND])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_kernel_noise_depends_on_the_sample_and_element_alone(selected: str, layout: torch.memory_format) -> None:
    device = KERNEL_DEVICE if selected == KERNEL_BACKEND else "cpu"
    x = torch.zeros(2, 3, 4, 5, device=device).contiguous(memory_format=layout)
    with backend(selected):
        whole = noise.batch(x, 0, 11, std=1.0, seed=8)
        parts = [noise.batch(x, start, stop, std=1.0, seed=8) for start, stop in ((0, 1), (1, 6), (6, 11))]
        first = noise.batch(x[:1].contiguous(), 0, 11, std=1.0, seed=8)
    assert torch.equal(torch.cat(parts), whole)
    assert torch.equal(whole.view(11, 2, 3, 4, 5)[:, :1].reshape(first.shape), first)
    with backend("reference"):
        plain = noise.batch(torch.zeros(2, 3, 4, 5), 0, 11, std=1.0, seed=8)
    torch.testing.assert_close(whole.cpu().contiguous(), plain, rtol=0, atol=64 * torch.finfo(torch.float32).eps * 5.8)


@pytest.mark.parametrize("selected", ["reference", KERNEL_BACKEND])
@pytest.mark.parametrize("second", [False, True])
def test_kernel_chunks_give_the_bits_of_one_call(selected: str, second: bool) -> None:
    device = KERNEL_DEVICE if selected == KERNEL_BACKEND else "cpu"
    values = torch.randn(22, 3, 17, device=device)
    with backend(selected):
        whole = noise.fold(values, 11, second=second)
        partial = noise.fold(values[:6], 3, second=second)
        partial = noise.fold(values[6:8], 1, start=3, partial=partial, second=second)
        chunked = noise.fold(values[8:], 7, start=4, partial=partial, second=second)
    assert torch.equal(chunked, whole)


def test_moments_of_large_numbers_do_not_cancel() -> None:
    """Mean 10^4 and variance 1 in float32, where E[a²] - E[a]² has no digit left; 4096 samples."""
    values = 1e4 + torch.randn(4096, 5, generator=torch.Generator().manual_seed(0))
    mean, squares = noise.fold(values, 4096, second=True)[:, 0]
    # 4096 roundings of up to 2^-11, half a unit in the last place of 10^4, add up as a random walk: 64 of them.
    torch.testing.assert_close(mean, values.double().mean(0).float(), rtol=0, atol=64 * 2**-11)
    torch.testing.assert_close(squares / 4096, values.double().var(0, correction=0).float(), rtol=1e-3, atol=0)


def test_half_precision_accumulates_in_float32() -> None:
    values = torch.full((4096, 1), 6e4, dtype=torch.float16)
    assert noise.fold(values, 4096).item() == values[0].float().item()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: noise.batch(x.long(), 0, 1, std=1.0, seed=0), "input: torch.int64"),
        (lambda x: noise.batch(x, 2, 1, std=1.0, seed=0), "start"),
        (lambda x: noise.batch(x, 0, 1, std=-1.0, seed=0), "std: -1.0"),
        (lambda x: noise.batch(x, 0, 1, std=float("nan"), seed=0), "std: nan"),
        (lambda x: noise.batch(x, 0, 1, std="1", seed=0), "std: str"),
        (lambda x: noise.batch(x, 0, 1, std=torch.zeros(7), seed=0), r"std: shape \(7,\)"),
        (lambda x: noise.batch(x, 0, 1, std=1.0, seed=0.5), "seed: 0.5"),
        (lambda x: noise.batch(x, 0, 1, std=1.0, seed=2**63), "seed: 9223372036854775808"),
        (lambda x: noise.fold(x, 3), "values: .* 3 >= 1 rows"),
        (lambda x: noise.fold(x, 0), "values"),
        (lambda x: noise.fold(x, 2, start=1), "start: 1 samples before, but partial is None"),
        (lambda x: noise.fold(x, 2, partial=torch.zeros(1, 1, 5)), "start: 0 samples before, but partial is given"),
        (lambda x: noise.fold(x, 2, start=1, partial=torch.zeros(2, 1, 5)), r"partial: torch.float32 of shape \(2, 1"),
        (lambda x: noise.fold(x, 2, start=1, partial=torch.zeros(1, 1, 5).double()), "partial: torch.float64"),
    ],
)
def test_errors_name_the_argument(call: object, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        call(torch.zeros(2, 5))
