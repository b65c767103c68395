"""Methods on attention on timm's, torchvision's and transformers' networks, beside formulas on stored matrices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastsal

METHODS = ("RawAttention", "AttentionRollout", "GradientAttention", "AttentionRelevance", "LeGrad")


class Logits(nn.Module):
    """A model of transformers' as a function of its first input, that returns the logits."""

    def __init__(self, model: nn.Module, **extra: Any) -> None:
        super().__init__()
        self.model, self.extra = model, extra

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x, **self.extra).logits  # type: ignore[no-any-return]


def transformers_model(kind: str, implementation: str) -> tuple[nn.Module, Tensor]:
    transformers = pytest.importorskip("transformers")
    common = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 32}
    torch.manual_seed(0)
    if kind == "Bert":
        config = transformers.BertConfig(vocab_size=40, max_position_embeddings=16, num_labels=4, **common)
        name, x = "BertForSequenceClassification", torch.randint(1, 40, (2, 9))
        extra = {"attention_mask": torch.tensor([[1] * 9, [1] * 6 + [0] * 3])}
    else:
        given = {"image_size": 32, "patch_size": 8, "num_labels": 4, **common}
        if kind == "Dinov2WithRegisters":
            given = {**given, "mlp_ratio": 2, "num_register_tokens": 2}
            del given["intermediate_size"]
        config = getattr(transformers, f"{kind}Config")(**given)
        name, x, extra = f"{kind}ForImageClassification", torch.randn(2, 3, 32, 32).double(), {}
    config._attn_implementation = implementation
    model = getattr(transformers, name)._from_config(config, attn_implementation=implementation)
    return Logits(_livelier(model.double().eval()), **extra), x


def timm_model(fused: bool) -> tuple[nn.Module, Tensor]:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model = timm.create_model("test_vit", pretrained=False, num_classes=4, img_size=64)
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = fused
    return _livelier(model.double().eval()), torch.randn(2, 3, 64, 64).double()


def torchvision_model() -> tuple[nn.Module, Tensor]:
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    model = torchvision.models.VisionTransformer(32, 8, 3, 4, 24, 32, num_classes=4)
    nn.init.normal_(model.heads.head.weight)
    return _livelier(model.double().eval()), torch.randn(2, 3, 32, 32).double()


def _livelier(model: nn.Module) -> nn.Module:
    """With logits of attention that are not all alike, and a head that is not 0."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(3)
    return model


def stored(model: nn.Module, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Matrices of a model whose fused attention is another function meanwhile, and the score's gradients by them."""
    kept: list[Tensor] = []

    def written(
        q: Tensor, k: Tensor, v: Tensor, attn_mask: Any = None, *_: Any, scale: Any = None, **__: Any
    ) -> Tensor:
        scores = q @ k.transpose(-2, -1) * (q.shape[-1] ** -0.5 if scale is None else scale)
        if attn_mask is not None:
            scores = scores.masked_fill(~attn_mask, -torch.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
        kept.append(scores.softmax(-1))
        return kept[-1] @ v

    # A layer of the encoder takes a path of its own without gradients alone.
    with mock.patch.object(F, "scaled_dot_product_attention", written):
        score = model(x)[:, 1].sum()
    return kept, list(torch.autograd.grad(score, kept))


def by_matrices(method: str, weights: list[Tensor], gradients: list[Tensor]) -> Tensor:
    """The class token's row [B, N]."""
    eye = torch.eye(weights[0].shape[-1], dtype=weights[0].dtype).expand(len(weights[0]), -1, -1)
    if method == "LeGrad":
        return torch.stack([each.relu().mean((1, 2)) for each in gradients]).mean(0)
    if method == "RawAttention":
        return weights[-1][:, :, 0].mean(1)
    if method == "GradientAttention":
        return (weights[-1] * gradients[-1]).relu().mean(1)[:, 0]
    whole = eye
    for a, by in zip(weights, gradients, strict=True):
        if method == "AttentionRollout":
            whole = (a.mean(1) / 2 + eye / 2) @ whole
        else:
            whole = whole + (a * by).relu().mean(1) @ whole
    return whole[:, 0]


MODELS: dict[str, tuple[Callable[[], tuple[nn.Module, Tensor]], Callable[[], tuple[nn.Module, Tensor]], int]] = {
    "timm, fused": (lambda: timm_model(True), lambda: timm_model(True), 1),
    "timm, eager": (lambda: timm_model(False), lambda: timm_model(True), 1),
    "torchvision": (torchvision_model, torchvision_model, 1),
    **{
        f"transformers' {kind}, {how}": (
            lambda kind=kind, how=how: transformers_model(kind, how),
            lambda kind=kind: transformers_model(kind, "sdpa"),
            before,
        )
        for kind, before in (("ViT", 1), ("DeiT", 2), ("Dinov2WithRegisters", 3), ("Bert", 0))
        for how in ("sdpa", "eager")
    },
}


@pytest.mark.parametrize("name", MODELS)
def test_methods_equal_stored_matrices(name: str) -> None:
    make, same, before = MODELS[name]
    model, x = make()
    weights, gradients = stored(*same())
    assert len(weights) >= 3
    # transformers' eager attention takes its softmax in float32.
    close = {"rtol": 1e-9, "atol": 1e-12} if "eager" not in name or "timm" in name else {"rtol": 1e-4, "atol": 1e-6}
    for method in METHODS:
        if method == "LeGrad" and x.dim() == 2:
            continue
        options: dict[str, Any] = {} if x.dim() == 2 else {"upsample": False}
        if "Dinov2" in name and method != "LeGrad":
            options["queries"] = 0  # its head reads the mean of the patches too
        found = getattr(fastsal, method)(model).attribute(x, 1, normalize=False, **options)
        expected = by_matrices(method, weights, gradients)[:, before:]
        assert expected.abs().max() > 0
        torch.testing.assert_close(found.flatten(1), expected.to(found.dtype), **close)  # type: ignore[arg-type]


def test_windows_are_listed_and_refused() -> None:
    timm = pytest.importorskip("timm")
    torchvision = pytest.importorskip("torchvision")
    for model, x in (
        (
            timm.create_model(
                "swin_tiny_patch4_window7_224", img_size=64, window_size=4, depths=(1, 2), num_heads=(2, 4)
            ),
            64,
        ),
        (torchvision.models.SwinTransformer([4, 4], 16, [1, 2], [2, 4], [4, 4]), 64),
    ):
        image = torch.randn(2, 3, x, x)
        found = fastsal.attention(model.eval(), image)
        assert len(found) == 3
        assert found.unrecognised == ()
        assert {each.kind for each in found} == {"windows"}
        with pytest.raises(
            ValueError, match=r"no self-attention over the tokens of the first input ran|within windows"
        ):
            fastsal.AttentionRollout(model).attribute(image, 1)


@pytest.mark.parametrize("how", ["sdpa", "eager"])
def test_cross_attention_is_listed(how: str) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    small = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2}
    more = {"decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "vocab_size": 30}
    config = transformers.BartConfig(**small, **more, max_position_embeddings=16, attn_implementation=how)
    model = transformers.BartModel(config).eval()
    words = {"input_ids": torch.randint(3, 30, (2, 7)), "decoder_input_ids": torch.randint(3, 30, (2, 4))}
    found = fastsal.attention(model, words)
    assert [(each.kind, each.queries, each.keys) for each in found] == [("self", 7, 7), ("self", 4, 4), ("cross", 4, 7)]
    torch.testing.assert_close(found[2].weights([0, 3]).sum(-1), torch.ones(2, 2, 2))
    own = found[1].weights(range(4))
    torch.testing.assert_close(own, own.tril())
