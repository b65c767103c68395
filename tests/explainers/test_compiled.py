"""Compiled explainers: the map and the prediction of the plain one; what a graph can hold, told on a device without
values."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import fastsal
from fastsal.engine.run import Capturable, NotCapturable, without_waiting
from fastsal.explainers.cam.principal import principal_projection
from tests.explainers.networks import image, small, unchanged

A = torch.ops.aten
EXPLAINERS: dict[str, tuple[Callable[[nn.Module], Any], dict[str, Any]]] = {
    "gradcam": (lambda m: fastsal.GradCAM(m, "last"), {}),
    "gradcam-default": (lambda m: fastsal.GradCAM(m), {}),
    "gradcam-raw": (lambda m: fastsal.GradCAM(m, "last"), {"relu_attributions": False, "normalize": False}),
    "layercam": (lambda m: fastsal.LayerCAM(m, ["norm", "last"]), {"upsample": True}),
    "hirescam": (lambda m: fastsal.HiResCAM(m, "last"), {}),
    "eigencam": (lambda m: fastsal.EigenCAM(m, "last"), {}),
    "eigengradcam": (lambda m: fastsal.EigenGradCAM(m, "last"), {}),
    "finercam": (lambda m: fastsal.FinerCAM(m, "last"), {}),
    "randomcam": (lambda m: fastsal.RandomCAM(m, "last"), {"seed": 2}),
    "saliency": (fastsal.Saliency, {"abs": False}),
    "input-x-gradient": (fastsal.InputXGradient, {}),
    "ig": (fastsal.IntegratedGradients, {"n_steps": 8, "internal_batch_size": 6}),
    "ig-own-batch": (fastsal.IntegratedGradients, {"n_steps": 8, "baselines": 0.5}),
    "smoothgrad": (fastsal.SmoothGrad, {"n_samples": 8, "perturbations_per_eval": 4}),
    "occlusion": (fastsal.Occlusion, {"sliding_window_shapes": (3, 3, 3), "strides": (3, 2, 2)}),
    "rise": (fastsal.RISE, {"n_masks": 12, "perturbations_per_eval": 5, "seed": 3}),
}
every = pytest.mark.parametrize("name", EXPLAINERS)


@every
@pytest.mark.parametrize("given", [False, True])
def test_it_is_the_plain_map(name: str, given: bool) -> None:
    make, options = EXPLAINERS[name]
    torch.manual_seed(0)
    model, x, other = small(), image(), torch.randn_like(image())
    with unchanged(model):
        compiled = fastsal.compile(make(model), x, 1 if given else None, **options)
    for each in (x, other):
        target = torch.tensor([2, 0, 3]) if given else None
        found = compiled(each, target) if given else compiled(each)
        output = model.eval()(each)
        chosen = output.argmax(1) if target is None else target
        torch.testing.assert_close(found.output, output.detach())
        assert torch.equal(found.target, chosen)
        expected = make(model).attribute(each, target=chosen, **options)
        torch.testing.assert_close(found.attribution, expected)
    assert "cpu" in str(compiled.plan())


class Static(TorchDispatchMode):
    """What a CUDA graph could not hold of work on the meta device, which stands for a GPU and has no values."""

    READS = (A._local_scalar_dense, A.nonzero, A.is_nonzero, A.equal, A.masked_select, A.allclose, A.unique_dim)

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.refused: list[str] = []
        self.ran: list[tuple[str, tuple[tuple[int, ...], ...]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        result = func(*args, **kwargs)
        found = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        self.ran.append((str(func), tuple(tuple(leaf.shape) for leaf in found)))
        drawn_on_the_host = func.overloadpacket is A.randint  # seeds
        if func.overloadpacket in self.READS and any(tensor.is_meta for tensor in tensors):
            self.refused.append(f"{func} reads a value")
        on_the_host = any(not leaf.is_meta and leaf.dim() for leaf in (*tensors, *found)) and not drawn_on_the_host
        moves = any(leaf.is_meta for leaf in (*tensors, *found)) or func.overloadpacket is A.lift_fresh
        if on_the_host and moves:
            self.refused.append(f"{func} moves between host and device")
        return result


@every
def test_nothing_waits_and_no_shape_depends_on_values(name: str) -> None:
    make, options = EXPLAINERS[name]
    model, x = small(), image()
    compiled = fastsal.compile(make(model), x, 1, **options)
    there = copy.deepcopy(model).to("meta")
    explainer = copy.copy(compiled._explainer)
    explainer.forward_func = there
    if hasattr(explainer, "layers"):
        explainer.layers = [there.get_submodule(name) for name in ("last", "norm")][: len(explainer.layers)]
    if name == "smoothgrad":
        explainer = fastsal.SmoothGrad(there)
    compiled._explainer = explainer
    arguments = (x.to("meta"), torch.zeros(x.shape[0], dtype=torch.int64, device="meta"))
    runs = []
    with without_waiting():
        compiled._explain(*arguments)  # constants are made once, before a capture
        for _ in range(2):
            with Static() as static:
                explained = compiled._explain(*arguments)
            assert static.refused == []
            assert explained.attribution.is_meta
            runs.append(static.ran)
        with Capturable():
            compiled._explain(*arguments)
    assert runs[0] == runs[1]


def test_a_model_that_waits_is_refused_before_a_capture() -> None:
    model, x = small().to("meta"), image().to("meta")
    explainer = fastsal.Saliency(lambda z: model(z) if len(seen) < 1 else model(z) * float(z.sum()))
    seen: list[int] = []
    with without_waiting():
        explainer.attribute(x, target=1)
        seen.append(1)
        with pytest.raises(NotCapturable, match="tells the host a value"), Capturable():
            explainer.attribute(x, target=1)


@pytest.mark.parametrize(("channels", "side"), [(3, 7), (64, 4)])
@pytest.mark.parametrize("center", [True, False])
def test_a_principal_component_without_waiting(channels: int, side: int, center: bool) -> None:
    """Against the singular value decomposition, where the first two are 1e-3 apart, and for what has none."""
    torch.manual_seed(0)
    values = torch.randn(4, channels, side, side, dtype=torch.float64)
    left, _, right = torch.linalg.svd(values.flatten(2), full_matrices=False)
    sizes = torch.linspace(1, 0.1, left.shape[-1], dtype=torch.float64)
    sizes[1] = 0.999
    values = (left * sizes @ right).view_as(values)
    values[2], values[3, 0, 0, 0] = 0, torch.nan
    with without_waiting():
        found = principal_projection(values, center)
    matrix = values[:2].flatten(2).mT
    matrix = matrix - matrix.mean(1, keepdim=True) if center else matrix
    vector = torch.linalg.svd(matrix, full_matrices=False)[2][:, :1]
    expected = (matrix @ vector.mT).squeeze(2).view(2, side, side)
    torch.testing.assert_close(found[:2].abs(), expected.abs(), rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(found, principal_projection(values, center), rtol=1e-8, atol=1e-10, equal_nan=True)
    assert not found[2].any()
    assert found[3].isnan().all()


def test_a_planted_wait_is_found() -> None:
    x = torch.zeros(3, device="meta")
    with Static() as static:
        for work in (lambda: x.sum().item(), lambda: torch.ones(3).to("meta"), lambda: x.nonzero()):
            try:
                work()
            except (RuntimeError, NotImplementedError):
                static.refused.append("raised")
    assert len(static.refused) >= 3


def test_a_target_that_only_the_device_knows() -> None:
    """Out of range it is NaN; where the host knows, an error."""
    model, x = small(), image()
    compiled = fastsal.compile(fastsal.Saliency(model), x, 0)
    with pytest.raises(ValueError, match="target: 4 is out of range for an output of 4"):
        compiled(x, 4)
    with pytest.raises(ValueError, match="target: 2 entries for 3 examples"):
        compiled(x, [0, 1])
    with pytest.raises(TypeError, match="target: 'cat' is neither"):
        compiled(x, "cat")
    with pytest.raises(TypeError, match=r"torch.float32 of shape"):
        compiled(x, torch.zeros(2))
    with without_waiting():
        found = fastsal.Occlusion(model).attribute(x, (3, 3, 3), target=torch.tensor([0, 4, 3]))
    assert not found[0].isnan().any()
    assert found[1].isnan().all()
    torch.testing.assert_close(compiled(x, -1).attribution, fastsal.Saliency(model).attribute(x, 3))


def test_refusals() -> None:
    model, x = small(), image()
    compiled = fastsal.compile(fastsal.GradCAM(model, "last"), x)
    with pytest.raises(ValueError, match=r"inputs: compiled for torch.float32 of shape \(3, 3, "):
        compiled(x[:1])
    with pytest.raises(ValueError, match=r"these are torch\.float64"):
        compiled(x.double())
    with pytest.raises(ValueError, match="compile with a target"):
        compiled(x, 1)
    with pytest.raises(ValueError, match="compiled to take one"):
        fastsal.compile(fastsal.Saliency(model), x, 1)(x)
    with pytest.raises(TypeError, match="explainer: KernelShap is none of"):
        fastsal.compile(fastsal.KernelShap(model), x)
    with pytest.raises(TypeError, match="show_progress: RISE takes no such option when it is compiled"):
        fastsal.compile(fastsal.RISE(model), x, show_progress=True)
    with pytest.raises(ValueError, match="seed: None would be drawn once"):
        fastsal.compile(fastsal.RISE(model), x, seed=None)
    with pytest.raises(ValueError, match=r"target: needed for an output of \(3, 1, 4\)"):
        fastsal.compile(fastsal.Saliency(lambda x: model(x)[:, None]), x)


def test_of_a_prepared_model() -> None:
    model, x = small().double(), image().double()
    fast = fastsal.prepare(model, x, memory_format="channels_last", probe_seconds=0)
    for name, (make, options) in EXPLAINERS.items():
        found = fastsal.compile(make(fast), x, **options)(x)
        expected = make(model).attribute(x, target=found.target, **options)
        torch.testing.assert_close(found.attribution, expected, rtol=1e-7, atol=1e-9, msg=name)


@every
def test_as_a_graph(name: str, cuda: torch.device) -> None:
    make, options = EXPLAINERS[name]
    model, x = small().to(cuda), image().to(cuda)
    compiled = fastsal.compile(make(model), x, **options)
    assert compiled.step.done, compiled.step.detail
    other = torch.randn_like(x)
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = compiled(other)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    expected = make(model).attribute(other, target=found.target, **options)
    torch.testing.assert_close(found.attribution, expected, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        model.head.weight.mul_(-1)
    torch.testing.assert_close(compiled(other).output, model.eval()(other).detach(), rtol=1e-4, atol=1e-5)
