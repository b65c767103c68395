"""What explainers are: classes with an ``attribute`` that describes its call, and the one door that runs it."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Literal, NamedTuple, ParamSpec, TypeVar

import torch
from torch import Tensor

from fastsal.engine.prepare import Prepared, Step
from fastsal.engine.run import Bounds, Swept, evaluation, modules_of, observed, run, scratch, undisturbed
from fastsal.explainers.anytime import Estimate, Limits, limits_of, until, within
from fastsal.explainers.arguments import Inputs, as_arguments, as_inputs, baseline_inputs
from fastsal.explainers.call import Anytime, Call
from fastsal.explainers.scores import Target, one_score_each, per_example
from fastsal.explainers.task import Task

P = ParamSpec("P")
R = TypeVar("R")
_WORDS = re.compile(r"[A-Z]+(?=[A-Z][a-z]|$)|[A-Z]?[a-z]+|[A-Z]+|\d+")
Reads = Literal["", "layer", "attention", "functions"]
AS_IT_IS = Step("model", False, "as it is: fastsal.prepare(model, inputs) makes one ready for many passes")


@functools.cache
def _words(name: str) -> tuple[str, ...]:
    return tuple(_WORDS.findall(name))


def attribution(function: Callable[P, Call[R]]) -> Callable[P, R]:
    """Make the description of a call an ``attribute`` that runs it: the one door of every explainer.

    The function reads its arguments and returns a :class:`Call`, most easily by ``task.sweep`` or ``task.once``. The
    method that it becomes leaves inference mode, runs the call, notes the sweeps for ``plan()`` and returns the maps.
    The description stays at :func:`describe`, which estimates, compiled calls, exports and other explainers run in
    their own ways. ``__wrapped__``, which Captum's own explainers call, runs it too.
    """

    @functools.wraps(function)
    def attribute(*args: P.args, **kwargs: P.kwargs) -> R:
        explainer: Any = args[0]
        if torch.is_inference_mode_enabled():
            with _outside_of_inference():
                return attribute(*args, **kwargs)

        def whole() -> tuple[R, list[Swept]]:
            with Bounds(), observed() as sweeps:
                call = function(*args, **kwargs)
                verify(explainer, call.task)
                return call.run(), sweeps

        result, sweeps = undisturbed(whole)
        explainer.state.sweeps = tuple(sweeps)
        return result

    signature = inspect.signature(function)
    returned = re.fullmatch(r"Call\[(.*)\]", str(signature.return_annotation))
    door: Any = attribute
    door.__signature__ = signature.replace(return_annotation=returned[1] if returned else signature.return_annotation)
    door.__annotations__ = {**function.__annotations__, "return": door.__signature__.return_annotation}
    door.describe = function
    door.__wrapped__ = _copied(door)
    del door.__wrapped__.__wrapped__
    return attribute


def describe(explainer: Any, *args: Any, **kwargs: Any) -> Call[Any]:
    """What a call of an explainer's ``attribute`` would run; running it leaves inference mode too."""
    with _outside_of_inference():
        found: Call[Any] = type(explainer).attribute.describe(explainer, *args, **kwargs)

    def run() -> Any:
        with Bounds(), _outside_of_inference():
            verify(explainer, found.task)
            return found.run()

    return dataclasses.replace(found, run=run)


def verify(explainer: Any, task: Task) -> None:
    """Compare a row of each prepared model with the user's, before a method of many passes."""
    if type(explainer).per_call is not None:
        for module in modules_of(task.model):
            if isinstance(module, Prepared):
                module.verify(task.rows_ahead, task.run_one)


def _copied(function: Any) -> Any:
    """A function of its own over the same code, to give it another signature."""

    @functools.wraps(function)
    def made(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return made


def estimate_of(explainer: Any, call: Call[Any], limits: Limits) -> Estimate:
    """What a described call estimates within limits; only for one that can end early."""
    assert call.anytime is not None
    with Bounds(), _outside_of_inference():
        verify(explainer, call.task)
        return within(call.anytime(), limits)


@contextlib.contextmanager
def _outside_of_inference() -> Iterator[None]:
    """Tensors made in inference mode can be neither saved by autograd nor kept for another call."""
    if not torch.is_inference_mode_enabled():
        yield
        return
    with torch.inference_mode(False), torch.no_grad():
        yield


class Display(NamedTuple):
    """How maps are shown.

    Attributes:
        sign: ``range`` (from the least to the greatest value), ``positive`` (what speaks for the target) or
            ``absolute`` (by size).
        percentile: of the values, that is shown brightest.
    """

    sign: Literal["range", "positive", "absolute"]
    percentile: float


class Report(NamedTuple):
    """What :meth:`Attribution.plan` tells; ``str()`` of it is for people.

    Attributes:
        steps: preparations of the model, done or not.
        sweeps: of the last attribution.
    """

    steps: tuple[Step, ...]
    sweeps: tuple[Swept, ...]

    def __str__(self) -> str:
        return "\n".join(map(str, (*self.steps, *self.sweeps)))


class State:
    """What an explainer keeps from call to call.

    Attributes:
        sweeps: of the last attribution.
        step: what the last attribution did otherwise than the plain way, or why not.
        found: what was found of the model, by whoever looked for it; it must tell itself whether it still holds.
    """

    def __init__(self) -> None:
        self.sweeps: tuple[Swept, ...] = ()
        self.step: Step | None = None
        self.found: dict[str, Any] = {}

    def __reduce__(self) -> Any:
        # What was found is of this process.
        return State, ()


class Attribution:
    """Base of the explainers: ``attribute`` of a forward function.

    A subclass describes its call in an ``attribute`` under :func:`attribution`, and says what it is in the attributes
    below, which :func:`fastsal.explain`, :func:`fastsal.compile`, :func:`fastsal.export` and the command line read.

    Args:
        forward_func: module or callable whose output has the batch as dimension 0.

    Attributes:
        name: of the method: the words of the class's name with hyphens between, unless given.
        summary: what the map is, in half a line.
        cost: passes of the model, in words.
        reads: what it needs of the model beside its output: ``""``, ``"layer"`` (a layer's value), ``"attention"``, or
            ``"functions"`` (Python code whose functions can be met, which a TorchScript archive is not).
        perturbs: whether it scores altered inputs, so that probabilities are the scores to give it.
        least_examples: how many a map needs to say anything.
        per_call: the argument that bounds the copies of a model call; None where there are none.
        nameable: whether a model is all that it needs, so that its name can stand for it.
        fixed: whether its passes are the same in every call, so that it can be compiled.
        exportable: whether prediction and map can be one graph.
        shape: what a map has values for: each element of the ``"input"``, its ``"positions"`` (all channels together),
            or the ``"layer"``.
        display: how its maps are shown.
        forward_func: as given.
        state: what it keeps from call to call.
    """

    name: ClassVar[str] = "attribution"
    summary: ClassVar[str] = ""
    cost: ClassVar[str] = ""
    reads: ClassVar[Reads] = ""
    perturbs: ClassVar[bool] = False
    least_examples: ClassVar[int] = 0
    per_call: ClassVar[str | None] = None
    nameable: ClassVar[bool] = True
    fixed: ClassVar[bool] = False
    exportable: ClassVar[bool] = False
    shape: ClassVar[Literal["input", "positions", "layer"]] = "input"
    display: ClassVar[Display] = Display("absolute", 99.5)

    forward_func: Callable[..., Any]

    def __init__(self, forward_func: Callable[..., Any]) -> None:
        if not callable(forward_func):
            raise TypeError(f"forward_func: {type(forward_func).__name__} is not callable")
        self.forward_func = forward_func
        self.state = State()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" not in cls.__dict__:
            cls.name = "-".join(cls.words()).lower()

    def __copy__(self) -> Any:
        made = type(self).__new__(type(self))
        made.__dict__.update(self.__dict__, state=State())
        return made

    def __repr__(self) -> str:
        model = self.forward_func
        named = getattr(model, "__name__", type(model).__name__)
        told = [f"{name}={value!r}" for name, value in self.settings().items()]
        return f"{type(self).__name__}({', '.join([named, *told])})"

    def settings(self) -> dict[str, Any]:
        """The constructor's plain arguments beside the model, by name, where they are not its defaults."""
        found = {}
        for name, parameter in list(inspect.signature(type(self)).parameters.items())[1:]:
            value = getattr(self, name, getattr(self, f"_{name}", parameter.default))
            if isinstance(value, (int, float, str, tuple)) and value != parameter.default:
                found[name] = value
        return found

    @classmethod
    def for_model(cls, model: Callable[..., Any], layer: Any = None) -> Any:
        """An explainer of a model as :func:`fastsal.explain` makes one; ``layer`` is for those that read one."""
        if cls.reads == "layer":
            return cls(model, layer)  # type: ignore[call-arg]
        return cls(model)

    @classmethod
    def defaults(cls, inputs: tuple[Tensor, ...]) -> dict[str, Any]:
        """Arguments of ``attribute`` that :func:`fastsal.explain` gives where the caller does not, by the inputs.

        What has one for each input is a tuple.
        """
        return {}

    @property
    def multiplies_by_inputs(self) -> bool:
        """Whether the attribution is of the input's effect rather than of its sensitivity."""
        return False

    def has_convergence_delta(self) -> bool:
        """Whether ``attribute`` can return a convergence delta."""
        return False

    @classmethod
    def words(cls) -> list[str]:
        """The words of the class's name."""
        return list(_words(cls.__name__))

    @classmethod
    def get_name(cls) -> str:
        """The method's name in words."""
        return " ".join(cls.words())

    def task(self, inputs: Inputs, target: Target = None, additional_forward_args: Any = None, **options: Any) -> Task:
        """A call's arguments, parsed; further ``options`` as of :class:`Task`."""
        options.setdefault("name", self.get_name())
        return Task(self.forward_func, inputs, target, additional_forward_args, **options)

    def attribute_future(self, *args: Any, **kwargs: Any) -> Any:
        """Not of this class: those that score altered inputs one by one have it.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(
            f"{type(self).__name__} has no attribute_future; FeatureAblation, FeaturePermutation, ShapleyValueSampling "
            "and ShapleyValues have"
        )

    def plan(self) -> Report:
        """How the model is run: what :func:`fastsal.prepare` did and why not, and the last attribution's batches."""
        prepared = next((module for module in modules_of(self.forward_func) if isinstance(module, Prepared)), None)
        steps = (AS_IT_IS,) if prepared is None else tuple(prepared.steps)
        if self.state.step is not None:
            steps = (*steps, self.state.step)
        return Report(steps, self.state.sweeps)

    def compute_convergence_delta(
        self,
        attributions: Inputs,
        start_point: Any,
        end_point: Inputs,
        target: Target = None,
        additional_forward_args: Any = None,
    ) -> Tensor:
        """Sum of the attributions minus the change of the output from start_point to end_point, [B].

        Zero where the attribution is complete (Sundararajan et al. 2017, proposition 1).
        """
        ends, _ = as_inputs(end_point, "end_point")
        points = baseline_inputs(start_point, ends)
        additional = as_arguments(additional_forward_args)
        with evaluation(self.forward_func), torch.no_grad():
            change = self._scores(ends, additional, target) - self._scores(points, additional, target)
        given, _ = as_inputs(attributions, "attributions")
        total = sum(per_example(part).sum(1) for part in given)
        return total - change

    def _scores(self, inputs: tuple[Tensor, ...], additional: tuple[Any, ...], target: Target) -> Tensor:
        output = run(self.forward_func, tuple(map(scratch, inputs)), tuple(map(scratch, additional)))
        return one_score_each(output, target, inputs[0].shape[0])


class Estimating:
    """Adds :meth:`estimate` and :meth:`improve` to an explainer whose sweep can end early.

    Attributes:
        exact: there is nothing to estimate, in a class that derives from one where there is.
    """

    exact: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        function = getattr(cls, "attribute", None)
        if function is None or "estimate" in cls.__dict__:
            return
        parameters = list(inspect.signature(function).parameters.values())
        at = next((i for i, each in enumerate(parameters) if each.kind is each.VAR_KEYWORD), len(parameters))
        parameters[at:at] = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation="float | None")
            for name in ("tolerance", "deadline")
            if name not in inspect.signature(function).parameters
        ]
        for name, returned in (("estimate", "Estimate"), ("improve", "Iterator[Estimate]")):
            made = _copied(getattr(Estimating, name))
            made.__signature__ = inspect.Signature(parameters, return_annotation=returned)
            made.__qualname__ = f"{cls.__qualname__}.{name}"
            setattr(cls, name, made)

    def estimate(
        self, *args: Any, tolerance: float | None = None, deadline: float | None = None, **kwargs: Any
    ) -> Estimate:
        """A map that says how sure it is, from as many samples as the limits ask for; arguments as of ``attribute``.

        Args:
            tolerance: stop when the relative error is estimated to be below it, after all samples at the most.
            deadline: stop before so many seconds have passed since the call. Without either all samples count.

        Raises:
            TypeError, ValueError: as of ``attribute``; for limits that are not above 0, or too few samples.
        """
        limits = limits_of(tolerance, deadline)

        def whole() -> tuple[Estimate, list[Swept]]:
            with Bounds(), _outside_of_inference(), observed() as sweeps:
                return within(self._anytime("estimate", args, kwargs), limits), sweeps

        found, sweeps = undisturbed(whole)
        self.state.sweeps = tuple(sweeps)  # type: ignore[attr-defined]
        return found

    def improve(
        self, *args: Any, tolerance: float | None = None, deadline: float | None = None, **kwargs: Any
    ) -> Iterator[Estimate]:
        """Ever better maps, an :class:`Estimate` after each model call; arguments as of ``attribute``.

        The model is as it was whenever the caller has the turn. ``tolerance`` and ``deadline`` end it early.
        """
        limits = limits_of(tolerance, deadline)
        return until(self._anytime("improve", args, kwargs), limits, every=True)

    def _anytime(self, way: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Anytime:
        call = None if self.exact else describe(self, *args, **kwargs)
        if call is None or call.anytime is None:
            raise TypeError(f"{way}: {type(self).__name__}.attribute is exact, with nothing to improve on")
        verify(self, call.task)
        return call.anytime()


class GradientAttribution(Attribution):
    """Base of the explainers made of the output's gradient."""


class PerturbationAttribution(Attribution):
    """Base of the explainers that change the input and watch the output."""

    perturbs = True
    per_call = "perturbations_per_eval"
    display = Display("positive", 100.0)

    @property
    def multiplies_by_inputs(self) -> bool:
        return True
