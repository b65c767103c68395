"""pytorch-grad-cam's recorder of what the user's own passes leave at layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


class ActivationsAndGradients:
    """Hooks on layers, until :meth:`release`, that record their values in a pass and the gradients of a backward pass.

    The class activation maps here need none: they hook a model for a call alone.

    Args:
        model: a torch.nn.Module.
        target_layers: modules of it.
        reshape_transform: function of a layer's value that returns [B, C, *spatial], applied to what is recorded.
        detach: record copies on the CPU; otherwise the tensors with their graph, as they are.

    Attributes:
        activations: of the last pass, in the order in which the layers ran.
        gradients: by these, in that order.
    """

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module],
        reshape_transform: Callable[[Tensor], Tensor] | None,
        detach: bool = True,
    ) -> None:
        self.model, self.reshape_transform, self.detach = model, reshape_transform, detach
        self.activations: list[Tensor] = []
        self.gradients: list[Tensor] = []
        self.handles: list[RemovableHandle] = []
        for layer in target_layers:
            self.handles += [layer.register_forward_hook(hook) for hook in (self.save_activation, self.save_gradient)]

    def _recorded(self, value: Tensor) -> Tensor:
        if not self.detach:
            return value
        # A copy, since what follows the layer may write to its value.
        found = value if self.reshape_transform is None else self.reshape_transform(value)
        return found.detach().clone().cpu()

    def save_activation(self, module: nn.Module, input: Any, output: Any) -> None:
        """The forward hook that records a layer's value."""
        self.activations.append(self._recorded(output))

    def save_gradient(self, module: nn.Module, input: Any, output: Any) -> None:
        """The forward hook that lets the gradient by a layer's value be recorded."""
        if isinstance(output, Tensor) and output.requires_grad:
            # Gradients come from the last layer to the first.
            output.register_hook(lambda gradient: self.gradients.insert(0, self._recorded(gradient)))

    def __call__(self, x: Any) -> Any:
        """The model's output; what was recorded before is dropped."""
        self.activations, self.gradients = [], []
        return self.model(x)

    def clear(self) -> None:
        """Drop what was recorded."""
        self.activations.clear()
        self.gradients.clear()

    def release(self) -> None:
        """Drop it, and take the hooks off."""
        self.clear()
        for handle in self.handles:
            handle.remove()
        self.handles.clear()
