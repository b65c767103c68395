"""Exported packages: the Python explainer's numbers, in every batch, and one clear error for what does not fit."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastsal
from fastsal.deploy import read_metadata
from fastsal.deploy._export import program_of
from tests.deploy.packages import altered
from tests.explainers.networks import unchanged

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(torch.__version__ < (2, 11), reason="fastsal.export needs PyTorch 2.11"),
    pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler, which AOTInductor calls"),
]


def network() -> nn.Module:
    """Smooth, so that no gate of a ReLU can be on either side by rounding, and in float64."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.Tanh(),
        nn.Conv2d(6, 8, 3, 2, 1),
        nn.Tanh(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    ).double()


def images(batch: int, seed: int = 0) -> Tensor:
    return torch.randn(batch, 3, 12, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


METHODS: dict[str, tuple[Callable[[nn.Module], Any], dict[str, Any]]] = {
    "Saliency": (fastsal.Saliency, {}),
    "InputXGradient": (fastsal.InputXGradient, {}),
    "IntegratedGradients": (fastsal.IntegratedGradients, {"n_steps": 6, "internal_batch_size": 15}),
    "SmoothGrad": (fastsal.SmoothGrad, {"n_samples": 4}),
    "Occlusion": (fastsal.Occlusion, {"sliding_window_shapes": (3, 4, 4), "strides": (3, 4, 4)}),
    "RISE": (fastsal.RISE, {"n_masks": 16, "grid_size": 3, "perturbations_per_eval": 8}),
    "GradCAM": (lambda m: fastsal.GradCAM(m, "4"), {}),
    "GradCAMPlusPlus": (lambda m: fastsal.GradCAMPlusPlus(m, "4"), {}),
    "GradCAMElementWise": (lambda m: fastsal.GradCAMElementWise(m, "4"), {}),
    "HiResCAM": (lambda m: fastsal.HiResCAM(m, "4"), {}),
    "LayerCAM": (lambda m: fastsal.LayerCAM(m, "4"), {}),
    "XGradCAM": (lambda m: fastsal.XGradCAM(m, "4"), {}),
    "ShapleyCAM": (lambda m: fastsal.ShapleyCAM(m, "4"), {}),
    "FEM": (lambda m: fastsal.FEM(m, "4"), {}),
}


def in_python(explainer: Any, x: Tensor, target: Any, options: dict[str, Any]) -> Tensor:
    found: Tensor = explainer.attribute(x, target=target, **options)
    return found


# Each is compiled by the C++ compiler: one stands for them in `make test`.
HERE = ("GradCAM",)


@pytest.mark.parametrize(
    "name", [name if name in HERE else pytest.param(name, marks=pytest.mark.native) for name in METHODS]
)
def test_a_package_gives_the_explainers_maps(name: str, tmp_path: Path) -> None:
    make, options = METHODS[name]
    model = network().train()
    explainer = make(model)
    with unchanged(model):
        path = fastsal.export(explainer, images(5), tmp_path / "explained.pt2", dynamic_batch=8, **options)
    assert all(module.training for module in model.modules())
    package = fastsal.load(path, trust_code=True)
    model.eval()
    for batch in (1, 2, 7, 8):
        x = images(batch, batch)
        chosen: Any
        for target, chosen in ((None, model(x).argmax(1)), (2, 2), (torch.arange(batch) % 4, torch.arange(batch) % 4)):
            found = package(x, target)
            torch.testing.assert_close(found.output, model(x).detach(), rtol=1e-9, atol=1e-12)
            expected = in_python(explainer, x, chosen, options)
            torch.testing.assert_close(found.attribution, expected, rtol=1e-7, atol=1e-12)
            assert torch.equal(found.target, torch.as_tensor(chosen).expand(batch))


@pytest.mark.native
@pytest.mark.parametrize("largest", [1, 3])
def test_a_largest_batch_below_the_traced_one(largest: int, tmp_path: Path) -> None:
    model = network().eval()
    explainer = fastsal.SmoothGrad(model)
    path = fastsal.export(explainer, images(2), tmp_path / "a.pt2", dynamic_batch=largest, n_samples=3)
    package = fastsal.load(path, trust_code=True)
    for batch in range(1, largest + 1):
        x = images(batch)
        expected = explainer.attribute(x, target=1, n_samples=3)
        torch.testing.assert_close(package(x, 1).attribution, expected, rtol=1e-7, atol=1e-12)
    with pytest.raises(ValueError, match="the package takes"):
        package(images(largest + 1))


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Grad-CAM in float32, of a batch of two."""
    folder = tmp_path_factory.mktemp("package")
    explainer = fastsal.GradCAM(network().float(), "4")
    return Path(fastsal.export(explainer, images(2).float(), folder / "gradcam.pt2"))


def test_what_it_says_of_itself(package: Path) -> None:
    known = read_metadata(package)
    assert known.method == "GradCAM"
    assert known.layers == ("4",)
    assert known.input_shape == (3, 12, 10)
    assert known.map_shape == (1, 12, 10)
    assert known.dtype == torch.float32
    assert known.batch == (2, 2)
    assert known.outputs == 4
    assert known.device == "cpu"
    assert known.fastsal == fastsal.__version__
    assert known.torch == torch.__version__


def test_float32_and_a_fixed_batch(package: Path) -> None:
    x, model = images(2, 3).float(), network().float().eval()
    found = fastsal.load(package, trust_code=True)(x)
    expected = fastsal.GradCAM(model, "4").attribute(x, target=model(x).argmax(1))
    # Each map is a sum of 8 channels of products of two numbers, then scaled: some tens of roundings.
    torch.testing.assert_close(found.attribution, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (torch.zeros(3, 3, 12, 10), ValueError, r"the package takes \[B = 2, 3, 12, 10\]"),
        (torch.zeros(2, 3, 12, 12), ValueError, r"shape \(2, 3, 12, 12\)"),
        (torch.zeros(2, 3, 12, 10, dtype=torch.float64), TypeError, "torch.float64 on cpu, the package takes"),
        ([1.0], TypeError, "inputs: list is not a tensor"),
    ],
)
def test_inputs_that_do_not_fit(package: Path, given: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        fastsal.load(package, trust_code=True)(given)


@pytest.mark.parametrize(
    ("target", "error", "message"),
    [
        (4, ValueError, "target: 4 is out of range for an output of 4"),
        (0.5, TypeError, "is neither an int nor"),
        ([0, 1, 2], ValueError, "target: 3 entries for 2 examples"),
    ],
)
def test_targets_that_do_not_fit(package: Path, target: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        fastsal.load(package, trust_code=True)(torch.zeros(2, 3, 12, 10), target)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"torch": "2.9.0"}, "was made with torch 2.9.0, this is torch"),
        ({"fastsal_format": "99"}, "has format 99"),
        ({"device": "cuda"}, "is for a CUDA device"),
        ({"AOTI_CPU_ISA": "AVX9000"}, "was compiled for AVX9000, which this CPU does not have"),
    ],
)
def test_packages_of_elsewhere(package: Path, tmp_path: Path, changes: dict[str, str], message: str) -> None:
    if "device" in changes and torch.cuda.is_available():
        changes, message = {**changes, "AOTI_COMPUTE_CAPABILITY": "1.0"}, "was compiled for sm_1.0"
    with pytest.raises(ValueError, match=message):
        fastsal.load(altered(package, tmp_path, **changes))


def test_files_that_are_no_packages(package: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no file"):
        fastsal.load(tmp_path / "none.pt2")
    content = package.read_bytes()
    cut = tmp_path / "cut.pt2"
    cut.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="is damaged or truncated"):
        fastsal.load(cut)
    middle = len(content) // 2
    cut.write_bytes(content[:middle] + bytes(64) + content[middle + 64 :])
    with pytest.raises(ValueError, match="is damaged or truncated"):
        fastsal.load(cut)
    other = tmp_path / "other.pt2"
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("readme.txt", "nothing")
    with pytest.raises(ValueError, match=r"was not made by fastsal\.export"):
        fastsal.load(other)


@pytest.mark.parametrize(
    ("explainer", "options", "error", "message"),
    [
        (fastsal.DeepLift, {}, TypeError, "explainer: DeepLift is none of "),
        (fastsal.RISE, {"tolerance": 0.1}, TypeError, "tolerance: RISE takes no such option"),
        (fastsal.RISE, {"deadline": 0.1}, TypeError, "deadline: RISE takes no such option"),
        (fastsal.RISE, {"return_standard_error": True}, TypeError, "return_standard_error: RISE takes no such"),
        (fastsal.Occlusion, {"refine": 0.1, "sliding_window_shapes": (3, 2, 2)}, TypeError, "refine: Occlusion"),
        (fastsal.RISE, {"seed": None}, ValueError, "seed: None would be drawn once"),
        (fastsal.RISE, {"n_masks": 1000, "perturbations_per_eval": 1}, ValueError, "1000 at 1 per model pass are"),
        (fastsal.Saliency, {"additional_forward_args": 1}, TypeError, "additional_forward_args: a package has one"),
        (fastsal.Saliency, {"target": 1}, TypeError, "target: a package takes a class in each call"),
    ],
)
def test_refusals(explainer: Any, options: dict[str, Any], error: Any, message: str, tmp_path: Path) -> None:
    model = network()
    with unchanged(model), pytest.raises(error, match=message):
        fastsal.export(explainer(model), images(2), tmp_path / "refused.pt2", **options)
    assert not (tmp_path / "refused.pt2").exists()


def test_paths_inputs_and_batches(tmp_path: Path) -> None:
    explainer = fastsal.Saliency(network())
    with pytest.raises(ValueError, match=r"ends in neither \.pt2 nor \.onnx"):
        fastsal.export(explainer, images(2), tmp_path / "model.onnx2")
    with pytest.raises(TypeError, match="example_inputs: list is not one tensor"):
        fastsal.export(explainer, [1.0], tmp_path / "a.pt2")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"example_inputs: torch\.int64"):
        fastsal.export(explainer, torch.zeros(2, 3, 12, 10, dtype=torch.int64), tmp_path / "a.pt2")
    with pytest.raises(ValueError, match="dynamic_batch: 0 is below 1"):
        fastsal.export(explainer, images(2), tmp_path / "a.pt2", dynamic_batch=0)


class MakesItsActivation(nn.Module):
    """As the layers of some libraries do in each call; the score of a dictionary's part is explained."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = network()

    def forward(self, x: Tensor) -> dict[str, Any]:
        return {"note": None, "scores": nn.SiLU()(self.inner(x))}


class First:
    """A target that needs the whole output."""

    def score(self, output: dict[str, Any]) -> Tensor:
        return output["scores"][:, 0] - output["scores"][:, 1]


class Biased(nn.Module):
    """Attention with a bias that is learnt, as in windows."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.randn(1, 1, 10, 10, dtype=torch.float64))
        self.head = nn.Linear(36, 4).double()

    def forward(self, x: Tensor) -> Tensor:
        rows = x.permute(0, 3, 1, 2).flatten(2)[:, None]
        attended = nn.functional.scaled_dot_product_attention(rows, rows, rows, attn_mask=self.bias)
        found: Tensor = self.head(attended[:, 0].mean(1))
        return found


@pytest.mark.parametrize(("make", "target"), [(MakesItsActivation, First()), (Biased, None)])
def test_graphs_of_what_libraries_models_do(make: Callable[[], nn.Module], target: Any) -> None:
    torch.manual_seed(0)
    model, x = make().train(), images(2)
    explainer = fastsal.Saliency(model)
    program, _ = program_of(explainer, x, None, {}, target=target)
    model.eval()
    with torch.no_grad():
        _, found = program.module()(x, torch.tensor([1, 1]))
    torch.testing.assert_close(
        found, explainer.attribute(x, target=1 if target is None else target), rtol=1e-7, atol=1e-12
    )


def test_a_model_that_cannot_be_traced(tmp_path: Path) -> None:
    class Decides(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network()

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.inner(x)
            return found * 2 if float(found.detach().sum()) > 0 else found

    model = Decides().train()
    with unchanged(model), pytest.raises(Exception, match=r"(?i)data.dependent|symbolic|item"):
        fastsal.export(fastsal.Saliency(model), images(2), tmp_path / "a.pt2")
