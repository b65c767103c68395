"""Exported ONNX files, run by onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastsal

onnxruntime = pytest.importorskip("onnxruntime", reason="needs the package onnxruntime (extra onnx)")
pytest.importorskip("onnxscript", reason="needs the package onnxscript (extra onnx)")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(torch.__version__ < (2, 11), reason="fastsal.export needs PyTorch 2.11"),
]


def network() -> nn.Module:
    """Strides that leave a rest, a maximum, batch norm and a residual."""
    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.Tanh(), nn.MaxPool2d(3, 2, 1))
            self.body = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1, groups=2), nn.Tanh())
            self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4))

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            found: Tensor = self.head(x + self.body(x))
            return found

    return Net().eval()


CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "Saliency": (fastsal.Saliency, {}),
    "InputXGradient": (fastsal.InputXGradient, {}),
    "IntegratedGradients": (fastsal.IntegratedGradients, {"n_steps": 4}),
    "SmoothGrad": (fastsal.SmoothGrad, {"n_samples": 3}),
    "GradCAM": (lambda m: fastsal.GradCAM(m, "body"), {}),
    "LayerCAM": (lambda m: fastsal.LayerCAM(m, "body"), {}),
    "Occlusion": (fastsal.Occlusion, {"sliding_window_shapes": (3, 8, 8), "strides": (3, 8, 8)}),
    "RISE": (fastsal.RISE, {"n_masks": 8, "grid_size": 3}),
}


HERE = ("GradCAM", "IntegratedGradients")
"""One of the activations and one of a path, which stand for the others in `make test`."""


@pytest.mark.parametrize(
    "name", [name if name in HERE else pytest.param(name, marks=pytest.mark.long) for name in CASES]
)
def test_onnxruntime_gives_the_explainers_maps(name: str, tmp_path: Path) -> None:
    make, options = CASES[name]
    model = network()
    explainer = make(model)
    path = fastsal.export(explainer, torch.randn(2, 3, 22, 20), tmp_path / "map.onnx", dynamic_batch=4, **options)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    told = session.get_modelmeta().custom_metadata_map
    assert told["method"] == name
    assert told["fastsal"] == fastsal.__version__
    for batch, target in ((1, None), (3, 2)):
        x = torch.randn(batch, 3, 22, 20, generator=torch.Generator().manual_seed(batch))
        column = torch.full((batch,), -1 if target is None else target)
        output, found = session.run(["output", "map"], {"input": x.numpy(), "target": column.numpy()})
        chosen = model(x).argmax(1) if target is None else target
        expected = explainer.attribute(x, target=chosen, **options).detach()
        torch.testing.assert_close(torch.from_numpy(output), model(x).detach(), rtol=1e-4, atol=1e-5)
        # float32 in another order of some hundred additions: 1e-5 of the map's largest value.
        torch.testing.assert_close(
            torch.from_numpy(found), expected, rtol=1e-4, atol=float(1e-5 * expected.abs().max())
        )


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="inductor_configs: an ONNX file is not compiled"):
        fastsal.export(
            fastsal.Saliency(network()), torch.randn(2, 3, 22, 20), tmp_path / "a.onnx", inductor_configs={"a": 1}
        )
