"""A model as it was, and what of it is otherwise: everything that decides what it computes, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastsal.engine.run.fingerprint import SAMPLES, WHOLE, Fingerprint
from fastsal.engine.run.own import Undone
from fastsal.engine.run.snapshot import Snapshot
from tests.explainers.networks import small

TENSORS: dict[str, Callable[[], Tensor]] = {
    "float32": lambda: torch.randn(3, 5),
    "bfloat16": lambda: torch.randn(3, 5).bfloat16(),
    "complex": lambda: torch.randn(3, 5, dtype=torch.complex64),
    "bool": lambda: torch.rand(40) > 0.5,
    "channels last": lambda: torch.randn(2, 3, 5, 4).contiguous(memory_format=torch.channels_last),
    "transposed": lambda: torch.randn(4, 6).t(),
    "every other": lambda: torch.randn(30)[::2],
    "nothing": lambda: torch.zeros(0, 3),
    "a number": lambda: torch.tensor(2.0),
    "expanded": lambda: torch.randn(1, 5).expand(4, 5),
    "sparse": lambda: torch.eye(3).to_sparse(),
    "meta": lambda: torch.empty(3, device="meta"),
    "not a number": lambda: torch.full((5,), torch.nan),
}


@pytest.mark.parametrize("name", TENSORS)
def test_a_fingerprint_is_of_the_tensors_own_elements(name: str) -> None:
    tensor = TENSORS[name]()
    made = Fingerprint([tensor])
    assert not made.changed()
    if name in ("nothing", "sparse", "meta"):
        return
    before = tensor.clone()
    tensor.data[(0,) * tensor.dim()] = 1 - tensor.data[(0,) * tensor.dim()] if name != "bool" else ~tensor[0]
    assert made.changed() or name == "not a number"
    tensor.data.copy_(before) if name != "expanded" else tensor.data[0].copy_(before[0])
    assert not made.changed()


def test_what_lies_between_a_views_elements_is_another_tensors() -> None:
    whole = torch.zeros(10, 6)
    made = Fingerprint([whole[:, 2]])
    whole[:, :2] = 1
    whole[:, 3:] = 1
    assert not made.changed()
    whole[:, 2] = 1
    assert made.changed()


def test_how_often_a_write_to_a_part_of_a_large_tensor_is_missed() -> None:
    """To a share s of the elements, about (1 - s)^64, whichever share: rows of a matrix, or columns."""
    weight = torch.zeros(640, 512)
    made = Fingerprint([weight])
    seen = 0
    for row in range(0, 640, 5):
        weight.data[row : row + 16] = 1  # a 40th of the elements: missed by (39/40)^64, a fifth, if drawn at random
        seen += made.changed()
        weight.data.zero_()
    assert seen >= 0.7 * 128
    columns = 0
    for column in range(0, 512, 16):
        weight.data[:, column : column + 16] = 1
        columns += made.changed()
        weight.data.zero_()
    assert columns >= 0.6 * 32
    assert weight.numel() > WHOLE > SAMPLES


VALUES: dict[str, tuple[Any, Any, bool]] = {
    "equal numbers": (0.5, 1.0 / 2, False),
    "signs of zero": (0.0, -0.0, True),
    "not a number": (float("nan"), float("nan"), False),
    "a number and a flag": (1, True, True),
    "a number and a float": (1, 1.0, True),
    "equal tuples": ((1, "a"), (1, "a"), False),
    "tuples": ((1, "a"), (1, "b"), True),
    "equal text": ("relu", "".join(["re", "lu"]), False),
    "a dtype": (torch.float32, torch.float64, True),
    "a class": (nn.ReLU, nn.GELU, True),
}


@pytest.mark.parametrize("name", VALUES)
def test_a_value_that_is_equal_is_no_change(name: str) -> None:
    before, after, changed = VALUES[name]
    model: Any = small()
    model.setting = before
    made = Snapshot(model, [model])
    model.setting = after
    assert (made.change() is not None) is changed


def test_flags_and_gradients_are_no_change() -> None:
    model = small()
    made = Snapshot(model, [model])
    model.train()
    model.requires_grad_(False)
    model(torch.zeros(1, 3, 8, 8)).sum().requires_grad_().backward()
    model.eval()
    found = made.change()
    assert found is not None  # the norm's statistics, in training mode
    assert found.values
    assert str(found).startswith("norm.")


def test_hooks_of_ours_are_no_change() -> None:
    """Another thread may explain meanwhile."""
    model = small()
    model.body.register_forward_hook(lambda *_: None)
    made = Snapshot(model, [model])
    with Undone() as undone:
        undone.hook(model.stem, lambda *_: None, kwargs=True)
        undone.hook(model.body, lambda *_: None, before=True)
        undone.forward(model.head, lambda x: x)
        undone.without(model.body._forward_hooks)
        assert made.change() is None
        during = Snapshot(model, [model])
    assert made.change() is None
    assert during.change() is None
    handle = model.stem.register_forward_hook(lambda *_: None)
    assert made.change() is not None
    handle.remove()
    assert made.change() is None


def test_the_kind_of_a_change_is_told() -> None:
    model: Any = small()
    made = Snapshot(model, [model])
    model.head.weight = nn.Parameter(model.head.weight.detach().clone())
    found = made.change()
    assert found is not None
    assert found.values
    assert not found.unseen
    model.head.weight = nn.Parameter(torch.zeros(4, 7))
    found = made.change()
    assert found is not None
    assert not found.values
    made = Snapshot(model, [model])
    model.stem.bias.data += 1
    found = made.change()
    assert found is not None
    assert found.values
    assert found.unseen
    assert Snapshot(model, [model], samples=False).change() is None


def test_containers_of_any_length_cost_little() -> None:
    model: Any = small()
    model.vocabulary = {str(index): index for index in range(5000)}
    made = Snapshot(model, [model])
    model.vocabulary["0"] = 1  # not looked at
    assert made.change() is None
    model.vocabulary["one more"] = 1
    assert made.change() is not None
