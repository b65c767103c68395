"""FullGrad: the input's gradient, and that of every bias on the way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastsal.engine.prepare import unprepared
from fastsal.engine.run import find, leaves_autograd, run, scratch, tell
from fastsal.explainers.arguments import Inputs
from fastsal.explainers.base import Attribution, Display, attribution
from fastsal.explainers.call import Call
from fastsal.explainers.gradient._biases import Added, Biases, unmet
from fastsal.explainers.reached import reached
from fastsal.explainers.scores import Target
from fastsal.explainers.task import Task
from fastsal.ops import accumulation_dtype, cam

EPSILON = 1e-6
PYTHON = "pass the model in Python code, without reentrant checkpointing"


class FullGrad(Attribution):
    """Srinivas and Fleuret, "Full-Gradient Representation for Neural Network Visualization" (NeurIPS 2019), equation 8.

    The sum of input x gradient and, for every convolution and batch normalisation, of bias x gradient by its output:
    absolute, scaled to [0, 1] per layer, resized, summed over channels. A batch normalisation's bias is what it adds in
    all, its running mean included (section 3.1). They are met as functions: those of exported programs, and without a
    module, count too. Costs one forward and backward pass.

    >>> maps = fastsal.FullGrad(model).attribute(images, target=classes)

    Args:
        model: a torch.nn.Module, or a callable around one.
    """

    summary = "input times gradient, and bias times gradient of every layer"
    cost = "1 forward, 1 backward"
    reads = "functions"
    shape = "positions"
    display = Display("range", 100.0)

    def __init__(self, model: Callable[..., Any]) -> None:
        # The biases are those of the model's own layers, not of folded ones.
        super().__init__(unprepared(model))

    @attribution
    def attribute(
        self,
        inputs: Inputs,
        target: Target = None,
        additional_forward_args: Any = None,
        *,
        normalize: bool = True,
    ) -> Call[Tensor]:
        """Maps [B, 1, *spatial] in the size of the (first) input.

        Args:
            inputs: tensor [B, C, *spatial], floating point, tuple of tensors, or mapping.
            target: which output to explain, one for all or one per example.
            additional_forward_args: further arguments of the model.
            normalize: to [0, 1] per map.

        Raises:
            TypeError, ValueError: for arguments outside of the above, or a model whose convolutions cannot be met, as
                in TorchScript.
        """
        task = self.task(inputs, target, additional_forward_args)
        x = task.inputs[0]
        if not x.is_floating_point() or not 3 <= x.dim() <= 5:
            raise ValueError(f"inputs: {x.dtype} of shape {tuple(x.shape)} is not floating point of [B, C, *spatial]")

        def maps() -> Tensor:
            leaf, met, first, gradients = self.gradients(task)
            if not met:
                message = "the model ran no convolution or batch normalisation; this is the input times its gradient"
                tell(message)
            parts = [leaf * first]
            for added, gradient in zip(met, gradients, strict=True):
                total = added.total
                if total is not None and gradient is not None and added.output.dim() == x.dim():
                    parts.append(total.to(gradient).reshape(1, -1, *[1] * (x.dim() - 2)) * gradient)
            dtype = accumulation_dtype(x.dtype)
            summed = torch.zeros((x.shape[0], *x.shape[2:]), dtype=dtype, device=x.device)
            for part in parts:
                scaled = _scaled(part.detach().to(dtype).abs()).sum(1, keepdim=True)
                summed += cam.finish(scaled[:, 0], list(x.shape[2:]), relu=False, normalize=False)
            if normalize:
                summed = cam.finish(summed, relu=False)
            return summed[:, None].to(x.dtype)

        return task.once(maps)

    def gradients(self, task: Task) -> tuple[Tensor, list[Added], Tensor, tuple[Tensor | None, ...]]:
        """One pass: the first input, what has a bias, and the gradients by the input and by the results of these.

        Raises:
            TypeError: for a model with TorchScript parts.
            Unreached: for scores that do not depend on the first input through autograd.
            ValueError: for scores that depend on convolutions that no function shows.
        """
        biases = Biases()
        with task.context(eager=True), torch.enable_grad():
            modules = find(task.forward_func, task.inputs, task.additional)
            if any(isinstance(part, torch.jit.ScriptModule) for module in modules for part in module.modules()):
                raise TypeError("forward_func: it has TorchScript parts, whose biases cannot be reached; " + PYTHON)
            leaf = scratch(task.inputs[0]).requires_grad_()
            copies = (leaf.clone(), *map(scratch, task.inputs[1:]))
            try:
                with biases:
                    output = run(biases.of(task.forward_func), copies, tuple(map(scratch, task.additional)))
            except (RuntimeError, ValueError) as error:
                if leaves_autograd(task.forward_func, error):
                    reached(task, (None,), (leaf,))
                raise
            task.note(output)
            scores = task.select()(output)
            if not scores.requires_grad:
                reached(task, (None,), (leaf,))
            hidden = unmet(scores, biases.met)
            if hidden is not None:
                raise ValueError(f"forward_func: the biases behind {hidden} cannot be reached; {PYTHON}")
            wanted = [leaf, *(added.output for added in biases.met)]
            gradients = torch.autograd.grad(scores.sum(), wanted, allow_unused=True)
        return leaf.detach(), biases.met, *reached(task, gradients[:1], (leaf,)), gradients[1:]


def _scaled(values: Tensor) -> Tensor:
    flat = values.flatten(1)
    low = flat.amin(1, keepdim=True)
    high = flat.amax(1, keepdim=True)
    return ((flat - low) / (high - low + EPSILON)).view_as(values)
