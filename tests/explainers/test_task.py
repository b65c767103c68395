"""What a call may be of: mappings, inputs that are no tensors, objects that score; and that it is parsed once."""

from __future__ import annotations

from collections import UserDict
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastsal
from fastsal.explainers.task import Task
from tests.explainers.networks import image, small, unchanged


class Named(nn.Module):
    """Pixels, which are explained, ids beside them, and a word that changes the scale; all by name."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.table = small(), nn.Embedding(7, 4)

    def forward(self, *, pixels: Tensor, ids: Tensor, word: str = "once") -> Tensor:
        scale = 2.0 if word == "twice" else 1.0
        return scale * self.net(pixels) + self.table(ids).sum(1)


@pytest.fixture
def named() -> Named:
    torch.manual_seed(0)
    return Named().eval()


def given(**others: Any) -> dict[str, Any]:
    return {"ids": torch.tensor([[0, 1], [2, 3], [4, 5]]), "pixels": image(), **others}


def plain(model: Named, **fixed: Any) -> Any:
    """The same model as a function of the pixels, with its ids fixed and repeated by hand."""
    ids, word = fixed["ids"], fixed.get("word", "once")

    def forward(pixels: Tensor) -> Tensor:
        return model(pixels=pixels, ids=ids.repeat(len(pixels) // len(ids), 1), word=word)

    return forward


CALLS: dict[str, Any] = {
    "saliency": lambda m, x: fastsal.Saliency(m).attribute(x, target=1),
    "ig": lambda m, x: fastsal.IntegratedGradients(m).attribute(x, target=1, n_steps=5, internal_batch_size=6),
    "smooth-grad": lambda m, x: fastsal.SmoothGrad(m).attribute(x, target=1, n_samples=4, perturbations_per_eval=3),
    "noise-tunnel": lambda m, x: fastsal.NoiseTunnel(fastsal.InputXGradient(m)).attribute(
        x, nt_samples=4, nt_samples_batch_size=2, stdevs=0.1, seed=0, target=1
    ),
    "rise": lambda m, x: fastsal.RISE(m).attribute(x, target=1, n_masks=9, grid_size=3),
    "feature-ablation": lambda m, x: fastsal.FeatureAblation(m).attribute(
        x, target=1, feature_mask=torch.arange(9) // 3
    ),
    "shapley": lambda m, x: fastsal.ShapleyValueSampling(m).attribute(
        x, target=1, feature_mask=torch.arange(9) // 3, n_samples=2, seed=0
    ),
    "kernel-shap": lambda m, x: fastsal.KernelShap(m).attribute(
        x, target=1, feature_mask=torch.arange(9) // 3, n_samples=12, seed=0
    ),
    "lime": lambda m, x: fastsal.Lime(m).attribute(
        x, target=1, feature_mask=torch.arange(9) // 3, n_samples=12, seed=0
    ),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("word", ["once", "twice"])
def test_a_mapping_is_passed_by_name(name: str, word: str, named: Named) -> None:
    x = given(word=word)
    with unchanged(named):
        found = CALLS[name](named, x)
    expected = CALLS[name](plain(named, **x), x["pixels"])
    if name == "rise":
        torch.testing.assert_close(found, expected)
        return
    assert list(found) == ["pixels"]
    torch.testing.assert_close(found["pixels"], expected)


def test_occlusion_of_a_mapping_takes_windows_by_name(named: Named) -> None:
    x = UserDict(given())
    for windows in ((3, 4, 4), {"pixels": (3, 4, 4)}):
        found = fastsal.Occlusion(named).attribute(x, windows, strides=2, target=1)
        expected = fastsal.Occlusion(plain(named, **x)).attribute(x["pixels"], (3, 4, 4), strides=2, target=1)
        torch.testing.assert_close(found["pixels"], expected)


def test_baselines_of_a_mapping_come_by_name(named: Named) -> None:
    x = given()
    found = fastsal.IntegratedGradients(named).attribute(
        x, {"pixels": 0.5}, target=2, n_steps=6, return_convergence_delta=True
    )
    expected = fastsal.IntegratedGradients(plain(named, **x)).attribute(
        x["pixels"], 0.5, target=2, n_steps=6, return_convergence_delta=True
    )
    torch.testing.assert_close(found[0]["pixels"], expected[0])
    torch.testing.assert_close(found[1], expected[1])


def test_explain_takes_a_mapping(named: Named) -> None:
    x = given()
    explanation = fastsal.explain(named, x, ["saliency", "integrated-gradients"], n_steps=4)
    torch.testing.assert_close(explanation.output, named(**x).detach())
    assert list(explanation.maps["saliency"]) == ["pixels"]


def test_a_mapping_without_a_tensor_is_refused() -> None:
    with pytest.raises(TypeError, match="of 'text' none is a tensor to explain"):
        fastsal.Saliency(small()).attribute({"text": "a"})
    with pytest.raises(ValueError, match="'image': is none of the inputs that are explained, pixels"):
        fastsal.IntegratedGradients(Named()).attribute(given(), {"image": 0.0}, target=1)


def test_inputs_that_are_no_tensors_are_the_models() -> None:
    """A method of one's own may alter what it likes: the task runs the model on it."""
    texts = ["a long text", "short"]

    def score(given: list[str]) -> Tensor:
        return torch.tensor([[float(len(text)), 1.0] for text in given])

    task = Task(score, texts, target=0, tensors_only=False)
    assert torch.equal(task.output, score(texts))
    with pytest.raises(TypeError, match="inputs: list is neither a tensor nor a tuple"):
        Task(score, texts)


class Margin:
    """A score of the output: the best class less the second."""

    def score(self, output: Tensor) -> Tensor:
        best = output.topk(2, 1).values
        return best[:, 0] - best[:, 1]


class Weighted:
    """A score with a weight for each example, which must follow the copies."""

    def __init__(self, weights: Tensor) -> None:
        self.weights = weights

    def score(self, output: Tensor) -> Tensor:
        return (output * self.weights).sum(1)

    def repeated(self, count: int) -> Weighted:
        return Weighted(self.weights.repeat(count, 1))


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("kind", ["margin", "weighted"])
def test_a_target_is_any_object_that_scores(name: str, kind: str) -> None:
    model, x = small(dtype=torch.float64), image(dtype=torch.float64)
    weights = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    target: Any = Margin() if kind == "margin" else Weighted(weights)

    def scored(z: Tensor) -> Tensor:
        output = model(z)
        copies = Weighted(weights.repeat(len(z) // 3, 1))
        return (target if kind == "margin" else copies).score(output)[:, None]

    class Told:
        """The model with the target where the calls name one."""

        def __call__(self, z: Tensor) -> Tensor:
            return model(z)

    found = CALLS_WITH[name](Told(), x, target)
    expected = CALLS_WITH[name](scored, x, 0)
    torch.testing.assert_close(found, expected)


CALLS_WITH: dict[str, Any] = {
    "saliency": lambda m, x, t: fastsal.Saliency(m).attribute(x, target=t),
    "ig": lambda m, x, t: fastsal.IntegratedGradients(m).attribute(x, target=t, n_steps=5, internal_batch_size=6),
    "smooth-grad": lambda m, x, t: fastsal.SmoothGrad(m).attribute(x, target=t, n_samples=4, perturbations_per_eval=3),
    "noise-tunnel": lambda m, x, t: fastsal.NoiseTunnel(fastsal.InputXGradient(m)).attribute(
        x, nt_samples=4, nt_samples_batch_size=2, stdevs=0.1, seed=0, target=t
    ),
    "rise": lambda m, x, t: fastsal.RISE(m).attribute(x, target=t, n_masks=9, grid_size=3),
    "feature-ablation": lambda m, x, t: fastsal.FeatureAblation(m).attribute(
        x, target=t, feature_mask=torch.arange(9) // 3
    ),
    "shapley": lambda m, x, t: fastsal.ShapleyValueSampling(m).attribute(
        x, target=t, feature_mask=torch.arange(9) // 3, n_samples=2, seed=0
    ),
    "kernel-shap": lambda m, x, t: fastsal.KernelShap(m).attribute(
        x, target=t, feature_mask=torch.arange(9) // 3, n_samples=12, seed=0
    ),
    "lime": lambda m, x, t: fastsal.Lime(m).attribute(
        x, target=t, feature_mask=torch.arange(9) // 3, n_samples=12, seed=0
    ),
}


def test_a_score_of_another_length_is_refused() -> None:
    class Short:
        def score(self, output: Tensor) -> Tensor:
            return output[:1, 0]

    with pytest.raises(ValueError, match=r"target: score\(\) of .* returned \(1,\) for 3 examples"):
        fastsal.Saliency(small()).attribute(image(), target=Short())


def test_one_score_of_several_copies_is_split_inside_another_explainer_too() -> None:
    """A mean over copies would scale their gradients: the tunnel tells the explainer that rows are copies."""

    def mean(z: Tensor) -> Tensor:
        return F.softplus(z).mean()

    x = image()
    for inner in (fastsal.Saliency(mean), fastsal.IntegratedGradients(mean)):
        options = {"n_steps": 4} if isinstance(inner, fastsal.IntegratedGradients) else {}
        found = [
            fastsal.NoiseTunnel(inner).attribute(
                x, nt_samples=4, nt_samples_batch_size=size, stdevs=0.1, seed=1, **options
            )
            for size in (1, 4)
        ]
        torch.testing.assert_close(*found)


def test_a_function_as_target_is_asked_once_for_the_inputs_as_they_are() -> None:
    model, x = small(), image()
    seen: list[Tensor] = []

    def best(output: Tensor) -> Tensor:
        seen.append(output)
        return output.argmax(1)

    found = fastsal.Saliency(model).attribute(x, target=best)
    assert len(seen) == 1
    assert not seen[0].requires_grad
    torch.testing.assert_close(found, fastsal.Saliency(model).attribute(x, target=model(x).argmax(1)))
