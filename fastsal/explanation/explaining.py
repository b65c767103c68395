"""One call from a model and an input to the prediction and its maps."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fastsal.engine.run import evaluation, run, scratch
from fastsal.explainers.base import Inputs, Target, as_arguments, as_inputs, at_least_one
from fastsal.explainers.cam.base import ActivationMap, CamReading
from fastsal.explainers.registry import find, keywords, options
from fastsal.explainers.targets import main_output

OCCLUSION_SHARE = 8
"""Without a window given, occlusion takes one eighth of each spatial dimension, at half of that as its stride."""


class Explanation(NamedTuple):
    """A prediction and its maps.

    Attributes:
        output: the model's output for the inputs, [B, K].
        target: what was explained: the given target, or the argmax of each example, [B].
        maps: attribution by method name.
        seconds: wall-clock seconds by method name, the prediction not included unless the method makes it.
    """

    output: Tensor
    target: Target
    maps: dict[str, Any]
    seconds: dict[str, float]


def explain(
    model: nn.Module | Callable[..., Any],
    inputs: Inputs,
    method: str | Sequence[str] = "gradcam",
    target: Target = None,
    layer: nn.Module | str | None = None,
    *,
    additional_forward_args: Any = None,
    **method_options: Any,
) -> Explanation:
    """Predict, and explain the prediction by one or several methods.

    Args:
        model: module or callable; its output is [B, K], or [B] with one score each, unless a target is given that fits
            another.
        inputs: tensor [B, ...] or tuple of tensors.
        method: a name of :func:`fastsal.methods`, or several.
        target: which output to explain; None takes the argmax of each example.
        layer: for methods that read one; None takes the last that has positions.
        additional_forward_args: further arguments of the model.
        method_options: go to every method that takes them. ``batch_size`` bounds the altered copies per model call;
            ``score`` of a perturbation method is ``softmax`` (default, for outputs [B, K]) or ``output``. Occlusion
            without a window takes an eighth of each spatial dimension.

    Raises:
        TypeError, ValueError: for an unknown method or option, or what the methods themselves refuse.
    """
    names = [method] if isinstance(method, str) else list(method)
    names = [name.replace("_", "-") if isinstance(name, str) else name for name in names]
    if not names:
        raise ValueError("method: none given")
    for name in names:
        find(name)
    taken = {name: options(name) for name in names}
    for option in method_options:
        if not any(option in taken[name] for name in names):
            known = sorted(set().union(*taken.values()))
            raise TypeError(f"{option}: {', '.join(names)} takes no such option; known are {', '.join(known)}")
    if method_options.get("batch_size") is not None:
        at_least_one("batch_size", method_options["batch_size"])
    tensors, _ = as_inputs(inputs)
    output: Tensor | None = None
    maps: dict[str, Any] = {}
    seconds: dict[str, float] = {}
    default: list[nn.Module] | None = None
    for name in names:
        chosen = {key: value for key, value in method_options.items() if key in taken[name]}
        method_class: Any = find(name).explainer
        if issubclass(method_class, ActivationMap):
            began = _now(tensors)
            cam = method_class(model, layer if default is None else default)
            if "batch_size" in chosen and hasattr(cam, "perturbations_per_eval"):
                cam.perturbations_per_eval = chosen["batch_size"]
            chooses = target is None and output is None
            read, maps[name] = _activation_map(
                cam, inputs, _argmax if chooses else target, additional_forward_args, chosen
            )
            seconds[name] = _now(tensors) - began
            default = cam.layers
            if output is None:
                output = main_output(read.output)
                target = _resolve(output, target)
            continue
        if output is None:
            with evaluation(model), torch.no_grad():
                additional = tuple(map(scratch, as_arguments(additional_forward_args)))
                output = main_output(run(model, tuple(map(scratch, tensors)), additional))
            target = _resolve(output, target)
        began = _now(tensors)
        maps[name] = _attribute(name, model, inputs, tensors, output, target, additional_forward_args, chosen)
        seconds[name] = _now(tensors) - began
    assert output is not None
    return Explanation(output, target, maps, seconds)


def _activation_map(
    cam: ActivationMap, inputs: Inputs, target: Target, additional_forward_args: Any, chosen: dict[str, Any]
) -> tuple[CamReading, Tensor]:
    """The reading, for the prediction in it, and the map."""
    read = cam.read(inputs, target, additional_forward_args)
    renders = {key: value for key, value in chosen.items() if key not in ("batch_size", "aug_smooth")}
    if not chosen.get("aug_smooth"):
        renders["relu"] = renders.pop("relu_attributions", True)
        return read, cam.render(read, inputs, **renders)
    target = target(main_output(read.output)) if target is _argmax else target
    return read, cam.attribute(inputs, target, additional_forward_args, aug_smooth=True, **renders)


def _argmax(output: Tensor) -> Tensor:
    return _resolve(output, None)  # type: ignore[no-any-return]


def _resolve(output: Any, target: Target) -> Target:
    """The target, or each example's argmax."""
    if target is not None:
        return target
    if not isinstance(output, Tensor):
        raise TypeError(f"model: its output is a {type(output).__name__}, not a tensor; wrap it to return one")
    if output.dim() == 1:
        return None
    if output.dim() != 2:
        raise ValueError(f"target: needed for an output of shape {tuple(output.shape)}; only [B, K] has an argmax")
    return output.detach().argmax(1)


def _attribute(
    name: str,
    model: Callable[..., Any],
    inputs: Inputs,
    tensors: tuple[Tensor, ...],
    output: Tensor,
    target: Target,
    additional_forward_args: Any,
    chosen: dict[str, Any],
) -> Any:
    method = find(name)
    if method.perturbs:
        score = chosen.pop("score", "softmax")
        if score not in ("softmax", "output"):
            raise ValueError(f"score: {score!r} is neither 'softmax' nor 'output'")
        explained = _Probabilities(model) if score == "softmax" and output.dim() == 2 and output.shape[1] > 1 else model
    else:
        explained = model
    if name == "occlusion" and "sliding_window_shapes" not in chosen:
        windows = tuple(_window(tensor) for tensor in tensors)
        chosen["sliding_window_shapes"] = windows if isinstance(inputs, tuple) else windows[0]
        if "strides" not in chosen:
            strides = tuple(tuple(-(-width // 2) for width in window) for window in windows)
            strides = tuple((t.shape[1], *s[1:]) if t.dim() > 2 else s for t, s in zip(tensors, strides, strict=True))
            chosen["strides"] = strides if isinstance(inputs, tuple) else strides[0]
    return method.explainer(explained).attribute(  # type: ignore[attr-defined]
        inputs, target=target, additional_forward_args=additional_forward_args, **keywords(method, chosen)
    )


def _window(tensor: Tensor) -> tuple[int, ...]:
    """All channels of an image, one eighth of each spatial dimension; one feature of a table."""
    if tensor.dim() < 2:
        raise ValueError(f"inputs: shape {tuple(tensor.shape)} has nothing beside the batch to occlude")
    if tensor.dim() == 2:
        return (1,)
    return (tensor.shape[1], *[-(-extent // OCCLUSION_SHARE) for extent in tensor.shape[2:]])


class _Probabilities:
    """A classifier with softmax, as the papers of perturbation methods score it."""

    def __init__(self, model: Callable[..., Any]) -> None:
        self.model = self.__wrapped__ = model

    def __call__(self, *inputs: Any) -> Tensor:
        scores: Tensor = main_output(self.model(*inputs))
        # In half precision the small probabilities of many classes would all be 0.
        return scores.softmax(1, dtype=torch.promote_types(scores.dtype, torch.float32))


def _now(tensors: tuple[Tensor, ...]) -> float:
    if tensors[0].is_cuda:
        torch.cuda.synchronize(tensors[0].device)
    return time.perf_counter()
