"""LRP: the output's score, sent back layer by layer, each sharing what it gets among its inputs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fastsal.engine.prepare import unprepared
from fastsal.engine.run import calling, detached
from fastsal.explainers.arguments import Inputs, as_inputs
from fastsal.explainers.base import GradientAttribution, Reads, attribution
from fastsal.explainers.call import Call
from fastsal.explainers.lrp._mode import Refused, RelevanceMode
from fastsal.explainers.lrp._modules import own_rule
from fastsal.explainers.lrp.composites import Composite, Rules, as_composite
from fastsal.explainers.lrp.layer import widen
from fastsal.explainers.outputs import main_output
from fastsal.explainers.scores import Target, one_score_each, per_example
from fastsal.explainers.task import Task

# Relevance starts from 1 and is scaled by the score at the end. In float16, 1 spread over the 150528 values of an image
# falls below 6e-5, where digits are lost; 64 does not, and leaves a factor of 1000 to the greatest float16.
HALF_START = 64.0


class LRP(GradientAttribution):
    """Layer-wise relevance propagation: Bach et al., "On Pixel-Wise Explanations for Non-Linear Classifier Decisions by
    Layer-Wise Relevance Propagation" (PLOS ONE 2015).

    The model runs as it is, whatever its form: modules used once or many times, functions, ``a + b``, concatenation.
    Each function has its rule: linear layers, convolutions, products with constants, sums, pooling, resizing and batch
    normalisation share relevance by one of :mod:`fastsal.lrp`, elementwise activations
    pass it on, and what copies values (reshaping, indexing, concatenation) routes it. What has no rule (softmax, layer
    normalisation, attention, a product of two activations) is refused with its name until it is given one.

    Costs one forward and one backward pass. A layer under the epsilon rule adds its products with the input; each
    other rule runs its layer again, forward and backward, once per term of its equation: once for gamma and flat,
    twice for z+, three times for box, four times for alpha-beta. So does each layer in half precision, in float32, and
    each with batch normalisation merged into it. The model's weights are never written to.

    >>> maps = fastsal.LRP(model).attribute(images, target=classes, composite="epsilon-plus-flat")

    Args:
        model: a torch.nn.Module in Python code. A module's attribute ``rule`` is its rule, as with Captum.

    Raises:
        TypeError: for what is not a module, has TorchScript parts, or a ``rule`` that is no rule.
    """

    summary = "the score, shared out backwards, layer by layer, among what made it"
    cost = "1 forward, 1 backward"
    reads: ClassVar[Reads] = "functions"

    def __init__(self, model: nn.Module) -> None:
        # Rules are of the model's own layers, not of folded ones.
        model = unprepared(model)
        super().__init__(model)
        if not isinstance(model, nn.Module):
            raise TypeError(f"model: {type(model).__name__} is not a torch.nn.Module")
        if any(isinstance(part, torch.jit.ScriptModule) for part in model.modules()):
            raise TypeError("model: it has TorchScript parts, whose layers cannot be reached; pass the Python model")
        for name, module in model.named_modules():
            own_rule(name, module)
        self.model = model

    @property
    def multiplies_by_inputs(self) -> bool:
        return True

    def has_convergence_delta(self) -> bool:
        return True

    @classmethod
    def get_name(cls) -> str:
        """The method's name in words, as Captum has it."""
        return "L R P"

    @attribution
    def attribute(
        self,
        inputs: Inputs,
        target: Target = None,
        additional_forward_args: Any = None,
        return_convergence_delta: bool = False,
        verbose: bool = False,
        *,
        composite: str | Composite | Rules | None = None,
        allow_unused: bool = False,
    ) -> Call[Any]:
        """Relevances in the form, shapes and dtypes of the inputs; their sum is the score, but for what biases and
        epsilon absorb.

        Args:
            inputs: tensor [B, ...] or tuple of them, floating point.
            target: which output to explain, one for all or one per example.
            additional_forward_args: further arguments of the model; no relevance goes to them.
            return_convergence_delta: also return score minus sum of relevances, [B].
            verbose: print each layer's rule when it runs.
            composite: the rules of layers that have none of their own. None is Captum's EpsilonRule(1e-9) for all. A
                name "X-Y" gives X to linear layers and Y to convolutions, "X-Y-Z" also Z to the first layer:
                "epsilon", "epsilon-plus", "epsilon-plus-flat", "epsilon-gamma-box", "epsilon-alpha2-beta1",
                "epsilon-alpha2-beta1-flat" (Montavon et al., "Layer-Wise Relevance Propagation: An Overview", 2019;
                Kohlbrenner et al., "Towards Best Practice in Explaining Neural Network Decisions with LRP", 2020);
                under a name, batch normalisation right after such a layer is one layer with it. Or a
                :class:`Composite`; or a mapping from module names, module types and function names to rules; or a
                function (name, module) -> rule.
            allow_unused: give zeros, with a warning, for an input that the target does not use in any way. One that it
                uses in ways without a gradient is an error always.

        Raises:
            TypeError: for a function of the model that has no rule, naming it.
            TypeError, ValueError: for arguments outside of the above.
        """
        task = self.task(inputs, target, additional_forward_args, allow_unused=allow_unused)
        propagation = self.propagation(task, composite, verbose)

        def run() -> Any:
            with task.context(eager=True):
                relevances = task.gradients(forward_func=propagation.forward)
            results = propagation.scaled(relevances)
            if not return_convergence_delta:
                return task.result(results)
            return task.result(results), self.compute_convergence_delta(tuple(results), propagation.scores)

        return task.once(run)

    def propagation(self, task: Task, composite: str | Composite | Rules | None, verbose: bool) -> Propagation:
        """What runs in the place of the model of a task."""
        # Replicas on other threads would not see the mode.
        model = self.model.module if isinstance(self.model, nn.DataParallel) else self.model
        return Propagation(task, model, RelevanceMode(model, as_composite(composite), verbose))

    def compute_convergence_delta(self, attributions: Inputs, output: Tensor) -> Tensor:  # type: ignore[override]
        """Score minus sum of relevances, [B]: what biases and epsilon absorbed.

        Args:
            attributions: what :meth:`attribute` returned.
            output: the scores, [B].
        """
        given, _ = as_inputs(attributions, "attributions")
        return widen(output).flatten() - torch.stack([per_example(part).sum(1) for part in given]).sum(0)


class Propagation:
    """A model whose gradients are relevances, in shares of the score.

    Args:
        task: what is explained.
        model: that runs.
        mode: in which.
    """

    def __init__(self, task: Task, model: nn.Module, mode: RelevanceMode) -> None:
        self._task, self._mode, self._of_inputs = task, mode, task.given.callable_with(model)
        self._start = HALF_START if any(tensor.dtype == torch.float16 for tensor in task.inputs) else 1.0
        self._output: Any = None
        self._begun = False
        self._around: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext
        self._inside: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext

        @calling(model)
        def forward(*arguments: Any) -> Any:
            return self._forward(*arguments)

        self.forward: Callable[..., Any] = forward

    def watch(self, watching: Callable[[], contextlib.AbstractContextManager[Any]], at_input: bool) -> None:
        """Run inside another context, which looks at what comes into modules, or else at what their rules return."""
        if at_input:
            self._around = watching
        else:
            self._inside = watching

    def _forward(self, *arguments: Any) -> Any:
        try:
            with self._around(), self._mode.hooked(), self._inside(), self._mode:
                output = self._of_inputs(*arguments)
        except Refused as refused:
            raise TypeError(str(refused)) from refused
        main = main_output(output)
        self._mode.finish((output, main))
        if self._start != 1:
            if isinstance(main, Tensor):
                start = self._start
                if main.requires_grad:
                    main.register_hook(lambda gradient: gradient * start)
            else:
                self._start = 1.0
        self._output = output
        return output

    @property
    def scores(self) -> Tensor:
        """Of the last run, [B]."""
        return one_score_each(detached(self._output), self._task.tiled_target(1), self._task.examples)

    def begin(self, scores: Tensor) -> None:
        """Let the backward pass begin with the scores, for values of which any dimension may be that of the examples.

        In half precision it begins with one number for all nevertheless, so that small scores do not vanish on the way.
        """
        if self._start == 1 and scores.requires_grad:
            values = scores.detach()
            scores.register_hook(lambda gradient: gradient * values)
            self._begun = True

    def scaled(self, relevances: Sequence[Tensor]) -> list[Tensor]:
        """Relevances [B, ...], or of any form after :meth:`begin`, that add up to the scores, from shares.

        Raises:
            ValueError: in half precision, for values without the examples as dimension 0.
        """
        if self._begun:
            return list(relevances)
        for part in relevances:
            if part.dim() == 0 or len(part) != self._task.examples:
                raise ValueError(
                    f"layer: its value of shape {tuple(part.shape)} does not have the {self._task.examples} examples "
                    "as dimension 0, which LRP needs in float16; convert the model and the inputs"
                )
        scale = widen(self.scores) / self._start
        return [(widen(part) * scale.reshape(-1, *[1] * (part.dim() - 1))).to(part.dtype) for part in relevances]
