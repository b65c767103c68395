"""Hooks of the user's or a library's on a model: left out of a trace where the output is the same without them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fastsal._torch import tree_leaves
from fastsal.engine.run.forward import run
from fastsal.engine.run.own import Undone, has_users_hooks

_HELD = ("_forward_hooks", "_forward_pre_hooks")


class Hooks(NamedTuple):
    """What a trace does about a model's hooks.

    Attributes:
        away: whether it leaves them out; else they run, as a part of the model.
        refused: why it cannot do either; empty where it can.
    """

    away: bool = True
    refused: str = ""


def hooks_of(forward_func: Callable[..., Any], models: Sequence[nn.Module], input: Tensor) -> Hooks:
    """What to do about the hooks around the forward of a model's modules.

    People leave hooks that print or collect: the output is the same to the bit without these, and they are not to see
    symbols. Of transformers' hooks some models read the hidden states that they decode: without these they fail. Costs
    two passes where there are hooks. Whoever traces so still compares with the plain forward, which has them.

    Call inside ``evaluation(forward_func)`` and ``torch.no_grad``.

    Args:
        forward_func: module or callable of one tensor.
        models: the modules that it runs.
        input: [1, ...].
    """
    if not any(has_users_hooks(part, _HELD) for model in models for part in model.modules()):
        return Hooks()
    with_hooks = tree_leaves(run(forward_func, (input.detach().clone(),)))
    try:
        with without_hooks(models):
            without = tree_leaves(run(forward_func, (input.detach().clone(),)))
    except torch.OutOfMemoryError:
        raise
    except Exception:  # whatever a model makes of what its hooks did not bring
        return Hooks(away=False)
    if len(with_hooks) == len(without) and all(map(_equal, with_hooks, without)):
        return Hooks()
    return Hooks(refused="its modules have hooks that change its output")


def _equal(one: Any, other: Any) -> bool:
    if not isinstance(one, Tensor) or not isinstance(other, Tensor):
        return isinstance(one, Tensor) == isinstance(other, Tensor)
    same = one.shape == other.shape and one.dtype == other.dtype
    return same and bool(((one == other) | (one.isnan() & other.isnan())).all())


@contextlib.contextmanager
def without_hooks(models: Iterable[nn.Module], away: bool = True) -> Iterator[None]:
    """Modules without the hooks around their forward for this thread; as they are if not ``away``."""
    parts = dict.fromkeys(part for model in models for part in model.modules())
    with Undone() as undone:
        for hooks in (getattr(part, name) for part in parts for name in _HELD if away):
            if hooks:
                undone.without(hooks)
        yield
