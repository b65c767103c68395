"""What torchcam's extractors share: hooks that stay, the user's own pass, and a list of maps, one for each layer."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastsal.engine.reading import geometry_of, resolve_layer
from fastsal.engine.reading.affine import reaches
from fastsal.engine.reading.layers import layers
from fastsal.engine.run import scratch
from fastsal.explainers.cam.base import ActivationMap, ReshapeTransform
from fastsal.explainers.cam.placing import placed, placement_of
from fastsal.ops import cam

if TYPE_CHECKING:
    from typing_extensions import Self

logger = logging.getLogger(__name__)
OutputTarget = Callable[[Any], Tensor]
Classes = int | list[int] | None
Targets = OutputTarget | list[OutputTarget] | None
MODES = {2: "linear", 3: "bilinear", 4: "trilinear"}
"""Of interpolation, by the dimensions of maps [N, *spatial]."""


class Weighed(NamedTuple):
    """What maps are made of.

    Attributes:
        explainer: whose way of summing is taken.
        activations: [N, C, *spatial] per layer.
        fields: what weighs them, as of :class:`fastsal.explainers.cam.records.CamReading`.
    """

    explainer: ActivationMap
    activations: list[Tensor]
    fields: list[Tensor | None]


def last_layer(model: nn.Module, input_shape: Sequence[int]) -> str:
    """Name of the last module whose output has channels and positions.

    Raises:
        ValueError: where there is none.
    """
    first = next(model.parameters(), torch.empty(0))
    listed = layers(model, first.new_zeros((1, *input_shape)))
    found = [layer for layer in listed if layer.geometry is not None and layer.geometry.channels == 1]
    if not found:
        raise ValueError(
            "target_layer: the model has none with an output [N, C, *spatial]; name one, or fix input_shape"
        )
    name: str = found[-1].name
    logger.warning("no value was provided for `target_layer`, thus set to '%s'.", name)
    return name


def named(model: nn.Module, layer: nn.Module | str) -> str:
    """A module's dotted name.

    Raises:
        TypeError, ValueError: for what is none of the model's.
    """
    module = resolve_layer(model, layer)
    if isinstance(layer, str):
        return layer
    names: list[str] = [name for name, part in model.named_modules() if part is module]
    if not names:
        raise ValueError("target_layer: the module is none of the model's")
    return names[0]


class Extractor:
    """Base of the classes with torchcam's interface.

    Args:
        model: a torch.nn.Module.
        target_layer: module of it, dotted name, or a list of these; None takes the last one with positions, which a
            pass of zeros finds.
        input_shape: of one example, for that pass.
        enable_hooks: whether passes are read from the start.
        reshape_transform: function of a layer's value that returns [N, C, *spatial].

    Attributes:
        target_names: the layers' names.

    Raises:
        TypeError, ValueError: for arguments outside of the above.
    """

    rectified = True
    """Whether maps keep only what speaks for the class."""
    needs_scores = False
    needs_input = False
    takes_targets = True
    _inputs: tuple[Any, ...]
    _uses: list[list[Any]]

    def __init__(
        self,
        model: nn.Module,
        target_layer: nn.Module | str | Sequence[nn.Module | str] | None = None,
        input_shape: Sequence[int] = (3, 224, 224),
        enable_hooks: bool = True,
        reshape_transform: ReshapeTransform | None = None,
    ) -> None:
        if reshape_transform is not None and target_layer is None:
            raise ValueError("target_layer: name it where a reshape_transform is given")
        self.model, self._transform = model, reshape_transform
        if target_layer is None:
            given: list[Any] = [last_layer(model, input_shape)]
        else:
            given = list(target_layer) if isinstance(target_layer, (list, tuple)) else [target_layer]
        if not given:
            raise ValueError("target_layer: the list is empty")
        self.target_names = [named(model, each) for each in given]
        self._hooks_enabled = enable_hooks
        self.reset_hooks()
        self.hook_handles = [
            resolve_layer(model, name).register_forward_hook(self._reader(index))
            for index, name in enumerate(self.target_names)
        ]
        self.hook_handles.append(model.register_forward_pre_hook(self._begin))

    def __call__(
        self,
        class_idx: Classes = None,
        scores: Any = None,
        normalized: bool = True,
        *,
        targets: Targets = None,
        **kwargs: Any,
    ) -> list[Tensor]:
        """Maps [N, *spatial] of each layer, on its device and in its dtype.

        Args:
            class_idx: the class to explain, for all examples or a list with one each.
            scores: the model's output, where gradients are taken.
            normalized: to [0, 1] per map.
            targets: in place of class_idx, a function of an example's output that returns one number as a tensor, for
                all examples or a list with one each.
            kwargs: ``retain_graph``, where gradients are taken: keep the pass's graph, for another call.

        Raises:
            AssertionError: before the model ran.
            TypeError, ValueError: for arguments outside of the above.
            RuntimeError: for scores that do not depend on a layer.
        """
        self._check(class_idx, scores, targets)
        with torch.inference_mode(False):
            weighed = self.weigh(class_idx, scores, targets, **kwargs)
            with torch.no_grad():
                return [
                    weighed.explainer.combine(a, field, relu_attributions=self.rectified, normalize=normalized).to(
                        a.dtype
                    )
                    for a, field in zip(weighed.activations, weighed.fields, strict=True)
                ]

    compute_cams = __call__

    def weigh(self, class_idx: Classes, scores: Any, targets: Targets) -> Weighed:
        """The layers' activations and weights."""
        raise NotImplementedError

    def _check(self, class_idx: Classes, scores: Any, targets: Targets) -> None:
        if (class_idx is None) == (targets is None):
            raise ValueError("class_idx, targets: give one of the two")
        if targets is not None and not self.takes_targets:
            raise ValueError(f"targets: {type(self).__name__} explains a class; give class_idx")
        if any(value is None for value in self._values):
            raise AssertionError("the model has not run since the hooks were set: call it on the inputs first")
        examples = len(self._read(0))
        for name, given in (("class_idx", class_idx), ("targets", targets)):
            if isinstance(given, list) and len(given) != examples:
                raise ValueError(f"{name}: {len(given)} given for {examples} examples; one each is needed")
        if class_idx is not None:
            classes = class_idx if isinstance(class_idx, list) else [class_idx]
            if not all(isinstance(each, int) and each >= 0 for each in classes):
                raise ValueError(f"class_idx: {class_idx!r} is neither an int from 0 nor a list of them")
        if self.needs_scores and scores is None:
            raise ValueError("scores: the model's output is needed")

    def _target(self, class_idx: Classes, targets: Targets, examples: int) -> Any:
        """A target of fastsal's."""
        if targets is None:
            return class_idx
        return [targets] * examples if callable(targets) else targets

    def _reader(self, index: int) -> Callable[..., Any]:
        def hook(_module: nn.Module, _args: Any, output: Any) -> Any:
            if not self._hooks_enabled:
                return None
            value = output
            if isinstance(output, Tensor):
                if self.needs_scores and torch.is_grad_enabled() and not output.requires_grad:
                    value = output.detach().requires_grad_()  # the model is frozen
                output = value.clone()  # what follows may write to it
            self._values[index] = value
            self._uses[index].append(value)
            return output

        return hook

    def _begin(self, _module: nn.Module, args: tuple[Any, ...]) -> None:
        if self._hooks_enabled:
            self._inputs = tuple(scratch(value) for value in args) if self.needs_input else ()
            self._uses = [[] for _ in self.target_names]

    def _one_map_each(self, score: Tensor | None) -> None:
        """Refuses a layer that ran several times in the pass, unless its last use takes in what the others do.

        Args:
            score: of the pass, on its graph; None where there is none, which then cannot tell.

        Raises:
            ValueError: for such a layer.
        """
        for name, uses in zip(self.target_names, self._uses, strict=True):
            if len(uses) < 2:
                continue
            held = [[each] for each in uses if isinstance(each, Tensor)]
            if score is None or score.grad_fn is None or reaches(score, held[:-1], held[-1]):
                raise ValueError(
                    f"target_layer: {name} ran {len(uses)} times in the pass, each time with values of its own; name a "
                    "layer that runs once" + ("" if score is not None else ", or run the model with gradients enabled")
                )

    def _read(self, index: int) -> Tensor:
        """A layer's activations [N, C, *spatial]."""
        return self._arranged(self._values[index])

    def _arranged(self, value: Any) -> Tensor:
        found = value if self._transform is None else self._transform(value)
        if not isinstance(found, Tensor) or not 3 <= found.dim() <= 5:
            given = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
            raise ValueError(f"target_layer: its output, {given}, is not [N, C, *spatial]; pass reshape_transform")
        return found

    def enable_hooks(self) -> None:
        """Read the model's passes."""
        self._hooks_enabled = True

    def disable_hooks(self) -> None:
        """Leave the model's passes alone."""
        self._hooks_enabled = False

    @contextlib.contextmanager
    def _hooks_off(self) -> Iterator[None]:
        before, self._hooks_enabled = self._hooks_enabled, False
        try:
            yield
        finally:
            self._hooks_enabled = before

    def reset_hooks(self) -> None:
        """Forget what was read."""
        self._values: list[Any] = [None] * len(self.target_names)
        self._uses = [[] for _ in self.target_names]
        self._inputs = ()

    def remove_hooks(self) -> None:
        """Take the hooks off the model."""
        for handle in self.hook_handles:
            handle.remove()
        self.hook_handles.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove_hooks()
        self.reset_hooks()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(target_layer={self.target_names})"

    @classmethod
    def fuse_cams(cls, cams: list[Tensor], target_shape: Sequence[int] | None = None) -> Tensor:
        """One map [N, *spatial] of several layers': the largest value at each position.

        Args:
            cams: maps [N, *spatial] of one input; a single one is returned as it is.
            target_shape: of the result; None takes the largest extents.

        Raises:
            TypeError, ValueError: for what is no list of maps.
        """
        checked_maps(cams)
        if len(cams) == 1:
            return cams[0]
        return torch.stack(one_size([cls._before_fusion(each) for each in cams], target_shape)).amax(0)

    @staticmethod
    def _before_fusion(maps: Tensor) -> Tensor:
        return maps


def checked_maps(cams: Any) -> None:
    if not isinstance(cams, list) or not all(isinstance(each, Tensor) for each in cams):
        raise TypeError("cams: pass a list of tensors, as an extractor returns it")
    if not cams:
        raise ValueError("cams: the list is empty")


def one_size(maps: list[Tensor], shape: Sequence[int] | None) -> list[Tensor]:
    """Maps [N, *spatial] resized linearly, to the largest extents where no shape is given."""
    size = tuple(shape) if shape is not None else tuple(map(max, zip(*(each.shape[1:] for each in maps), strict=True)))
    return [F.interpolate(each[:, None], size, mode=MODES[each.dim()])[:, 0] for each in maps]


def laid(extractor: Any, maps: list[Tensor], x: Tensor) -> list[Tensor]:
    """Each layer's map [N, *spatial], in the input's size where it does not lie over all of it, as mirrored."""
    base = getattr(extractor, "base_cam", extractor)
    if base._transform is not None or len(maps) != len(base.target_names):
        return maps
    found = []
    for name, each in zip(base.target_names, maps, strict=True):
        with contextlib.suppress(ValueError), base._hooks_off():
            look = placement_of(geometry_of(base.model, name, (x,)), x)
            if look.centres is not None and len(look.extents) == each.dim() - 1:
                each = placed(each, look.centres, look.extents)
        found.append(each)
    return found


def normalized_maps(maps: Tensor) -> Tensor:
    """Maps [N, *spatial], each from 0 to 1."""
    return cam.finish(maps, relu=False)
