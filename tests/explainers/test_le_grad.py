"""LeGrad's grids: of every stage of a hierarchy, behind registers; and what is no image."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import fastsal


class Attention(nn.Module):
    """Self-attention whose weights are kept, so that a test can take their gradient itself."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.joint, self.kept = nn.Linear(width, 3 * width), list[Tensor]()

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.joint(x).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4)
        self.kept.append((query @ key.mT).softmax(-1))
        return x + (self.kept[-1] @ value).transpose(1, 2).flatten(2)  # type: ignore[no-any-return]


class Hierarchy(nn.Module):
    """Two stages, of a stem without padding and of half as many patches a side; registers before and one behind."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.down = nn.Conv2d(3, 8, 5, 3), nn.Conv2d(8, 8, 2, 2)
        self.first, self.second, self.head = Attention(), Attention(), nn.Linear(8, 4)
        self.registers = nn.Parameter(torch.randn(1, 3, 8))

    def attend(self, attention: nn.Module, x: Tensor) -> Tensor:
        registers = self.registers.expand(x.shape[0], -1, -1)
        tokens = torch.cat([registers[:, :2], x.flatten(2).mT, registers[:, 2:]], 1)
        return attention(tokens)[:, 2:-1].mT.reshape(x.shape)  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        x = self.attend(self.first, self.stem(x))
        return self.head(self.attend(self.second, self.down(x)).mean((2, 3)))  # type: ignore[no-any-return]


class Windows(nn.Module):
    """Patches turned around by one, in windows of 2 x 4 or in one."""

    def __init__(self, shift: int, whole: bool) -> None:
        super().__init__()
        self.patch, self.attention, self.head = nn.Conv2d(3, 8, 4, 4), Attention(), nn.Linear(8, 4)
        self.shift, self.whole = shift, whole

    def forward(self, x: Tensor) -> Tensor:
        x = torch.roll(self.patch(x).permute(0, 2, 3, 1), (-self.shift, -self.shift), (1, 2))
        batch, height, width, channels = x.shape
        if self.whole:
            parts = x.flatten(1, 2)
        else:
            parts = x.view(batch, height // 2, 2, width // 4, 4, channels).transpose(2, 3).reshape(-1, 8, channels)
        return self.head(self.attention(parts).reshape(batch, -1, channels).square().mean(1))  # type: ignore[no-any-return]


def received(model: nn.Module, attention: Attention, x: Tensor) -> Tensor:
    """Each key's mean rectified gradient, by autograd."""
    attention.kept.clear()
    score = model(x.clone().requires_grad_())[:, 1].sum()
    (gradient,) = torch.autograd.grad(score, attention.kept[-1:])
    return gradient.relu().mean((1, 2))


@pytest.mark.parametrize("last", [1, None])
def test_every_stage_has_its_grid(last: int | None) -> None:
    torch.manual_seed(0)
    model, x = Hierarchy().double().eval(), torch.randn(2, 3, 29, 35, dtype=torch.float64)
    found = fastsal.LeGrad(model).attribute(x, 1, upsample=False, normalize=False, last_layers=last)
    second = received(model, model.second, x)[:, 2:-1].view(2, 1, 4, 5)
    if last == 1:
        torch.testing.assert_close(found, second)
        return
    first = received(model, model.first, x)[:, 2:-1].view(2, 1, 9, 11)
    enlarged = nn.functional.interpolate(second, (9, 11), mode="bilinear")
    torch.testing.assert_close(found, (first + enlarged) / 2)


@pytest.mark.parametrize("shift", [0, 1])
def test_what_was_turned_around_is_put_back(shift: int) -> None:
    torch.manual_seed(0)
    model, x = Windows(shift, True).double().eval(), torch.randn(2, 3, 24, 32, dtype=torch.float64)
    found = fastsal.LeGrad(model).attribute(x, 1, upsample=False, normalize=False)
    each = received(model, model.attention, x).view(2, 6, 8)
    expected = torch.empty_like(each)
    for row in range(6):
        for column in range(8):
            expected[:, (row + shift) % 6, (column + shift) % 8] = each[:, row, column]
    torch.testing.assert_close(found[:, 0], expected)
    with pytest.raises(ValueError, match="no attention over patches"):
        fastsal.LeGrad(Windows(shift, False)).attribute(x.float(), 1)


class Text(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention, self.head = Attention(), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.attention(x).mean(1))  # type: ignore[no-any-return]


class Frames(nn.Module):
    """Frames first: a token is a patch of a frame, and follows no axes that a map [B, 1, *spatial] has."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.attention, self.head = nn.Conv3d(3, 8, (2, 4, 4), (2, 4, 4)), Attention(), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.attention(self.patch(x.transpose(1, 2)).flatten(2).mT).mean(1))  # type: ignore[no-any-return]


def test_what_is_no_image_is_refused() -> None:
    with pytest.raises(ValueError, match=r"inputs: \(2, 12, 8\) is no image \[B, C, H, W\] or volume"):
        fastsal.LeGrad(Text()).attribute(torch.randn(2, 12, 8), 1)
    with pytest.raises(ValueError, match="no attention over patches of the first input"):
        fastsal.LeGrad(Frames()).attribute(torch.randn(2, 4, 3, 8, 8), 1)
    volume = fastsal.LeGrad(nn.Sequential(Transposed(), Frames())).attribute(torch.randn(2, 3, 4, 8, 8), 1)
    assert volume.shape == (2, 1, 4, 8, 8)


class Transposed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2)
