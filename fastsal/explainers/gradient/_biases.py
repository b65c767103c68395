"""What convolutions and batch normalisations add to each channel, met as a model runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import Tensor
from torch.overrides import TorchFunctionMode

from fastsal.engine.run import calling
from fastsal.explainers.functions import function_name, nodes_behind

_CONVOLUTIONS = {f"conv{kind}{n}d" for kind in ("", "_transpose") for n in (1, 2, 3)}
# Where each form of a batch normalisation has its arguments: torch.nn.functional's, torch's own, what is traced.
_BY_MEAN = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
_BY_WEIGHT = ("input", "weight", "bias", "running_mean", "running_var", "training", "momentum", "eps")
_UNTRAINED = ("input", "weight", "bias", "running_mean", "running_var", "momentum", "eps")
_NORMS = {
    "native_batch_norm": _BY_WEIGHT,
    "_native_batch_norm_legit": _BY_WEIGHT,
    "_native_batch_norm_legit_no_training": _UNTRAINED,
    "cudnn_batch_norm": _BY_WEIGHT,
}
# Of autograd's graph: what has a bias, and what hides it.
_WITH_BIAS = ("Convolution", "BatchNorm")
_HIDING = ("DifferentiableGraph", "CheckpointFunction")


class Added(NamedTuple):
    """What one call of a function added.

    Attributes:
        name: of the function: ``conv2d``, ``conv_transpose2d``, ..., ``batch_norm``.
        output: its result [B, C, ...].
        bias: its parameter [C], detached; None where it has none.
        shift: what a batch normalisation by running statistics takes off, [C]; None elsewhere.
    """

    name: str
    output: Tensor
    bias: Tensor | None
    shift: Tensor | None

    @property
    def total(self) -> Tensor | None:
        """What is added to each channel in all, [C]; None where nothing is."""
        if self.shift is None:
            return self.bias
        return -self.shift if self.bias is None else self.bias - self.shift


class Biases(TorchFunctionMode):
    """Inside this mode every convolution and batch normalisation whose result has a gradient is noted.

    They are met as functions, so that it does not matter which module runs them, or whether one does; what follows gets
    a copy of the result, since it may write to it. The model is not touched.

    Attributes:
        met: those of the last run, in their order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.met: list[Added] = []
        self._running = False

    def of(self, model: Callable[..., Any]) -> Callable[..., Any]:
        """The model, of which each run is noted anew; what checkpointing runs again for a gradient is not."""

        @calling(model)
        def noted(*arguments: Any) -> Any:
            self.met.clear()
            self._running = True
            try:
                return model(*arguments)
            finally:
                self._running = False

        return noted

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        found = func(*args, **kwargs)
        name = function_name(func)
        if name not in _CONVOLUTIONS and name not in ("convolution", "batch_norm", *_NORMS):
            return found
        output = found[0] if isinstance(found, (tuple, list)) else found
        if not isinstance(output, Tensor) or not output.requires_grad:
            return found
        if self._running:
            self.met.append(_added(func, name, args, kwargs, output))
        copy = output.clone()
        return copy if output is found else type(found)([copy, *found[1:]])


def _added(func: Any, name: str, args: Any, kwargs: Any, output: Tensor) -> Added:
    if name in _CONVOLUTIONS or name == "convolution":
        bias = args[2] if len(args) > 2 else kwargs.get("bias")
        if name == "convolution":
            transposed = args[6] if len(args) > 6 else kwargs.get("transposed", False)
            name = f"conv{'_transpose' if transposed else ''}{output.dim() - 2}d"
        return Added(name, output, None if bias is None else bias.detach(), None)
    names = _NORMS.get(name, _BY_MEAN if getattr(func, "__module__", "") == "torch.nn.functional" else _BY_WEIGHT)
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    mean, variance, weight, bias = (given.get(each) for each in ("running_mean", "running_var", "weight", "bias"))
    shift = None
    if mean is not None and variance is not None and not given.get("training", False):
        shift = mean.detach() / (variance.detach() + given.get("eps", 1e-5)).sqrt()
        if weight is not None:
            shift = shift * weight.detach()
    return Added("batch_norm", output, None if bias is None else bias.detach(), shift)


def unmet(scores: Tensor, met: Sequence[Added]) -> str | None:
    """What scores depend on that may have a bias and was not met as a function; None where there is nothing."""
    known = set()
    for added in met:
        node: Any = added.output.grad_fn
        # A result may be a view of what the node with the bias makes.
        while node is not None and not _has_bias(node):
            node = node.next_functions[0][0] if node.next_functions else None
        known.add(node)
    for node in nodes_behind([scores]):
        if (_has_bias(node) and node not in known) or any(word in node.name() for word in _HIDING):
            return str(node.name())
    return None


def _has_bias(node: Any) -> bool:
    return any(word in node.name() for word in _WITH_BIAS)
