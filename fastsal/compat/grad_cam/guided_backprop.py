"""pytorch-grad-cam's Guided Backprop: fastsal's, in its form."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fastsal import explainers
from fastsal.compat.grad_cam.utils.find_layers import replace_all_layer_type_recursive
from fastsal.explainers.outputs import main_output


class GuidedBackpropReLU(torch.autograd.Function):
    """A ReLU whose derivative keeps what is positive of the gradient, where the input is."""

    @staticmethod
    def forward(ctx: Any, input_img: Tensor) -> Tensor:
        ctx.save_for_backward(input_img)
        return input_img.relu()

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Tensor:
        (input_img,) = ctx.saved_tensors
        found: Tensor = grad_output.relu() * (input_img > 0)
        return found


class GuidedBackpropReLUasModule(nn.Module):
    """:class:`GuidedBackpropReLU` as a layer."""

    def forward(self, input_img: Tensor) -> Tensor:
        found: Tensor = GuidedBackpropReLU.apply(input_img)  # type: ignore[no-untyped-call]
        return found


class GuidedBackpropReLUModel:
    """:class:`fastsal.GuidedBackprop` of one image: ReLUs that are functions count too, and the model stays as it was.

    >>> from fastsal.compat.grad_cam import GuidedBackpropReLUModel
    >>> guided = GuidedBackpropReLUModel(model=model, device="cpu")
    >>> guided(images[:1], target_category=0).shape
    (96, 96, 3)

    Args:
        model: a torch.nn.Module.
        device: to move the model to; None leaves it where it is.
    """

    def __init__(self, model: nn.Module, device: torch.device | str | None = None) -> None:
        self.model = model if device is None else model.to(device)
        first = next(model.parameters(), None)
        self.device = torch.device(device or "cpu") if first is None or device is not None else first.device

    def forward(self, input_img: Tensor) -> Any:
        """The model's output."""
        return self.model(input_img)

    def recursive_replace_relu_with_guidedrelu(self, module_top: nn.Module) -> None:
        """Put a guided ReLU in the place of each ``nn.ReLU``; a call does not need it."""
        replace_all_layer_type_recursive(module_top, nn.ReLU, GuidedBackpropReLUasModule())

    def recursive_replace_guidedrelu_with_relu(self, module_top: nn.Module) -> None:
        """Undo :meth:`recursive_replace_relu_with_guidedrelu`."""
        replace_all_layer_type_recursive(module_top, GuidedBackpropReLUasModule, nn.ReLU())

    def __call__(self, input_img: Tensor, target_category: int | None = None) -> NDArray[np.floating[Any]]:
        """The guided gradient [H, W, C] of the first image.

        Args:
            input_img: [B, C, H, W]; moved to the device.
            target_category: the class; None takes the one of highest score.

        Raises:
            TypeError, ValueError: for a model with TorchScript parts, or a class that there is not.
        """

        def highest(output: Any) -> Tensor:
            return main_output(output).argmax(1)  # type: ignore[no-any-return]

        target: Any = highest if target_category is None else int(target_category)
        image = input_img[:1].detach().to(self.device)
        found: Tensor = explainers.GuidedBackprop(self.model).attribute(image, target)
        array: NDArray[np.floating[Any]] = found[0].movedim(0, -1).cpu().numpy()
        return array
