"""Default layers behind attention that nothing goes around, of dense outputs, and in blocks that thin their keys."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import fastsal
from fastsal.engine.reading import geometry_of


class Attention(nn.Module):
    """Written out, with a bias by distance; of a part of the positions where it thins its queries."""

    def __init__(self, width: int, side: int, step: int = 1, near: float = 0.0) -> None:
        super().__init__()
        self.q, self.kv, self.step, self.side = nn.Linear(width, width), nn.Linear(width, 2 * width), step, side
        places = torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij"), 2)
        asked = places[::step, ::step].reshape(-1, 2)
        distance = (asked[:, None] - places.reshape(-1, 2)[None]).abs().sum(2)
        self.register_buffer("bias", -near * distance.float())

    def forward(self, x: Tensor) -> Tensor:
        thin = x.unflatten(1, (self.side, self.side))[:, :: self.step, :: self.step].flatten(1, 2)
        k, v = self.kv(x).chunk(2, 2)
        return (self.q(thin) @ k.mT * 0.1 + self.bias).softmax(2) @ v


class Stages(nn.Module):
    """LeViT's way: a stage, attention with a quarter of the queries and nothing around it, another stage."""

    def __init__(self, near: float) -> None:
        super().__init__()
        self.stem, self.first = nn.Conv2d(3, 16, 8, 8), Attention(16, 8)
        self.down, self.second, self.last = Attention(16, 8, 2, near), Attention(16, 4, near=near), nn.Identity()
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).mT
        x = self.down(x + self.first(x))
        return self.head(self.last(x + self.second(x)).mean(1))


def test_queries_say_where_the_result_of_attention_is() -> None:
    """A sum over all positions does not move it: it was laid half an image beside its place."""
    torch.manual_seed(0)
    model, x = Stages(3.0).eval(), torch.randn(1, 3, 64, 64)
    for name, stride in (("first", 8.0), ("down", 16.0), ("second", 16.0), ("last", 16.0)):
        found = geometry_of(model, name, (x,))
        assert (found.stride, found.offset) == ((stride, stride), (3.5, 3.5)), name
        assert not found.local
    explainer = fastsal.LayerCAM(model, "down")
    x = x.clone().requires_grad_()
    kept: list[Tensor] = []
    handle = model.down.register_forward_hook(lambda _m, _i, output: kept.append(output))
    model(x)
    handle.remove()
    for token in (0, 5, 10, 15):  # by what changes it most
        (gradient,) = torch.autograd.grad(kept[0][0, token].square().sum(), x, retain_graph=True)
        row, column = divmod(int(torch.nn.functional.avg_pool2d(gradient.abs().sum(1), 8).argmax()), 8)
        assert (row, column) == (2 * (token // 4), 2 * (token % 4))
    assert explainer.attribute(x.detach(), target=1).shape == (1, 1, 64, 64)


@pytest.mark.parametrize(("near", "expected"), [(3.0, "last"), (0.0, "stem")])
def test_a_stage_behind_attention_is_taken_where_it_is_measured_to_look_locally(near: float, expected: str) -> None:
    torch.manual_seed(0)
    model, x = Stages(near).eval(), torch.randn(1, 3, 64, 64)
    explainer = fastsal.GradCAM(model)
    explainer.attribute(x, target=1)
    assert explainer.layer_names == [expected]


@pytest.mark.parametrize("enlarged", [False, True])
def test_scores_are_no_layer_to_explain_them_by(enlarged: bool) -> None:
    class Dense(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.ReLU())
            self.decode = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1))

        def forward(self, x: Tensor) -> Tensor:
            scores = self.decode(self.body(x))
            return nn.functional.interpolate(scores, x.shape[2:], mode="bilinear") if enlarged else scores

    torch.manual_seed(0)
    explainer = fastsal.GradCAM(Dense().eval())
    explainer.attribute(torch.randn(1, 3, 32, 48), target=(2, 3, 4))
    assert explainer.layer_names == ["decode.1"]


def test_keys_that_are_thinned_are_no_default() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.thin = nn.LayerNorm(8), nn.Conv2d(8, 8, 2, 2)
            self.attend = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            normed = self.norm(x)
            keys = self.thin(normed[:, 1:].mT.unflatten(2, (4, 6))).flatten(2).mT
            keys = torch.cat([normed[:, :1], keys], 1)
            return x + self.attend(normed, keys, keys, need_weights=False)[0]

    class Classifier(nn.Module):
        """A class token alone is read."""

        def __init__(self) -> None:
            super().__init__()
            self.patches, self.token, self.block = nn.Conv2d(3, 8, 8, 8), nn.Parameter(torch.randn(1, 1, 8)), Block()
            self.head = nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            tokens = torch.cat([self.token.expand(len(x), -1, -1), self.patches(x).flatten(2).mT], 1)
            return self.head(self.block(tokens)[:, 0])

    torch.manual_seed(0)
    explainer = fastsal.GradCAM(Classifier().eval())
    maps = explainer.attribute(torch.randn(1, 3, 32, 48), target=1, upsample=False)
    assert explainer.layer_names == ["block.norm"]
    assert maps.shape == (1, 1, 4, 6)
