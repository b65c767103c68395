"""A tap on every call of attention of a pass; no module is patched, and nothing stays once it is left.

It sees what PyTorch functions the thread calls: fused attention, multi-head attention as a function, and a softmax
over what a product made, through whatever comes between them.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import get_gradient_edge
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from fastsal.explainers.attending.attended import Attended, in_heads
from fastsal.explainers.attending.products import Product, product_of

_SOFTMAXES = {"softmax", "_softmax"}
_ARGUMENTS = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")


def _private(function: Any) -> Any:
    """A function of PyTorch's that does not hand itself on to a mode, so that the mode sees what it calls."""
    own = {**function.__globals__, "has_torch_function": lambda *_: False}
    copied = types.FunctionType(function.__code__, own, function.__name__, function.__defaults__, function.__closure__)
    copied.__kwdefaults__ = function.__kwdefaults__
    return copied


_multi_head_attention = _private(F.multi_head_attention_forward)


class _Logits(NamedTuple):
    """A tensor that a product made, or what became of it: the product's two dimensions in it, from its end."""

    rows: int
    columns: int
    product: Product
    name: str


class _Weights(NamedTuple):
    """Attention's weights, or what became of them: queries and keys in it, from its end."""

    rows: int
    columns: int
    attended: Attended


class AttentionTap(TorchFunctionMode):
    """While it is entered, keeps what each call of attention was made of.

    Args:
        batch: examples.
        graph: start autograd's graph at the first attention where nothing before it has one, and tell of gradients.
        naming: the name of the module that runs.

    Attributes:
        found: in the order of the calls.
    """

    def __init__(self, batch: int, *, graph: bool = False, naming: Callable[[], str] = str) -> None:
        super().__init__()
        self.found: list[Attended] = []
        self._batch, self._graph, self._naming = batch, graph, naming
        self._heads: int | None = None
        self._tokens: tuple[Tensor, Tensor] | None = None
        self._known: Any = WeakTensorKeyDictionary()
        self._unread: dict[int, str] = {}

    @property
    def unrecognised(self) -> list[str]:
        """What looked like attention and was not read, a line each."""
        return list(self._unread.values())

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return self._fused(func, args, kwargs)
        if func is F.multi_head_attention_forward:
            return self._multi_head(args, kwargs)
        result = func(*args, **kwargs)
        if isinstance(result, Tensor) and result.is_floating_point():
            return self._follow(getattr(func, "__name__", ""), args, kwargs, result)
        return result

    def gradients(self, scores: Tensor, visit: Callable[[Attended, Tensor], None], among: Sequence[Attended]) -> bool:
        """Tell ``visit`` of the scores' gradient at each call, from the last to the first; False if none reaches any.

        The gradient is as :attr:`Attended.visit` says. Nothing of one call is kept when the next one's comes.
        """
        reached = [each for each in among if each.edge is not None]
        if not reached or not scores.requires_grad:
            return False
        for each in reached:
            each.visit = visit
        try:
            found = torch.autograd.grad(scores.sum(), [each.edge for each in reached], allow_unused=True)
        finally:
            for each in reached:
                each.visit = None
        return any(each is not None for each in found)

    def _multi_head(self, args: Any, kwargs: Any) -> Any:
        named = dict(zip(("query", "key", "value", "embed_dim_to_check", "num_heads"), args, strict=False)) | kwargs
        before = self._heads, self._tokens
        self._heads, self._tokens = named["num_heads"], (named["query"], named["key"])
        try:
            with self:
                return _multi_head_attention(*args, **kwargs)
        finally:
            self._heads, self._tokens = before

    def _fused(self, func: Any, args: Any, kwargs: Any) -> Any:
        given = dict(zip(_ARGUMENTS, args, strict=False)) | kwargs
        query, key, value = (given.pop(name) for name in ("query", "key", "value"))
        has_graph = any(each.requires_grad for each in (query, key, value))
        started = self._graph and torch.is_grad_enabled() and not has_graph
        if started:
            value = value.detach().requires_grad_()
        output = func(query, key, value, **given)
        heads = self._heads
        forms = [in_heads(each.detach(), self._batch, heads) for each in (query, key, value)]
        shape = torch.broadcast_shapes(*(each.shape[:1] for each in forms))
        forms = [each.expand(*shape, *each.shape[1:]) for each in forms]
        mask = given.get("attn_mask")
        attended = Attended(
            "scaled_dot_product_attention" if heads is None else "multi_head_attention_forward",
            forms[0].shape[1],
            forms[0].shape[2],
            forms[1].shape[2],
            query=forms[0],
            key=forms[1],
            value=forms[2],
            mask=None if mask is None else _mask(mask.detach(), query.dim(), query.shape, key.shape[-2], forms[0]),
            causal=bool(given.get("is_causal", False)),
            scale=given.get("scale"),
            module=self._naming(),
            tokens=self._tokens,
        )
        if given.get("dropout_p"):
            attended.notes.append(f"its weights were dropped with probability {given['dropout_p']}; shown without")
        batch = self._batch

        def form(gradient: Tensor) -> Tensor:
            return in_heads(gradient, batch, heads)

        self._watch(attended, output, form)
        attended.output_edge, attended.output_form = attended.edge, form
        self.found.append(attended)
        return output

    def _watch(self, attended: Attended, tensor: Tensor, form: Callable[[Tensor], Tensor]) -> None:
        """Tell of a tensor's gradient, in the record's form."""
        if not (self._graph and tensor.requires_grad):
            return

        def told(gradient: Tensor) -> None:
            if attended.visit is not None:
                attended.visit(attended, form(gradient.detach()))

        tensor.register_hook(told)
        attended.edge = get_gradient_edge(tensor)

    def _follow(self, name: str, args: Any, kwargs: Any, result: Tensor) -> Tensor:
        if name in _SOFTMAXES:
            return self._softmax(args, kwargs, result)
        product = product_of(name, args, kwargs)
        if product is not None:
            for place, operand in enumerate((product.left, product.right)):
                known = self._known.get(operand)
                if isinstance(known, _Weights) and product.summed[place] == known.columns:
                    self._values(known.attended, product, place, result)
                    return result
            self._known[result] = _Logits(product.rows, product.columns, product, name)
            return result
        for each in (*args, *kwargs.values()):
            known = self._known.get(each) if isinstance(each, Tensor) else None
            if known is not None and each.numel() == result.numel() and self._known.get(result) is None:
                places = _moved(known.rows, known.columns, each, result)
                if places is not None:
                    self._known[result] = known._replace(rows=places[0], columns=places[1])
                break
        return result

    def _softmax(self, args: Any, kwargs: Any, result: Tensor) -> Tensor:
        given = args[0] if args else kwargs.get("input")
        known = self._known.get(given) if isinstance(given, Tensor) else None
        dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
        if not isinstance(dim, int) or result.dim() < 3:
            return result
        at = dim - result.dim() if dim >= 0 else dim
        line = f"softmax over dimension {at} of {tuple(result.shape)}{self._where()}"
        if not isinstance(known, _Logits):
            if result.dim() == 4 and at == -1 and result.shape[-1] == result.shape[-2]:
                return self._written(result, None, -2, line)
            return result
        if at not in (known.rows, known.columns):
            self._unread[id(result)] = f"{line}: neither queries nor keys of the product before it"
            return result
        return self._written(result, known, known.rows if at == known.columns else known.columns, line)

    def _where(self) -> str:
        name = self._naming()
        return f" in {name}" if name else ""

    def _written(self, result: Tensor, logits: _Logits | None, queries: int, line: str) -> Tensor:
        if self._graph and torch.is_grad_enabled() and not result.requires_grad:
            result = result.detach().requires_grad_()
        keys = -1 if queries != -1 else -2
        if logits is not None:
            keys = logits.columns if queries == logits.rows else logits.rows

        heads = self._heads

        def form(tensor: Tensor) -> Tensor:
            return in_heads(tensor.movedim((queries, keys), (-2, -1)), self._batch, heads)

        weights = form(result.detach())
        name = "softmax" if logits is None else f"softmax({logits.name})"
        if heads is not None:
            name = "multi_head_attention_forward"
        attended = Attended(
            name, weights.shape[1], weights.shape[2], weights.shape[3], weights=weights, module=self._naming()
        )
        attended.tokens = self._tokens
        if logits is None:
            attended.notes.append("the product of its queries and keys was not seen")
        else:
            asked = 0 if queries == logits.rows else 1
            attended.query, attended.key = (
                _operand(in_heads(logits.product.as_rows(which).detach(), self._batch, heads), weights)
                for which in (asked, 1 - asked)
            )
        self._watch(attended, result, form)
        for operand in () if logits is None else (logits.product.left, logits.product.right):
            if attended.edge is not None and operand.requires_grad and result.grad_fn is not None:
                attended.edge = get_gradient_edge(operand)  # before the weights, and smaller
                break
        self.found.append(attended)
        self._known[result] = _Weights(queries, keys, attended)
        self._unread[id(attended)] = f"{line}: no product of its weights and values was seen"
        return result

    def _values(self, attended: Attended, product: Product, place: int, output: Tensor) -> None:
        """The second product, of weights and values."""
        self._unread.pop(id(attended), None)
        assert attended.weights is not None
        if attended.value is not None:
            attended.notes.append("its weights are read by several products")
            return
        other = (product.left, product.right)[1 - place].detach()
        if product.equation is None:
            values = other if place == 0 else other.mT
            turned = (-2, -1) if place == 0 else (-1, -2)
        else:
            letters, result = product.equation[1 - place], product.equation[2]
            key = next(each for each in letters if each not in result)
            channel = result[product.columns if place == 0 else product.rows]
            asked = result[product.rows if place == 0 else product.columns]
            others = [each for each in result if each in letters and each != channel]
            values = other.permute([letters.index(each) for each in (*others, key, channel)])
            turned = (result.index(asked) - len(result), result.index(channel) - len(result))
        heads, batch = self._heads, self._batch
        attended.value = _operand(in_heads(values, batch, heads), attended.weights)
        if self._graph and output.requires_grad:
            attended.output_edge = get_gradient_edge(output)
            attended.output_form = lambda gradient: in_heads(gradient.movedim(turned, (-2, -1)), batch, heads)


def _operand(tensor: Tensor, weights: Tensor) -> Tensor | None:
    """With the rows and heads of the weights; None where they do not go together."""
    shape = (*weights.shape[:2], *tensor.shape[2:])
    try:
        return tensor.expand(shape)
    except RuntimeError:
        return None


def _mask(mask: Tensor, dims: int, query: torch.Size, keys: int, form: Tensor) -> Tensor:
    """Of four dimensions that broadcast to [B, heads, queries, keys]."""
    if dims == 4 and mask.dim() <= 4:
        return mask[(None,) * (4 - mask.dim())]
    full = mask.expand(*query[:-1], keys)
    return full.reshape(*form.shape[:3], keys)


def _moved(rows: int, columns: int, before: Tensor, after: Tensor) -> tuple[int, int] | None:
    """Where two dimensions of a tensor are after an operation that keeps the number of elements; None if lost."""
    last = {rows, columns} == {-1, -2}
    if before.shape != after.shape and not (last and before.shape[-2:] in (after.shape[-2:], after.shape[:-3:-1])):
        return None
    if before.untyped_storage().data_ptr() == after.untyped_storage().data_ptr():
        kept = [before.stride(at) == after.stride(at) for at in (rows, columns)]
        if not all(kept) and min(before.shape[rows], before.shape[columns]) > 1:
            turned = last and before.stride()[-2:] == after.stride()[:-3:-1]
            return (columns, rows) if turned else None
    return (rows, columns) if before.shape[-2:] == after.shape[-2:] else None
