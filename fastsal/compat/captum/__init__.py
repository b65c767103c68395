"""Captum's names: to import from here, or to put in place of Captum's own in a running program.

>>> from fastsal.compat import captum
>>> captum.install()  # libraries that import Captum inside get faster
['captum.attr.Deconvolution', ...]
>>> captum.uninstall()

The classes are fastsal's. Those that Captum gives in float32 whatever the model (and Integrated Gradients of half
precision models) do so here too, since code written for Captum may count on it; fastsal's own keep the dtype.
"""

from __future__ import annotations

import abc
import functools
import importlib
import inspect
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

import fastsal
from fastsal._torch import tree_map
from fastsal.compat.captum import visualization
from fastsal.compat.captum._draws import draw, orders
from fastsal.compat.captum._errors import also_assertions
from fastsal.compat.captum._remote import taking_ours
from fastsal.explainers.base import attribution
from fastsal.explainers.call import Call
from fastsal.explainers.embeddings import configure_interpretable_embedding_layer as configure
from fastsal.explainers.embeddings import put_for_embedding
from fastsal.metrics import infidelity, sensitivity_max

Explainer = TypeVar("Explainer", bound=type)


def _float32(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) else value


def _half_as_float32(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16) else value


def _subclass(explainer: Explainer, convert: Callable[[Any], Any] | None = None, module: str = __name__) -> Explainer:
    """A subclass of the same name, its results converted."""
    members: dict[str, Any] = {"__doc__": explainer.__doc__, "__module__": module, "name": explainer.name}  # type: ignore[attr-defined]
    door: Any = explainer.attribute  # type: ignore[attr-defined]
    if convert is not None:
        original: Any = door

        @functools.wraps(original.describe)
        def described(self: Any, *args: Any, **kwargs: Any) -> Call[Any]:
            call: Call[Any] = original.describe(self, *args, **kwargs)
            return call.then(lambda maps: tree_map(convert, maps))

        door = attribution(described)
    made: Any = explainer
    if hasattr(explainer, "_draw"):
        members["_draw"] = staticmethod(draw)
    if hasattr(explainer, "_orders"):
        members["_orders"] = staticmethod(orders)
    members["__init__"] = also_assertions(made.__init__)
    members["attribute"] = _door(door)
    members["compute_convergence_delta"] = also_assertions(made.compute_convergence_delta)
    return type(explainer.__name__, (explainer,), members)  # type: ignore[return-value]


def _door(door: Any) -> Any:
    """An ``attribute`` whose errors are also Captum's."""
    made: Any = also_assertions(door)
    made.describe, made.__wrapped__ = door.describe, also_assertions(door.__wrapped__)
    made.__signature__ = inspect.signature(door)
    return made


DataLoaderAttribution = _subclass(fastsal.DataLoaderAttribution)
Deconvolution = _subclass(fastsal.Deconvolution)
DeepLift = _subclass(fastsal.DeepLift)
DeepLiftShap = _subclass(fastsal.DeepLiftShap)
FeatureAblation = _subclass(fastsal.FeatureAblation)
FeaturePermutation = _subclass(fastsal.FeaturePermutation)
GradientShap = _subclass(fastsal.GradientShap)
GuidedBackprop = _subclass(fastsal.GuidedBackprop)
GuidedGradCam = _subclass(fastsal.GuidedGradCam)
InputXGradient = _subclass(fastsal.InputXGradient)
IntegratedGradients = _subclass(fastsal.IntegratedGradients, _half_as_float32)
InternalInfluence = _subclass(fastsal.InternalInfluence)
KernelShap = _subclass(fastsal.KernelShap, _float32)
LRP = _subclass(fastsal.LRP)
LayerActivation = _subclass(fastsal.LayerActivation)
LayerConductance = _subclass(fastsal.LayerConductance)
LayerDeepLift = _subclass(fastsal.LayerDeepLift)
LayerDeepLiftShap = _subclass(fastsal.LayerDeepLiftShap)
LayerFeatureAblation = _subclass(fastsal.LayerFeatureAblation)
LayerFeaturePermutation = _subclass(fastsal.LayerFeaturePermutation)
LayerGradCam = _subclass(fastsal.LayerGradCam)
LayerGradientShap = _subclass(fastsal.LayerGradientShap)
LayerGradientXActivation = _subclass(fastsal.LayerGradientXActivation)
LayerIntegratedGradients = _subclass(fastsal.LayerIntegratedGradients, _half_as_float32)
LayerLRP = _subclass(fastsal.LayerLRP)
Lime = _subclass(fastsal.Lime, _float32)
LimeBase = _subclass(fastsal.LimeBase)
NeuronConductance = _subclass(fastsal.NeuronConductance)
NeuronDeconvolution = _subclass(fastsal.NeuronDeconvolution)
NeuronDeepLift = _subclass(fastsal.NeuronDeepLift)
NeuronDeepLiftShap = _subclass(fastsal.NeuronDeepLiftShap)
NeuronFeatureAblation = _subclass(fastsal.NeuronFeatureAblation)
NeuronGradient = _subclass(fastsal.NeuronGradient)
NeuronGradientShap = _subclass(fastsal.NeuronGradientShap)
NeuronGuidedBackprop = _subclass(fastsal.NeuronGuidedBackprop)
NeuronIntegratedGradients = _subclass(fastsal.NeuronIntegratedGradients)
NoiseTunnel = _subclass(fastsal.NoiseTunnel)
Occlusion = _subclass(fastsal.Occlusion, _float32)
Saliency = _subclass(fastsal.Saliency)
ShapleyValueSampling = _subclass(fastsal.ShapleyValueSampling, _float32)
ShapleyValues = _subclass(fastsal.ShapleyValues, _float32)


def _asserting(kind: Explainer, module: str = __name__) -> Explainer:
    """A subclass of the same name, whose errors are also Captum's."""
    members: dict[str, Any] = {"__doc__": kind.__doc__, "__module__": module}
    members.update(
        {name: also_assertions(getattr(kind, name)) for name in ("__init__", "attribute") if hasattr(kind, name)}
    )
    return type(kind.__name__, (kind,), members)  # type: ignore[return-value]


ImageMaskInput = _asserting(fastsal.ImageMaskInput)
LLMAttribution = _asserting(fastsal.LLMAttribution)
LLMAttributionResult = _asserting(fastsal.LLMAttributionResult)
LLMGradientAttribution = _asserting(fastsal.LLMGradientAttribution)
TextTemplateInput = _asserting(fastsal.TextTemplateInput)
TextTokenInput = _asserting(fastsal.TextTokenInput)

CLASSES: tuple[Any, ...] = (
    DataLoaderAttribution,
    Deconvolution,
    DeepLift,
    DeepLiftShap,
    FeatureAblation,
    FeaturePermutation,
    GradientShap,
    GuidedBackprop,
    GuidedGradCam,
    InputXGradient,
    IntegratedGradients,
    InternalInfluence,
    KernelShap,
    LRP,
    LayerActivation,
    LayerConductance,
    LayerDeepLift,
    LayerDeepLiftShap,
    LayerFeatureAblation,
    LayerFeaturePermutation,
    LayerGradCam,
    LayerGradientShap,
    LayerGradientXActivation,
    LayerIntegratedGradients,
    LayerLRP,
    Lime,
    LimeBase,
    NeuronConductance,
    NeuronDeconvolution,
    NeuronDeepLift,
    NeuronDeepLiftShap,
    NeuronFeatureAblation,
    NeuronGradient,
    NeuronGradientShap,
    NeuronGuidedBackprop,
    NeuronIntegratedGradients,
    NoiseTunnel,
    Occlusion,
    Saliency,
    ShapleyValueSampling,
    ShapleyValues,
)
"""What stands for Captum's explainers."""
AROUND: tuple[Any, ...] = tuple(
    getattr(fastsal, name)
    for name in (
        *("ClassSummarizer", "CommonStats", "Count", "MSE", "Max", "Mean", "Min", "StdDev", "Sum", "Summarizer"),
        *("SummarizerSingleTensor", "Var", "InterpretableEmbeddingBase", "TokenReferenceBase"),
        *("configure_interpretable_embedding_layer", "remove_interpretable_embedding_layer", "ProductBaselines"),
    )
)
"""What stands for Captum's names around the explainers."""
TEXTS: tuple[Any, ...] = (
    ImageMaskInput,
    LLMAttribution,
    LLMAttributionResult,
    LLMGradientAttribution,
    TextTemplateInput,
    TextTokenInput,
)
"""What stands for Captum's prompts, and for what explains texts."""
FUNCTIONS = (infidelity, sensitivity_max)
"""What stands for Captum's metrics."""
BASES = (
    *("Attribution", "GradientAttribution", "LayerAttribution", "NeuronAttribution", "PerturbationAttribution"),
    "InterpretableInput",
)


class _Either(abc.ABCMeta):
    """Of a stand-in for a class of Captum's of which objects of both packages are instances."""

    ours: type
    theirs: type

    def __instancecheck__(cls, instance: Any) -> bool:
        return cls.__subclasscheck__(type(instance))

    def __subclasscheck__(cls, subclass: type) -> bool:
        if "ours" in vars(cls):
            return issubclass(subclass, (cls.ours, cls.theirs))
        return type.__subclasscheck__(cls, subclass)  # of a class of the user's, derived from a stand-in


_standing_in: dict[int, tuple[Any, Any]] = {}
"""By id of what stands in: it and the original. The pair keeps both alive, so the ids stay theirs."""


class Replaced(list[str]):
    """Names that were replaced; as a context, undone at its end."""

    def __enter__(self) -> Replaced:
        return self

    def __exit__(self, *_: object) -> None:
        uninstall()


def install() -> Replaced:
    """Put fastsal's classes and metrics in place of Captum's, wherever a loaded module has them as a global.

    That is ``captum.attr`` and ``captum.metrics``, from where modules that are loaded later take them, and modules that
    imported a class before. Captum's own internal modules keep theirs, on whose private parts they rely; objects made
    before, and classes held in containers or as attributes of other classes, stay as they are. ``isinstance`` against
    Captum's base classes holds for explainers of both packages. A second call adds what was loaded in between. Not
    safe while other threads import.

    Returns:
        What it replaced, as "module.name".

    Raises:
        ImportError: without Captum.
    """
    found = stand_ins()
    return Replaced(_swap(found))


def stand_ins() -> dict[int, Any]:
    """By id of what Captum has: what stands in for it. The same until :func:`uninstall`.

    Raises:
        ImportError: without Captum.
    """
    attr, metrics = _captum("captum.attr"), _captum("captum.metrics")
    if not _standing_in:
        pairs = [(getattr(attr, each.__name__), _subclass(each, module="captum.attr")) for each in CLASSES]
        pairs += [(getattr(attr, each.__name__), _asserting(each, "captum.attr")) for each in TEXTS]
        around = {each.__name__: _another(each, getattr(attr, each.__name__)) for each in AROUND}
        around[configure.__name__] = _configuring(around["InterpretableEmbeddingBase"])
        pairs += [(getattr(attr, name), each) for name, each in around.items()]
        pairs.append((attr.RemoteLLMAttribution, taking_ours(attr.RemoteLLMAttribution)))
        pairs.append((attr.visualization, _another(visualization)))
        pairs += [(getattr(metrics, each.__name__), _another(each)) for each in FUNCTIONS]
        for name in BASES:
            ours, theirs = getattr(fastsal, name), getattr(attr, name)
            members = {"ours": ours, "theirs": theirs, "__module__": "captum.attr", "__doc__": theirs.__doc__}
            pairs.append((theirs, _Either(name, (theirs,), members)))
        _standing_in.update({id(new): (new, original) for original, new in pairs})
    return {id(original): new for new, original in _standing_in.values()}


def _another(value: Any, theirs: Any = None) -> Any:
    """An object of its own for a class, function or module of ours, so that only what was replaced is put back.

    Of a class that stands for one of theirs, objects of all three are instances.
    """
    if isinstance(value, types.ModuleType):
        module = types.ModuleType(f"captum.attr.{value.__name__.rpartition('.')[2]}", value.__doc__)
        module.__dict__.update({name: each for name, each in vars(value).items() if name not in vars(module)})
        return module
    if isinstance(value, type):
        members = {"ours": value, "theirs": theirs, "__module__": "captum.attr", "__doc__": value.__doc__}
        for name, function in inspect.getmembers(value, inspect.isfunction):
            if function.__module__.startswith("fastsal.") and (not name.startswith("_") or name == "__init__"):
                members[name] = also_assertions(function)
        return _Either(value.__name__, (value,), members)
    return also_assertions(value)


def _configuring(kind: type[fastsal.InterpretableEmbeddingBase]) -> Callable[..., Any]:
    """What puts the class that stands for Captum's in the place of an embedding: programs ask for its class."""

    @also_assertions
    @functools.wraps(configure)
    def configuring(model: nn.Module, embedding_layer_name: str = "embedding") -> fastsal.InterpretableEmbeddingBase:
        return put_for_embedding(kind, model, embedding_layer_name)

    return configuring


def uninstall() -> list[str]:
    """Undo :func:`install`, also in modules that were loaded since; a name that was bound anew meanwhile is left alone.

    Returns:
        What it put back, as "module.name".
    """
    restored = _swap({key: original for key, (_, original) in _standing_in.items()})
    _standing_in.clear()
    return restored


def _captum(name: str) -> types.ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError("captum is not installed, so there is nothing to replace: pip install captum") from error


def _swap(replacements: dict[int, Any]) -> list[str]:
    """Bind the globals whose value has one of the ids anew; their names."""
    swapped = []
    for name, module in _modules():
        for key, value in list(vars(module).items()):
            if id(value) in replacements:
                setattr(module, key, replacements[id(value)])
                swapped.append(f"{name}.{key}")
    return sorted(swapped)


def _modules() -> Iterator[tuple[str, types.ModuleType]]:
    """Loaded modules whose globals may be bound anew: all but Captum's internal ones and this one."""
    for name, module in list(sys.modules.items()):
        internal = name.startswith("captum.") and name not in ("captum.attr", "captum.metrics")
        if isinstance(module, types.ModuleType) and not internal and not name.startswith(__name__):
            yield name, module
