"""Targets that are tensors are read once a call, whatever the number of passes; they mean what they meant."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import fastsal
from tests.explainers.networks import image, small

FORMS = {
    "tensor": lambda classes: torch.tensor(classes, dtype=torch.int64),
    "int32": lambda classes: torch.tensor(classes, dtype=torch.int32),
    "array": lambda classes: np.array(classes),
    "list": lambda classes: classes,
}


class Reads(TorchDispatchMode):
    """Counts how often the host asks for a value."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += str(func) in ("aten._local_scalar_dense.default", "aten.equal.default", "aten.is_nonzero.default")
        return func(*args, **(kwargs or {}))


METHODS: dict[str, dict[str, Any]] = {
    "Saliency": {},
    "IntegratedGradients": {"n_steps": 8, "internal_batch_size": 3, "first_layer_once": False},
    "SmoothGrad": {"n_samples": 8, "perturbations_per_eval": 2},
    "Occlusion": {"sliding_window_shapes": (3, 4, 4), "perturbations_per_eval": 3},
    "FeatureAblation": {"perturbations_per_eval": 3},
    "ScoreCAM": {"perturbations_per_eval": 2},
}


def explainer(name: str, model: Any) -> Any:
    return fastsal.ScoreCAM(model, "last") if name == "ScoreCAM" else getattr(fastsal, name)(model)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", METHODS)
def test_every_form_gives_the_map_of_each_example_alone(name: str, form: str) -> None:
    model, x, classes = small(dtype=torch.float64), image(dtype=torch.float64), [2, -1, 3]
    x = x[..., :8, :8] if name == "FeatureAblation" else x
    options = {**METHODS[name], **({"seed": 3} if name == "SmoothGrad" else {})}
    found = explainer(name, model).attribute(x, target=FORMS[form](classes), **options)
    if name == "SmoothGrad":  # whose noise depends on the row
        expected = explainer(name, model).attribute(x, target=[(k,) for k in classes], **options)
    else:
        expected = torch.cat(
            [explainer(name, model).attribute(x[i : i + 1], target=classes[i], **options) for i in range(len(x))]
        )
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["SmoothGrad", "Occlusion", "ScoreCAM"])
def test_reads_do_not_grow_with_the_passes(name: str) -> None:
    model, x, target = small(), image(), torch.tensor([2, 0, 3])
    made = explainer(name, model)
    counts = []
    for rows in (1, 1, 4):  # a first call looks at what later ones know
        with Reads() as reads:
            made.attribute(x, target=target, **{**METHODS[name], "perturbations_per_eval": rows})
        counts.append(reads.count)
    assert counts[1] == counts[2]


def test_a_column_that_is_out_of_range_is_named_before_anything_is_gathered() -> None:
    model, x = small(), image()
    for target in (torch.tensor([0, 1, 9]), [0, 1, 9], np.array([0, 1, 9])):
        with pytest.raises(ValueError, match="target: 9 is out of range for an output of "):
            fastsal.Occlusion(model).attribute(x, (3, 4, 4), target=target)
    with pytest.raises(ValueError, match="target: 2 entries for 3 examples"):
        fastsal.Saliency(model).attribute(x, torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="one int per example needs an output"):
        fastsal.Saliency(lambda t: model(t)[..., None].expand(-1, -1, 2)).attribute(x, torch.tensor([0, 1, 2]))


@pytest.mark.parametrize("form", FORMS)
def test_no_examples_have_no_entries(form: str) -> None:
    none = image()[:0]
    assert fastsal.Saliency(small()).attribute(none, FORMS[form]([])).shape == none.shape


def test_a_target_that_changes_between_calls_is_read_anew() -> None:
    model, x, target = small(), image(), torch.tensor([2, 0, 3])
    made = fastsal.Saliency(model)
    first = made.attribute(x, target)
    target.copy_(torch.tensor([1, 1, 1]))
    torch.testing.assert_close(made.attribute(x, target), made.attribute(x, 1))
    assert not torch.equal(first, made.attribute(x, target))


def test_a_tensor_of_one_index_stands_for_all_examples() -> None:
    model, x = small(), image()

    made = fastsal.Saliency(model)
    for target in (torch.tensor(1), torch.tensor([1])):
        assert torch.equal(made.attribute(x, target), made.attribute(x, 1))
