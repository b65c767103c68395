"""`load`: a model from the built-in demo, an importable module, a file, timm, torchvision or the Hugging Face hub."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from fastsal.models import builtin
from fastsal.models.files import load_model_file
from fastsal.models.preprocess import Preprocess
from fastsal.models.weights import Weights, randomise, read_weights
from fastsal.models.zoo import Logits, from_hf, from_timm, from_torchvision

SPECS = "demo, module:callable, FILE.pt2 or FILE.pt, timm:NAME, torchvision:NAME, hf:NAME"

_PRECISIONS = {
    "float64": torch.float64,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
_CLASSES = ("num_classes", "n_classes", "classes", "num_labels")
_ZOO = {"timm": from_timm, "torchvision": from_torchvision, "hf": from_hf}
_SUFFIXES = {".pt2", ".pt", ".pth", ".ts", ".bin", ".ckpt", ".safetensors", ".pkl", ".pickle", ".torchscript"}


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to be explained.

    model: in evaluation mode, on `device`, its floating-point parameters in `dtype`.
    preprocess: from a picture to one input.
    class_names: one for each output, or None where the source has none.
    classes: the number of outputs that was asked for, or that the weights are for; None where neither tells.
    has_layers: whether hooks on its modules work; not so for TorchScript, where only input gradients and scores do.
    """

    model: nn.Module
    preprocess: Preprocess
    class_names: tuple[str, ...] | None = None
    classes: int | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32
    has_layers: bool = True

    def inputs(self, images: Sequence[Image.Image]) -> Tensor:
        """RGB images -> [B, 3, height, width] on the model's device and in its dtype."""
        batch = torch.stack([self.preprocess(image) for image in images])
        return batch.to(device=self.device, dtype=self.dtype)

    def class_name(self, index: int) -> str:
        """The name of an output, or its number."""
        if self.class_names is not None and 0 <= index < len(self.class_names):
            return self.class_names[index]
        return str(index)


def load(
    spec: str,
    weights: str | os.PathLike[str] | None = None,
    device: str | torch.device | None = None,
    precision: str | None = None,
    *,
    size: tuple[int, int] | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    class_names: Sequence[str] | None = None,
    classes: int | None = None,
    untrained: bool = False,
    trust_code: bool = False,
) -> LoadedModel:
    """The model that `spec` names, with the preprocessing that its source asks for.

    Args:
        spec: one of

            - ``demo``: the built-in digit classifier.
            - ``module:callable``: what the callable returns, or the attribute itself where it is a module; the module
              is looked for in the current folder too. Preprocessing: the defaults of :class:`Preprocess` (224x224,
              ImageNet's mean and std).
            - a file: an archive of torch.export (.pt2), unflattened so that its layers can be hooked, read as data: a
              graph of known operators and tensors, and refused where it holds more. The input size is the one that the
              archive was exported with. TorchScript needs ``trust_code``. A pickle of a whole model is refused.
            - ``timm:NAME``, ``torchvision:NAME``, ``hf:NAME``: pretrained, through that package, with its preprocessing
              and names.
        weights: a state dict (.safetensors, or .pt read with weights_only) to load into the model; for timm,
            torchvision and hf the pretrained weights are then not fetched. Where they are for another number of
            classes, and the source can make such a model, it is made so; names of classes in the file are taken.
        device: ``cuda``, ``cpu``, ...; the GPU where there is one when None.
        precision: ``float32``, ``bfloat16``, ``float16`` or ``float64``, for parameters and inputs; as they are when
            None.
        size, mean, std, class_names: in place of the source's.
        classes: number of outputs to make the model with; a callable gets it as ``num_classes``, ``n_classes``,
            ``classes`` or ``num_labels``, whichever it has.
        untrained: random weights, drawn with one seed: the control that a map is compared with.
        trust_code: that code in a model's file may run: TorchScript, and archives that are more than data.

    Raises:
        ValueError: for a spec, file, device or precision that cannot be used, or pretrained weights that cannot be had.
        FileNotFoundError: for a file that is not there.
        ImportError: where a package is missing, naming the extra to install.
        TypeError: where the result is no module.
    """
    target = pick_device(device)
    if precision is not None and precision not in _PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(_PRECISIONS)}, got {precision!r}")
    if untrained and weights is not None:
        raise ValueError("untrained: the model has either the weights of a file or random ones; leave one out")
    loaded = _weighted(
        _Source(spec, classes, untrained, trust_code), None if weights is None else read_weights(weights)
    )
    given = loaded.preprocess
    preprocess = replace(given, size=size or given.size, mean=mean or given.mean, std=std or given.std)
    model = loaded.model.to(target)
    if precision is not None:
        model = model.to(_PRECISIONS[precision])
    # Not eval(), which exported modules may refuse.
    for module in model.modules():
        module.training = False
    return replace(
        loaded,
        model=model,
        preprocess=preprocess,
        class_names=loaded.class_names if class_names is None else tuple(class_names),
        device=target,
        dtype=next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32),
    )


def pick_device(device: str | torch.device | None) -> torch.device:
    """The device of that name, tried out with one number; CUDA where it works, else the CPU, when None."""
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.zeros(1, device=chosen).item()  # which the device without values, meta, has none of
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"device {str(device)!r} cannot be used here: {reason}") from None
    return chosen


class _Source:
    """What makes the model of a spec, with any number of classes where it can."""

    def __init__(self, spec: str, classes: int | None, untrained: bool, trust_code: bool) -> None:
        self.spec, self.classes, self.untrained, self.trust_code = spec, classes, untrained, trust_code
        self.zoo = spec.partition(":")[0] in _ZOO

    def make(self, pretrained: bool, classes: int | None) -> LoadedModel:
        spec = self.spec
        scheme, _, name = spec.partition(":")
        if spec == "demo":
            everything = Preprocess((builtin.SIZE, builtin.SIZE), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), crop=1.0)
            return LoadedModel(builtin.demo(), everything, builtin.CLASS_NAMES)
        if self.zoo:
            if not name:
                raise ValueError(f"model {spec!r} names no model after {scheme + ':'!r}")
            with torch.random.fork_rng(devices=[], enabled=self.untrained):
                if self.untrained:
                    torch.manual_seed(0)
                return LoadedModel(*_ZOO[scheme](name, pretrained, classes))
        path = Path(spec)
        if os.path.isfile(path) or path.suffix in _SUFFIXES:
            model, size, has_layers = load_model_file(path, self.trust_code)
            preprocess = Preprocess() if size is None else Preprocess(size)
            return LoadedModel(model, preprocess, has_layers=has_layers)
        if name and scheme.replace(".", "").isidentifier():
            return LoadedModel(_import(scheme, name, classes), Preprocess())
        raise ValueError(f"model {spec!r} is not one of: {SPECS}")


def _weighted(source: _Source, weights: Weights | None) -> LoadedModel:
    """The model with the weights of a file, the source's own, or random ones."""
    pretrained = source.zoo and weights is None and not source.untrained
    loaded = source.make(pretrained, None if pretrained else source.classes)
    if pretrained and source.classes not in (None, _outputs(loaded)):
        raise ValueError(
            f"classes: {source.spec} is trained for {_outputs(loaded) or 'another number of'} classes, so that with "
            f"{source.classes} its last layer would be random; give weights of your own with --weights FILE, or take "
            f"--untrained"
        )
    if source.untrained and not source.zoo:
        randomise(loaded.model)
    found = source.classes
    if weights is not None:
        told = weights.classes(_inner(loaded.model))
        if told is not None and source.classes is None:
            loaded, found = source.make(pretrained, told), told
        weights.load(_inner(loaded.model))
    names = loaded.class_names if weights is None or weights.class_names is None else weights.class_names
    if found is not None and names is not None and len(names) != found:
        names = None  # they are of the model as it was before
    return replace(loaded, classes=found, class_names=names)


def _inner(model: nn.Module) -> nn.Module:
    return model.model if isinstance(model, Logits) else model


def _outputs(loaded: LoadedModel) -> int | None:
    if loaded.class_names is not None:
        return len(loaded.class_names)
    own = getattr(_inner(loaded.model), "num_classes", None)
    return own if isinstance(own, int) else None


def _import(module_name: str, attribute: str, classes: int | None) -> nn.Module:
    """What module:attribute makes, of so many classes where it takes them; the current folder is on the import path."""
    folder = os.getcwd()
    if folder not in sys.path and "" not in sys.path:
        # Left there: the model's code may import its neighbours later.
        sys.path.insert(0, folder)
    try:
        found: object = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name + ".").startswith(error.name + "."):
            raise ValueError(f"model: there is no module {module_name!r} here or on the import path") from None
        raise
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise ValueError(f"model: module {module_name!r} has no {attribute!r}")
        found = getattr(found, part)
    if isinstance(found, nn.Module):
        return found
    if not callable(found):
        raise TypeError(f"model: {module_name}:{attribute} is neither a module nor callable")
    make: Callable[..., object] = found
    made = make(**({} if classes is None else _classes_of(make, classes)))
    if not isinstance(made, nn.Module):
        raise TypeError(f"model: {module_name}:{attribute}() must return a torch.nn.Module, got {type(made).__name__}")
    return made


def _classes_of(make: Callable[..., object], classes: int) -> dict[str, int]:
    """The number of classes as the callable's argument, where it has one for it."""
    try:
        parameters = inspect.signature(make).parameters
    except (TypeError, ValueError):
        return {}
    return next(({name: classes} for name in _CLASSES if name in parameters), {})
