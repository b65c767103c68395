"""DeepLIFT: differences from a baseline, sent back through the network by the Rescale rule."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from fastsal.engine.run import tell
from fastsal.explainers.arguments import Baselines, Inputs, examples_of
from fastsal.explainers.base import GradientAttribution, Reads, attribution
from fastsal.explainers.call import Call
from fastsal.explainers.gradient.multipliers.differences import Differences
from fastsal.explainers.scores import Target, per_example
from fastsal.explainers.task import Task

Custom = Callable[..., Any]
Tensors = tuple[Tensor, ...]


class Compared(NamedTuple):
    """Inputs (or values of a layer) and baselines, with their multipliers.

    Attributes:
        ends, starts, multipliers: tensors of the same shapes.
        change: F(x) - F(b) of each row.
        shaped: makes a result of such tensors.
        excess: tells where a sum is far off the change; None where it need not be the change.
    """

    ends: Tensors
    starts: Tensors
    multipliers: Tensors
    change: Tensor
    shaped: Callable[[Sequence[Tensor]], Any]
    excess: Callable[[Tensor, Tensor], str | None] | None


def _total(parts: tuple[Tensor, ...]) -> Tensor:
    """Of each example, over all inputs."""
    return torch.stack([per_example(part).sum(1) for part in parts]).sum(0)


class DeepLift(GradientAttribution):
    """(x - b) times the multipliers of Shrikumar, Greenside, Kundaje, "Learning Important Features Through Propagating
    Activation Differences" (ICML 2017), by the Rescale rule.

    The attributions add up to F(x) - F(b) where the network is made of affine layers (also convolutions, pooling,
    resizing, batch normalisation, indexing); of functions of one element, and of several (``pow``, ``hypot``, ``glu``,
    ``addcmul``, ``lerp`` ...); maxima and minima (of two tensors, over dimensions, max pooling); products and quotients
    of two activations (also matrices and kernels); ``softmax``, ``log_softmax`` and ``logsumexp`` over any dimension;
    layer, group, instance and RMS normalisation, ``var``, ``std``, norms of order 1 and 2; fused attention. Every form
    of a function is met: as a module (also one that is used twice), as a function, in place, inside another one.

    These do not add up, but keep their gradient: functions that jump (``sign``, ``round``, ``floor``, ``remainder``)
    and choices that depend on the inputs (``where``, ``masked_fill``, ``gather`` by computed masks or indices;
    ``topk``, ``sort``, ``median``, ``cummax``); what is detached; places to sample (``grid_sample``, deformable
    convolutions); ``prod``, ``cumprod``, ``cdist``, norms of other orders, determinants and decompositions; functions
    of complex numbers; recurrent layers that a library runs in one call (cuDNN's and oneDNN's, in float32); scripted
    functions and those with a derivative of the model's own. A softmax that nothing follows keeps Captum's rule, by
    which differences between classes count; explain the logits instead. Where the sum is off by more than a tenth of
    F(x) - F(b), a warning tells by how much, with the functions of these kinds that ran.

    Costs a forward pass of the baselines, which is remembered, and a forward and a backward pass of the inputs, which
    are compared with it function by function. From where the model runs other functions on the inputs than it did on
    the baselines the gradient is kept, and the warning names the first of them.

    >>> maps, delta = fastsal.DeepLift(model).attribute(images, target=classes, return_convergence_delta=True)

    Args:
        model: a torch.nn.Module in Python code.
        multiply_by_inputs: the factor (x - b); without it the multipliers are returned.
        eps: a difference below it is not divided by; the gradient stands in.

    Raises:
        TypeError: for what is not a module, or has compiled parts whose functions cannot be reached.
    """

    summary = "differences from a baseline, sent back by the Rescale rule"
    cost = "2 forward, 1 backward"
    reads: ClassVar[Reads] = "functions"

    def __init__(self, model: nn.Module, multiply_by_inputs: bool = True, eps: float = 1e-10) -> None:
        super().__init__(model.module if isinstance(model, nn.DataParallel) else model)
        if not isinstance(model, nn.Module):
            raise TypeError(f"model: {type(model).__name__} is not a torch.nn.Module")
        if any(isinstance(part, torch.jit.ScriptModule) for part in model.modules()):
            raise TypeError("model: it has TorchScript parts, whose functions cannot be reached; pass the Python model")
        self.model = model
        self.eps = eps
        self._multiply_by_inputs = multiply_by_inputs

    @property
    def multiplies_by_inputs(self) -> bool:
        return self._multiply_by_inputs

    def has_convergence_delta(self) -> bool:
        return True

    @attribution
    def attribute(
        self,
        inputs: Inputs,
        baselines: Baselines = None,
        target: Target = None,
        additional_forward_args: Any = None,
        return_convergence_delta: bool = False,
        custom_attribution_func: Custom | None = None,
        *,
        allow_unused: bool = False,
    ) -> Call[Any]:
        """Attribution in the form, shapes and dtypes of the inputs.

        Args:
            inputs: tensor [B, ...] or tuple of them, floating point.
            baselines: compared with: None (0), a number, a tensor that broadcasts, a tuple of these.
            target: which output to explain, one for all or one per example.
            additional_forward_args: further arguments of the model, for the baselines too.
            return_convergence_delta: also return sum(attribution) - (F(x) - F(b)), [B].
            custom_attribution_func: (multipliers[, inputs[, baselines]]), tuples all, into the attributions.
            allow_unused: give zeros, with a warning, for an input that the target does not use in any way. One that it
                uses in ways without a gradient is an error always.

        Raises:
            TypeError, ValueError: for arguments outside of the above, or a model with one score for the whole batch.
        """
        task = self.task(inputs, target, additional_forward_args, baselines=baselines, allow_unused=allow_unused)
        return self.described(task, return_convergence_delta, custom_attribution_func)

    def described(self, task: Task, return_convergence_delta: bool, custom: Custom | None, **options: Any) -> Call[Any]:
        """The call of a task with its baselines; ``options`` as of :meth:`compared`."""
        examples_of(task.inputs)

        def run() -> Any:
            starts = task.starts()
            parts, delta, excess, shaped = self.attributions(task, task.inputs, starts, custom, **options)
            if excess is not None:
                tell(f"{type(self).__name__}: {excess}")
            result = shaped(parts)
            return (result, delta) if return_convergence_delta else result

        return task.once(run)

    def compared(self, task: Task, ends: Tensors, starts: Tensors, count: int) -> Compared:
        """What is explained, of ``count`` copies of the inputs [count * B, ...] against as many baselines."""
        differences = Differences(task, count, self.eps)
        multipliers, change = differences.multipliers(ends, starts)
        return Compared(ends, starts, multipliers, change, task.result, differences.excess)

    def attributions(
        self, task: Task, ends: Tensors, starts: Tensors, custom: Custom | None, count: int = 1, **options: Any
    ) -> tuple[Tensors, Tensor, str | None, Callable[[Sequence[Tensor]], Any]]:
        """Of ``count`` copies of the inputs [count * B, ...] against as many baselines; ``options`` as of
        :meth:`compared`.

        Returns:
            The attributions; their sum less F(x) - F(b), [count * B]; what to tell where the multipliers are far off;
            what puts attributions into the form of a result.
        """
        ends, starts, multipliers, change, shaped, excess_of = self.compared(task, ends, starts, count, **options)
        with torch.no_grad():
            products = tuple((x - b) * m for x, b, m in zip(ends, starts, multipliers, strict=True))
            excess = None if excess_of is None else excess_of(_total(products) - change, change)
        found = products if self._multiply_by_inputs else multipliers
        if custom is not None:
            parameters = len(inspect.signature(custom).parameters)
            returned = custom(*(multipliers, ends, starts)[: max(1, min(parameters, 3))])
            found = returned if isinstance(returned, tuple) else (returned,)
        return found, _total(found).detach() - change, excess, shaped
