"""Attention as a model computes it, in every usual spelling, without the matrix of weights where the model has none."""

from fastsal.explainers.attending.attended import Attended
from fastsal.explainers.attending.listing import AttentionLayer, AttentionLayers, attention, in_windows, layout_of
from fastsal.explainers.attending.tap import AttentionTap

__all__ = ["Attended", "AttentionLayer", "AttentionLayers", "AttentionTap", "attention", "in_windows", "layout_of"]
