"""pytorch-grad-cam's measures of maps, its factorisation of layers and SESS; by hand, and against it."""

from __future__ import annotations

import importlib
import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from fastsal.compat import grad_cam
from fastsal.compat.grad_cam import sess
from fastsal.compat.grad_cam.feature_factorization import deep_feature_factorization as factorization
from fastsal.compat.grad_cam.metrics import arcc, cam_mult_image, perturbation_confidence, road
from fastsal.compat.grad_cam.utils.model_targets import ClassifierOutputTarget
from tests.explainers.networks import image, small, unchanged

Array = NDArray[Any]
TARGETS = [ClassifierOutputTarget(each) for each in (2, 0, 3)]
CLOSE = {"rtol": 1e-4, "atol": 2e-5}


def package(name: str = "pytorch_grad_cam") -> Any:
    return pytest.importorskip(name, reason="pytorch-grad-cam is not installed")


def batch() -> tuple[nn.Module, Tensor, Array]:
    """A model, images, and maps of these."""
    model, x = small(), image(size=16)
    return model, x, grad_cam.GradCAM(model, [model.body])(x, TARGETS)


def test_change_of_confidence() -> None:
    model, x, cams = batch()
    with unchanged(model, x):
        change, altered = cam_mult_image.CamMultImageConfidenceChange()(
            x, cams, TARGETS, model, return_visualization=True
        )
    expected = x * torch.from_numpy(cams)[:, None]
    torch.testing.assert_close(altered, expected)
    with torch.no_grad():
        scores = [(model(expected) - model(x))[row, target.category] for row, target in enumerate(TARGETS)]
    np.testing.assert_allclose(change, np.array([float(score) for score in scores]), **CLOSE)
    np.testing.assert_allclose(cam_mult_image.DropInConfidence()(x, cams, TARGETS, model), np.maximum(-change, 0))
    np.testing.assert_allclose(cam_mult_image.IncreaseInConfidence()(x, cams, TARGETS, model), change > 0)
    with pytest.raises(ValueError, match="targets: 2 given for 3 images"):
        cam_mult_image.DropInConfidence()(x, cams, TARGETS[:2], model)
    with pytest.raises(ValueError, match="cams: 2 given for 3 images"):
        cam_mult_image.DropInConfidence()(x, cams[:2], TARGETS, model)


def test_missing_pixels_are_means_of_their_neighbours() -> None:
    """A plane is its own interpolation, away from the border; elsewhere each equation holds."""
    rows, columns = torch.meshgrid(torch.arange(7.0), torch.arange(6.0), indexing="ij")
    plane, mask = torch.stack([rows, 2 * columns + rows]), torch.ones(7, 6)
    mask[2:5, 2:4] = 0
    filled = road.NoisyLinearImputer(noise=0.0)(plane * mask + 99 * (1 - mask), mask)
    torch.testing.assert_close(filled, plane, rtol=1e-5, atol=1e-5)
    mask[:, 0] = 0
    filled = road.NoisyLinearImputer(noise=0.0)(torch.randn(2, 7, 6), mask)[0]
    for row, column in [(0, 0), (3, 0), (3, 2)]:
        total = weights = 0.0
        for (down, right), weight in road.neighbors_weights:
            if 0 <= row + down < 7 and 0 <= column + right < 6:
                total += weight * float(filled[row + down, column + right])
                weights += weight
        assert math.isclose(float(filled[row, column]), total / weights, rel_tol=1e-4, abs_tol=1e-5)
    assert not road.NoisyLinearImputer(noise=0.0)(plane, torch.zeros(7, 6)).any()
    assert torch.equal(road.NoisyLinearImputer()(plane, torch.ones(7, 6)), plane)


MEASURES = ["ROADMostRelevantFirst", "ROADLeastRelevantFirst", "ROADMostRelevantFirstAverage", "ROADCombined"]


@pytest.mark.parametrize("name", MEASURES)
def test_measures_against_the_package(name: str) -> None:
    theirs = package("pytorch_grad_cam.metrics.road")
    model, x, cams = batch()
    found = []
    for module in (road, theirs):
        torch.manual_seed(0)
        found.append(getattr(module, name)()(x, cams, TARGETS, model))
    np.testing.assert_allclose(*found, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["CamMultImageConfidenceChange", "DropInConfidence", "IncreaseInConfidence"])
def test_changes_against_the_package(name: str) -> None:
    theirs = package("pytorch_grad_cam.metrics.cam_mult_image")
    model, x, cams = batch()
    found, expected = (getattr(module, name)()(x, cams, TARGETS, model) for module in (cam_mult_image, theirs))
    np.testing.assert_allclose(found, expected, **CLOSE)


def test_arcc_against_the_package() -> None:
    theirs = package("pytorch_grad_cam.metrics.arcc")
    model, x, cams = batch()
    found = []
    for module in (arcc, theirs):
        torch.manual_seed(0)
        found.append(module.ARCC(grad_cam.GradCAM(model, [model.body]))(x, cams, TARGETS, model))
    np.testing.assert_allclose(*found, rtol=1e-3, atol=1e-4)


def test_coherency_and_complexity() -> None:
    model, x, cams = batch()
    np.testing.assert_allclose(arcc.Complexity()(cams), cams.mean((1, 2)), **CLOSE)
    for row in range(3):
        expected = np.corrcoef(cams[row].ravel(), (cams[row] ** 2).ravel())[0, 1]
        assert math.isclose(arcc.batch_pearson_coherency(cams, cams**2)[row], expected, rel_tol=1e-4)
    method = grad_cam.GradCAM(model, [model.body])
    again = method(x * torch.from_numpy(cams)[:, None], TARGETS)
    expected = [(np.corrcoef(a.ravel(), b.ravel())[0, 1] + 1) / 2 for a, b in zip(again, cams, strict=True)]
    np.testing.assert_allclose(arcc.Coherency()(x, cams, TARGETS, model, method), expected, **CLOSE)


def test_otsu() -> None:
    """What the automatic percentile removes lies below the valley between two heaps of values."""
    values = torch.cat([torch.full((30,), 0.2), torch.full((20,), 0.7)])[torch.randperm(50)].reshape(5, 10)
    found = perturbation_confidence.RemoveMostRelevantFirst("auto", lambda x, mask: mask)(values, values)
    assert torch.equal(found != 0, values > 0.5)


def test_otsu_against_opencv() -> None:
    cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed")
    for seed in range(5):
        levels = (np.random.default_rng(seed).beta(0.5 + seed, 2, (40, 30)) * 255).astype(np.uint8)
        expected, _ = cv2.threshold(levels, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
        assert perturbation_confidence._otsu(levels) == expected


# Factorisation and SESS


def test_factorization() -> None:
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    model, x = small(), image(size=16)
    with unchanged(model, x):
        concepts, maps, scores = grad_cam.DeepFeatureFactorization(
            model, model.body, computation_on_concepts=model.head
        )(x, n_components=3)
    assert concepts.shape == (6, 3)
    assert [each.shape for each in maps] == [(3, 16, 17)] * 3
    torch.testing.assert_close(torch.from_numpy(scores), model.head(torch.from_numpy(concepts.T).float()).detach())
    value = model.body(model.act(model.norm(model.stem(x)))).detach().numpy()
    np.testing.assert_allclose(factorization.dff(value, 3)[0], concepts, **CLOSE)
    # What the parts add up to comes closer to the value the more there are.
    lowest, errors = value.min((0, 2, 3))[:, None], []
    for count in (1, 3, 6):
        basis, places = factorization.dff(value, count)
        rebuilt = np.einsum("ck,bkhw->bchw", basis - lowest, places) + lowest[..., None]
        errors.append(np.abs(rebuilt - value).mean())
    assert errors[0] > errors[1] > errors[2]
    with pytest.raises(ValueError, match="is not \\[B, C, h, w\\]; pass reshape_transform"):
        grad_cam.DeepFeatureFactorization(model, "head")(x)


def test_factorization_against_the_package() -> None:
    theirs = package()
    model, x = small(), image(size=16)
    found = grad_cam.DeepFeatureFactorization(model, model.body)(x, 3)
    expected = theirs.DeepFeatureFactorization(model, model.body)(x, 3)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(np.stack(found[1]), np.stack(expected[1]), rtol=1e-2, atol=1e-3)


OPTIONS: list[dict[str, Any]] = [{}, {"pool": "max", "smooth": False}, {"pre_filter_ratio": 0.5, "theta": 0.1}]


@pytest.mark.parametrize("options", OPTIONS, ids=["default", "max", "filtered"])
def test_sess_against_the_package(options: dict[str, Any]) -> None:
    theirs = package()
    model, x = small(), image(batch=2, size=16)
    given = {"num_scales": 3, **options}
    found = grad_cam.SESS(model, [model.body], base_method=grad_cam.GradCAM, **given)(x, TARGETS[:2])
    expected = theirs.SESS(model, [model.body], base_method=theirs.GradCAM, **given)(x, TARGETS[:2])
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=2e-3)


def test_sess_of_one_window_is_the_method() -> None:
    """The whole image in its own size: its map, scaled."""
    model, x = small(), F.pad(image(size=16), (0, -1))
    method = grad_cam.SESS(model, [model.body], num_scales=1, smooth=False)
    with unchanged(model, x):
        found = method(x, TARGETS)
    np.testing.assert_allclose(found, grad_cam.GradCAM(model, [model.body])(x, TARGETS), **CLOSE)
    assert sess.window_starts(10, 4, 4) == [0, 4, 6]
    assert sess.sliding_window(4, 6, 3, 4) == [(0, 0), (2, 0)]
    assert method.get_scales(14) == [14]
    assert grad_cam.SESS(model, [model.body]).get_scales(224)[:3] == [224, 288, 352]
    for options, name in (({"pool": "sum"}, "pool"), ({"num_scales": 0}, "num_scales"), ({"scales": [4]}, "scales")):
        with pytest.raises(ValueError, match=name):
            grad_cam.SESS(model, [model.body], **options)(x, TARGETS)  # type: ignore[arg-type]


def test_an_optional_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.import_module

    def without(name: str, package: str | None = None) -> Any:
        if name.split(".")[0] in ("sklearn", "scipy"):
            raise ImportError(name)
        return real(name, package)

    monkeypatch.setattr(importlib, "import_module", without)
    with pytest.raises(ImportError, match="pip install scikit-learn"):
        factorization.dff(np.ones((1, 2, 3, 3)))
    with pytest.raises(ImportError, match="pip install scipy"):
        road.NoisyLinearImputer()(torch.ones(1, 3, 3), torch.eye(3))
