"""A model's output: the tensor in it, and each example's part."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor


def main_output(output: Any) -> Any:
    """The tensor of an output that names it: ``logits`` (transformers), ``out`` (torchvision's segmentation).

    Of one that names neither, the only tensor that is called logits, as ``prediction_logits``, or the only one in
    floating point. A plain mapping's tensors are what its keys say to the caller, so that needs one of the former.
    """
    if isinstance(output, Tensor):
        return output
    for name in ("logits", "out"):
        found = output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)
        if isinstance(found, Tensor):
            return found
    tensors = named_tensors(output)
    scores = [tensor for name, tensor in tensors.items() if name.endswith("logits")]
    if not scores and type(output) is not dict:
        scores = list(tensors.values())
    return scores[0] if len(scores) == 1 else output


def named_tensors(output: Any) -> dict[str, Tensor]:
    """The floating point tensors of an output object or mapping, by name."""
    if isinstance(output, Mapping):
        items: Any = output.items()
    elif dataclasses.is_dataclass(output) and not isinstance(output, type):
        items = ((field.name, getattr(output, field.name)) for field in dataclasses.fields(output))
    else:
        return {}
    return {str(name): each for name, each in items if isinstance(each, Tensor) and each.is_floating_point()}


def no_tensor(output: Any) -> str:
    """What an output is that is no tensor, and what would do instead, for errors."""
    tensors = named_tensors(output)
    told = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in tensors.items())
    kind = f"{type(output).__name__} with {told}" if told else type(output).__name__
    return f"its output is a {kind}, not a tensor; wrap it to return one, or pass a target of fastsal.targets"


def count_examples(output: Any) -> int:
    """How many examples an output is of."""
    output = main_output(output)
    if isinstance(output, Mapping):
        return count_examples(next(iter(output.values())))
    if isinstance(output, Tensor):  # len() would make a number of a size that stands for every batch
        return output.shape[0] if output.dim() else 1
    return len(output)


def example_outputs(output: Any, examples: int) -> list[Any]:
    """Each example's part of a model's output.

    Raises:
        TypeError, ValueError: for an output without one part per example.
    """
    output = main_output(output)
    if isinstance(output, Mapping):
        parts = {name: example_outputs(value, examples) for name, value in output.items()}
        return [{name: part[i] for name, part in parts.items()} for i in range(examples)]
    if not isinstance(output, (Tensor, list, tuple)):
        raise TypeError(f"forward_func: its output is a {type(output).__name__}, which has no part for each example")
    if isinstance(output, Tensor) and output.dim() == 0 and examples == 1:
        return [output]
    if not isinstance(output, Tensor) and output and _are_several(output, examples):
        shapes = ", ".join(str(tuple(each.shape)) for each in output)
        raise ValueError(
            f"forward_func: its output is a {type(output).__name__} of tensors {shapes}: several outputs rather than a "
            "part for each example; return the one to explain"
        )
    size = len(output) if not isinstance(output, Tensor) else (output.shape[0] if output.dim() else 0)
    if size != examples:
        raise ValueError(f"forward_func: its output has {size} entries for {examples} examples")
    return list(output)


def _are_several(output: list[Any] | tuple[Any, ...], examples: int) -> bool:
    """Whether tensors are outputs for all examples, not one for each: a tuple, or a list that could be either."""
    if not all(isinstance(each, Tensor) for each in output):
        return False
    alike = all(each.dim() > 0 and each.shape[0] == examples for each in output)
    return isinstance(output, tuple) or (alike and examples > 1)


def example_scores(output: Any, target: Any, examples: int) -> Tensor:
    """Scores [B] of one target for all examples, or of a list with one each.

    Raises:
        TypeError, ValueError: for a wrong number of targets, or one that returns anything but one number.
    """
    targets: list[Callable[[Any], Tensor]] = list(target) if isinstance(target, list) else [target] * examples
    if len(targets) != examples:
        raise ValueError(f"target: {len(targets)} entries for {examples} examples")
    scores = []
    for each, part in zip(targets, example_outputs(output, examples), strict=True):
        score = each(part)
        if not isinstance(score, Tensor) or score.numel() != 1:
            given = tuple(score.shape) if isinstance(score, Tensor) else type(score).__name__
            raise ValueError(f"target: {each!r} returned {given} for an example, not a tensor with one element")
        scores.append(score.reshape(()))
    return torch.stack(scores)
