"""Models of timm, torchvision and transformers made ready: batch norms folded as these packages write them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastsal
from fastsal._torch import BatchNorm


def lively(model: nn.Module) -> nn.Module:
    """Statistics and weights of batch norms that are not a new model's."""
    torch.manual_seed(0)
    for part in model.modules():
        if isinstance(part, BatchNorm) and part.running_mean is not None and part.running_var is not None:
            part.running_mean.normal_(0, 0.1)
            part.running_var.uniform_(0.5, 1.5)
            if part.weight is not None:
                nn.init.uniform_(part.weight, 0.5, 1.5)
                nn.init.normal_(part.bias, 0, 0.1)
    return model.eval()


def batch_norm_step(prepared: fastsal.Prepared) -> str:
    return next(step.detail for step in prepared.steps if step.name == "batch norm")


# One of each way to write them: norm and activation in one module, padding by size, branches, linear layers.
TIMM = {
    "test_efficientnet": "13 of 13 folded into convolutions",
    "tf_mobilenetv3_small_minimal_100": "34 of 34 folded into convolutions",
    "repghostnet_050": None,
    "levit_128s": "50 of 52 folded into convolutions and linear layers; 2 behind no convolution or linear layer",
}


@pytest.mark.parametrize("name", TIMM)
def test_batch_norms_of_timm(name: str) -> None:
    timm = pytest.importorskip("timm", reason="timm is not installed")
    torch.manual_seed(0)
    model, side = lively(timm.create_model(name, num_classes=7)), 224 if name.startswith("levit") else 64
    x = torch.randn(1, 3, side, side)
    prepared = fastsal.prepare(model, x, probe_seconds=0)
    told = batch_norm_step(prepared)
    if TIMM[name] is not None:
        assert told == TIMM[name]
    assert " folded into " in told
    with torch.no_grad():
        for other in (x, torch.randn(2, 3, side, side)):
            torch.testing.assert_close(prepared(other), model(other), rtol=1e-4, atol=1e-5)


def test_batch_norms_of_transformers() -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 2], layer_type="basic", num_labels=4
    )
    model, x = lively(transformers.ResNetForImageClassification(config)), torch.randn(1, 3, 32, 32)
    prepared = fastsal.prepare(model, x, probe_seconds=0)
    norms = sum(isinstance(part, BatchNorm) for part in model.modules())
    assert batch_norm_step(prepared) == f"{norms} of {norms} folded into convolutions"
    torch.testing.assert_close(prepared(x).logits, model(x).logits, rtol=1e-4, atol=1e-5)


def detector(name: str) -> tuple[nn.Module, Tensor]:
    detection = pytest.importorskip("torchvision.models.detection", reason="torchvision is not installed")
    torch.manual_seed(0)
    options: dict[str, Any] = {"weights": None, "weights_backbone": None, "num_classes": 5}
    if name != "ssdlite320_mobilenet_v3_large":
        options.update(min_size=96, max_size=96)
    return lively(getattr(detection, name)(**options)), torch.rand(1, 3, 96, 96)


@pytest.mark.parametrize("name", ["ssdlite320_mobilenet_v3_large", "fasterrcnn_mobilenet_v3_large_320_fpn"])
def test_detectors_are_rows(name: str) -> None:
    """Lists of objects are compared image by image, so that a batch may have more than one."""
    model, x = detector(name)
    prepared = fastsal.prepare(model, x, probe_seconds=0.1)
    told = next(step.detail for step in prepared.steps if step.name == "rows per call")
    assert "depend on each other" not in told
    if name.startswith("fasterrcnn"):  # the other's objects turn on roundings, with random weights in float64 too
        assert " folded into convolutions" in batch_norm_step(prepared)


def test_hooks_that_transformers_leaves_do_not_stop_incremental_occlusion() -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    torch.manual_seed(0)
    config = transformers.SegformerConfig(
        num_encoder_blocks=2, depths=[1, 1], sr_ratios=[2, 1], hidden_sizes=[8, 16], patch_sizes=[3, 3], strides=[2, 2],
        num_attention_heads=[1, 2], mlp_ratios=[2, 2], decoder_hidden_size=8, num_labels=3,
    )  # fmt: skip
    model, x = lively(transformers.SegformerForSemanticSegmentation(config)), torch.randn(1, 3, 32, 32)
    model(x)
    target = fastsal.targets.Segmentation(1)
    windows: dict[str, Any] = {"sliding_window_shapes": (3, 8, 8), "strides": (3, 8, 8), "target": target}
    quick = fastsal.Occlusion(model).attribute(x, **windows, incremental=True)
    plain = fastsal.Occlusion(model).attribute(x, **windows, incremental=False)
    torch.testing.assert_close(quick, plain, rtol=1e-3, atol=1e-3 * float(plain.abs().max()))
