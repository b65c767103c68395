"""FullGrad: the input's gradient, and that of every bias on the way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from fastsal.engine.prepare import unprepared
from fastsal.engine.run import find, module_of, run, scratch
from fastsal.explainers.arguments import Inputs
from fastsal.explainers.base import Attribution, Display, attribution
from fastsal.explainers.call import Call
from fastsal.explainers.scores import Target
from fastsal.explainers.task import Task
from fastsal.ops import accumulation_dtype, cam

EPSILON = 1e-6
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class FullGrad(Attribution):
    """Srinivas and Fleuret, "Full-Gradient Representation for Neural Network Visualization" (NeurIPS 2019), equation 8.

    The sum of input x gradient and, for every convolution and batch normalisation, of bias x gradient by its output:
    absolute, scaled to [0, 1] per layer, resized, summed over channels. A batch normalisation's bias is what it adds in
    all, its running mean included (section 3.1). Costs one forward and backward pass.

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
            TypeError, ValueError: for arguments outside of the above.
        """
        task = self.task(inputs, target, additional_forward_args)
        x = task.inputs[0]
        if not x.is_floating_point() or not 3 <= x.dim() <= 5:
            raise ValueError(f"inputs: {x.dtype} of shape {tuple(x.shape)} is not floating point of [B, C, *spatial]")

        def maps() -> Tensor:
            leaf, outputs, gradients = self.gradients(task)
            parts = [leaf * gradients[0]]
            for (module, output), gradient in zip(outputs, gradients[1:], strict=True):
                bias = _bias(module)
                if bias is not None and gradient is not None and output.dim() == x.dim():
                    parts.append(bias.to(gradient).reshape(1, -1, *[1] * (x.dim() - 2)) * gradient)
            dtype = accumulation_dtype(x.dtype)
            total = torch.zeros((x.shape[0], *x.shape[2:]), dtype=dtype, device=x.device)
            for part in parts:
                scaled = _scaled(part.detach().to(dtype).abs()).sum(1, keepdim=True)
                total += cam.finish(scaled[:, 0], list(x.shape[2:]), relu=False, normalize=False)
            if normalize:
                total = cam.finish(total, relu=False)
            return total[:, None].to(x.dtype)

        return task.once(maps)

    def gradients(self, task: Task) -> tuple[Tensor, list[tuple[nn.Module, Tensor]], tuple[Tensor, ...]]:
        """One pass: the first input, (module, output) of what has a bias, and the gradients by all of these in turn.

        Raises:
            TypeError: for a callable without one module behind it.
            ValueError: for scores that do not depend on the inputs.
        """
        outputs: list[tuple[nn.Module, Tensor]] = []

        def keep(part: nn.Module, _args: Any, output: Any) -> Any:
            if not isinstance(output, Tensor) or not output.requires_grad:
                return None
            outputs.append((part, output))
            return output.clone()  # what follows may write to it

        handles: list[RemovableHandle] = []
        with task.context(eager=True), torch.enable_grad():
            find(task.forward_func, task.inputs, task.additional)
            module = module_of(task.forward_func)
            if module is None:
                raise TypeError("forward_func: FullGrad reads a module's biases; pass the torch.nn.Module itself")
            try:
                for part in module.modules():
                    if isinstance(part, (*_CONVOLUTIONS, *_NORMS)):
                        handles.append(part.register_forward_hook(keep))
                leaf = scratch(task.inputs[0]).requires_grad_()
                copies = (leaf.clone(), *map(scratch, task.inputs[1:]))
                output = run(task.forward_func, copies, tuple(map(scratch, task.additional)))
                task.note(output)
                scores = task.select()(output)
                if not scores.requires_grad:
                    raise ValueError("forward_func: its output does not depend on the inputs through autograd")
                wanted = [leaf, *(value for _, value in outputs)]
                gradients = torch.autograd.grad(scores.sum(), wanted, allow_unused=True)
            finally:
                for handle in handles:
                    handle.remove()
        first = torch.zeros_like(leaf) if gradients[0] is None else gradients[0]
        return leaf.detach(), outputs, (first, *gradients[1:])


def _bias(module: nn.Module) -> Tensor | None:
    """What a module adds to each channel."""
    bias: Any = getattr(module, "bias", None)
    if isinstance(module, _NORMS):
        mean, variance = module.running_mean, module.running_var
        if mean is None or variance is None:
            return bias  # type: ignore[no-any-return]
        shift = mean.detach() / (variance.detach() + module.eps).sqrt()
        if module.weight is not None:
            shift = shift * module.weight.detach()
        return -shift if bias is None else bias.detach() - shift
    return None if bias is None else bias.detach()


def _scaled(values: Tensor) -> Tensor:
    flat = values.flatten(1)
    low = flat.amin(1, keepdim=True)
    high = flat.amax(1, keepdim=True)
    return ((flat - low) / (high - low + EPSILON)).view_as(values)
