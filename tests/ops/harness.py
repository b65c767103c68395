"""The same handful of checks for every op, driven by a list of cases.

A case is a function of tensors and a maker of float64 tensors for it; values, gradients, tangents, vmap, compilation
and the dispatcher's contract follow from it. Kernels run in Triton's interpreter, or on the GPU where there is one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode

from fastsal.ops import backend

CUDA = torch.cuda.is_available()
KERNEL_DEVICE = "cuda" if CUDA else "cpu"
KERNEL_BACKEND = "triton" if CUDA else "interpret"
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
REGISTERED = ("test_schema", "test_autograd_registration", "test_faketensor")
TRACED = ("test_aot_dispatch_static", "test_aot_dispatch_dynamic")
"""All of torch.library.opcheck; tracing takes most of its time."""


@dataclass(frozen=True)
class Case:
    """One use of an op: ``call(*tensors)`` on the float64 tensors of ``make()``.

    ``smooth`` is False where the result has kinks or is not floating point, so that finite differences do not apply.
    ``differentiable`` is False where it has no derivative at all. ``slack`` counts the float32 roundings of the largest
    value that a kernel may be off by. ``heavy`` is True where the interpreter takes seconds for the kernel.
    """

    name: str
    call: Callable[..., Tensor]
    make: Callable[[], tuple[Tensor, ...]]
    smooth: bool = True
    differentiable: bool = True
    mapped: tuple[int, ...] | None = None
    slack: float = 16.0
    heavy: bool = False

    def __str__(self) -> str:
        return self.name


def each(cases: list[Case]) -> pytest.MarkDecorator:
    """Parametrize a test over cases; heavy ones are slow."""
    marked = [pytest.param(case, marks=pytest.mark.slow if case.heavy else ()) for case in cases]
    return pytest.mark.parametrize("case", marked, ids=str)


def cast(
    tensors: tuple[Tensor, ...], dtype: torch.dtype, device: str = "cpu", channels_last: bool = False
) -> list[Tensor]:
    """The tensors in a dtype (floating ones), on a device, in a layout (4-D and 5-D ones)."""
    result = []
    for tensor in tensors:
        tensor = tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else tensor.dtype)
        formats = {4: torch.channels_last, 5: torch.channels_last_3d}
        if channels_last and tensor.dim() in formats and tensor.is_floating_point():
            tensor = tensor.contiguous(memory_format=formats[tensor.dim()])
        result.append(tensor)
    return result


@contextlib.contextmanager
def poisoned() -> Iterator[None]:
    """Fresh memory is full of NaN (or a large number), so that an element that is not written shows."""
    plain = torch.empty

    def empty(*args: Any, **kwargs: Any) -> Tensor:
        tensor = plain(*args, **kwargs)
        return tensor.fill_(float("nan") if tensor.is_floating_point() else 113)

    torch.empty = empty
    try:
        yield
    finally:
        torch.empty = plain


def assert_near(got: Tensor, expected: Tensor, dtype: torch.dtype, slack: float = 16.0) -> None:
    """Equal up to one rounding to ``dtype`` (the interpreter truncates) and some float32 roundings of the scale."""
    got, expected = got.detach().cpu().double(), expected.detach().cpu().double()
    assert got.shape == expected.shape
    assert torch.equal(got.isnan(), expected.isnan())
    infinite = expected.isinf()
    assert torch.equal(got[infinite], expected[infinite])
    finite = ~(expected.isnan() | infinite)
    if not finite.any():
        return
    scale = expected[finite].abs().max()
    rounding = torch.finfo(dtype).eps if dtype != torch.float32 else 0.0
    limit = rounding * expected[finite].abs() + slack * torch.finfo(torch.float32).eps * scale
    # float16's subnormals have a fixed spacing.
    limit = limit + (torch.finfo(dtype).smallest_normal if dtype == torch.float16 else 0.0)
    error = (got[finite] - expected[finite]).abs()
    assert (error <= limit).all(), f"error {error.max():.3g} against a limit of {limit.min():.3g}"


def check_kernel_values(case: Case, dtype: torch.dtype, channels_last: bool) -> None:
    """The kernel against the float64 reference on the same (rounded) inputs; layout, dtype and poison included."""
    tensors = cast(case.make(), dtype, KERNEL_DEVICE, channels_last)
    before = [tensor.clone() for tensor in tensors]
    with backend(KERNEL_BACKEND), poisoned():
        got = case.call(*tensors)
    with backend("reference"):
        layout = case.call(*tensors)
        expected = case.call(*cast(tuple(tensors), torch.float64))
    assert (got.dtype, got.stride()) == (layout.dtype, layout.stride())
    assert_near(got, expected, got.dtype if got.is_floating_point() else torch.float32, case.slack)
    for tensor, copy in zip(tensors, before, strict=True):
        assert torch.equal(tensor.nan_to_num(), copy.nan_to_num())


def check_kernel_gradients(case: Case) -> None:
    """The gradient through the kernel's forward against the float64 gradient of the reference."""
    tensors = [
        tensor.requires_grad_(tensor.is_floating_point()) for tensor in cast(case.make(), torch.float32, KERNEL_DEVICE)
    ]
    double = [
        tensor.detach().cpu().double().requires_grad_() if tensor.is_floating_point() else tensor for tensor in tensors
    ]
    with backend(KERNEL_BACKEND), poisoned():
        got = case.call(*tensors)
        direction = torch.randn(got.shape, dtype=torch.float64)
        got_gradients = torch.autograd.grad(got, [t for t in tensors if t.requires_grad], direction.to(got))
    with backend("reference"):
        expected = torch.autograd.grad(case.call(*double), [t for t in double if t.requires_grad], direction)
    for gradient, reference in zip(got_gradients, expected, strict=True):
        assert_near(gradient, reference, torch.float32, slack=256.0)


class Calls(TorchDispatchMode):
    """Records the fastsal ops that run below it, with their arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[Any, tuple[Any, ...]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "fastsal":
            self.found.append((func, args))
        return func(*args, **(kwargs or {}))


def dispatched(case: Case, dtype: torch.dtype = torch.float32) -> tuple[Any, tuple[Any, ...]]:
    """The op and arguments that a case comes down to."""
    with Calls() as calls:
        case.call(*cast(case.make(), dtype))
    (found,) = calls.found
    return found


def check_dispatcher(case: Case, checks: tuple[str, ...]) -> None:
    """torch.library.opcheck's ``checks``, on tensors that require gradients too where the op has a derivative."""
    overload, args = dispatched(case)
    torch.library.opcheck(overload, args, test_utils=checks)
    if case.differentiable:
        grad = [
            arg.clone().requires_grad_() if isinstance(arg, Tensor) and arg.is_floating_point() else arg for arg in args
        ]
        torch.library.opcheck(overload, tuple(grad), test_utils=checks)


def check_derivatives(case: Case) -> None:
    """First and second derivatives by finite differences; func.vjp, func.jvp and dual numbers, also by the bare op."""
    tensors = cast(case.make(), torch.float64)
    leaves = [tensor.requires_grad_() for tensor in tensors if tensor.is_floating_point()]
    if case.smooth:
        assert torch.autograd.gradcheck(case.call, tensors, check_forward_ad=True, fast_mode=True)
        assert torch.autograd.gradgradcheck(case.call, tensors, fast_mode=True)
    overload, args = dispatched(case, torch.float64)
    where = [i for i, arg in enumerate(args) if isinstance(arg, Tensor) and arg.is_floating_point()]

    def bare(*values: Tensor) -> Tensor:
        full = list(args)
        for i, value in zip(where, values, strict=True):
            full[i] = value
        return overload(*full)

    for call, primals in ((case.call, [t.detach() for t in tensors]), (bare, [args[i] for i in where])):
        inputs = tuple(primal.detach() for primal in primals)
        out, pull = torch.func.vjp(call, *inputs)
        direction = torch.randn_like(out)
        attached = [value.clone().requires_grad_() for value in inputs]
        expected = torch.autograd.grad(call(*attached), attached, direction)
        for got, want in zip(pull(direction), expected, strict=True):
            torch.testing.assert_close(got, want)
        tangents = tuple(torch.randn_like(value) for value in inputs)
        with forward_ad.dual_level():
            duals = [forward_ad.make_dual(value, tangent) for value, tangent in zip(inputs, tangents, strict=True)]
            dual = forward_ad.unpack_dual(call(*duals)).tangent
        along = sum((g * t).sum() for g, t in zip(expected, tangents, strict=True))
        torch.testing.assert_close((dual * direction).sum(), along)
        if call is bare:
            with pytest.raises(NotImplementedError, match=r"call it through fastsal\.ops"):
                torch.func.jvp(call, inputs, tangents)
        else:
            torch.testing.assert_close(torch.func.jvp(call, inputs, tangents)[1], dual)
    assert leaves


def check_vmap(case: Case) -> None:
    """vmap over each tensor alone and over all, against a loop; and vmap of the gradient."""
    tensors = cast(case.make(), torch.float64)
    mapped = range(len(tensors)) if case.mapped is None else case.mapped
    for dims in [
        *[tuple(0 if i == j else None for i in range(len(tensors))) for j in mapped],
        tuple(0 if i in mapped else None for i in range(len(tensors))),
    ]:
        values = [
            torch.stack([t, t.flip(0), t.roll(1, -1)]) if dim == 0 else t for t, dim in zip(tensors, dims, strict=True)
        ]
        got = torch.func.vmap(case.call, in_dims=dims)(*values)
        rows = [case.call(*[v[i] if dim == 0 else v for v, dim in zip(values, dims, strict=True)]) for i in range(3)]
        torch.testing.assert_close(got, torch.stack(rows))
    if case.differentiable:

        def loss(first: Tensor) -> Tensor:
            return case.call(first, *tensors[1:]).square().sum()

        stacked = torch.stack([tensors[0], tensors[0].flip(0)])
        expected = torch.stack([torch.func.grad(loss)(value) for value in stacked])
        torch.testing.assert_close(torch.func.vmap(torch.func.grad(loss))(stacked), expected)


def check_compile(case: Case, compiler: str, dynamic: bool | None) -> None:
    """torch.compile(fullgraph=True), forward and (where it has one) backward, against eager."""
    torch._dynamo.reset()
    tensors = cast(case.make(), torch.float32)

    def program(*values: Tensor) -> Tensor:
        return case.call(*values) * 2

    compiled = torch.compile(program, fullgraph=True, backend=compiler, dynamic=dynamic)
    torch.testing.assert_close(compiled(*tensors), program(*tensors))
    if case.differentiable:
        leaves = [tensor.requires_grad_(tensor.is_floating_point()) for tensor in tensors]
        wanted = [leaf for leaf in leaves if leaf.requires_grad]
        got = torch.autograd.grad(compiled(*leaves).square().sum(), wanted)
        expected = torch.autograd.grad(program(*leaves).square().sum(), wanted)
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def suite(
    cases: list[Case], small: list[Case], *, gradients: list[Case], compiled: list[Case] | None = None
) -> dict[str, Callable[..., None]]:
    """The tests of an op, for its file's ``globals()``.

    Where one of a kind is enough for a first look (float32, the usual layout, one compiler), the others are slow.

    Args:
        cases: for the kernel's values, in every dtype, and in channels-last layouts where the first tensor has one.
        small: for the dispatcher, finite differences and vmap.
        gradients: for the gradient through the kernel.
        compiled: for torch.compile; None takes the small ones.
    """

    slow = pytest.mark.slow
    compilers = [
        ("aot_eager", None),
        pytest.param("aot_eager", True, marks=slow),
        pytest.param("inductor", None, marks=slow),
    ]

    @each(cases)
    @pytest.mark.parametrize("dtype", [DTYPES[0], *(pytest.param(each, marks=slow) for each in DTYPES[1:])], ids=str)
    def test_kernel_values(case: Case, dtype: torch.dtype) -> None:
        check_kernel_values(case, dtype, channels_last=False)

    @slow
    @each([case for case in cases if case.make()[0].dim() in (4, 5)])
    def test_kernel_values_channels_last(case: Case) -> None:
        check_kernel_values(case, torch.float32, channels_last=True)

    @each(gradients)
    def test_kernel_gradients(case: Case) -> None:
        check_kernel_gradients(case)

    @each(small)
    @pytest.mark.parametrize("checks", [REGISTERED, pytest.param(TRACED, marks=slow)], ids=["registered", "traced"])
    def test_dispatcher(case: Case, checks: tuple[str, ...]) -> None:
        check_dispatcher(case, checks)

    @each(small)
    def test_derivatives(case: Case) -> None:
        check_derivatives(case)

    @each(small)
    def test_vmap(case: Case) -> None:
        check_vmap(case)

    @each(small if compiled is None else compiled)
    @pytest.mark.parametrize(("compiler", "dynamic"), compilers)
    def test_compile(case: Case, compiler: str, dynamic: bool | None) -> None:
        check_compile(case, compiler, dynamic)

    return {name: value for name, value in locals().items() if name.startswith("test_")}
