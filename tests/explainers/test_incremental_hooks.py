"""Incremental occlusion of models with hooks: those that change nothing are left out, and are there afterwards."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastsal
from tests.explainers.test_incremental import both, images, network

WINDOWS: tuple[Any, ...] = ((3, 4, 4), (3, 3, 3))


def test_hooks_that_collect_are_left_and_the_map_is_the_plain_one() -> None:
    model = network()
    kept: list[Tensor] = []
    parts = [part for part in model.modules() if isinstance(part, nn.Conv2d)]
    handles = [
        parts[0].register_forward_hook(lambda _part, _args, out: kept.append(out)),
        parts[1].register_forward_pre_hook(lambda _part, args: kept.append(args[0])),
        parts[-1].register_forward_hook(lambda _part, _args, _kwargs, out: kept.append(out), with_kwargs=True),
    ]
    before = [(dict(part._forward_hooks), dict(part._forward_pre_hooks)) for part in model.modules()]
    quick, plain = both(fastsal.Occlusion(model), images(), *WINDOWS, target=2)
    torch.testing.assert_close(quick, plain, rtol=0, atol=1e-12)
    assert before == [(dict(part._forward_hooks), dict(part._forward_pre_hooks)) for part in model.modules()]
    assert kept
    assert all(type(each) is Tensor for each in kept)
    kept.clear()
    model(images())
    assert len(kept) == 3
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("change", [lambda _part, _args, out: 1.5 * out, lambda _part, _args, out: out[:, :3].flip(1)])
def test_hooks_that_change_the_output_stop_it(change: Any) -> None:
    model = network()
    last = [part for part in model.modules() if isinstance(part, nn.Linear)][-1]
    handle = last.register_forward_hook(change)
    with pytest.raises(ValueError, match="its modules have hooks that change its output"):
        fastsal.Occlusion(model).attribute(images(), *WINDOWS, target=2, incremental=True)
    handle.remove()


def test_a_hook_that_changes_altered_images_alone_is_found() -> None:
    """The images as they are give the same without it, so that only the comparison with the plain forward can tell."""
    model = network()
    first = next(part for part in model.modules() if isinstance(part, nn.Conv2d))
    changed: Any = lambda _part, args, out: 3 * out if bool((args[0] == 0).all(1).any()) else None  # noqa: E731
    handle = first.register_forward_hook(changed)
    with pytest.raises(ValueError, match="incremental: not possible"):
        fastsal.Occlusion(model).attribute(images(), *WINDOWS, target=2, incremental=True)
    handle.remove()
