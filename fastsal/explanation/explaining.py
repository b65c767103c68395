"""One call for all methods: a prediction, and what made it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastsal.engine.reading import default_layer
from fastsal.engine.run import bounded, module_of
from fastsal.explainers import Attribution, Task, describe
from fastsal.explainers.anytime import limits_of
from fastsal.explainers.arguments import Given, Inputs, as_arguments, at_least_one
from fastsal.explainers.base import Estimating, estimate_of
from fastsal.explainers.outputs import main_output, no_tensor
from fastsal.explainers.registry import find, keywords, options
from fastsal.explainers.scores import Target, check_batch, one_score_each, resolved
from fastsal.explanation.explanation import AXES, Explanation, kind_of


@bounded
def explain(
    model: nn.Module | Callable[..., Any],
    inputs: Inputs,
    method: str | Sequence[str] = "gradcam",
    target: Target = None,
    layer: nn.Module | str | None = None,
    *,
    additional_forward_args: Any = None,
    kind: str | None = None,
    tolerance: float | None = None,
    deadline: float | None = None,
    **method_options: Any,
) -> Explanation:
    """Predict, and explain the prediction by one or several methods.

    >>> explanation = fastsal.explain(model, images, ["gradcam", "saliency"])
    >>> sorted(explanation.maps)
    ['gradcam', 'saliency']

    Args:
        model: module or callable; its output is [B, K], or [B] with one score each, unless a target is given that fits
            another.
        inputs: tensor [B, ...], tuple of tensors, or a mapping of names to what the model takes by name.
        method: a name of :func:`fastsal.methods` (also spelled otherwise in case, hyphens or underscores), or several.
        target: which output to explain; None takes the argmax of each example.
        layer: for methods that read one; None takes the last that has positions.
        additional_forward_args: further arguments of the model.
        kind: of the inputs: image, volume, video, series, tokens or table; None tells it from their form.
        tolerance, deadline: end each method that has an ``estimate`` (RISE, Integrated Gradients, SmoothGrad,
            KernelShap, Shapley sampling) as soon as its relative error is estimated to be below the tolerance, or
            before so many seconds have passed since it began. Other methods take the time that they take.
        method_options: go to every method that takes them. ``batch_size`` bounds the altered copies per model call;
            ``score`` of a perturbation method is ``softmax`` (default, for outputs [B, K]) or ``output``. What a
            method needs and is not told it gets a default of: Occlusion windows of an eighth of each spatial dimension,
            ablation and Shapley values features that are segments of the input, GradientShap and DeepLiftShap
            baselines of zeros.

    Raises:
        TypeError, ValueError: for an unknown method, kind or option, or what the methods themselves refuse.
    """
    names = [method] if isinstance(method, str) else list(method)
    names = [name.replace("_", "-") if isinstance(name, str) else name for name in names]
    if not names:
        raise ValueError("method: none given")
    taken = {name: options(name) for name in names}
    for option in method_options:
        if not any(option in taken[name] for name in names):
            known = sorted(set().union(*taken.values()))
            raise TypeError(f"{option}: {', '.join(names)} takes no such option; known are {', '.join(known)}")
    if method_options.get("batch_size") is not None:
        at_least_one("batch_size", method_options["batch_size"])
    if kind is not None and kind not in AXES:
        raise ValueError(f"kind: {kind!r} is not one of {', '.join(AXES)}")
    tensors = Given(inputs).tensors
    kind = kind_of(tensors) if kind is None else kind
    limits_of(tolerance, deadline)
    run = _Explained(model, inputs, target, layer, additional_forward_args, (tolerance, deadline))
    for name in names:
        run.add(name, {key: value for key, value in method_options.items() if key in taken[name]})
    axes = AXES[kind][: tensors[0].dim()]
    return Explanation(
        run.output, run.target, run.maps, run.seconds, kind, axes, tuple(names), run.options, run.layer_names
    )


class _Explained:
    """The methods of one call one after the other: the first pass of them is the prediction, if it can be."""

    def __init__(
        self,
        model: Callable[..., Any],
        inputs: Inputs,
        target: Target,
        layer: Any,
        additional_forward_args: Any,
        limits: tuple[float | None, float | None],
    ) -> None:
        self._model, self._inputs, self._layer, self._additional = model, inputs, layer, additional_forward_args
        self.target = target
        self._limits = limits
        self._output: Any = None
        self.maps: dict[str, Any] = {}
        self.seconds: dict[str, float] = {}
        self.options: dict[str, dict[str, Any]] = {}
        self.layer_names: dict[str, str | None] = {}

    @property
    def output(self) -> Any:
        """The prediction: of a pass of its own where there was none."""
        if self._output is None:
            self._predicted(Task(self._model, self._inputs, _argmax, self._additional))
        return self._output

    def _predicted(self, task: Task) -> None:
        """Take over the prediction of a task, and the target that it was asked for."""
        task.asks = True
        self._output = main_output(task.output)
        if isinstance(self._output, Tensor):
            check_batch(self._output, task.examples)
        self.target = _resolved(self._output, self.target)

    def add(self, name: str, chosen: dict[str, Any]) -> None:
        """Explain by a method."""
        explainer_class = find(name)
        model = self._model
        if explainer_class.perturbs:
            score = chosen.pop("score", "softmax")
            if score not in ("softmax", "output"):
                raise ValueError(f"score: {score!r} is neither 'softmax' nor 'output'")
            output = self.output
            if score == "softmax" and output.dim() == 2 and output.shape[1] > 1:
                model = _Probabilities(model)
        tensors = Given(self._inputs).tensors
        least = explainer_class.least_examples
        examples = max((tensor.shape[:1].numel() for tensor in tensors), default=least)
        if examples < least:
            raise ValueError(f"inputs: {examples} example for {explainer_class.name}, which needs at least {least}")
        began = _now(tensors)
        explainer = self._explainer(explainer_class, model, tensors)
        given = {**explainer_class.defaults(tensors), **keywords(explainer_class, chosen)}
        known = self._output is not None
        arguments: dict[str, Any] = {"additional_forward_args": self._additional, **given}
        if "target" in _parameters(explainer):
            arguments["target"] = self.target if known or self.target is not None else _argmax
        limits = limits_of(*self._limits)
        call = describe(explainer, self._inputs, **arguments)
        call.task.asks = True
        early = isinstance(explainer, Estimating) and not explainer.exact and call.anytime is not None
        if early and self._limits != (None, None):
            self.maps[name] = estimate_of(explainer, call, limits).attribution
        else:
            self.maps[name] = call.run()
        if not known:
            self._predicted(call.task)
        self.seconds[name] = _now(tensors) - began
        self.options[name] = given
        self.layer_names[name] = self._told(explainer)

    def _explainer(
        self, explainer_class: type[Attribution], model: Callable[..., Any], tensors: tuple[Tensor, ...]
    ) -> Attribution:
        if explainer_class.reads != "layer" or self._layer is not None or explainer_class.shape == "positions":
            found: Attribution = explainer_class.for_model(model, self._layer)
        else:
            # What cannot find its layer itself.
            def score(output: Any) -> Tensor:
                return one_score_each(output, _resolved(main_output(output), self.target), tensors[0].shape[0])

            layer = default_layer(model, tensors, as_arguments(self._additional), score)
            found = explainer_class.for_model(model, layer.name)
        return found

    def _told(self, explainer: Any) -> str | None:
        """The name of the layer that was read; the methods after it read it too."""
        if explainer.reads != "layer":
            return None
        layers = getattr(explainer, "layers", None)
        if self._layer is None and isinstance(layers, list) and layers:
            self._layer = layers if len(layers) > 1 else layers[0]
        read = layers if isinstance(layers, list) else getattr(explainer, "layer", self._layer)
        return ", ".join(map(self._name_of, read if isinstance(read, (list, tuple)) else [read]))

    def _name_of(self, layer: Any) -> str:
        if isinstance(layer, str):
            return layer
        model = module_of(self._model)
        named = () if model is None else model.named_modules()
        return next((name for name, part in named if part is layer), type(layer).__name__)


def _parameters(explainer: Any) -> set[str]:
    import inspect

    found = inspect.signature(explainer.attribute).parameters
    if any(each.kind is each.VAR_KEYWORD for each in found.values()):
        return {*found, "target"}
    return set(found)


def _argmax(output: Any) -> Any:
    return _resolved(output, None)


def _resolved(output: Any, target: Target) -> Target:
    """The target, that of a function what it returned, or each example's argmax."""
    if target is not None:
        return resolved(target, output)
    if not isinstance(output, Tensor):
        raise TypeError(f"model: {no_tensor(output)}")
    if output.dim() == 1:
        return None
    if output.dim() != 2:
        raise ValueError(f"target: needed for an output of shape {tuple(output.shape)}; only [B, K] has an argmax")
    return output.detach().argmax(1)


class _Probabilities:
    """A classifier with softmax, as the papers of perturbation methods score it; its rows are as the classifier's."""

    def __init__(self, model: Callable[..., Any]) -> None:
        self.model = self.__wrapped__ = self.rows_as = model

    def __call__(self, *inputs: Any) -> Tensor:
        scores: Tensor = main_output(self.model(*inputs))
        # In half precision the small probabilities of many classes would all be 0.
        return scores.softmax(1, dtype=torch.promote_types(scores.dtype, torch.float32))


def _now(tensors: tuple[Tensor, ...]) -> float:
    if tensors[0].is_cuda:
        torch.cuda.synchronize(tensors[0].device)
    return time.perf_counter()
