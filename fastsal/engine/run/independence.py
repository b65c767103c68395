"""Whether what a model computes of a row depends on the other rows of its batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastsal._torch import tree_leaves
from fastsal.engine.run.caches import on_clearing
from fastsal.engine.run.comparing import difference
from fastsal.engine.run.model_state import State, model_state
from fastsal.engine.run.modules import ForwardFunc, WhileAlive, modules_of
from fastsal.engine.run.random_states import keeping_random_states
from fastsal.engine.run.tf32 import TF32, tf32_is_on
from fastsal.engine.run.too_large import is_too_large

ROUNDINGS = 4
"""Of a result as it is stored, by which rows that are computed alike may differ: inputs, sums and outputs are rounded
in other orders in a batch of another size."""
REFUSALS = (RuntimeError, ValueError, TypeError, IndexError, AssertionError)
"""What a model raises that takes no other number of rows."""
MOST = 32
"""Forms of call that are remembered of a callable."""


class Rows(NamedTuple):
    """What was found of the rows of a batch.

    Attributes:
        alone: why copies of the inputs must be run one at a time; empty where they need not.
        random: whether the output changes from run to run, so that nothing can be told.
        fixed: why no copies can be told apart in a batch, whose output has as many rows as that of one; empty where it
            grows, or is one score for all.
    """

    alone: str = ""
    random: bool = False
    fixed: str = ""


class Coupled(RuntimeError):
    """Raised where a chunk shows what a batch of two does not: that its rows depend on each other; it says how."""


class _Kept(NamedTuple):
    rows: Rows
    state: State
    changing: frozenset[Any]
    together: int = 2
    """Copies of which the last was as it is alone."""


_kept: WhileAlive[dict[Hashable, _Kept]] = WhileAlive()
"""By callable, then by form of call."""
on_clearing(_kept.clear)

Outputs = Callable[[str], Sequence[Tensor]]
"""The tensors of the model's output for copies of the inputs: ``s`` for an altered one, ``x`` for one as it is."""


def rows_of(
    owner: ForwardFunc,
    form: Hashable,
    outputs: Outputs,
    device: torch.device,
    dtypes: Iterable[torch.dtype],
    *,
    may_run: bool = True,
) -> Rows | None:
    """What is known of the rows of a callable, or found by a few passes where it or its modules are not as they were.

    An altered copy of the inputs and one as they are are run alone, and one behind the other. Call inside
    ``evaluation`` and ``torch.no_grad``; random states are afterwards as before.

    Args:
        owner: the callable, which is remembered weakly.
        form: shapes and further arguments.
        outputs: runs copies.
        device: of the inputs.
        dtypes: of the inputs.
        may_run: whether passes can be made now; else None stands for what is not known.
    """
    known = _recalled(owner)
    found = None if known is None else known.get(_key(owner, form))
    if found is not None and _same(found, model_state(owner, modules_of(owner))):
        return found.rows
    if not may_run:
        return None
    states: list[State] = []

    def noting(copies: str) -> Sequence[Tensor]:
        got = outputs(copies)
        states.append(model_state(owner, modules_of(owner)))
        return got

    with keeping_random_states(device):
        rows = _judged(noting, lambda leaf: _rounding(leaf, dtypes, owner))
    if rows is None or not states:
        return Rows()
    first, last = states[0], states[-1]
    changing = frozenset(key for key in first.keys() | last.keys() if first.get(key, first) != last.get(key, last))
    _remember(owner, _key(owner, form), _Kept(rows, last, changing))
    return rows


def seen_together(owner: ForwardFunc, form: Hashable) -> int:
    """How many copies were seen together without effect on each other; 0 where nothing is remembered."""
    found = (_recalled(owner) or {}).get(_key(owner, form))
    return 0 if found is None else found.together


def compare_last(
    owner: ForwardFunc,
    form: Hashable,
    count: int,
    together: Sequence[Tensor],
    alone: Callable[[], Sequence[Tensor]],
    dtypes: Iterable[torch.dtype],
) -> None:
    """Look whether the last of so many copies is as it is alone, as a mixture of experts of some capacity is not.

    What rounding explains is let pass up to its square root: no batch of the same shape tells more at so little cost.

    Args:
        owner, form: as of :func:`rows_of`, which has found nothing.
        count: copies.
        together: the tensors of the model's output for them.
        alone: runs the last one.
        dtypes: of the inputs.

    Raises:
        Coupled: where it is not; that is remembered.
    """
    key, known = _key(owner, form), _recalled(owner) or {}
    found = known.get(key)
    if found is None:
        return
    try:
        first = alone()
    except Exception:  # it was taken among others: what one row alone meets is no question of its batch
        first = ()
    apart = max((_apart_at_the_end(one, all_, count) for one, all_ in zip(first, together, strict=False)), default=0.0)
    coarsest = max((_rounding(leaf, dtypes, owner) for leaf in first), default=0.0)
    if apart <= math.sqrt(coarsest) or difference(alone(), first) > math.sqrt(coarsest):
        known[key] = found._replace(together=count)
        return
    why = f"the last of {count} copies differs from the same alone by {apart:.0e} of the output"
    known[key] = found._replace(rows=Rows(f"the rows of a batch depend on each other ({why})"))
    raise Coupled(known[key].rows.alone)


def _apart_at_the_end(alone: Tensor, together: Tensor, count: int) -> float:
    """How far the end of an output for so many copies is from that of one, by the scale of all of it."""
    if not alone.dim() or not alone.numel() or together.shape != (count * len(alone), *alone.shape[1:]):
        return 0.0
    return difference(torch.cat([together[: -len(alone)], alone]), together)


def _judged(outputs: Outputs, rounding: Callable[[Tensor], float]) -> Rows | None:
    """What the passes show; None where they show nothing.

    The tolerance: the row alone and in a batch may differ by :data:`ROUNDINGS` of the output's scale, whatever the
    depth. Up to the square root of a rounding (half of the digits, 3e-4 in float32, 3e-2 in float16) it is for the
    exact test to tell: the same row beside another one, in a batch of the same shape, is computed by the same
    operations in the same order, so that it differs only where it depends on the other. Beyond, it depends on it, or
    is random, which a second run alone tells.
    """
    copy = "s"
    alone = _attempt(outputs, copy)
    if isinstance(alone, Exception):  # of altered values: then it is asked for those as they are
        copy = "x"
        alone = _attempt(outputs, copy)
    if isinstance(alone, Exception):  # the model's own error is raised where the explainer runs it
        return None
    beside = _attempt(outputs, "x" + copy)
    if isinstance(beside, Exception) and (is_too_large(beside) or not isinstance(beside, REFUSALS)):
        return None
    if isinstance(beside, Exception):  # a model for so many rows and no others
        said = str(beside).strip().split("\n", 1)[0]
        return Rows(f"the model does not take two copies in one batch ({said[:100]})")
    fixed = _rows_of_any(alone, beside)
    if fixed:
        return Rows(fixed=f"the model's output has {fixed} rows, of two copies as of one")
    found = _depends(outputs, copy, alone, _last(alone, beside), _last, rounding)
    if found is None or found.alone or found.random or copy == "x":
        return found
    # The scale of a quantised layer's input is the batch's largest value: one of the two may have it, and see no other.
    whole = outputs("x")
    return _depends(outputs, "x", whole, _first(whole, beside), _first, rounding)


def _depends(
    outputs: Outputs,
    copy: str,
    alone: Sequence[Tensor],
    pairs: list[_Pair],
    half: _Half,
    rounding: Callable[[Tensor], float],
) -> Rows | None:
    """What a copy alone and beside another one shows; None where it shows nothing."""
    if not pairs:
        return None
    coarsest = max(rounding(pair.alone) for pair in pairs)
    least = ROUNDINGS * coarsest
    apart = max(map(_apart, pairs))
    if apart <= least:
        return Rows()
    if apart <= math.sqrt(coarsest):
        twins = [twin.beside for twin in half(alone, outputs(copy + copy))]
        if max(_apart(pair._replace(alone=twin)) for twin, pair in zip(twins, pairs, strict=True)) <= least:
            return Rows()
    if not difference(outputs(copy), alone) <= least:
        return Rows(random=True)
    return Rows(
        f"the rows of a batch depend on each other (a copy scored alone and in a batch differs by {apart:.0e} of the "
        "output)"
    )


def _rows_of_any(alone: Sequence[Tensor], beside: Sequence[Tensor]) -> int:
    """Rows of an output that has as many for each number of copies; 0 where it grows, or is one score for all."""
    if len(alone) != len(beside) or _growing(alone, beside):
        return 0
    same = [len(one) for one, two in zip(alone, beside, strict=True) if one.dim() and one.shape == two.shape]
    return max(same, default=0) if len(same) == len(alone) and max(same, default=0) > 1 else 0


def _attempt(outputs: Outputs, copies: str) -> Sequence[Tensor] | Exception:
    """The outputs, or what the model raises whenever it is run on these copies; what it raises once is raised."""
    try:
        return outputs(copies)
    except Exception as error:  # whatever a model's code makes of values or rows that it does not take
        if is_too_large(error):
            return error.with_traceback(None)
        try:
            outputs(copies)
        except Exception as again:
            return again.with_traceback(None)
        raise error from None


class _Pair(NamedTuple):
    """An output of a copy alone, in a batch of two, and of the other one there."""

    alone: Tensor
    beside: Tensor
    other: Tensor


_Half = Callable[[Sequence[Tensor], Sequence[Tensor]], list[_Pair]]


def _last(alone: Sequence[Tensor], both: Sequence[Tensor]) -> list[_Pair]:
    """The outputs that grow with the batch: of one copy, and of two, the second of which it is."""
    return [_Pair(one, two[len(one) :], two[: len(one)]) for one, two in _growing(alone, both)]


def _first(alone: Sequence[Tensor], both: Sequence[Tensor]) -> list[_Pair]:
    """The same of the first of the two."""
    return [_Pair(one, two[: len(one)], two[len(one) :]) for one, two in _growing(alone, both)]


def _growing(alone: Sequence[Tensor], both: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    return [
        (one, two)
        for one, two in zip(alone, both, strict=False)
        if one.numel() and one.dim() and two.shape == (2 * len(one), *one.shape[1:])
    ]


def _apart(pair: _Pair) -> float:
    """How far a copy's output is from that beside another one, by the scale of all of it."""
    return difference(torch.cat([pair.other, pair.alone]), torch.cat([pair.other, pair.beside]))


def _rounding(leaf: Tensor, dtypes: Iterable[torch.dtype], owner: ForwardFunc) -> float:
    """The coarsest rounding of what may be on the way to an output."""
    weights = (p.dtype for module in modules_of(owner) for p in module.parameters())
    floating = [dtype for dtype in {leaf.dtype, *dtypes, *weights} if dtype.is_floating_point]
    kind = leaf.device.type
    if torch.is_autocast_enabled(kind):
        floating.append(torch.get_autocast_dtype(kind))
    coarsest = max((torch.finfo(dtype).eps for dtype in floating), default=0.0)
    return max(coarsest, TF32) if kind == "cuda" and torch.float32 in floating and tf32_is_on() else coarsest


def output_tensors(output: Any) -> list[Tensor]:
    """The tensors of an output, in whatever they are nested, in floating point."""
    leaves = (leaf.detach() for leaf in tree_leaves(output) if isinstance(leaf, Tensor))
    real = (torch.view_as_real(leaf) if leaf.is_complex() else leaf for leaf in leaves)
    return [leaf if leaf.is_floating_point() else leaf.to(torch.float32) for leaf in real]


def _same(found: _Kept, state: State) -> bool:
    if not found.changing:
        return found.state == state
    keys = (found.state.keys() | state.keys()) - found.changing
    return all(key in state and key in found.state and found.state[key] == state[key] for key in keys)


def _key(owner: ForwardFunc, form: Hashable) -> Hashable:
    """Of a form of call; one object's methods are remembered with it."""
    return getattr(owner, "__name__", ""), form


def _recalled(owner: ForwardFunc) -> dict[Hashable, _Kept] | None:
    return _kept.get(_anchor(owner))


def _remember(owner: ForwardFunc, key: Hashable, kept: _Kept) -> None:
    known = _recalled(owner)
    if known is None:
        known = {}
        try:
            _kept.set(_anchor(owner), known)
        except TypeError:  # what cannot be referred to weakly is asked again
            return
    known.pop(key, None)
    known[key] = kept
    if len(known) > MOST:
        known.pop(next(iter(list(known))), None)  # another thread may have taken it


def _anchor(owner: ForwardFunc) -> Any:
    """What lives as long as a callable: of a bound method, which is made anew each time, its object."""
    return getattr(owner, "__self__", owner)
