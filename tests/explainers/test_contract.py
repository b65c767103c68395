"""What holds for every explainer: modes, flags, hooks, dtypes, batch sizes, memory, errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import fastsal
from tests.explainers.networks import Functional, residual

RUNS: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "saliency": lambda model, x: fastsal.Saliency(model).attribute(x, 1),
    "integrated gradients": lambda model, x: fastsal.IntegratedGradients(model).attribute(x, target=1, n_steps=4),
    "guided backprop": lambda model, x: fastsal.GuidedBackprop(model).attribute(x, 1),
    "deconvolution": lambda model, x: fastsal.Deconvolution(model).attribute(x, 1),
    "gradcam": lambda model, x: fastsal.GradCAM(model, "body").attribute(x, 1),
    "occlusion": lambda model, x: fastsal.Occlusion(model).attribute(x, (2, 4, 4), (2, 3, 3), target=1),
    "rise": lambda model, x: fastsal.RISE(model).attribute(x, 1, n_masks=9, grid_size=3),
    "explain": lambda model, x: fastsal.explain(model, x, "gradcam", layer="body").maps["gradcam"],
}
each = pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)


def image(dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(2, 2, 9, 11).to(dtype)


def hooks(model: nn.Module) -> int:
    return sum(
        len(part._forward_hooks)
        + len(part._forward_pre_hooks)
        + len(part._backward_hooks)
        + len(part._backward_pre_hooks)
        for part in model.modules()
    )


def state(model: nn.Module) -> tuple[Any, ...]:
    return (
        hooks(model),
        [part.training for part in model.modules()],
        [(p.requires_grad, p.grad is None) for p in model.parameters()],
        [buffer.clone() for buffer in model.buffers()],
    )


def same(first: tuple[Any, ...], second: tuple[Any, ...]) -> bool:
    return first[:3] == second[:3] and all(torch.equal(a, b) for a, b in zip(first[3], second[3], strict=True))


@each
@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_any_grad_mode(run: Callable[..., Tensor], around: Callable[[], Any]) -> None:
    model, x = residual(), image()
    expected = run(model, x)
    with around():
        torch.testing.assert_close(run(model, x.clone()), expected)


@each
def test_train_mode_is_explained_as_evaluation_and_comes_back(run: Callable[..., Tensor]) -> None:
    model, x = residual(), image()
    expected = run(model, x)
    model.train()
    model.stem.eval()
    before = state(model)
    torch.testing.assert_close(run(model, x), expected)
    assert same(state(model), before)


@each
def test_frozen_parameters_and_flags(run: Callable[..., Tensor]) -> None:
    model, x = residual(), image()
    expected = run(model, x)
    before = state(model)
    assert same(state(model), before)
    model.requires_grad_(False)
    before = state(model)
    torch.testing.assert_close(run(model, x), expected)
    assert same(state(model), before)


@each
def test_inputs_are_not_touched(run: Callable[..., Tensor]) -> None:
    model = residual()

    class Overwrites(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = model.body
            self.rest = model

        def forward(self, x: Tensor) -> Tensor:
            return self.rest(x.mul_(2))

    x = image().requires_grad_()
    copy = x.detach().clone()
    got = run(Overwrites(), x)
    assert x.grad is None
    assert x.requires_grad
    assert torch.equal(x, copy)
    assert got.isfinite().all()
    torch.testing.assert_close(run(Overwrites(), copy), got.detach())


class Breaks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(2, 3, 3)
        self.after = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        self.after(self.body(x))
        raise KeyError("the model's own")


@each
def test_nothing_is_left_after_an_exception(run: Callable[..., Tensor]) -> None:
    model = Breaks().double().train()
    before = state(model)
    with pytest.raises(KeyError, match="the model's own"):
        run(model, image())
    assert same(state(model), before)
    assert torch.is_grad_enabled()


@each
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_half_precision_is_near_and_keeps_its_dtype(run: Callable[..., Tensor], dtype: torch.dtype) -> None:
    """ReLU gates may flip under half precision, so direction is compared, not elements."""
    x = image()
    expected, got = run(residual(), x), run(residual(dtype=dtype), x.to(dtype))
    assert got.dtype in (dtype, torch.float32)
    cosine = torch.cosine_similarity(got.double().flatten(), expected.flatten(), dim=0)
    assert cosine > 0.95


@each
def test_model_of_another_dtype_is_named(run: Callable[..., Tensor]) -> None:
    with pytest.raises(ValueError, match=r"inputs: torch.float32 on cpu, but the model's parameters are torch.float64"):
        run(residual(), image(torch.float32))


@each
def test_channels_last_gives_the_same(run: Callable[..., Tensor]) -> None:
    model, x = residual(), image()
    torch.testing.assert_close(run(model, x.contiguous(memory_format=torch.channels_last)), run(model, x))


@pytest.mark.parametrize(
    "run",
    [
        lambda model, x, rows: fastsal.RISE(model).attribute(x, n_masks=23, perturbations_per_eval=rows),
        lambda model, x, rows: fastsal.Occlusion(model).attribute(x, (2, 4, 4), 2, perturbations_per_eval=rows),
        lambda model, x, rows: fastsal.IntegratedGradients(lambda v: model(v)[:, 0]).attribute(
            x, n_steps=23, internal_batch_size=2 * rows
        ),
    ],
    ids=["rise", "occlusion", "integrated gradients"],
)
def test_the_map_does_not_depend_on_the_batch_size(run: Callable[..., Tensor]) -> None:
    """A model whose rows do not depend on their neighbours: then the bits are the same."""

    def model(x: Tensor) -> Tensor:
        return torch.stack([x[:, 0, 2, 3] * x[:, 1, 4, 5], x[:, 0, 1, 1].sin()], dim=1)

    x = image(torch.float32)
    whole = run(model, x, 23)
    for rows in (1, 4, 7):
        assert torch.equal(run(model, x, rows), whole)


def test_rise_is_equation_6() -> None:
    model, x = residual(), image()
    ones = torch.ones(1, 1, 9, 11, dtype=torch.float64)
    drawn = fastsal.ops.masks.batch(ones, 0, 30, seed=4, grid_size=3, probability=0.4)
    scores = torch.stack([model(x * mask) for mask in drawn])
    expected = torch.einsum("nbk,nhw->bkhw", scores, drawn[:, 0]) / (30 * 0.4)
    explainer = fastsal.RISE(model)
    got = explainer.attribute(x, n_masks=30, seed=4, grid_size=3, probability=0.4)
    torch.testing.assert_close(got, expected)
    one = explainer.attribute(x, [2, 0], n_masks=30, seed=4, grid_size=3, probability=0.4)
    torch.testing.assert_close(one[:, 0], expected[torch.arange(2), [2, 0]])


def test_every_image_of_a_batch_has_the_map_that_it_has_alone() -> None:
    model, x = residual(), image()
    for run in RUNS.values():
        whole = run(model, x)
        torch.testing.assert_close(whole[1:], run(model, x[1:]))


class Peak(TorchDispatchMode):
    """Largest number of bytes alive at once among the tensors made below it."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, Any] = {}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        from torch.multiprocessing.reductions import StorageWeakRef
        from torch.utils._pytree import tree_leaves

        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                self.alive.setdefault(storage._cdata, (StorageWeakRef(storage), storage.nbytes()))
        self.alive = {key: value for key, value in self.alive.items() if not value[0].expired()}
        self.peak = max(self.peak, sum(value[1] for value in self.alive.values()))
        return result


@pytest.mark.parametrize(
    ("run", "few", "many"),
    [
        (lambda model, x, n: fastsal.RISE(model).attribute(x, 1, n_masks=n, perturbations_per_eval=8), 64, 512),
        (
            lambda model, x, n: fastsal.IntegratedGradients(model).attribute(
                x, target=1, n_steps=n, internal_batch_size=8
            ),
            32,
            256,
        ),
        (
            lambda model, x, n: fastsal.Occlusion(model).attribute(
                x, (2, n, n), (2, n, n), target=1, perturbations_per_eval=8
            ),
            4,
            2,
        ),
    ],
    ids=["rise", "integrated gradients", "occlusion"],
)
def test_memory_does_not_grow_with_the_number_of_passes(run: Callable[..., Tensor], few: int, many: int) -> None:
    """Up to the scores themselves: 8 bytes (twice, while they are folded) for each window of occlusion."""
    model, x = residual(dtype=torch.float32), torch.randn(1, 2, 32, 32)
    peaks = []
    for number in (few, many):
        with Peak() as watch:
            run(model, x, number)
        peaks.append(watch.peak)
    windows = (32 // 2) ** 2
    assert peaks[1] - peaks[0] <= 16 * windows
    assert peaks[0] > x.numel() * 4


def test_explain_returns_prediction_targets_and_maps() -> None:
    model, x = residual(), image()
    found = fastsal.explain(model, x, list(fastsal.methods()), n_masks=8, n_steps=4)
    torch.testing.assert_close(found.output, model(x).detach())
    assert torch.equal(found.target, model(x).argmax(1))
    assert list(found.maps) == list(fastsal.methods()) == list(found.seconds)
    for attribution in found.maps.values():
        assert attribution.shape[2:] == x.shape[2:]
    torch.testing.assert_close(found.maps["saliency"], fastsal.Saliency(model).attribute(x, found.target))
    softmax = fastsal.Occlusion(lambda v: model(v).softmax(1)).attribute(x, (2, 2, 2), (2, 1, 1), target=found.target)
    torch.testing.assert_close(found.maps["occlusion"], softmax)


def test_layers_lists_candidates_in_order() -> None:
    found = fastsal.layers(residual(), image())
    assert [layer.name for layer in found] == ["stem.0", "stem.1", "stem.2", "stem", "body", "down", "relu"]
    assert found[-1].shape == (1, 8, 4, 5)
    default = fastsal.GradCAM(residual())
    default.attribute(image(), 1)
    assert default.layer_name == "relu"


def test_guided_methods_refuse_what_they_cannot_see() -> None:
    with pytest.raises(TypeError, match="TorchScript"):
        fastsal.GuidedBackprop(torch.jit.trace(Functional(), torch.randn(1, 2, 8, 8)))
    smooth = nn.Sequential(nn.Conv2d(2, 3, 3), nn.GELU(), nn.Flatten(), nn.LazyLinear(2))
    smooth(torch.randn(1, 2, 8, 8))
    with pytest.warns(UserWarning, match="no ReLU"):
        got = fastsal.Deconvolution(smooth).attribute(torch.randn(1, 2, 8, 8), 1)
    assert got.shape == (1, 2, 8, 8)


ERRORS: list[tuple[Callable[[nn.Module, Tensor], Any], str]] = [
    (lambda m, x: fastsal.Saliency(3), "forward_func: int is not callable"),
    (lambda m, x: fastsal.Saliency(m).attribute([x], 1), "inputs: list is neither"),
    (lambda m, x: fastsal.Saliency(m).attribute(x), "target: None leaves"),
    (lambda m, x: fastsal.Saliency(m).attribute(x, 5), "target: 5 is out of range"),
    (lambda m, x: fastsal.Saliency(m).attribute(x, [1, 7]), "target: 7 is out of range"),
    (lambda m, x: fastsal.Saliency(m).attribute(x, [1]), "target: 1 entries for 2 examples"),
    (lambda m, x: fastsal.Saliency(m).attribute(x, 1.0), "target: 1.0 is not an int"),
    (lambda m, x: fastsal.Saliency(m).attribute(x, True), "target: True is not an int"),
    (lambda m, x: fastsal.Saliency(m).attribute(x, torch.tensor([0.5, 1.0])), "target: torch.float32"),
    (lambda m, x: fastsal.Saliency(m).attribute(x.long(), 1), "inputs: torch.int64 has no gradient"),
    (lambda m, x: fastsal.Saliency(lambda v: m(v).detach()).attribute(x, 1), "does not depend on the inputs"),
    (lambda m, x: fastsal.IntegratedGradients(m).attribute(x, "zero", 1), "baselines: str"),
    (lambda m, x: fastsal.IntegratedGradients(m).attribute(x, torch.zeros(5, 2, 9, 11), 1), "baselines: shape"),
    (lambda m, x: fastsal.IntegratedGradients(m).attribute(x, (0, 0), 1), "baselines: 2 given for 1"),
    (lambda m, x: fastsal.IntegratedGradients(m).attribute(x, target=1, method="simpson"), "method: 'simpson'"),
    (lambda m, x: fastsal.IntegratedGradients(m).attribute(x, target=1, n_steps=0), "n_steps: 0"),
    (
        lambda m, x: fastsal.IntegratedGradients(m).attribute(x, target=1, internal_batch_size=0),
        "internal_batch_size: 0",
    ),
    (lambda m, x: fastsal.Occlusion(m).attribute(x, 3, target=1), "sliding_window_shapes: 3 is not a tuple"),
    (lambda m, x: fastsal.Occlusion(m).attribute(x, (3, 3), target=1), "window: .* has 2 entries, 3 are needed"),
    (lambda m, x: fastsal.Occlusion(m).attribute(x, (2, 3, 12), target=1), "window: .* larger than the input's"),
    (lambda m, x: fastsal.Occlusion(m).attribute(x, (2, 3, 3), (2, 4, 3), target=1), "strides: 4 is above"),
    (
        lambda m, x: fastsal.Occlusion(m).attribute(x, (2, 3, 3), target=1, perturbations_per_eval=0),
        "perturbations_per_eval: 0",
    ),
    (lambda m, x: fastsal.RISE(m).attribute(x, 1, n_masks=0), "n_masks: 0"),
    (lambda m, x: fastsal.RISE(m).attribute(x, 1, probability=0.0), "probability: 0.0"),
    (lambda m, x: fastsal.GradCAM(m, "bodi"), "none named 'bodi'; did you mean body"),
    (lambda m, x: fastsal.GradCAM(m, 3), "layer: int is neither"),
    (lambda m, x: fastsal.GradCAM(m, nn.ReLU()).attribute(x, 1), "layer: the model did not run it"),
    (lambda m, x: fastsal.GradCAM(m, "head").attribute(x, 1), "upsample: the layer's output"),
    (lambda m, x: fastsal.GradCAM(m, "head").attribute(x, 1, upsample=False), "activations: shape"),
    (lambda m, x: fastsal.GuidedBackprop(lambda v: v), "model: function is not a torch.nn.Module"),
    (lambda m, x: fastsal.explain(m, x, "grad-cam"), "method: 'grad-cam' is not one of .* did you mean gradcam"),
    (lambda m, x: fastsal.explain(m, x, "saliency", n_masks=3), "n_masks: saliency takes no such option"),
]


@pytest.mark.parametrize(("call", "message"), ERRORS, ids=[message for _, message in ERRORS])
def test_errors_name_the_argument(call: Callable[[nn.Module, Tensor], Any], message: str) -> None:
    model = residual()
    with pytest.raises((TypeError, ValueError), match=message):
        call(model, image())
    assert hooks(model) == 0
