"""Every method on the device: the CPU's map in float64, and in other dtypes, layouts and sizes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fastsal
from fastsal.explainers.registry import find
from tests.explainers.networks import image, small
from tests.gpu.networks import explained, moved, network, same

EXACT = 1e-9
"""Of a map's largest value: sums in another order, in float64."""
EVERY = sorted(fastsal.methods())
OF_EACH_FAMILY = ("saliency", "integrated-gradients", "grad-cam", "layer-cam", "score-cam", "lrp", "occlusion", "rise")


@pytest.mark.parametrize("method", EVERY)
def test_the_map_is_the_cpus(method: str, device: torch.device) -> None:
    model, x = network(method)
    same(explained(method, *moved(model, x, device)), explained(method, model, x), EXACT)


@pytest.mark.parametrize("method", OF_EACH_FAMILY)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(method: str, dtype: torch.dtype, device: torch.device) -> None:
    """Against float32's, in the mean, since a rounding may switch a ReLU: some steps of the map or, where that is a
    difference of scores, of these."""
    model, x = network(method, torch.float32)
    expected = explained(method, *moved(model, x.to(dtype).float(), device))
    found = explained(method, *moved(model.to(dtype), x.to(dtype), device))
    step = torch.finfo(dtype).eps
    for mine, other in zip(found, expected, strict=True):
        assert bool(mine.isfinite().all())
        scale = float(other.abs().mean()) + (0.1 if find(method).perturbs else 0.0)
        assert float((mine.float() - other.float()).abs().mean()) < 16 * step * scale


@pytest.mark.parametrize("method", OF_EACH_FAMILY)
@pytest.mark.parametrize("layout", ["channels last", "every second", "expanded", "transposed", "an odd size"])
def test_layouts_and_sizes(method: str, layout: str, device: torch.device) -> None:
    model = small(dtype=torch.float64)
    x = image(batch=2, size=13, dtype=torch.float64)
    given: Callable[[Tensor], Tensor] = {
        "channels last": lambda t: t.contiguous(memory_format=torch.channels_last),
        "every second": lambda t: torch.stack([t, -t], -1).flatten(-2)[..., ::2],
        "expanded": lambda t: t[:1].expand(2, -1, -1, -1),
        "transposed": lambda t: t.mT.contiguous().mT,
        "an odd size": lambda t: t[..., :11, :7],
    }[layout]
    there, on_device = moved(model, x, device)
    same(explained(method, there, given(on_device)), explained(method, model, given(x).contiguous()), EXACT)


@pytest.mark.parametrize("method", ["saliency", "integrated-gradients", "smooth-grad", "input-x-gradient", "lime"])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_recurrent_networks_in_evaluation_mode(method: str, kind: type[nn.Module], device: torch.device) -> None:
    class Series(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.recurrent = kind(3, 6, batch_first=True)
            self.head = nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            scores: Tensor = self.head(self.recurrent(x)[0][:, -1])
            return scores

    torch.manual_seed(0)
    model, x = Series().double().eval(), torch.randn(2, 9, 3, dtype=torch.float64)
    same(explained(method, *moved(model, x, device)), explained(method, model, x), EXACT)


def test_kernels_run(cuda: torch.device) -> None:
    """Not the reference, which would pass all of the above."""
    model, x = small().to(cuda), image().to(cuda)
    for explain in (fastsal.GradCAM(model, "last").attribute, fastsal.RISE(model).attribute):
        chosen = fastsal.ops.why(explain, x, 1)
        assert chosen
        assert all(each.backend == "kernel" for each in chosen), chosen
