"""Stage 5: what a model's passes cost on the card in each way to run them: the ceiling that ``prepare`` must reach.

Ways are eager, as a CUDA graph, with TF32 or in bfloat16, channels last, with folded batch norm, with convolution, bias
and ReLU in one call of cuDNN, and compiled.
"""

from __future__ import annotations

import contextlib
import copy
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastsal
from benchmarks.models import resnet50, small_cnn, vit_b_16
from fastsal.ops import device_seconds
from tools.gpu_check.rows import Rows, describe
from tools.gpu_check.stage import Limit
from tools.gpu_check.timed import seconds_of

RESERVE = 8.0
"""Seconds that one way may take."""
COMPILING = 60.0
"""Seconds that torch.compile needs, about."""
Way = Callable[[nn.Module, Tensor], tuple[nn.Module, Tensor]]


class FusedConvolution(nn.Module):
    """Convolution, bias and ReLU as one operation of cuDNN, for inference."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        conv = self.conv
        if x.is_cuda:
            around: Any = conv.padding
            return torch.cudnn_convolution_relu(
                x, conv.weight, conv.bias, conv.stride, around, conv.dilation, conv.groups
            )
        found: Tensor = F.relu(conv(x))
        return found


def fused(model: nn.Module) -> tuple[nn.Module, int]:
    """A copy in which each convolution that a ReLU follows in a sequence is one with it; how many there are."""
    model, count = copy.deepcopy(model), 0
    for part in list(model.modules()):
        if not isinstance(part, nn.Sequential):
            continue
        layers = list(part)
        for place, layer in enumerate(layers):
            behind = [at for at in range(place + 1, len(layers)) if not isinstance(layers[at], nn.Identity)][:1]
            if not isinstance(layer, nn.Conv2d) or layer.bias is None:
                continue
            if behind and isinstance(layers[behind[0]], nn.ReLU):
                part[place], part[behind[0]] = FusedConvolution(layer), nn.Identity()
                count += 1
    return model, count


def ways(model: nn.Module, x: Tensor) -> Iterator[tuple[str, nn.Module, Tensor, str]]:
    """(name, model, input, arithmetic) of each way that needs no compilation, those of most interest first."""
    last: Any = {"memory_format": torch.channels_last}
    yield "eager", model, x, "ieee"
    yield "eager", model, x, "tf32"
    yield "bfloat16", copy.deepcopy(model).bfloat16(), x.bfloat16(), "tf32"
    if not any(isinstance(part, nn.Conv2d) and part.kernel_size != part.stride for part in model.modules()):
        return  # nothing of what follows is for a transformer
    yield "channels last", copy.deepcopy(model).to(**last), x.contiguous(**last), "tf32"
    folded = fastsal.prepare(model, x[:1], memory_format="contiguous", probe_seconds=0).module
    yield "folded", folded, x, "tf32"
    one, count = fused(folded)
    yield f"folded, {count} convolutions with their ReLU", one, x, "tf32"
    wide = copy.deepcopy(folded).bfloat16().to(**last)
    yield "folded, bfloat16, channels last", wide, x.bfloat16().contiguous(**last), "tf32"
    one, count = fused(wide)
    yield (
        f"folded, bfloat16, channels last, {count} convolutions with their ReLU",
        one,
        x.bfloat16().contiguous(**last),
        "tf32",
    )


@contextlib.contextmanager
def arithmetic(kind: str) -> Iterator[None]:
    """TF32 in convolutions and products, or not."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = kind == "tf32"
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


def run(rows: Rows, limit: Limit, rehearse: bool) -> None:
    """Writes a row for each model, batch and way.

    Raises:
        RuntimeError: where the limit left some out, or the device no longer answers.
    """
    device = "cpu" if rehearse else "cuda"
    models = {"small": small_cnn} if rehearse else {"resnet50": resnet50, "vit-b/16": vit_b_16}
    made = {name: make(device) for name, make in models.items()}
    side = 32 if rehearse else 224
    for batch in (1, 2) if rehearse else (1, 256, 32):
        x = torch.randn(batch, 3, side, side, device=device)
        for name, model in made.items():
            for way, module, given, kind in ways(model, x):
                if limit.left() < RESERVE:
                    raise RuntimeError(f"stopped at the limit before {name}, {batch} rows, {way}")
                _add(rows, name, batch, f"{way}, {kind}", module, given, kind, device)
    for name, model in made.items():
        for batch in () if rehearse else (1, 256):
            if limit.left() < COMPILING:
                raise RuntimeError(f"stopped at the limit before {name}, {batch} rows, compiled")
            given = torch.randn(batch, 3, side, side, device=device)
            _add(rows, name, batch, "compiled, tf32", torch.compile(model, dynamic=False), given, "tf32", device)


def _add(
    rows: Rows, name: str, batch: int, way: str, module: Callable[..., Any], x: Tensor, kind: str, device: str
) -> None:
    try:
        with arithmetic(kind), torch.inference_mode():

            def work() -> Any:
                return module(x)

            as_felt = seconds_of(work)
            graph = device_seconds(work, groups=3 if as_felt["seconds"] > 0.02 else 15)
        rows.add("model", model=name, rows=batch, way=way, **as_felt, device_seconds=graph.seconds, how=graph.how)
    except Exception as error:
        traceback.print_exc()
        rows.add("error", of=f"{name}, {batch} rows, {way}", error=describe(error))
        if device == "cuda":
            torch.cuda.synchronize()  # raises where the error has broken the context: no later figure would hold
