"""Prepared models: the plain model's outputs and maps, by other weights; what cannot be prepared stays and says why."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastsal
from fastsal.engine.prepare import difference
from fastsal.engine.run import ChunkSizes
from tests.explainers.calls import CALLS
from tests.explainers.networks import Small, TwoInputs, image, small, unchanged

QUICK: dict[str, Any] = {"probe_seconds": 0}


def done(prepared: fastsal.Prepared, name: str) -> bool:
    return next(step.done for step in prepared.steps if step.name == name)


def detail(prepared: fastsal.Prepared, name: str) -> str:
    return next(step.detail for step in prepared.steps if step.name == name)


def lively(model: nn.Module) -> nn.Module:
    """Batch norms whose statistics are not those of a new one."""
    random = torch.Generator().manual_seed(0)
    for part in model.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            for tensor in (part.running_mean, part.weight, part.bias):
                if tensor is not None:
                    tensor.data += torch.randn(tensor.shape, generator=random, dtype=torch.float64).to(tensor)
            if part.running_var is not None:
                part.running_var += torch.rand(part.running_var.shape, generator=random).to(part.running_var)
    return model.eval()


CONVOLUTIONS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "1d": (lambda: nn.Sequential(nn.Conv1d(4, 6, 3, stride=2), nn.BatchNorm1d(6)), (2, 4, 9)),
    "2d-no-bias": (lambda: nn.Sequential(nn.Conv2d(4, 6, 3, bias=False), nn.BatchNorm2d(6)), (2, 4, 7, 8)),
    "2d-groups": (lambda: nn.Sequential(nn.Conv2d(4, 6, 3, groups=2), nn.BatchNorm2d(6)), (2, 4, 7, 8)),
    "3d": (lambda: nn.Sequential(nn.Conv3d(4, 6, 2), nn.BatchNorm3d(6)), (2, 4, 4, 5, 6)),
    "transposed": (lambda: nn.Sequential(nn.ConvTranspose2d(4, 6, 3), nn.BatchNorm2d(6)), (2, 4, 5, 6)),
    "transposed-groups": (
        lambda: nn.Sequential(nn.ConvTranspose2d(4, 6, 3, groups=2), nn.BatchNorm2d(6)),
        (2, 4, 5, 6),
    ),
    "not-affine": (lambda: nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6, affine=False)), (2, 4, 7, 8)),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_batch_norm_is_folded(name: str) -> None:
    make, shape = CONVOLUTIONS[name]
    torch.manual_seed(0)
    model, x = lively(make().double()), torch.randn(shape, dtype=torch.float64)
    with unchanged(model):
        prepared = fastsal.prepare(model, x, **QUICK)
    assert detail(prepared, "batch norm") == "1 of 1 folded into convolutions"
    assert not any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in prepared.modules())
    torch.testing.assert_close(prepared(x), model(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("name", CALLS)
def test_every_method_gives_the_plain_models_map(name: str, channels_last: bool) -> None:
    """In float64 folding differs by rounding alone."""
    torch.manual_seed(0)
    model, x = lively(small().double()), image().double()
    fast = fastsal.prepare(model, x, memory_format="channels_last" if channels_last else "contiguous", **QUICK)
    assert done(fast, "batch norm")
    assert done(fast, "memory format") is channels_last
    with unchanged(model):
        torch.manual_seed(0)
        found = CALLS[name](fast, x)
    torch.manual_seed(0)
    torch.testing.assert_close(found, CALLS[name](model, x), rtol=1e-7, atol=1e-9)


def test_a_model_in_train_mode_is_prepared_for_evaluation() -> None:
    torch.manual_seed(0)
    model, x = small(dropout=0.5), image()
    expected = lively(model)(x)
    model.train()
    with unchanged(model):
        fast = fastsal.prepare(model, x, **QUICK)
        torch.testing.assert_close(fast(x), expected)
    assert not any(parameter.requires_grad for parameter in fast.parameters())


def test_gradients_pass_what_was_prepared_in_inference_mode() -> None:
    model = lively(small())
    with torch.inference_mode():
        prepared = fastsal.prepare(model, image(), probe_seconds=0)
    found = fastsal.Saliency(prepared).attribute(image(), 1)
    torch.testing.assert_close(found, fastsal.Saliency(model).attribute(image(), 1), rtol=1e-4, atol=1e-6)


def test_changes_of_the_model_are_seen() -> None:
    torch.manual_seed(0)
    model, x = lively(small().double()), image().double()
    fast = fastsal.prepare(model, x, **QUICK)
    explainer = fastsal.GradCAM(fast, "last")
    explainer.attribute(x, 1)
    with torch.no_grad():
        model.stem.weight.mul_(-2)
        model.norm.running_var.add_(1)
    torch.testing.assert_close(fast(x), model(x), rtol=0, atol=1e-12)
    torch.testing.assert_close(explainer.attribute(x, 1), fastsal.GradCAM(model, "last").attribute(x, 1))
    model.head = nn.Linear(6, 9).double()
    assert fast(x).shape == (x.shape[0], 9)
    torch.testing.assert_close(fast(x), model(x), rtol=0, atol=1e-12)
    state = {name: value + 0.1 for name, value in model.state_dict().items() if value.is_floating_point()}
    model.load_state_dict(state, strict=False)
    torch.testing.assert_close(fast(x), model(x), rtol=0, atol=1e-12)


class Branching(nn.Module):
    """Its course depends on values; where it leaves the batch norm out, a folded convolution would be wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return (self.norm(x) if x.mean() > 0 else x).mean((2, 3))


class ReadTwice(Branching):
    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return (self.norm(x) + x).mean((2, 3))


class Optional(Branching):
    """With no mask, as in the call that it is prepared for, the batch norm follows."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = self.conv(x)
        return (self.norm(x) if mask is None else x).mean((2, 3))


class Normed(nn.Module):
    """The batch norm's weight is read on the side."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)).mean((2, 3)) * self.norm.weight


@pytest.mark.parametrize("make", [Branching, ReadTwice, Normed])
def test_what_reads_the_convolution_is_not_folded(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model, x = lively(make().double()), image().double()
    prepared = fastsal.prepare(model, x, **QUICK)
    assert not done(prepared, "batch norm")
    assert done(prepared, "model")
    for other in (x, -x):
        torch.testing.assert_close(prepared(other), model(other))


def test_another_form_of_call_is_the_plain_models() -> None:
    torch.manual_seed(0)
    model, x = lively(Optional().double()), image().double()
    prepared = fastsal.prepare(model, x, **QUICK)
    assert done(prepared, "batch norm")
    torch.testing.assert_close(prepared(x), model(x))
    torch.testing.assert_close(prepared(x, x), model(x, x))
    torch.testing.assert_close(prepared(x, mask=x), model(x, mask=x))
    torch.testing.assert_close(prepared(x, None), model(x, None))


def test_hooks_and_shared_parts_are_not_folded() -> None:
    x = image().double()
    seen: list[int] = []
    model = lively(small().double())
    handle = model.stem.register_forward_hook(lambda *_: seen.append(1))
    prepared = fastsal.prepare(model, x, **QUICK)
    assert not done(prepared, "batch norm")
    seen.clear()
    prepared(x)
    assert seen == [1]
    handle.remove()
    shared = lively(nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)).double())
    shared.append(shared[0]).append(nn.ReLU())
    prepared = fastsal.prepare(shared, x, **QUICK)
    assert not done(prepared, "batch norm")
    torch.testing.assert_close(prepared(x), shared(x))


def test_random_and_compiled_away_models_run_as_they_are() -> None:
    class Random(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1)[:, :2] * torch.rand(1)

    prepared = fastsal.prepare(Random(), image(), **QUICK)
    assert "differs from call to call" in detail(prepared, "model")
    scripted = torch.jit.script(nn.Sequential(nn.Flatten(), nn.Linear(3 * 81, 2)))
    x = torch.randn(2, 3, 9, 9)
    prepared = fastsal.prepare(scripted, x, **QUICK)
    assert "TorchScript" in detail(prepared, "model")
    torch.testing.assert_close(prepared(x), scripted(x))
    torch.testing.assert_close(fastsal.Saliency(prepared).attribute(x, 1), fastsal.Saliency(scripted).attribute(x, 1))


def test_the_models_own_error_is_raised() -> None:
    class Failing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise KeyError("its own")

    with pytest.raises(KeyError, match="its own"):
        fastsal.prepare(Failing(), image())


class Mixing(nn.Module):
    """Rows that depend on each other."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = small()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(x)
        return out + out.mean(0)


def test_dependent_rows_get_a_call_each() -> None:
    torch.manual_seed(0)
    model, x = Mixing().eval(), image()[:1]
    prepared = fastsal.prepare(model, x)
    assert prepared.rows == 1
    found = fastsal.Occlusion(prepared).attribute(x, (3, 3, 3), (3, 3, 3), target=1)
    expected = fastsal.Occlusion(model).attribute(x, (3, 3, 3), (3, 3, 3), target=1, perturbations_per_eval=1)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_lower_precision(precision: str) -> None:
    torch.manual_seed(0)
    model, x = lively(small()), image()
    prepared = fastsal.prepare(model, x, precision=precision, **QUICK)
    assert done(prepared, "precision")
    assert "head in the model's own" in detail(prepared, "precision")
    assert prepared(x).dtype == torch.float32
    assert prepared.get_submodule("module.stem").weight.dtype == getattr(torch, precision)
    assert difference(prepared(x), model(x)) < 0.05
    gradient = fastsal.Saliency(prepared).attribute(x, 1)
    assert gradient.dtype == torch.float32
    cam = fastsal.GradCAM(prepared, model.last).attribute(x, 1)
    assert cam.dtype == torch.float32
    assert difference(cam, fastsal.GradCAM(model, model.last).attribute(x, 1)) < 0.1


def test_a_model_that_makes_its_own_float32_is_run_by_autocast() -> None:
    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            hidden = self.first(x) + torch.linspace(0, 1, 8)
            return self.second(self.first(hidden))

    torch.manual_seed(0)
    model, x = Positions(), torch.randn(2, 8)
    prepared = fastsal.prepare(model, x, precision="bfloat16", **QUICK)
    assert detail(prepared, "precision") == "bfloat16, by autocast"
    assert prepared(x).dtype == torch.float32
    assert difference(prepared(x), model(x)) < 0.1


def test_what_is_not_there_is_said() -> None:
    model, x = small(), image()
    prepared = fastsal.prepare(model, x, precision="tf32", cuda_graphs=True, **QUICK)
    assert detail(prepared, "precision") == "tf32 is a GPU's, the model is on cpu: its own"
    assert detail(prepared, "cuda graphs") == "not used: the model is on cpu"
    assert "contiguous" in detail(prepared, "memory format")
    report = str(fastsal.Occlusion(prepared).plan())
    assert "tf32 is a GPU's" in report
    assert "fastsal.prepare" in str(fastsal.Occlusion(model).plan())


def test_the_measured_rows_are_the_batch() -> None:
    prepared = fastsal.prepare(small(), image(), probe_seconds=0.2)
    assert prepared.rows is not None

    def fitting(items: int) -> int:  # many come in eights
        return max(1, items - items % 8 if items > 8 else items)

    assert ChunkSizes(1000, 1, 400, torch.device("cpu"), None, prepared).size == fitting(prepared.rows)
    explainer = fastsal.RISE(lambda x: prepared(x).softmax(1))
    explainer.attribute(image(), 1, n_masks=1)  # what a function calls is known once it has run
    explainer.attribute(image(), 1, n_masks=40)
    (swept,) = explainer.plan().sweeps
    assert swept.total == sum(swept.sizes) == 40
    assert swept.sizes[0] == min(40, fitting(prepared.rows // image().shape[0]))
    assert "RISE: 40 in" in str(explainer.plan())


@pytest.mark.parametrize("rows", [1, 2, 3, 7])
def test_rows_are_split_over_devices(rows: int) -> None:
    """Two replicas of the same device stand for two devices."""
    torch.manual_seed(0)
    model = lively(small().double())
    x = torch.randn(rows, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    prepared = fastsal.prepare(model, x, devices=["cpu", "cpu"], **QUICK)
    assert done(prepared, "devices")
    torch.testing.assert_close(prepared(x), model(x), rtol=0, atol=1e-12)
    for name in ("rise", "ig", "gradcam"):
        plain, split = (CALLS[name](each, x.detach()) for each in (model, prepared))
        torch.testing.assert_close(split, plain, rtol=1e-7, atol=1e-9)
    with pytest.raises(ValueError, match="devices: the first is meta"):
        fastsal.prepare(model, x, devices=["meta", "cpu"])


def test_extra_arguments_are_split_with_their_rows() -> None:
    torch.manual_seed(0)
    model = TwoInputs().double().eval()
    inputs = (torch.randn(4, 3, 4, dtype=torch.float64), torch.randn(4, 5, dtype=torch.float64))
    shift = torch.randn(8, dtype=torch.float64)
    prepared = fastsal.prepare(model, inputs, (shift, 2.0), devices=["cpu", "cpu"], **QUICK)
    assert done(prepared, "devices")
    torch.testing.assert_close(prepared(*inputs, shift, 2.0), model(*inputs, shift, 2.0))
    torch.testing.assert_close(prepared(*inputs, shift, 3.0), model(*inputs, shift, 3.0))


@pytest.mark.slow
def test_compiled() -> None:
    torch.manual_seed(0)
    model, x = lively(small()), image()
    prepared = fastsal.prepare(model, x, compile=True, **QUICK)
    assert done(prepared, "compile")
    for name in ("rise", "saliency", "gradcam"):
        torch.testing.assert_close(CALLS[name](prepared, x), CALLS[name](model, x), rtol=1e-4, atol=1e-5)


def test_a_folded_convolution_is_no_layer() -> None:
    model, x = small(), image()
    prepared = fastsal.prepare(model, x, **QUICK)
    for layer in ("stem", model.stem, prepared.stem):
        with pytest.raises(ValueError, match="folded into this convolution"):
            fastsal.GradCAM(prepared, layer)
    torch.testing.assert_close(
        fastsal.GradCAM(prepared, "norm").attribute(x, 1), fastsal.GradCAM(model, "norm").attribute(x, 1)
    )


def test_refusals() -> None:
    model, x = small(), image()
    with pytest.raises(TypeError, match="model: function is not"):
        fastsal.prepare(lambda x: x, x)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="precision: 'half' is not one of"):
        fastsal.prepare(model, x, precision="half")
    with pytest.raises(ValueError, match="memory_format: 'nhwc' is not one of"):
        fastsal.prepare(model, x, memory_format="nhwc")
    with pytest.raises(ValueError, match="probe_seconds: -1 is below 0"):
        fastsal.prepare(small(), image(), probe_seconds=-1)
    with pytest.raises(ValueError, match="inputs: the first must be a tensor"):
        fastsal.prepare(model, x[:0])


def test_small_has_one_pair() -> None:
    assert detail(fastsal.prepare(Small(), image(), **QUICK), "batch norm").startswith("1 of 1")


class Detector(nn.Module):
    """As many objects for an image as have a score, in a list; ``mixed`` lets the images of a batch see each other."""

    def __init__(self, mixed: bool = False) -> None:
        super().__init__()
        self.inner, self.mixed = small(), mixed

    def forward(self, x: Tensor) -> list[dict[str, Tensor]]:
        scores = self.inner(x)
        scores = scores - scores.mean(0) * float(self.mixed)
        return [{"scores": each[each > each.mean()], "labels": (each > each.mean()).nonzero()[:, 0]} for each in scores]


@pytest.mark.parametrize("examples", [1, 3])
def test_objects_of_each_image_are_rows(examples: int) -> None:
    torch.manual_seed(0)
    model, x = lively(Detector()), torch.randn(examples, 3, 8, 9)
    prepared = fastsal.prepare(model, x, probe_seconds=0.2)
    assert "depend on each other" not in detail(prepared, "rows per call")
    assert prepared.rows is not None
    assert prepared.rows > 1
    best = [lambda objects: objects["scores"].max()] * examples
    found, expected = (
        fastsal.Occlusion(each).attribute(x, (3, 4, 4), (3, 4, 4), target=best) for each in (prepared, model)
    )
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("examples", [1, 3])
def test_objects_that_depend_on_other_images_get_a_call_each(examples: int) -> None:
    torch.manual_seed(0)
    prepared = fastsal.prepare(lively(Detector(mixed=True)), torch.randn(examples, 3, 8, 9), probe_seconds=0.2)
    assert detail(prepared, "rows per call") == "1: the rows of a batch depend on each other"
