"""Class activation maps of tokens and of channels last, and LeGrad."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastsal
from tests.explainers.by_hand import CLOSE, RAW, layer_values, spatial_mean
from tests.explainers.transformers import STYLES, ChannelsLast, transformer


@pytest.mark.parametrize("extra", [0, 1, 5])
@pytest.mark.parametrize("shape", [(16, 16), (16, 24)])
def test_tokens_become_a_grid(extra: int, shape: tuple[int, int], caplog: pytest.LogCaptureFixture) -> None:
    """The default layer is what the last attention reads: behind it no patch counts, where a token classifies."""
    model, x = transformer(extra).double(), torch.randn(2, 3, *shape, dtype=torch.float64)
    explainer = fastsal.GradCAM(model)
    with caplog.at_level("INFO", "fastsal"):
        found = explainer.attribute(x, 1, **RAW)
        explainer.attribute(x, 1)
    expected = "blocks.1.norm1" if extra else "norm"
    assert explainer.layer_names == [expected]
    assert caplog.messages == [f"layer {expected} [8, {shape[0] // 4}, {shape[1] // 4}], by default"]
    a, g = layer_values(model, model.get_submodule(expected), x, lambda out: out[:, 1])
    a, g = (t[:, extra:].mT.unflatten(2, (shape[0] // 4, shape[1] // 4)) for t in (a, g))
    torch.testing.assert_close(found[:, 0], (spatial_mean(g) * a).sum(1), **CLOSE)

    def reshape(value: Tensor) -> Tensor:
        return value[:, extra:].mT.unflatten(2, (shape[0] // 4, shape[1] // 4))

    named = fastsal.GradCAM(model, expected, reshape_transform=reshape)
    torch.testing.assert_close(named.attribute(x, 1, **RAW), found, **CLOSE)
    assert explainer.attribute(x, 1).shape == (2, 1, *shape)
    ablated = fastsal.AblationCAM(model, "blocks.0").attribute(x, 1, **RAW)
    assert ablated.shape == found.shape
    assert fastsal.ScoreCAM(model, "blocks.0").attribute(x, 1).isfinite().all()


def test_channels_last_layers() -> None:
    torch.manual_seed(0)
    model, x = ChannelsLast().double().eval(), torch.randn(2, 3, 16, 24, dtype=torch.float64)
    explainer = fastsal.LayerCAM(model)
    found = explainer.attribute(x, 1, **RAW)
    assert explainer.layer_names == ["norm"]
    a, g = (t.movedim(-1, 1) for t in layer_values(model, model.norm, x, lambda out: out[:, 1]))
    torch.testing.assert_close(found[:, 0], (g.relu() * a).sum(1), **CLOSE)


@pytest.mark.parametrize("extra", [0, 1, 5])
def test_le_grad_is_the_same_for_every_way_to_write_attention(extra: int) -> None:
    x = torch.randn(2, 3, 16, 24)
    maps = [fastsal.LeGrad(transformer(extra, style)).attribute(x, 1, upsample=False) for style in STYLES]
    assert maps[0].shape == (2, 1, 4, 6)
    torch.testing.assert_close(maps[1], maps[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(maps[2], maps[0], rtol=1e-4, atol=1e-4)
    frozen = transformer(extra).requires_grad_(False)
    torch.testing.assert_close(fastsal.LeGrad(frozen).attribute(x, 1, upsample=False), maps[0], rtol=1e-4, atol=1e-4)


def test_le_grad_is_the_rectified_gradient_by_attention() -> None:
    """Equations 5 to 8, with each block's weights read off a block written here."""
    model, x = transformer(1, "plain").double(), torch.randn(2, 3, 16, 16, dtype=torch.float64)
    kept = []
    tokens = model.patch(x.clone().requires_grad_()).flatten(2).mT
    tokens = torch.cat([model.tokens.expand(2, -1, -1), tokens], 1)
    for block in model.blocks:
        whole = block.attn.whole
        joint = F.linear(block.norm1(tokens), whole.in_proj_weight, whole.in_proj_bias)
        query, key, value = (part.unflatten(2, (2, -1)).transpose(1, 2) for part in joint.chunk(3, 2))
        kept.append((query @ key.mT / 2).softmax(-1))
        tokens = tokens + whole.out_proj((kept[-1] @ value).transpose(1, 2).flatten(2))
        tokens = tokens + block.mlp(block.norm2(tokens))
    score = model.head(model.norm(tokens)[:, 0])[:, 1].sum()
    gradients = torch.autograd.grad(score, kept)
    expected = torch.stack([g.relu().mean((1, 2))[:, 1:] for g in gradients]).mean(0).view(2, 1, 4, 4)
    found = fastsal.LeGrad(model).attribute(x, 1, upsample=False, normalize=False)
    torch.testing.assert_close(found, expected, **CLOSE)
    last = fastsal.LeGrad(model).attribute(x, 1, upsample=False, normalize=False, last_layers=1)
    torch.testing.assert_close(last, gradients[1].relu().mean((1, 2))[:, 1:].reshape(2, 1, 4, 4), **CLOSE)


def test_le_grad_leaves_windows_out_and_reads_the_default_multi_head_attention() -> None:
    class Windows(nn.Module):
        def __init__(self, whole: bool) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.p, self.h, self.whole = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 4), whole
            self.a = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            t = self.p(x).flatten(2).mT  # 64 patches
            parts = t if self.whole else t.reshape(-1, 16, 8)
            mixed, weights = self.a(parts, parts, parts)
            assert weights.shape[-1] == parts.shape[1]
            return self.h(mixed.reshape(t.shape).mean(1))

    x = torch.randn(2, 3, 32, 32)
    assert fastsal.LeGrad(Windows(True)).attribute(x, 1, upsample=False).shape == (2, 1, 8, 8)
    with pytest.raises(ValueError, match="no attention over patches"):
        fastsal.LeGrad(Windows(False)).attribute(x, 1)
    with pytest.raises(ValueError, match="last_layers: 0"):
        fastsal.LeGrad(Windows(True)).attribute(x, 1, last_layers=0)
