"""transformers' families of vision, sound and text, each from a small configuration, without weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tools.models.stated import Stated, by_convolutions
from tools.models.subject import Score, Subject, made, textured
from tools.models.transformers_parts import (
    SIDE,
    Build,
    Recurrent,
    Similarity,
    TextCNN,
    built,
    dense,
    image,
    other,
    own,
    package,
    patches,
    places,
    stages,
    text,
)

WIDTHS: dict[str, Any] = {
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 96,
}
CLASSES: dict[str, Any] = {"num_labels": 5}
SWIN: dict[str, Any] = {
    "image_size": [48, 64],
    "patch_size": 2,
    "embed_dim": 16,
    "depths": [2, 2, 2],
    "num_heads": [2, 4, 4],
    "window_size": 4,
}
VIT: dict[str, Any] = {**WIDTHS, **CLASSES, "image_size": [48, 64], "patch_size": 8}
TEXT: dict[str, Any] = {**WIDTHS, **CLASSES, "vocab_size": 200, "max_position_embeddings": 64}
RESNET: dict[str, Any] = {
    "embedding_size": 16,
    "hidden_sizes": [16, 24, 32, 48],
    "depths": [1, 1, 1, 1],
    "layer_type": "basic",
}


def _logits(output: Any) -> Any:
    """A class's scores over the middle of a map [B, K, H, W]."""
    return output.logits[:, 1, 4:12, 4:12].mean((1, 2))


def _query(output: Any) -> Any:
    return output.logits[:, 0, 1]


def _queries(output: Any) -> Any:
    return output.class_queries_logits[:, 0, 1]


def _depth(output: Any) -> Any:
    return output.predicted_depth.flatten(1).mean(1)


def _clip(name: str) -> Subject:
    transformers = package()
    text_config = {
        **WIDTHS,
        "vocab_size": 200,
        "max_position_embeddings": 16,
        "eos_token_id": 199,
        "projection_dim": 32,
    }
    config = transformers.CLIPConfig(
        text_config=text_config,
        vision_config={**WIDTHS, "image_size": SIDE, "patch_size": 8, "projection_dim": 32},
        projection_dim=32,
    )
    tokens = torch.tensor([[3, 5, 7, 199], [8, 4, 2, 199], [9, 1, 6, 199]])
    return made(
        name, Similarity(transformers.CLIPModel(config), tokens), textured(2, 3, SIDE, SIDE), "image", 1, patches(8, 1)
    )


def _siglip(name: str) -> Subject:
    transformers = package()
    text_config = {**WIDTHS, "vocab_size": 200, "max_position_embeddings": 4, "projection_size": 48}
    config = transformers.SiglipConfig(
        text_config=text_config, vision_config={**WIDTHS, "image_size": SIDE, "patch_size": 8}
    )
    tokens = torch.tensor([[3, 5, 7, 1], [8, 4, 2, 1], [9, 1, 6, 1]])
    return made(
        name, Similarity(transformers.SiglipModel(config), tokens), textured(2, 3, SIDE, SIDE), "image", 1, patches(8)
    )


def _backbone() -> Any:
    return package().ResNetConfig(**RESNET, out_features=["stage2", "stage3", "stage4"])


def _detr(name: str) -> Subject:
    model = built(
        "DetrForObjectDetection",
        "DetrConfig",
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        backbone=None,
        backbone_config=package().ResNetConfig(**RESNET, out_features=["stage4"]),
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        num_queries=10,
        num_labels=5,
    )
    return made(name, model, textured(2, 3, 96, 128), "image", Score(_query), stages(4, 8, 16, 32))


def _rt_detr(name: str) -> Subject:
    transformers = package()
    backbone = transformers.RTDetrResNetConfig(**RESNET, out_features=["stage2", "stage3", "stage4"])
    model = built(
        "RTDetrForObjectDetection",
        "RTDetrConfig",
        backbone_config=backbone,
        encoder_hidden_dim=32,
        encoder_in_channels=[24, 32, 48],
        encoder_ffn_dim=64,
        encoder_attention_heads=4,
        d_model=32,
        decoder_in_channels=[32, 32, 32],
        decoder_ffn_dim=64,
        decoder_layers=2,
        decoder_attention_heads=4,
        num_queries=10,
        num_labels=5,
    )
    return made(name, model, textured(2, 3, 96, 128), "image", Score(_query), stages(8, 16, 32))


def _mask2former(name: str) -> Subject:
    transformers = package()
    backbone = transformers.SwinConfig(
        image_size=64, patch_size=4, embed_dim=16, depths=[1, 1, 1, 1], num_heads=[1, 2, 2, 4], window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    model = built(
        "Mask2FormerForUniversalSegmentation",
        "Mask2FormerConfig",
        backbone_config=backbone,
        hidden_dim=32,
        feature_size=32,
        mask_feature_size=32,
        encoder_feedforward_dim=64,
        dim_feedforward=64,
        encoder_layers=2,
        decoder_layers=3,
        num_attention_heads=4,
        num_queries=10,
        num_labels=5,
    )
    return made(name, model, textured(1, 3, 64, 96), "image", Score(_queries), stages(4, 8, 16, 32))


def _upernet(name: str) -> Subject:
    transformers = package()
    backbone = transformers.ConvNextConfig(
        hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], out_features=["stage1", "stage2", "stage3", "stage4"]
    )
    model = built(
        "UperNetForSemanticSegmentation",
        "UperNetConfig",
        backbone_config=backbone,
        hidden_size=32,
        use_auxiliary_head=True,
        auxiliary_in_channels=24,
        auxiliary_channels=16,
        num_labels=5,
    )
    return made(name, model, textured(2, 3, 96, 128), "image", Score(_logits), stages(8, 16, 32, 4))


def _video_tubelets(_model: nn.Module, inputs: Tensor) -> Stated:
    """VideoMAE's, of 2 frames by 8 by 8."""
    return Stated(((inputs.shape[1] // 2, inputs.shape[3] // 8, inputs.shape[4] // 8),), 0, 0, "config.tubelet_size")


def _video_frames(_model: nn.Module, inputs: Tensor) -> Stated:
    """TimeSformer's, one frame by 8 by 8, in the order (h, w, t)."""
    return Stated(
        ((inputs.shape[3] // 8, inputs.shape[4] // 8, inputs.shape[1]),), 1, 0, "config.patch_size", (2, 0, 1)
    )


CONFIGURATIONS: dict[str, Build] = {
    "ViT": image("ViTForImageClassification", "ViTConfig", patches(8, 1), **VIT),
    "DeiT": image("DeiTForImageClassification", "DeiTConfig", patches(8, 2), **VIT),
    "BEiT": image("BeitForImageClassification", "BeitConfig", patches(8, 1), **VIT),
    "Data2Vec": image("Data2VecVisionForImageClassification", "Data2VecVisionConfig", patches(8, 1), **VIT),
    "ViTMSN": image("ViTMSNForImageClassification", "ViTMSNConfig", patches(8, 1), **VIT),
    "IJEPA": image("IJepaForImageClassification", "IJepaConfig", patches(8), **VIT),
    "Swin": image("SwinForImageClassification", "SwinConfig", stages(2, 4, 8), **SWIN, **CLASSES),
    "Swinv2": image("Swinv2ForImageClassification", "Swinv2Config", stages(2, 4, 8), **SWIN, **CLASSES),
    "DonutSwin": image("DonutSwinForImageClassification", "DonutSwinConfig", stages(2, 4, 8), **SWIN, **CLASSES),
    "ConvNext": image("ConvNextForImageClassification", "ConvNextConfig", by_convolutions, (2, 3, 96, 128),
                      hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 2, 1], **CLASSES),
    "ConvNextV2": image("ConvNextV2ForImageClassification", "ConvNextV2Config", by_convolutions, (2, 3, 96, 128),
                        hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 2, 1], **CLASSES),
    "DINOv2": image("Dinov2ForImageClassification", "Dinov2Config", patches(8, 1), (2, 3, 48, 64),
                    **{**VIT, "image_size": SIDE}),
    "DINOv2reg": image("Dinov2WithRegistersForImageClassification", "Dinov2WithRegistersConfig", patches(8, 5),
                       (2, 3, 48, 64), **{**VIT, "image_size": SIDE}),
    "MobileViT": image("MobileViTForImageClassification", "MobileViTConfig", stages(4, 8, 16, 32), (2, 3, 128, 160),
                       image_size=128, hidden_sizes=[24, 32, 40], neck_hidden_sizes=[8, 8, 16, 24, 32, 40, 64],
                       num_attention_heads=4, **CLASSES),
    "MobileViTV2": image("MobileViTV2ForImageClassification", "MobileViTV2Config", stages(4, 8, 16, 32),
                         (2, 3, 128, 160), image_size=128, width_multiplier=0.25, **CLASSES),
    "ResNet": image("ResNetForImageClassification", "ResNetConfig", by_convolutions, (2, 3, 96, 128), **RESNET,
                    **CLASSES),
    "RegNet": image("RegNetForImageClassification", "RegNetConfig", by_convolutions, (2, 3, 96, 128),
                    embedding_size=16, hidden_sizes=[16, 24, 32, 48], depths=[1, 1, 2, 1], groups_width=8, **CLASSES),
    "BiT": image("BitForImageClassification", "BitConfig", by_convolutions, (2, 3, 96, 128), num_groups=4,
                 embedding_size=16,
                 hidden_sizes=[32, 32, 64, 64], depths=[1, 1, 1, 1], **CLASSES),
    "EfficientNet": image("EfficientNetForImageClassification", "EfficientNetConfig", by_convolutions, (2, 3, 96, 128),
                          width_coefficient=0.25, depth_coefficient=0.25, hidden_dim=320, **CLASSES),
    "MobileNetV1": image("MobileNetV1ForImageClassification", "MobileNetV1Config", by_convolutions, (2, 3, 96, 128),
                         depth_multiplier=0.25, **CLASSES),
    "MobileNetV2": image("MobileNetV2ForImageClassification", "MobileNetV2Config", by_convolutions, (2, 3, 96, 128),
                         depth_multiplier=0.35, **CLASSES),
    "Hiera": image("HieraForImageClassification", "HieraConfig", stages(4, 8, 16), image_size=[SIDE, SIDE],
                   embed_dim=24, depths=[1, 1, 2], num_heads=[1, 2, 4], num_query_pool=2, **CLASSES),
    "PvtV2": image("PvtV2ForImageClassification", "PvtV2Config", stages(4, 8, 16, 32), (2, 3, 128, 160),
                   hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], num_attention_heads=[1, 2, 2, 4], **CLASSES),
    "Pvt": image("PvtForImageClassification", "PvtConfig", stages(4, 8, 16, before=1), image_size=SIDE,
                 num_encoder_blocks=3, hidden_sizes=[8, 16, 24], depths=[1, 1, 1], num_attention_heads=[1, 2, 2],
                 patch_sizes=[4, 2, 2], strides=[4, 2, 2], sequence_reduction_ratios=[4, 2, 1], mlp_ratios=[4, 4, 4],
                 **CLASSES),
    "LeViT": image("LevitForImageClassification", "LevitConfig", stages(16, 32, 64), (2, 3, 224, 224), image_size=224,
                   hidden_sizes=[32, 48, 64], depths=[1, 1, 1], num_attention_heads=[2, 3, 4], key_dim=[8, 8, 8],
                   **CLASSES),
    "FocalNet": image("FocalNetForImageClassification", "FocalNetConfig", stages(4, 8, 16), image_size=SIDE,
                      embed_dim=16, depths=[1, 1, 1], focal_levels=[2, 2, 2], focal_windows=[3, 3, 3], **CLASSES),
    "Cvt": image("CvtForImageClassification", "CvtConfig", stages(32, 4, 8, 16, before=1), (2, 3, 64, 96),
                 embed_dim=[16, 24, 48], num_heads=[1, 2, 4], depth=[1, 2, 3], **CLASSES),
    "PoolFormer": image("PoolFormerForImageClassification", "PoolFormerConfig", stages(4, 8, 16, 32), (2, 3, 128, 160),
                        hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], **CLASSES),
    "SwiftFormer": image("SwiftFormerForImageClassification", "SwiftFormerConfig", stages(4, 8, 16, 32),
                         (2, 3, 128, 160), depths=[1, 1, 2, 1], embed_dims=[16, 24, 32, 48], **CLASSES),
    "SegFormerClassify": image("SegformerForImageClassification", "SegformerConfig", stages(4, 8, 16, 32),
                                 (2, 3, 128, 160), hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1],
                                 num_attention_heads=[1, 2, 2, 4], **CLASSES),
    "CLIPclassify": image("CLIPForImageClassification", "CLIPConfig", patches(8, 1),
                          vision_config={**WIDTHS, "image_size": SIDE, "patch_size": 8}, **CLASSES),
    "SiglipClassify": image("SiglipForImageClassification", "SiglipConfig", patches(8),
                            vision_config={**WIDTHS, "image_size": SIDE, "patch_size": 8}, **CLASSES),
    "CLIPsimilarity": _clip,
    "SigLIP": _siglip,
    "SegFormer": dense("SegformerForSemanticSegmentation", "SegformerConfig", stages(4, 8, 16, 32), _logits,
                       (2, 3, 128, 160), hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1],
                       num_attention_heads=[1, 2, 2, 4], decoder_hidden_size=32, **CLASSES),
    "UperNet": _upernet,
    "DPTdepth": dense("DPTForDepthEstimation", "DPTConfig", patches(8, 1), _depth, **WIDTHS, image_size=SIDE,
                      patch_size=8, backbone_out_indices=[0, 1, 2], neck_hidden_sizes=[16, 16, 32],
                      reassemble_factors=[4, 2, 1],
                      fusion_hidden_size=16),
    "DETR": _detr,
    "RTDETR": _rt_detr,
    "YOLOS": dense("YolosForObjectDetection", "YolosConfig", patches(8, 1, 10), _query, (2, 3, 64, 96), **WIDTHS,
                   image_size=[64, 96], patch_size=8, num_detection_tokens=10, **CLASSES),
    "Mask2Former": _mask2former,
    "BERT": text("BertForSequenceClassification", "BertConfig", **TEXT),
    "RoBERTa": text("RobertaForSequenceClassification", "RobertaConfig", **TEXT),
    "ELECTRA": text("ElectraForSequenceClassification", "ElectraConfig", **TEXT, embedding_size=48),
    "ALBERT": text("AlbertForSequenceClassification", "AlbertConfig", **TEXT, embedding_size=48),
    "DistilBERT": text("DistilBertForSequenceClassification", "DistilBertConfig", vocab_size=200, dim=48, n_layers=3,
                       n_heads=4, hidden_dim=96, max_position_embeddings=64, **CLASSES),
    "ModernBERT": text("ModernBertForSequenceClassification", "ModernBertConfig", **TEXT, pad_token_id=0),
    "FNet": text("FNetForSequenceClassification", "FNetConfig", vocab_size=200, hidden_size=48, num_hidden_layers=3,
                 intermediate_size=96, max_position_embeddings=64, tpu_short_seq_length=64, **CLASSES),
    "GPT2": text("GPT2LMHeadModel", "GPT2Config", vocab_size=200, n_embd=48, n_layer=3, n_head=4, n_positions=64),
    "Llama": text("LlamaForCausalLM", "LlamaConfig", vocab_size=200, **WIDTHS, num_key_value_heads=2,
                  max_position_embeddings=64, pad_token_id=0),
    "Mamba": text("MambaForCausalLM", "MambaConfig", vocab_size=200, hidden_size=48, num_hidden_layers=2, state_size=8,
                  pad_token_id=0),
    "textcnn": own(TextCNN, (2, 12, 24), "text", places((12,), source="tokens")),
    "lstm": own(Recurrent, (2, 12, 24), "text", places((12,), source="tokens")),
    "AST": other("ASTForAudioClassification", "ASTConfig", "audio", (2, 64, 32),
                 places((4, 8), before=2, source="config.patch_size and strides", order=(1, 0)), **WIDTHS,
                 patch_size=8, frequency_stride=8, time_stride=8, max_length=64, num_mel_bins=32, **CLASSES),
    "Wav2Vec2": other("Wav2Vec2ForSequenceClassification", "Wav2Vec2Config", "audio", (2, 1600),
                      places((39,), source="config.conv_stride"), **WIDTHS, conv_dim=(16, 24), conv_stride=(10, 4),
                      conv_kernel=(20, 5), num_feat_extract_layers=2, num_conv_pos_embeddings=8,
                      num_conv_pos_embedding_groups=4, classifier_proj_size=16, vocab_size=40, **CLASSES),
    "WhisperAudio": other("WhisperForAudioClassification", "WhisperConfig", "audio", (2, 20, 100),
                          places((50,), source="the convolution's stride of 2"), d_model=48, encoder_layers=2,
                          decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=96,
                          decoder_ffn_dim=96, num_mel_bins=20, max_source_positions=50, vocab_size=200,
                          classifier_proj_size=32, pad_token_id=0, **CLASSES),
    "VideoMAE": other("VideoMAEForVideoClassification", "VideoMAEConfig", "video", (2, 4, 3, 32, 32), _video_tubelets,
                      **WIDTHS, image_size=32, patch_size=8, num_frames=4, tubelet_size=2, **CLASSES),
    "TimeSformer": other("TimesformerForVideoClassification", "TimesformerConfig", "video", (2, 4, 3, 32, 32),
                         _video_frames, **WIDTHS, image_size=32, patch_size=8, num_frames=4, **CLASSES),
    "PatchTST": other("PatchTSTForClassification", "PatchTSTConfig", "audio", (2, 64, 3),
                      places(source="channels folded into the examples"),
                      Score(lambda output: output.prediction_logits[:, 1]), context_length=64, patch_length=8,
                      patch_stride=8, num_input_channels=3, d_model=48, num_hidden_layers=2, num_attention_heads=4,
                      ffn_dim=96, num_targets=5),
}  # fmt: skip
