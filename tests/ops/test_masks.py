"""masks: RISE's masked batch and its fold."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from skimage.transform import resize
from torch import Tensor

from fastsal.ops import backend, masks
from fastsal.reference import masks as reference
from fastsal.reference._numerics import philox
from tests.ops import harness
from tests.ops.harness import KERNEL_BACKEND, KERNEL_DEVICE, Case


def batch(x: Tensor, baseline: Tensor | None = None, **options: object) -> Tensor:
    return masks.batch(x, 2, 7, seed=5, baseline=0.0 if baseline is None else baseline, **options)


def accumulate(scores: Tensor, *, size: tuple[int, ...], grid: int = 3) -> Tensor:
    return masks.accumulate(scores, 3, size, seed=11, grid_size=grid)


def tensors(*shapes: tuple[int, ...]) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.randn(shape, dtype=torch.float64, generator=generator) for shape in shapes)


def strided() -> tuple[Tensor, ...]:
    return (tensors((2, 3, 20, 30))[0][:, :, 3:14, 5:23:2],)


def not_finite() -> tuple[Tensor, ...]:
    (x,) = tensors((2, 3, 9, 12))
    x[0, 1, 2, 3], x[1, 2, 4, 5], x[1, 0, 0, 0] = float("nan"), float("inf"), float("-inf")
    return (x,)


VALUES = [
    Case("image", batch, lambda: tensors((2, 3, 28, 32))),
    Case("odd image", partial(batch, grid_size=4), lambda: tensors((1, 3, 23, 37))),
    Case("clamped", partial(batch, border="clamp"), lambda: tensors((2, 3, 16, 24))),
    Case("tensor baseline", batch, lambda: tensors((2, 3, 19, 16), (2, 3, 19, 16))),
    Case("number baseline", lambda x: masks.batch(x, 0, 9, baseline=0.75), lambda: tensors((2, 1, 12, 13))),
    Case("grids per dimension", partial(batch, grid_size=(2, 9)), lambda: tensors((1, 4, 11, 26))),
    Case("one cell", partial(batch, grid_size=1), lambda: tensors((1, 3, 8, 8))),
    Case("grid of 31", partial(batch, grid_size=31, probability=0.1), lambda: tensors((1, 1, 40, 33))),
    Case("grid above the size", partial(batch, grid_size=9), lambda: tensors((1, 1, 4, 5))),
    Case("one pixel", batch, lambda: tensors((1, 1, 1, 1))),
    Case("all kept", partial(batch, probability=1.0), lambda: tensors((1, 2, 8, 9))),
    Case("all hidden", partial(batch, probability=0.0), lambda: tensors((1, 2, 8, 9))),
    Case("series", batch, lambda: tensors((2, 3, 301))),
    Case("volume", partial(batch, grid_size=3), lambda: tensors((2, 2, 7, 8, 9)), heavy=True),
    Case("volume, clamped", partial(batch, grid_size=(2, 3, 4), border="clamp"), lambda: tensors((1, 3, 5, 16, 12))),
    Case("wide tail", batch, lambda: tensors((1, 2, 33, 260))),
    Case("strided input", batch, strided),
    Case("nan and inf", batch, not_finite),
    Case("far masks", lambda x: masks.batch(x, 2**33 + 5, 2**33 + 9, seed=-(2**40) - 3), lambda: tensors((1, 1, 8, 9))),
]
FOLDS = [
    Case("one output", partial(accumulate, size=(14, 15)), lambda: tensors((17, 1))),
    Case("37 outputs", partial(accumulate, size=(9, 12)), lambda: tensors((40, 37))),
    Case("series fold", partial(accumulate, size=(50,), grid=7), lambda: tensors((9, 2))),
    Case("volume fold", partial(accumulate, size=(5, 6, 7), grid=2), lambda: tensors((20, 3))),
    Case("no masks", partial(accumulate, size=(6, 6)), lambda: tensors((0, 2))),
    Case(
        "streamed",
        lambda scores, state: masks.accumulate(
            scores, 17, (9, 8), grid_size=2, partial=state.to(torch.float32) if scores.dtype != torch.float64 else state
        ),
        lambda: tensors((6, 3), (20, 3, 4)),
    ),
]
SMALL = [
    Case("batch", partial(batch, grid_size=2), lambda: tensors((2, 2, 4, 3), (2, 2, 4, 3))),
    Case("volume batch", partial(batch, grid_size=2), lambda: tensors((1, 2, 2, 3, 2))),
    Case("accumulate", partial(accumulate, size=(4, 5), grid=2), lambda: tensors((4, 2))),
    Case(
        "accumulate on",
        lambda s, p: masks.accumulate(s, 2, (3, 4), grid_size=2, partial=p),
        lambda: tensors((3, 2), (4, 2, 4)),
    ),
]


globals().update(harness.suite([*VALUES, *FOLDS], SMALL, gradients=[VALUES[0], VALUES[3], FOLDS[0], FOLDS[5]]))


# The known-answer vectors published with Random123 for Philox4x32-10.
@pytest.mark.parametrize(
    ("seed", "counter", "words"),
    [
        (0, (0, 0, 0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        (2**64 - 1, (2**32 - 1,) * 4, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (0x299F31D0A4093822, (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_philox_known_answers(seed: int, counter: tuple[int, ...], words: str) -> None:
    got = philox(seed, [torch.tensor([word]) for word in counter])
    assert " ".join(f"{int(word):08x}" for word in got) == words


@pytest.mark.parametrize(("size", "grid"), [((224, 224), 7), ((224, 224), 8), ((30, 45), 4)])
def test_masks_are_those_of_the_paper(size: tuple[int, int], grid: int) -> None:
    """The authors' way: skimage resizes the grid to (s + 1) cells with a mirrored border, then a random crop."""
    cells = [1, grid, grid]
    cell = reference.cell_sizes([1, *size], cells)
    grids, offsets = reference.draw(3, 0, 6, cells, cell, 0.5, torch.device("cpu"))
    got = masks.batch(torch.ones(1, 1, *size, dtype=torch.float64), 0, 6, seed=3, grid_size=grid)[:, 0]
    for mask, plane, (_, top, left) in zip(got, grids[:, 0], offsets.tolist(), strict=True):
        up = resize(
            plane.numpy().astype(np.float64),
            ((grid + 1) * cell[1], (grid + 1) * cell[2]),
            order=1,
            mode="reflect",
            anti_aliasing=False,
        )
        expected = torch.from_numpy(up[top : top + size[0], left : left + size[1]].copy())
        torch.testing.assert_close(mask, expected, rtol=0, atol=1e-12)


def test_clamped_masks_are_those_of_interpolate() -> None:
    size, grid = (30, 45), 4
    cell = reference.cell_sizes([1, *size], [1, grid, grid])
    grids, offsets = reference.draw(3, 0, 6, [1, grid, grid], cell, 0.5, torch.device("cpu"))
    up = torch.nn.functional.interpolate(
        grids.double(), size=((grid + 1) * cell[1], (grid + 1) * cell[2]), mode="bilinear"
    )
    got = masks.batch(torch.ones(1, 1, *size, dtype=torch.float64), 0, 6, seed=3, grid_size=grid, border="clamp")
    for mask, plane, (_, top, left) in zip(got[:, 0], up[:, 0], offsets.tolist(), strict=True):
        torch.testing.assert_close(mask, plane[top : top + size[0], left : left + size[1]])


def test_draws_have_the_asked_distribution() -> None:
    """Share of ones within 5 standard errors of p, offsets uniform over the cell (chi-squared below its 1e-4 tail)."""
    count, cells = 4000, [1, 7, 7]
    grids, offsets = reference.draw(9, 0, count, cells, [1, 8, 8], 0.3, torch.device("cpu"))
    share = grids.double().mean()
    assert abs(share - 0.3) < 5 * (0.3 * 0.7 / grids.numel()) ** 0.5
    for axis in (1, 2):
        observed = torch.bincount(offsets[:, axis], minlength=8).double()
        assert ((observed - count / 8) ** 2 / (count / 8)).sum() < 29.88
    assert (offsets[:, 0] == 0).all()


@pytest.mark.parametrize("size", [(13,), (28, 30), (6, 7, 8)])
def test_fold_is_the_weighted_sum_of_the_batch_masks(size: tuple[int, ...]) -> None:
    scores = tensors((25, 3))[0]
    ones = torch.ones(1, 1, *size, dtype=torch.float64)
    drawn = masks.batch(ones, 4, 29, seed=2, grid_size=4)[:, 0]
    got = masks.fold(scores, 4, size, seed=2, grid_size=4)
    torch.testing.assert_close(got, torch.einsum("nk,n...->k...", scores, drawn))


def test_masks_are_values() -> None:
    made = masks.Masks([20, 30], 4, 0.3, "clamp", np.int64(5))
    assert made == masks.Masks((20, 30), (4, 4), 0.3, "clamp", 5)
    assert hash(made) == hash(masks.Masks((20, 30), (4, 4), 0.3, "clamp", 5))
    assert made != masks.Masks((20, 30), 4, 0.3, "reflect", 5)
    assert repr(made) == "Masks(size=(20, 30), grid=(4, 4), probability=0.3, border='clamp', seed=5)"
    with pytest.raises(AttributeError):
        made.seed = 6


def test_masks_do_what_the_functions_do() -> None:
    size, options = (20, 30), {"grid_size": (4, 5), "probability": 0.3, "seed": 5}
    made = masks.Masks(size, (4, 5), 0.3, "clamp", 5)
    x, scores = torch.randn(2, 3, *size), torch.randn(6, 2)
    expected = masks.batch(x, 2, 8, **options, border="clamp", baseline=0.5)
    assert torch.equal(made.batch(x, 2, 8, 0.5), expected)
    design = made.drawn(2, 8)
    assert all(map(torch.equal, design, masks.drawn(2, 8, size, **options)))
    assert torch.equal(made.batch(x, 0, 6, 0.5, design), expected)
    state = made.accumulate(scores, 2)
    assert torch.equal(state, masks.accumulate(scores, 2, size, **options))
    assert torch.equal(state, made.accumulate(scores[3:], 5, made.accumulate(scores[:3], 2)))
    assert torch.equal(state, made.accumulate(scores, 0, design=design))
    assert torch.equal(made.finish(state), masks.finish(state, size, grid_size=(4, 5), border="clamp"))
    assert torch.equal(made.fold(scores, 2), masks.fold(scores, 2, size, **options, border="clamp"))
    assert all(map(torch.equal, made.interpolation(), masks.interpolation(size, (4, 5), border="clamp")))


@pytest.mark.parametrize("selected", ["reference", pytest.param(KERNEL_BACKEND, marks=pytest.mark.slow)])
def test_kernel_chunks_give_the_bits_of_one_call(selected: str) -> None:
    device = KERNEL_DEVICE if selected == KERNEL_BACKEND else "cpu"
    x = torch.randn(2, 3, 21, 16, device=device)
    scores = torch.randn(40, 3, device=device)
    with backend(selected):
        whole, state = masks.batch(x, 0, 12), masks.accumulate(scores, 0, (21, 16))
        parts = [masks.batch(x, start, stop) for start, stop in ((0, 1), (1, 8), (8, 12))]
        chunked = None
        for start, stop in ((0, 7), (7, 8), (8, 40)):
            chunked = masks.accumulate(scores[start:stop], start, (21, 16), partial=chunked)
    assert torch.equal(torch.cat(parts), whole)
    assert chunked is not None
    assert torch.equal(chunked, state)


def test_kernel_draws_the_numbers_of_the_reference() -> None:
    """With one output a mask, the state holds each mask's grid at its crop offset: zeros and ones, so equal bits."""
    each_mask = torch.eye(5, device=KERNEL_DEVICE)
    for seed in (0, 42, 2**45 + 3, 2**63 - 1, -(2**63)):
        states = []
        for selected in (KERNEL_BACKEND, "reference"):
            with backend(selected):
                states.append(masks.accumulate(each_mask, 2**32 - 2, (20, 30), seed=seed, grid_size=6))
        assert torch.equal(*states)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: masks.batch(x[0], 0, 1), r"input: shape \(4, 4\)"),
        (lambda x: masks.batch(x.long(), 0, 1), "input: dtype torch.int64"),
        (lambda x: masks.batch(x, 3, 2), "start, stop: 3, 2"),
        (lambda x: masks.batch(x, -1, 2), "start, stop: -1, 2"),
        (lambda x: masks.batch(x, 0, 1, grid_size=32), "grid_size: 32 is above 31"),
        (lambda x: masks.batch(x, 0, 1, grid_size=(3, 3)), r"grid_size: \(3, 3\) has 2 entries"),
        (lambda x: masks.batch(x, 0, 1, grid_size=0), "grid_size: 0 has an entry below 1"),
        (lambda x: masks.batch(x, 0, 1, probability=1.5), "probability: 1.5"),
        (lambda x: masks.batch(x, 0, 1, border="wrap"), "border: 'wrap'"),
        (lambda x: masks.batch(x, 0, 1, seed=2**63), "seed: 9223372036854775808"),
        (lambda x: masks.batch(x, 0, 1, baseline=torch.zeros(5)), r"baseline: shape \(5,\)"),
        (lambda x: masks.batch(x, 0, 1, baseline="zero"), "baseline: str"),
        (lambda x: masks.accumulate(x, 0, (4, 4)), "scores: torch.float32 of shape"),
        (lambda x: masks.accumulate(x[0], 0, (4, 4), partial=x), "partial: torch.float32 of shape"),
        (lambda x: masks.Masks((4, 0)), r"size: \(4, 0\) has an entry below 1"),
        (lambda x: masks.Masks((4, 4.5)), r"size: \(4, 4.5\) is not a sequence of ints"),
        (lambda x: masks.Masks((2, 3, 4, 5)), r"size: \(2, 3, 4, 5\) does not have 1 to 3 entries"),
        (lambda x: masks.Masks((4, 5)).batch(x[None], 0, 1), r"input: shape \(1, 1, 4, 4\) is not \[B, C, 4, 5\]"),
    ],
)
def test_errors_name_the_argument(call: object, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        call(torch.zeros(1, 4, 4))
