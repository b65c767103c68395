"""Where positions look, against the gradient: what a position depends on is centred where its geometry says."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastsal.engine.reading import Geometry, geometry_of

Function = Callable[[Tensor], Tensor]


class Stem(nn.Module):
    """A function whose result is the output of a layer called ``layer``."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function, self.layer = function, nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.function(x)).flatten(1)


def even(cls: Callable[..., nn.Module], *args: int, **kwargs: int) -> nn.Module:
    """A convolution of positive weights, so that nothing that a position depends on cancels."""
    module = cls(*args, **kwargs).double()
    for parameter in module.parameters():
        nn.init.uniform_(parameter, 0.5, 1.0)
    return module


def tokens(x: Tensor) -> Tensor:
    return x.flatten(2).mT


def windows(x: Tensor, side: int) -> Tensor:
    """[B, C, H, W] in windows, and back again."""
    b, c, h, w = x.shape
    parts = x.view(b, c, h // side, side, w // side, side).permute(0, 2, 4, 3, 5, 1)
    rows = parts.reshape(-1, side * side, c) * 2
    return rows.view(b, h // side, w // side, side, side, c).permute(0, 5, 1, 3, 2, 4).reshape(b, c, h, w)


def merged(x: Tensor) -> Tensor:
    """Swin's merging of patches, channels last."""
    x = x.movedim(1, -1)
    return torch.cat([x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)], -1)


patch = even(nn.Conv2d, 3, 4, kernel_size=4, stride=4)
three = even(nn.Conv2d, 3, 4, kernel_size=3, stride=2, padding=1)
dilated = even(nn.Conv2d, 3, 4, kernel_size=3, dilation=3)
depthwise = even(nn.Conv2d, 3, 3, kernel_size=5, padding=2, groups=3)
upwards = even(nn.ConvTranspose2d, 4, 4, kernel_size=4, stride=2, padding=1)
uneven = even(nn.Conv2d, 3, 4, kernel_size=(2, 6), stride=(2, 6))
tubes = even(nn.Conv3d, 3, 4, kernel_size=(2, 4, 4), stride=(2, 4, 4))
series = even(nn.Conv1d, 6, 4, kernel_size=5, stride=3)
linear = even(nn.Linear, 3, 4)
IMAGE, CLIP, SERIES = (1, 3, 24, 36), (1, 3, 6, 12, 16), (1, 6, 40)
extra = torch.ones(1, 2, 4, dtype=torch.float64)
# A function, the input's shape, and of its result: (examples, channels, positions, the input's axes, grid, extra).
STEMS: dict[str, tuple[Function, tuple[int, ...], tuple[object, ...]]] = {
    "patches": (patch, IMAGE, (0, 1, (2, 3), (2, 3), (6, 9), 0)),
    "stride 2, then 4": (lambda x: patch(F.avg_pool2d(x, 2)), IMAGE, (0, 1, (2, 3), (2, 3), (3, 4), 0)),
    "padded": (three, IMAGE, (0, 1, (2, 3), (2, 3), (12, 18), 0)),
    "without padding, dilated": (dilated, IMAGE, (0, 1, (2, 3), (2, 3), (18, 30), 0)),
    "depthwise": (depthwise, IMAGE, (0, 1, (2, 3), (2, 3), (24, 36), 0)),
    "transposed convolution": (lambda x: upwards(patch(x)), IMAGE, (0, 1, (2, 3), (2, 3), (12, 18), 0)),
    "unequal patches": (uneven, IMAGE, (0, 1, (2, 3), (2, 3), (12, 6), 0)),
    "tokens": (lambda x: tokens(patch(x)), IMAGE, (0, 2, (1, 1), (2, 3), (6, 9), 0)),
    "tokens by columns": (lambda x: tokens(patch(x).mT), IMAGE, (0, 2, (1, 1), (3, 2), (9, 6), 0)),
    "tokens before": (lambda x: torch.cat([extra, tokens(patch(x))], 1), IMAGE, (0, 2, (1, 1), (2, 3), (6, 9), 2)),
    "tokens behind": (lambda x: torch.cat([tokens(patch(x)), extra], 1), IMAGE, (0, 2, (1, 1), (2, 3), (6, 9), -2)),
    "padded tokens": (lambda x: F.pad(tokens(patch(x)), (0, 0, 2, 0)), IMAGE, (0, 2, (1, 1), (2, 3), (6, 9), 2)),
    "sequence first": (lambda x: tokens(patch(x)).transpose(0, 1), IMAGE, (1, 2, (0, 0), (2, 3), (6, 9), 0)),
    "channels last": (lambda x: linear(x.movedim(1, -1)), IMAGE, (0, 3, (1, 2), (2, 3), (24, 36), 0)),
    "images with channels last": (lambda x: patch(x.movedim(-1, 1)), (1, 24, 36, 3), (0, 1, (2, 3), (1, 2), (6, 9), 0)),
    "windows and back": (lambda x: windows(patch(F.pad(x, (0, 12))), 3), IMAGE, (0, 1, (2, 3), (2, 3), (6, 12), 0)),
    "patches by views": (
        lambda x: x.view(1, 3, 6, 4, 9, 4).permute(0, 2, 4, 3, 5, 1).reshape(1, 54, 48).cumsum(2),
        IMAGE,
        (0, 2, (1, 1), (2, 3), (6, 9), 0),
    ),
    "merged patches": (lambda x: merged(patch(x)[:, :, :, :8]), IMAGE, (0, 3, (1, 2), (2, 3), (3, 4), 0)),
    "unfolded": (lambda x: F.unfold(x, 5, stride=3, padding=1), IMAGE, (0, 1, (2, 2), (2, 3), (8, 12), 0)),
    "pixel shuffle": (lambda x: F.pixel_shuffle(patch(x), 2), IMAGE, (0, 1, (2, 3), (2, 3), (12, 18), 0)),
    "mirrored": (lambda x: patch(x).flip(3), IMAGE, (0, 1, (2, 3), (2, 3), (6, 9), 0)),
    "cut out": (lambda x: patch(x[:, :, 8:, 4:-8]), IMAGE, (0, 1, (2, 3), (2, 3), (4, 6), 0)),
    "pooled to a size": (lambda x: F.adaptive_avg_pool2d(x, (4, 6)), IMAGE, (0, 1, (2, 3), (2, 3), (4, 6), 0)),
    "one axis pooled": (lambda x: patch(x).mean(2), IMAGE, (0, 1, (2,), (3,), (9,), 0)),
    "tubelets": (lambda x: tokens(tubes(x)), CLIP, (0, 2, (1, 1, 1), (2, 3, 4), (3, 3, 4), 0)),
    "frames first": (
        lambda x: tokens(tubes(x.transpose(1, 2))),
        (1, 6, 3, 12, 16),
        (0, 2, (1, 1, 1), (1, 3, 4), (3, 3, 4), 0),
    ),
    "series": (lambda x: series(x).mT, SERIES, (0, 2, (1,), (2,), (12,), 0)),
    "difference in time": (
        lambda x: (lambda y: y[:, :, 1:] - y[:, :, :-1])(series(x)),
        SERIES,
        (0, 1, (2,), (2,), (11,), 0),
    ),
    "features by time": (lambda x: linear(x), (1, 40, 3), (0, 2, (1,), (1,), (40,), 0)),
    "stacked steps": (lambda x: torch.stack(list(series(x).unbind(1)), 2), SERIES, (0, 2, (1,), (2,), (12,), 0)),
}


def depends(model: nn.Module, geometry: Geometry, x: Tensor, at: tuple[int, ...]) -> Tensor:
    """Which elements of the input the position ``at`` depends on."""
    kept: list[Tensor] = []
    handle = model.layer.register_forward_hook(lambda _m, _i, output: kept.append(output))  # type: ignore[union-attr,operator]
    x = x.clone().requires_grad_()
    model(x)
    handle.remove()
    value = geometry.arrange(kept[0])[(0, slice(None), *at)].sum()
    (gradient,) = torch.autograd.grad(value, x)
    return gradient[0] != 0


@pytest.mark.parametrize("name", STEMS)
def test_positions_look_where_their_gradient_is(name: str) -> None:
    function, shape, (examples, channels, positions, axes, grid, more) = STEMS[name]
    torch.manual_seed(0)
    model, x = Stem(function).eval(), torch.rand(shape, dtype=torch.float64) + 0.1
    found = geometry_of(model, "layer", (x,))
    assert (found.examples, found.channels, found.positions, found.axes, found.grid) == (
        examples,
        channels,
        positions,
        axes,
        grid,
    )
    assert (found.before, found.behind) == (max(int(more), 0), max(-int(more), 0))  # type: ignore[call-overload]
    assert found.evidence == "proved"
    inside = 0
    for at in [tuple(torch.randint(0, count, ()).item() for count in found.size) for _ in range(8)]:
        seen = depends(model, found, x, at)  # type: ignore[arg-type]
        for place, axis in enumerate(sorted(found.axes)):
            along = seen.movedim(axis - 1, 0).flatten(1).any(1).nonzero()
            if not len(along):
                continue  # it is of padding
            first, last = int(along.min()), int(along.max())
            if first == 0 or last == shape[axis] - 1:
                continue  # it may reach over the border
            inside += 1
            middle, width = (first + last) / 2, last - first + 1
            # Where blocks have no middle of their own (pixels of one patch, one step's neighbour) within the block.
            slack = width / 2 if name in ("pixel shuffle", "transposed convolution") else 1e-9
            assert abs(found.centres()[place][at[place]] - middle) <= slack, (name, at, axis)  # type: ignore[index]
    assert inside >= 3
