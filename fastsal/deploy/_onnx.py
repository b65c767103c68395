"""An exported program as an ONNX file, for runtimes other than PyTorch's."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fastsal._torch import get_decompositions
from fastsal.deploy._metadata import Metadata

aten = torch.ops.aten


def decompositions() -> dict[Any, Callable[..., Any]]:
    """What gradients are made of, in operators that ONNX has; it has none for a backward."""
    known = get_decompositions(
        [
            aten.threshold_backward,
            aten.tanh_backward,
            aten.sigmoid_backward,
            aten.gelu_backward,
            aten.silu_backward,
            aten.elu_backward,
            aten.leaky_relu_backward,
            aten.hardtanh_backward,
            aten.hardswish_backward,
            aten.hardsigmoid_backward,
            aten._softmax_backward_data,
            aten._log_softmax_backward_data,
            aten.native_batch_norm_backward,
            aten.native_layer_norm_backward,
            aten._native_batch_norm_legit_no_training,
            aten.avg_pool2d_backward,
            aten._adaptive_avg_pool2d_backward,
            aten.slice_backward,
            aten.select_backward,
            aten.embedding_dense_backward,
        ]
    )
    return {
        **known,
        aten.convolution_backward.default: _convolution_backward,
        aten.max_pool2d_with_indices_backward.default: _max_pool_backward,
        aten.__rshift__.Tensor: _shifted,
    }


def _convolution_backward(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    bias_sizes: Any,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    wanted: Sequence[bool],
) -> tuple[Tensor | None, None, None]:
    """By the input alone: the transposed convolution, or of a transposed one the convolution."""
    if wanted[1] or wanted[2]:
        raise ValueError("explainer: a gradient by the model's weights cannot be exported to ONNX")
    if not wanted[0]:
        return None, None, None
    if transposed:
        zeros = [0] * len(stride)
        return aten.convolution(gradient, weight, None, stride, padding, dilation, False, zeros, groups), None, None
    # What a stride left over at the end.
    rest = [
        x.shape[2 + i]
        - ((gradient.shape[2 + i] - 1) * stride[i] - 2 * padding[i] + dilation[i] * (weight.shape[2 + i] - 1) + 1)
        for i in range(len(stride))
    ]
    return aten.convolution(gradient, weight, None, stride, padding, dilation, True, rest, groups), None, None


def _max_pool_backward(
    gradient: Tensor,
    x: Tensor,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    ceil_mode: bool,
    indices: Tensor,
) -> Tensor:
    """Each gradient goes to where its maximum was."""
    images, channels, height, width = x.shape
    flat = torch.zeros_like(x).reshape(images, channels, height * width)
    places, values = (each.reshape(images, channels, -1) for each in (indices, gradient))
    return flat.scatter_add(2, places, values).reshape(images, channels, height, width)


def _shifted(value: Tensor, bits: Tensor) -> Tensor:
    """Of the words of RISE's masks, which are not negative and have at most 31 bits: exact in float64."""
    return (value.to(torch.float64) / torch.pow(2.0, bits.to(torch.float64))).floor().to(value.dtype)


def write(program: Any, metadata: Metadata, path: str) -> None:
    """Write a program of two inputs (``input``, ``target``) and two outputs (``output``, ``map``).

    Raises:
        ImportError: without the extra ``onnx``.
        ValueError: for an operation that ONNX does not have.
    """
    if importlib.util.find_spec("onnxscript") is None:
        raise ImportError("path: .onnx needs the package onnxscript: pip install 'fastsal[onnx]'")
    try:
        made = torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            input_names=["input", "target"],
            output_names=["output", "map"],
        )
    except torch.onnx.errors.OnnxExporterError as error:
        line = next((each for each in str(error).splitlines() if each.strip()), type(error).__name__)
        raise ValueError(f"explainer: {metadata.method} of this model cannot be exported to ONNX: {line}") from error
    assert made is not None
    made.model.metadata_props.update(metadata.texts())
    made.save(path)
