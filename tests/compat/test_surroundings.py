"""What stands around the explainers in Captum: statistics, embeddings, data loaders, futures, errors, other forms."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from captum import attr
from torch import Tensor, nn

import fastsal
from fastsal.compat import captum as compat
from tests.explainers.networks import small


def stats(package: Any) -> list[Any]:
    return [
        package.Mean(),
        package.Var(),
        package.StdDev(order=1),
        package.MSE(),
        package.Min(),
        package.Max(),
        package.Sum(),
        package.Count(),
    ]


def same(ours: Any, theirs: Any) -> None:
    if isinstance(theirs, (list, tuple)):
        for pair in zip(ours, theirs, strict=True):
            same(*pair)
    elif isinstance(theirs, dict):
        assert set(ours) == set(theirs)
        for key in theirs:
            same(ours[key], theirs[key])
    elif isinstance(theirs, Tensor):
        torch.testing.assert_close(ours, theirs)
    else:
        assert ours == theirs


def test_statistics_are_captums_and_merge() -> None:
    values = [(torch.randn(3, 4), torch.randint(0, 9, (2,))) for _ in range(7)]
    ours, theirs = fastsal.Summarizer(stats(fastsal)), attr.Summarizer(stats(attr))
    parts = [fastsal.Summarizer(stats(fastsal)) for _ in range(2)]
    assert ours.summary is None
    for index, pair in enumerate(values):
        ours.update(pair)
        theirs.update(pair)
        parts[index > 2].update(pair)
    same(ours.summary, theirs.summary)
    parts[0].merge(parts[1])
    for merged, whole in zip(parts[0].summary, ours.summary, strict=True):
        for name in whole:
            torch.testing.assert_close(torch.as_tensor(merged[name]), torch.as_tensor(whole[name]))
    with pytest.raises(ValueError, match="in the same form"):
        ours.update(values[0][0])
    same(sorted(s.name for s in fastsal.CommonStats()), sorted(s.name for s in attr.CommonStats()))


@pytest.mark.parametrize("labels", [None, 3, [1, 0, 1], torch.tensor([2, 2, 0])])
def test_statistics_by_class(labels: Any) -> None:
    x = torch.randn(3, 2)
    ours, theirs = fastsal.ClassSummarizer([fastsal.Mean()]), attr.ClassSummarizer([attr.Mean()])
    for each in (ours, theirs):
        each.update(x, labels)
    same(ours.summary, theirs.summary)
    found = {int(key): value for key, value in ours.class_summaries.items()}
    expected: dict[int, list[Any]] = {}
    for key, value in theirs.class_summaries.items():
        expected.setdefault(int(key), []).append(value)  # tensors are keys of their own there
    assert set(found) == set(expected)
    if not isinstance(labels, Tensor):
        same(found, {key: value[0] for key, value in expected.items()})
    with pytest.raises(ValueError, match="labels: 2 given for 3 examples"):
        ours.update(x, [0, 1])


class Text(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.ModuleDict({"embedding": nn.Embedding(9, 4)})
        self.head = nn.Linear(4, 2)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.words["embedding"](ids).mean(1).tanh())


def test_embeddings_in_the_place_of_tokens() -> None:
    """Captum's tutorial on text: the embedding is replaced, and the map is that of the layer."""
    model, ids = Text().eval(), torch.randint(1, 9, (2, 5))
    own, output = model.words["embedding"], model(ids)
    reference = fastsal.TokenReferenceBase(0).generate_reference(5, "cpu")[None]
    expected = fastsal.LayerIntegratedGradients(model, own).attribute(ids, reference, target=1, n_steps=7)
    with pytest.warns(UserWarning, match="puts its own layer back"):
        made = fastsal.configure_interpretable_embedding_layer(model, "words.embedding")
    assert (made.num_embeddings, made.embedding_dim) == (9, 4)
    with pytest.raises(ValueError, match="already"):
        fastsal.configure_interpretable_embedding_layer(model, "words.embedding")
    vectors, start = made.indices_to_embeddings(ids), made.indices_to_embeddings(reference)
    found = fastsal.IntegratedGradients(model).attribute(vectors, start, target=1, n_steps=7)
    torch.testing.assert_close(found, expected)
    fastsal.remove_interpretable_embedding_layer(model, made)
    assert model.words["embedding"] is own
    torch.testing.assert_close(model(ids), output)
    with pytest.raises(ValueError, match="no module 'embedding'"):
        fastsal.configure_interpretable_embedding_layer(model)


def total(accumulated: Any, output: Tensor, _inputs: Any) -> Any:
    return output.sum() if accumulated is None else accumulated + output.sum()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"perturbations_per_pass": 3},
        {"reduce": total, "to_metric": lambda found: found.reshape(1) ** 2},
        {"baselines": (torch.ones(1, 3), 2.0)},
        {"feature_mask": (torch.tensor([[0, 1, 0]]), torch.tensor([[1, 2, 2, 3]]))},
        {"return_input_shape": False},
    ],
    ids=["plain", "several", "metric", "baselines", "masks", "features"],
)
def test_data_loaders(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    data = torch.utils.data.TensorDataset(torch.randn(5, 3), torch.randn(5, 4), torch.randn(5, 2))
    loader = torch.utils.data.DataLoader(data, batch_size=2)

    def forward(a: Tensor, b: Tensor) -> Tensor:
        return a.prod(1) + (b.sin() * a[:, :1]).sum(1)

    roles = (0, 0, 2)
    ours = fastsal.DataLoaderAttribution(fastsal.FeatureAblation(forward))
    theirs = attr.DataLoaderAttribution(attr.FeatureAblation(forward))
    found = ours.attribute(loader, roles, **options)
    same(found, theirs.attribute(loader, roles, **options))
    passes = []
    counting = fastsal.FeatureAblation(lambda a, b: (passes.append(1), forward(a, b))[1])
    same(fastsal.DataLoaderAttribution(counting).attribute(loader, roles, **options), found)
    features = 4 if "feature_mask" in options else 7
    assert len(passes) == (features + 1) * len(loader)
    with pytest.raises(NotImplementedError):
        ours.attribute_future()
    with pytest.raises(ValueError, match="input_roles"):
        ours.attribute(loader, (1, 1, 1))


def test_futures_are_issued_before_they_are_waited_for() -> None:
    model = small().double()
    x = torch.randn(2, 3, 6, 6).double()
    mask = torch.arange(6) // 2

    pending: set[int] = set()
    most = [0]

    def remote(batch: Tensor) -> Any:
        future: torch.futures.Future[Tensor] = torch.futures.Future()
        key = len(pending)
        pending.add(key)
        most[0] = max(most[0], len(pending))

        def answer() -> None:
            found = model(batch)
            pending.discard(key)
            future.set_result(found)

        threading.Timer(0.05, answer).start()
        return future

    for name, options in (
        ("FeatureAblation", {}),
        ("ShapleyValues", {}),
        ("FeaturePermutation", {"seed": 1}),
        ("ShapleyValueSampling", {"seed": 1, "n_samples": 4}),
    ):
        for each in (1, 2):
            given = {"target": 1, "feature_mask": mask, "perturbations_per_eval": each, **options}
            expected = getattr(fastsal, name)(model).attribute(x, **given)
            torch.testing.assert_close(getattr(fastsal, name)(remote).attribute_future(x, **given).wait(), expected)
    assert most[0] > 2  # calls that were made before others were answered
    with pytest.raises(TypeError, match=r"not a torch\.futures\.Future"):
        fastsal.FeatureAblation(model).attribute_future(x, target=1)
    with pytest.raises(NotImplementedError, match="Saliency has no attribute_future"):
        fastsal.Saliency(model).attribute_future(x)


def test_sparse_features() -> None:
    def forward(dense: Tensor, indices: Tensor) -> Tensor:
        return (dense.sum() + indices.float().sum()).reshape(1)

    dense, indices = torch.tensor([[1.0, -2.0, 3.0], [2.0, -1.0, 3.0]]), torch.tensor([1, 7, 2, 4, 5])
    for other in (indices, torch.tensor([])):
        theirs = attr.FeatureAblation(forward).attribute((dense, other))
        same(fastsal.FeatureAblation(forward).attribute((dense, other)), theirs)
    with pytest.raises(ValueError, match="differ in dimension 0"):
        fastsal.FeatureAblation(lambda dense, indices: dense.sum(1)).attribute((dense, indices))


def test_bool_baselines_and_masks_of_whole_numbers() -> None:
    x = torch.tensor([[True, False, True]])
    options = {"baselines": True, "feature_mask": torch.tensor([[0.0, 0.0, 1.0]])}

    def forward(x: Tensor) -> Tensor:
        return x.double() @ torch.tensor([1.0, 2.0, 4.0]).double()

    expected = attr.FeatureAblation(forward).attribute(x, baselines=True, feature_mask=torch.tensor([[0, 0, 1]]))
    torch.testing.assert_close(fastsal.FeatureAblation(forward).attribute(x, **options), expected)
    with pytest.raises(TypeError, match="feature_mask"):
        fastsal.FeatureAblation(forward).attribute(x, feature_mask=torch.tensor([0.5, 0.0, 1.0]))
    expected = attr.FeatureAblation(forward).attribute(x.double(), baselines=True)
    torch.testing.assert_close(fastsal.FeatureAblation(forward).attribute(x.double(), baselines=True), expected)


WRONG: list[Callable[[Any, nn.Module], Any]] = [
    lambda package, model: package.Saliency(model).attribute(torch.zeros(1, 3, 6, 6)),
    lambda package, model: package.IntegratedGradients(model).attribute(torch.zeros(1, 3, 6, 6), target=1, method="x"),
    lambda package, model: package.Occlusion(model).attribute(torch.zeros(1, 3, 6, 6), (1, 2), target=1),
]


@pytest.mark.parametrize("call", WRONG)
def test_errors_are_captums_too(call: Callable[[Any, nn.Module], Any]) -> None:
    model = small()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(AssertionError):
            call(attr, model)
    with pytest.raises(ValueError) as ours:
        call(compat, model)
    assert isinstance(ours.value, AssertionError)
    with pytest.raises(ValueError) as own:
        call(fastsal, model)
    assert not isinstance(own.value, AssertionError)


def test_errors_of_the_model_stay_as_they_are() -> None:
    def forward(_x: Tensor) -> Tensor:
        raise ValueError("the model's own")

    with pytest.raises(ValueError, match="own") as found:
        compat.Saliency(forward).attribute(torch.zeros(1, 3), target=0)
    assert type(found.value) is ValueError


def test_bars_end_at_all_and_stay(capsys: pytest.CaptureFixture[str]) -> None:
    fastsal.FeatureAblation(lambda x: x.sum(1)).attribute(torch.ones(2, 3), show_progress=True)
    assert "Feature Ablation attribution: 100%" in capsys.readouterr().err
