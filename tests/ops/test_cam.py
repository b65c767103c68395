"""cam: Grad-CAM's epilogue, to a map and to an overlay."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fastsal.ops import backend, cam
from fastsal.ops._backend import kernel_module
from tests.ops import harness
from tests.ops.harness import KERNEL_BACKEND, KERNEL_DEVICE, Case


def tensors(*shapes: tuple[int, ...]) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.randn(shape, dtype=torch.float64, generator=generator) for shape in shapes)


def pair(*shape: int) -> tuple[Tensor, ...]:
    return tensors(shape, shape)


def positive_weights(*shape: int) -> tuple[Tensor, ...]:
    """A mean of 1600 gradients around 0 is small beside its float32 rounding; around 1 it is not."""
    activations, gradients = pair(*shape)
    return activations, gradients + 1


def raw(size: tuple[int, ...] | None = None) -> object:
    return partial(cam.map, size=size, relu=False, normalize=False)


def crowded(*shape: int) -> tuple[Tensor, ...]:
    activations, gradients = pair(*shape)
    return activations.transpose(2, 3), gradients[:, :, ::1].transpose(2, 3)


def with_nan() -> tuple[Tensor, ...]:
    activations, gradients = pair(2, 6, 5, 5)
    activations[0, 2, 1, 3] = float("nan")
    return activations, gradients


CASES = [
    Case("7 to 56", partial(cam.map, size=(56, 56)), lambda: pair(2, 40, 7, 7)),
    Case("7 to 30 x 41", partial(cam.map, size=(30, 41)), lambda: pair(2, 33, 7, 7)),
    Case("layer size", cam.map, lambda: pair(1, 16, 4, 6)),
    Case("mixed", partial(cam.map, size=(21, 7)), lambda: pair(1, 20, 3, 5)),
    Case("smaller than the layer", partial(cam.map, size=(9, 10)), lambda: pair(1, 8, 14, 14)),
    Case("one position", partial(cam.map, size=(5, 5)), lambda: pair(1, 8, 1, 1)),
    Case("one pixel", partial(cam.map, size=(1, 1)), lambda: pair(1, 8, 3, 3), heavy=True),
    Case("signed, not normalised", raw((13, 9)), lambda: pair(2, 8, 4, 3)),
    Case("raw", raw(), lambda: pair(2, 8, 4, 3)),
    Case("many channels", partial(cam.map, size=(20, 20)), lambda: pair(1, 2000, 12, 12)),
    Case("two launches", partial(cam.map, size=(20, 20)), lambda: pair(1, 150, 30, 30), heavy=True),
    Case("two launches, last channels", partial(cam.map, size=(8, 9)), lambda: pair(3, 419, 7, 7)),
    # A source coordinate of up to 40 is rounded to 40 units of 2**-24; the slope is at most the range of the map, so
    # each of the two dimensions adds 40 roundings of the largest value.
    Case("large layer", partial(cam.map, size=(80, 70)), lambda: positive_weights(1, 3, 40, 40), slack=16.0 + 2 * 40),
    Case("series", partial(cam.map, size=(29,)), lambda: pair(2, 8, 11)),
    Case("volume", partial(cam.map, size=(6, 7, 8)), lambda: pair(1, 4, 3, 3, 4)),
    Case("strided", partial(cam.map, size=(12, 12)), lambda: crowded(2, 8, 5, 6)),
    Case("column", partial(cam.map, size=(12, 4)), lambda: pair(1, 6, 5, 1)),
    Case("nan", partial(cam.map, size=(15, 15)), with_nan),
]
SMALL = [
    Case("raw", raw((4, 5)), lambda: pair(2, 3, 2, 3)),
    Case("map", partial(cam.map, size=(4, 5)), lambda: tuple(t.abs() + 0.1 for t in pair(2, 3, 2, 3))),
]


globals().update(harness.suite(CASES, SMALL, gradients=[CASES[0], CASES[7]]))


@pytest.mark.parametrize(
    ("layer", "size", "mode"),
    [
        ((7, 7), (56, 41), "bilinear"),
        ((5,), (17,), "linear"),
        ((3, 4, 2), (7, 7, 5), "trilinear"),
        ((9, 9), (4, 4), "bilinear"),
    ],
)
def test_map_is_equations_1_and_2_resized(layer: tuple[int, ...], size: tuple[int, ...], mode: str) -> None:
    activations, gradients = pair(2, 6, *layer)
    weights = gradients.flatten(2).mean(2).view(2, 6, *[1] * len(layer))
    expected = F.interpolate((weights * activations).sum(1, keepdim=True).relu(), size, mode=mode, align_corners=False)[
        :, 0
    ]
    torch.testing.assert_close(cam.map(activations, gradients, size, normalize=False), expected)
    low, high = expected.flatten(1).amin(1), expected.flatten(1).amax(1)
    shape = (2, *[1] * len(size))
    scaled = (expected - low.view(shape)) / (high - low + 1e-8).view(shape)
    torch.testing.assert_close(cam.map(activations, gradients, size), scaled)


@pytest.mark.slow
def test_one_launch_for_many_images_and_two_for_few_are_one_map(monkeypatch: pytest.MonkeyPatch) -> None:
    activations, gradients = (t.to(KERNEL_DEVICE, torch.float32) for t in pair(3, 419, 7, 7))
    found, launches = [], []
    for images in (1000, 1):
        monkeypatch.setattr(kernel_module("cam"), "ONE_LAUNCH_IMAGES", images)
        with backend(KERNEL_BACKEND):
            found.append(cam.map(activations, gradients, (12, 9)))
            with kernel_module("_launch").recording() as recorded:
                cam.map(activations, gradients, (12, 9))
        launches.append([each.kernel.__name__ for each in recorded])
    assert launches == [["partial_kernel", "finish_kernel"], ["fused_kernel"]]
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("selected", ["reference", pytest.param(KERNEL_BACKEND, marks=pytest.mark.slow)])
def test_kernel_normalises_by_the_extremes_of_the_resized_map(selected: str) -> None:
    """Sizes at which the extremes of the resized map are not those of the layer's."""
    for layer, size in ((7, 217), (7, 35), (12, 100), (5, 8), (6, 6)):
        activations, gradients = (t.to(KERNEL_DEVICE, torch.float32) for t in pair(3, 4, layer, layer))
        with backend(selected):
            got = cam.map(activations, gradients, (size, size), relu=False).flatten(1).cpu()
        torch.testing.assert_close(got.amin(1), torch.zeros(3), rtol=0, atol=1e-6)
        torch.testing.assert_close(got.amax(1), torch.ones(3), rtol=0, atol=1e-6)


@pytest.mark.parametrize("selected", ["reference", pytest.param(KERNEL_BACKEND, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("relu", "normalize"), [(True, True), (False, True), (False, False)])
@pytest.mark.parametrize("size", [None, (23, 16)], ids=["own size", "resized"])
def test_kernel_finish_is_map_of_one_channel_of_weight_1(
    selected: str, relu: bool, normalize: bool, size: tuple[int, int] | None
) -> None:
    maps = pair(3, 1, 7, 5)[0][:, 0].to(KERNEL_DEVICE, torch.float32)
    maps[1, 2, 3] = float("nan")
    ones = torch.ones_like(maps)[:, None]
    with backend(selected):
        got = cam.finish(maps, size, relu=relu, normalize=normalize)
        expected = cam.map(maps[:, None], ones, size, relu=relu, normalize=normalize)
    torch.testing.assert_close(got, expected, rtol=0, atol=0, equal_nan=True)


def test_finish_has_the_derivatives_of_map() -> None:
    maps = pair(2, 1, 3, 4)[0][:, 0].requires_grad_()
    assert torch.autograd.gradcheck(lambda each: cam.finish(each, (5, 6), relu=False), (maps,), check_forward_ad=True)
    stacked = torch.stack([maps.detach(), maps.detach().flip(0)])
    expected = torch.stack([cam.finish(each, (5, 6)) for each in stacked])
    assert torch.equal(torch.func.vmap(lambda each: cam.finish(each, (5, 6)))(stacked), expected)


@pytest.mark.parametrize("selected", ["reference", KERNEL_BACKEND])
def test_kernel_constant_map_is_zero(selected: str) -> None:
    ones = torch.ones(1, 4, 3, 3, device=KERNEL_DEVICE)
    with backend(selected):
        assert (cam.map(ones, ones, (8, 8)) == 0).all()
        assert (cam.map(ones, -ones, (8, 8)) == 0).all()


def overlay_arguments(device: str) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(4)
    activations, gradients = (torch.randn(2, 9, 7, 7, generator=generator) for _ in range(2))
    image = torch.randint(0, 256, (2, 28, 41, 3), dtype=torch.uint8, generator=generator)
    colormap = torch.randint(0, 256, (256, 3), dtype=torch.uint8, generator=generator)
    return tuple(t.to(device) for t in (activations, gradients, image, colormap))


@pytest.mark.parametrize("dtype", harness.DTYPES, ids=str)
def test_kernel_overlay(dtype: torch.dtype) -> None:
    """A level may fall on the other side of a rounding: then the colour is the neighbouring entry's."""
    activations, gradients, image, _ = overlay_arguments(KERNEL_DEVICE)
    activations[1, 0, 3, 3] = float("nan")
    ramp = torch.arange(256, dtype=torch.uint8, device=KERNEL_DEVICE)[:, None].repeat(1, 3)
    arguments = (activations.to(dtype), gradients.to(dtype), image, ramp)
    with backend(KERNEL_BACKEND), harness.poisoned():
        got = cam.overlay(*arguments, alpha=0.6)
    with backend("reference"):
        expected = cam.overlay(*arguments, alpha=0.6)
    assert (got.int() - expected.int()).abs().max() <= 1
    assert (got == expected).float().mean() > 0.99


def test_overlay_blends_the_colour_of_the_map() -> None:
    activations, gradients, image, colormap = overlay_arguments("cpu")
    level = (cam.map(activations, gradients, (28, 41)) * 255 + 0.5).long()
    expected = (0.7 * image.double() + 0.3 * colormap[level].double() + 0.5).floor()
    got = cam.overlay(activations, gradients, image, colormap, alpha=0.3).double()
    assert (got - expected).abs().max() <= 1
    activations[0] = float("nan")
    assert torch.equal(cam.overlay(activations, gradients, image, colormap)[0], image[0])


def test_overlay_has_no_derivative_and_maps() -> None:
    activations, gradients, image, colormap = overlay_arguments("cpu")
    got = cam.overlay(activations.requires_grad_(), gradients, image, colormap)
    assert not got.requires_grad
    stacked = torch.func.vmap(cam.overlay, in_dims=(0, 0, None, None))(
        activations.detach()[None].repeat(3, 1, 1, 1, 1), gradients[None].repeat(3, 1, 1, 1, 1), image, colormap
    )
    assert torch.equal(stacked[2], got)
    torch.library.opcheck(
        torch.ops.fastsal.cam_overlay.default, (activations.detach(), gradients, image, colormap, 0.5)
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a: cam.map(a[:, 0, 0], a[:, 0, 0]), r"activations: shape \(2, 5\)"),
        (lambda a: cam.map(a, a[:1]), "gradients: torch.float32 of shape"),
        (lambda a: cam.map(a, a.double()), "gradients: torch.float64"),
        (lambda a: cam.map(a, a, (3,)), r"size: \(3,\) has 1 entries, 2 are needed"),
        (lambda a: cam.map(a.long(), a.long()), "activations: dtype torch.int64"),
        (lambda a: cam.finish(a[:, 0, 0, 0]), r"maps: torch.float32 of shape \(2,\) is not floating point of shape"),
        (lambda a: cam.finish(a.long()), "maps: torch.int64"),
        (lambda a: cam.overlay(a, a, torch.zeros(2, 8, 8, 3), torch.zeros(256, 3).byte()), "image: torch.float32"),
        (
            lambda a: cam.overlay(a, a, torch.zeros(2, 8, 8, 3).byte(), torch.zeros(10, 3).byte()),
            "colormap: torch.uint8",
        ),
        (lambda a: cam.overlay(a, a, torch.zeros(2, 8, 8, 3).byte(), torch.zeros(256, 3).byte(), alpha=2), "alpha: 2"),
    ],
)
def test_errors_name_the_argument(call: object, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        call(torch.zeros(2, 3, 4, 5))
