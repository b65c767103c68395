"""The default layer's grid of published architectures, which is the one that their own patch sizes say.

With random weights and small inputs. What is expected comes from the configurations: patches and downsampling in those
of transformers, ``feature_info`` in timm's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastsal.engine.reading import default_layer

SMALL = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}
PATCHES = {"image_size": 64, "patch_size": 8, "num_labels": 5}
STAGES = {"hidden_sizes": [8, 16, 24, 32], "num_attention_heads": [1, 2, 3, 4], "depths": [1, 1, 1, 1]}
WINDOWS = {"patch_size": 2, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}
IMAGE, LARGE, CLIP = (1, 3, 64, 64), (1, 3, 128, 128), (1, 8, 3, 32, 32)


def config(name: str, **options: Any) -> Callable[[Any], nn.Module]:
    head = {"Yolos": "ObjectDetection", "AST": "AudioClassification", "Whisper": "AudioClassification"}
    head |= {"Wav2Vec2": "SequenceClassification", "Bert": "SequenceClassification", "GPT2": "SequenceClassification"}
    head |= dict.fromkeys(("VideoMAE", "Vivit", "Timesformer"), "VideoClassification")
    kind = f"{name}For{head.get(name, 'ImageClassification')}"
    return lambda package: getattr(package, kind)(getattr(package, f"{name}Config")(**options))


# The model, the input's shape, the grid, and the tokens (before, behind) where the layer is a list of them.
TRANSFORMERS: dict[str, tuple[Callable[[Any], nn.Module], tuple[int, ...], tuple[int, ...], tuple[int, int]]] = {
    "vit": (config("ViT", **SMALL, **PATCHES), IMAGE, (8, 8), (1, 0)),
    "deit": (config("DeiT", **SMALL, **PATCHES), IMAGE, (8, 8), (2, 0)),
    "beit": (config("Beit", **SMALL, **PATCHES), IMAGE, (8, 8), (1, 0)),
    "data2vec": (config("Data2VecVision", **SMALL, **PATCHES), IMAGE, (8, 8), (1, 0)),
    "dinov2": (config("Dinov2", **SMALL, **PATCHES), IMAGE, (8, 8), (1, 0)),
    "registers": (config("Dinov2WithRegisters", **SMALL, **PATCHES), IMAGE, (8, 8), (5, 0)),
    "ijepa": (config("IJepa", **SMALL, **PATCHES), IMAGE, (8, 8), (0, 0)),
    "msn": (config("ViTMSN", **SMALL, **PATCHES), IMAGE, (8, 8), (1, 0)),
    "swin": (config("Swin", image_size=64, **WINDOWS), IMAGE, (16, 16), (0, 0)),
    "swinv2": (config("Swinv2", image_size=64, **WINDOWS), IMAGE, (16, 16), (0, 0)),
    "pvt": (config("Pvt", image_size=64, num_labels=5, **STAGES), IMAGE, (2, 2), (1, 0)),
    "pvtv2": (config("PvtV2", image_size=128, **STAGES), LARGE, (4, 4), (0, 0)),
    "segformer": (config("Segformer", **STAGES), LARGE, (4, 4), (0, 0)),
    "mobilevitv2": (config("MobileViTV2", image_size=64, width_multiplier=0.25), LARGE, (4, 4), (0, 0)),
    "poolformer": (
        config("PoolFormer", hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1]),
        LARGE,
        (4, 4),
        (0, 0),
    ),
    "hiera": (
        config("Hiera", image_size=[64, 64], embed_dim=16, num_heads=[1, 2, 4, 8], depths=[1, 1, 2, 1]),
        IMAGE,
        (2, 2),
        (0, 0),
    ),
    "yolos": (
        config("Yolos", **SMALL, image_size=[64, 64], patch_size=8, num_detection_tokens=10),
        IMAGE,
        (8, 8),
        (1, 10),
    ),
    "clip": (
        config("CLIP", vision_config={**SMALL, "image_size": 64, "patch_size": 8}, text_config=SMALL),
        IMAGE,
        (8, 8),
        (1, 0),
    ),
    "siglip": (
        config("Siglip", vision_config={**SMALL, "image_size": 64, "patch_size": 8}, text_config=SMALL),
        IMAGE,
        (8, 8),
        (0, 0),
    ),
    "videomae": (
        config("VideoMAE", **SMALL, image_size=32, patch_size=8, num_frames=8, tubelet_size=2),
        CLIP,
        (4, 4, 4),
        (0, 0),
    ),
    "vivit": (config("Vivit", **SMALL, image_size=32, num_frames=8, tubelet_size=[2, 8, 8]), CLIP, (4, 4, 4), (1, 0)),
    "timesformer": (
        config("Timesformer", **SMALL, image_size=32, patch_size=8, num_frames=8),
        CLIP,
        (8, 4, 4),
        (1, 0),
    ),
    "ast": (
        config("AST", **SMALL, max_length=64, num_mel_bins=32, patch_size=8, frequency_stride=6, time_stride=6),
        (1, 64, 32),
        (10, 5),
        (2, 0),
    ),
    "whisper": (
        config(
            "Whisper",
            d_model=32,
            encoder_layers=2,
            encoder_attention_heads=2,
            decoder_layers=1,
            decoder_attention_heads=2,
            num_mel_bins=20,
            max_source_positions=50,
        ),
        (1, 20, 100),
        (50,),
        (0, 0),
    ),
    "bert": (config("Bert", **SMALL, vocab_size=50), (1, 12), (12,), (0, 0)),
}


def stirred(model: nn.Module) -> nn.Module:
    """Parameters that begin at zero moved away from it."""
    for parameter in model.parameters():
        if parameter.numel() > 1 and not parameter.std() > 0:
            nn.init.normal_(parameter, std=0.3)
    return model.eval()


def score(output: Any) -> Tensor:
    logits = output if isinstance(output, Tensor) else output.logits
    found: Tensor = logits.flatten(1)[:, 1]
    return found


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformers(name: str) -> None:
    package = pytest.importorskip("transformers", reason="transformers is not installed")
    build, shape, grid, extra = TRANSFORMERS[name]
    torch.manual_seed(0)
    model = stirred(build(package))
    x = torch.randn(shape) if len(shape) > 2 else torch.randint(0, 50, shape)
    geometry = default_layer(model, (x,), (), score).geometry
    assert geometry is not None
    assert (geometry.size, geometry.before, geometry.behind) == (grid, *extra)


# Transformers and hybrids, with the size of their images; the first few in every run.
SOON = {"vit_tiny_patch16_224": 96, "swin_tiny_patch4_window7_224": 224, "mobilevit_xxs": 256, "edgenext_xx_small": 256}
LATER = {
    **dict.fromkeys(("deit_tiny_distilled_patch16_224", "deit3_small_patch16_224", "flexivit_small"), 96),
    **dict.fromkeys(("vit_base_patch16_siglip_224", "vit_xsmall_patch16_clip_224", "cait_xxs24_224"), 96),
    **dict.fromkeys(("tnt_s_legacy_patch16_224",), 96),
    "vit_small_patch14_reg4_dinov2": 112,
    **dict.fromkeys(("pit_ti_224", "coat_lite_tiny", "xcit_nano_12_p16_224", "pvt_v2_b0", "mvitv2_tiny"), 224),
    **dict.fromkeys(("mixer_s32_224", "volo_d1_224", "convit_tiny", "hiera_tiny_224", "beit_base_patch16_224"), 224),
    **dict.fromkeys(("eva02_tiny_patch14_224", "twins_pcpvt_small", "twins_svt_small", "poolformer_s12"), 224),
    **dict.fromkeys(("resmlp_12_224", "efficientformer_l1", "efficientformerv2_s0", "focalnet_tiny_srf"), 224),
    **dict.fromkeys(("gmixer_24_224", "gmlp_s16_224", "repvit_m0_9", "coatnet_pico_rw_224", "visformer_tiny"), 224),
    **dict.fromkeys(("nest_tiny", "davit_tiny", "caformer_s18", "efficientvit_b0", "efficientvit_m0"), 224),
    **dict.fromkeys(("tiny_vit_5m_224", "nextvit_small", "swinv2_cr_tiny_224", "sequencer2d_s"), 224),
    **dict.fromkeys(("swiftformer_xs", "mambaout_femto", "convmixer_768_32", "inception_next_tiny"), 224),
    **dict.fromkeys(("vitamin_small_224", "vit_relpos_small_patch16_224", "vit_small_r26_s32_224"), 224),
    **dict.fromkeys(("vit_tiny_r_s16_p8_224", "samvit_base_patch16_224"), 224),
    **dict.fromkeys(("swinv2_tiny_window8_256", "fastvit_t8", "maxvit_rmlp_pico_rw_256", "botnet26t_256"), 256),
    **dict.fromkeys(("halonet26t", "lambda_resnet26t", "mobilevitv2_050", "hieradet_small"), 256),
}


@pytest.mark.parametrize(
    "name", [*SOON, *(pytest.param(name, marks=pytest.mark.slow) for name in LATER)], ids=lambda name: name
)
def test_timm(name: str) -> None:
    timm = pytest.importorskip("timm", reason="timm is not installed")
    size = {**SOON, **LATER}[name]
    torch.manual_seed(0)
    try:
        model = stirred(timm.create_model(name, img_size=size))
    except TypeError:  # it takes any
        model = stirred(timm.create_model(name))
    geometry = default_layer(model, (torch.randn(1, 3, size, size),), (), score).geometry
    assert geometry is not None
    side = math.ceil(size / model.feature_info[-1]["reduction"])
    # EVA's and DINO's patches of 14 leave a rest.
    side = model.patch_embed.grid_size[0] if "patch14" in name else side
    assert geometry.size == (side, side)
