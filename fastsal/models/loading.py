"""`load`: a model from the built-in demo, an importable module, a file, timm, torchvision or the Hugging Face hub."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from fastsal.models import builtin
from fastsal.models.files import load_model_file, load_weights
from fastsal.models.preprocess import Preprocess
from fastsal.models.zoo import Logits, from_hf, from_timm, from_torchvision

SPECS = "demo, module:callable, FILE.pt2 or FILE.pt, timm:NAME, torchvision:NAME, hf:NAME"

_PRECISIONS = {
    "float64": torch.float64,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
_SUFFIXES = {".pt2", ".pt", ".pth", ".ts", ".bin", ".ckpt", ".safetensors", ".pkl", ".pickle", ".torchscript"}


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to be explained.

    model: in evaluation mode, on `device`, its floating-point parameters in `dtype`.
    preprocess: from a picture to one input.
    class_names: one for each output, or None where the source has none.
    has_layers: whether hooks on its modules work; not so for TorchScript, where only input gradients and scores do.
    """

    model: nn.Module
    preprocess: Preprocess
    class_names: tuple[str, ...] | None = None
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
) -> LoadedModel:
    """The model that `spec` names, with the preprocessing that its source asks for.

    Args:
        spec: one of

            - ``demo``: the built-in digit classifier.
            - ``module:callable``: what the callable returns, or the attribute itself where it is a module; the module
              is looked for in the current folder too. Preprocessing: the defaults of :class:`Preprocess` (224x224,
              ImageNet's mean and std).
            - a file: an archive of torch.export (.pt2), unflattened so that its layers can be hooked, or a TorchScript
              archive. The input size is the one that the archive was exported with. A pickle of a whole model is
              refused.
            - ``timm:NAME``, ``torchvision:NAME``, ``hf:NAME``: pretrained, through that package, with its preprocessing
              and names.
        weights: a state dict (.safetensors, or .pt read with weights_only) to load into the model; for timm,
            torchvision and hf the pretrained weights are then not fetched.
        device: ``cuda``, ``cpu``, ...; the GPU where there is one when None.
        precision: ``float32``, ``bfloat16``, ``float16`` or ``float64``, for parameters and inputs; as they are when
            None.
        size, mean, std, class_names: in place of the source's.

    Raises:
        ValueError: for a spec, file, device or precision that cannot be used.
        FileNotFoundError: for a file that is not there.
        ImportError: where a package is missing, naming the extra to install.
        TypeError: where the result is no module.
    """
    target = pick_device(device)
    if precision is not None and precision not in _PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(_PRECISIONS)}, got {precision!r}")
    loaded = _load(spec, pretrained=weights is None)
    if weights is not None:
        load_weights(loaded.model.model if isinstance(loaded.model, Logits) else loaded.model, weights)
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
        torch.zeros(1, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"device {str(device)!r} cannot be used here: {reason}") from None
    return chosen


def _load(spec: str, pretrained: bool) -> LoadedModel:
    scheme, _, name = spec.partition(":")
    if spec == "demo":
        everything = Preprocess((builtin.SIZE, builtin.SIZE), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), crop=1.0)
        return LoadedModel(builtin.demo(), everything, builtin.CLASS_NAMES)
    zoo = {"timm": from_timm, "torchvision": from_torchvision, "hf": from_hf}
    if scheme in zoo:
        if not name:
            raise ValueError(f"model {spec!r} names no model after {scheme + ':'!r}")
        return LoadedModel(*zoo[scheme](name, pretrained))
    path = Path(spec)
    if path.is_file() or path.suffix in _SUFFIXES:
        model, size, has_layers = load_model_file(path)
        preprocess = Preprocess() if size is None else Preprocess(size)
        return LoadedModel(model, preprocess, has_layers=has_layers)
    if name and scheme.replace(".", "").isidentifier():
        return LoadedModel(_import(scheme, name), Preprocess())
    raise ValueError(f"model {spec!r} is not one of: {SPECS}")


def _import(module_name: str, attribute: str) -> nn.Module:
    """What module:attribute makes, with the current folder on the import path."""
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
    make: Callable[[], object] = found
    made = make()
    if not isinstance(made, nn.Module):
        raise TypeError(f"model: {module_name}:{attribute}() must return a torch.nn.Module, got {type(made).__name__}")
    return made
