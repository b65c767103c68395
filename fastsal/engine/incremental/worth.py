"""Whether a trace pays, by sizes alone: the same for the same arguments, on any day and after any other call."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from fastsal.engine.incremental.rules import OperationCall, elements, rule_of
from fastsal.engine.incremental.tracing import Traced, aliases


class Speed(NamedTuple):
    """What a machine does in a second, in float32.

    Attributes:
        products: multiply-adds of convolutions and matrices.
        elements: elements that operations write.
    """

    products: float
    elements: float


CPU = Speed(140e9, 1.4e9)
"""Two cores of a server of 2023 with AVX-512, fitted to passes of eight rows at 224 x 224.

The seven networks of benchmarks/models.py, from MobileNetV2 to VGG-16 and ViT-B/16, take 0.88 to 1.1 times what this
says.
"""


def seconds_of_row(recorded: Traced) -> float:
    """What a row takes in a plain sweep on a CPU, about."""
    total = 0.0
    for node in recorded.nodes:
        value = node.meta.get("val")
        if not isinstance(value, Tensor) or aliases(node):
            continue
        call = OperationCall(node, recorded.shape, {})
        work, size = rule_of(node.target).work(call), elements(call)
        products = work if work > size else 0.0
        total += (products / CPU.products + size / CPU.elements) * value.dtype.itemsize / 4
    return total


def trace_seconds(recorded: Traced) -> float:
    """What a trace takes, about, with what the first in a process imports.

    Measured: 1.6 s for 12 operations, 1.8 s for ResNet-18's 69, 2.4 s for ResNet-50's 175, 2.8 s for MobileNetV2's 152;
    without the imports 0.1, 0.3, 0.7 and 1.0 s.
    """
    return 1.5 + 0.005 * len(recorded.nodes)
