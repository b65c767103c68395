"""LRP and LeGrad: the same rules on PyTorch's own autograd graph, and on the attention weights as they ran."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

import fastsal
from tools.models import by_hand
from tools.models.cell import Meaningless, Wrong, near
from tools.models.checks.gradients import nodes
from tools.models.stated import GridSize
from tools.models.subject import Subject

NO_ATTENTION = "LeGrad without attention over patches"
AFFINE = re.compile(
    r"(Convolution|Addmm|Mm|T|View|ViewCopy|UnsafeView|Reshape\w*|Permute|Transpose|Expand|Slice|Select|Cat|Stack|Add|Sub|"
    r"Neg|Mean|Sum|AvgPool\dD|AdaptiveAvgPool\dD|MaxPool\dDWithIndices|NativeBatchNorm|Squeeze|Unsqueeze|Clone|Split\w*|"
    r"Chunk|ConstantPadNd|UpsampleBilinear2D|UpsampleNearest2D|Relu|Gather|AsStrided|Alias|ToCopy|CopyBackwards|CopySlices|"
    r"Copy|Roll|Flip|Unbind|PixelShuffle|AccumulateGrad|Repeat|Movedim|ReflectionPad2D|Amax|Detach|Narrow|Select)\w*"
)
SECANT: dict[str, Callable[[Any], Tensor]] = {
    "SiluBackward": lambda x: F.silu(x) / x,
    "GeluBackward": lambda x: F.gelu(x) / x,
    "HardswishBackward": lambda x: F.hardswish(x) / x,
    "HardtanhBackward": lambda x: F.relu6(x) / x,
    "LeakyReluBackward": lambda x: torch.where(x > 0, 1.0, 0.01),
}
"""Functions of one element pass relevance on: their slope from zero stands for their derivative."""


def lrp(subject: Subject) -> str:
    """In float64, where the epsilon of 1e-9 is small: LRP-0 is the input times a gradient (Ancona et al., 2018)."""
    exact = replace(subject.double().first(), inputs=subject.inputs[:1].double())
    found = fastsal.LRP(exact.model).attribute(exact.inputs, target=exact.target)
    if not bool(found.isfinite().all()):
        raise Wrong("not finite")
    x = exact.inputs.clone().requires_grad_()
    with by_hand.evaluating(exact.model), torch.enable_grad():
        score = exact.of(exact.model(x.clone(), *exact.extra))
        graph = nodes(score.grad_fn)
        dependent = _dependent(graph)
        strange = set()
        for node in graph:
            name = node.name().rstrip("0123456789")
            if name in SECANT and not (name == "GeluBackward" and node._saved_approximate != "none"):
                slope = SECANT[name](node._saved_self.detach()).nan_to_num()
                node.register_hook(lambda _passed, received, slope=slope: (received[0] * slope,))
                continue
            product = name in ("MulBackward", "MmBackward", "BmmBackward", "DivBackward")
            several = sum(child in dependent for child, _ in node.next_functions if child is not None) > 1
            if node in dependent and (several if product else AFFINE.fullmatch(name) is None):
                strange.add(node.name())
        (slopes,) = torch.autograd.grad(score.sum(), x)
    if strange:
        given = float(found.sum()) / float(score.detach().sum())
        return f"not compared, for {', '.join(sorted(strange)[:3])}; its sum is {given:.2f} of the score"
    return near("relevance", found, slopes * exact.inputs, 1e-3)


def _dependent(graph: list[Any]) -> set[Any]:
    """Nodes through which the score depends on the input: those from which its leaf, or a copy's, is reached."""
    parents: dict[Any, list[Any]] = {}
    for node in graph:
        for child, _ in node.next_functions:
            if child is not None:
                parents.setdefault(child, []).append(node)
    # The input is the one leaf that is no parameter: what is cloned first.
    starts = [node for node in graph if node.name() == "CloneBackward0" and _is_leaf(node)]
    found, waiting = set(starts), list(starts)
    while waiting:
        for parent in parents.get(waiting.pop(), []):
            if parent not in found:
                found.add(parent)
                waiting.append(parent)
    return found


def _is_leaf(node: Any) -> bool:
    child = node.next_functions[0][0]
    return (
        child is not None
        and child.name().endswith("AccumulateGrad")
        and not isinstance(child.variable, torch.nn.Parameter)
    )


class Weights(TorchFunctionMode):
    """Keeps every [B, ..., N, N] that a softmax over the last dimension gives, with attention spelled out."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return self._spelled_out(*args, **kwargs)
        result = func(*args, **kwargs)
        if func in (F.softmax, torch.softmax, Tensor.softmax):
            self._keep(result)
        return result

    def _keep(self, weights: Tensor) -> None:
        if weights.dim() >= 3 and weights.shape[-1] == weights.shape[-2] and weights.requires_grad:
            self.kept.append(weights)

    def _spelled_out(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        if enable_gqa:
            repeats = query.shape[-3] // key.shape[-3]
            key, value = key.repeat_interleave(repeats, -3), value.repeat_interleave(repeats, -3)
        logits = query @ key.mT * (scale if scale is not None else 1 / math.sqrt(query.shape[-1]))
        if is_causal:
            logits = logits + torch.full(logits.shape[-2:], -torch.inf).triu(1).to(logits)
        if attn_mask is not None:
            logits = logits.masked_fill(~attn_mask, -torch.inf) if attn_mask.dtype == torch.bool else logits + attn_mask
        weights = logits.softmax(-1)
        self._keep(weights)
        return weights @ value


def le_grad(subject: Subject) -> str:
    layers = _received(subject) if subject.kind in ("image", "video") and subject.stated.grids else []
    if not layers:
        try:
            fastsal.LeGrad(subject.model).attribute(subject.inputs, subject.target)
        except ValueError as refusal:
            raise Meaningless(NO_ATTENTION) from refusal
        raise Wrong("a map, but no attention over the patches that the model states")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = fastsal.LeGrad(subject.model).attribute(subject.inputs, subject.target, upsample=False, normalize=False)
    largest = max((grid for grid, _ in layers), key=math.prod)
    mode = {2: "bilinear", 3: "trilinear"}[len(largest)]
    maps = [
        F.interpolate(received.unflatten(1, grid)[:, None], size=largest, mode=mode, align_corners=False)
        for grid, received in layers
    ]
    return f"{len(layers)} layers of {'x'.join(map(str, largest))}: " + near(
        "attention", found, torch.stack(maps).mean(0), 1e-3
    )


def _received(subject: Subject) -> list[tuple[GridSize, Tensor]]:
    """(grid, what each of its patches gives [B, places]) of every layer whose attention runs over all patches."""
    stated, examples = subject.stated, subject.inputs.shape[0]
    x = subject.inputs.clone().requires_grad_()
    with by_hand.evaluating(subject.model), torch.enable_grad(), Weights() as mode:
        score = subject.of(subject.model(x.clone(), *subject.extra))
    kept = []
    for weights in mode.kept:
        tokens = weights.shape[-1]
        fits = [
            (grid, before)
            for grid in stated.grids
            for before, behind in {(stated.before, stated.behind), (0, 0)}
            if tokens == math.prod(grid) + before + behind
        ]
        windows = weights.shape[2] if weights.dim() == 5 else 1  # Hiera's, behind the heads
        folded = weights.shape[0] % examples or (weights.dim() == 4 and weights.shape[0] != examples) or windows > 1
        if fits and not folded:
            kept.append((weights, *fits[0]))
    if not kept:
        return []
    gradients = torch.autograd.grad(score.sum(), [weights for weights, _, _ in kept], allow_unused=True)
    found = []
    for (_, grid, before), each in zip(kept, gradients, strict=True):
        if each is not None:
            rows = each.clamp_min(0).reshape(examples, -1, each.shape[-1]).mean(1)
            found.append((grid, rows[:, before : before + math.prod(grid)]))
    return found
