"""How likely a language model goes on with given tokens, after any prompts: many prompts in one pass."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastsal.engine.run import difference
from fastsal.explainers.outputs import main_output

Prompt = Mapping[str, Any]
"""Arguments of the model by name, with ``input_ids`` [1, tokens]."""


class Continuation:
    """Log probabilities of tokens that follow prompts.

    One pass over prompt and tokens scores all tokens of a model in which no token sees the ones behind it, which
    :meth:`is_causal` asks it; of another one each token is scored by a pass of its own over what is before it.

    Args:
        model: gets ``input_ids`` [n, tokens] by name; its output has ``logits`` [n, tokens, V] (or [n, 1, tokens, V]).
        tokens: [T] ids.
    """

    def __init__(self, model: nn.Module, tokens: Tensor) -> None:
        self._model, self._tokens = model, tokens
        taken = inspect.signature(model.forward).parameters
        anything = any(each.kind is each.VAR_KEYWORD for each in taken.values())
        self._takes = {name for name in ("attention_mask", "use_cache") if anything or name in taken}

    def log_probabilities(self, prompts: Sequence[Prompt], *, stepwise: bool = False) -> Tensor:
        """[prompts, T], in at least float32, on the model's device.

        Prompts of one length that are tokens alone share a pass; others, with pictures say, have passes of their own.

        Args:
            prompts: what the model goes on from.
            stepwise: a pass for each token.
        """
        rows: list[Tensor | None] = [None] * len(prompts)
        for members in _alike(prompts):
            batch = _together([prompts[member] for member in members])
            found = self._stepwise(batch) if stepwise else self._at_once(batch)
            for member, row in zip(members, found, strict=True):
                rows[member] = row
        return torch.stack([row for row in rows if row is not None])

    def next_log_probability(self, ids: Tensor, place: int) -> Tensor:
        """Of the token at a place after its prompts [n, tokens] and the tokens before it: [n], on the graph."""
        logits = self._logits({"input_ids": self._followed(ids, place)})[:, -1]
        return logits.log_softmax(-1)[:, int(self._tokens[place])]

    def is_causal(self, prompt: Prompt) -> bool:
        """Whether the tokens' logits stay where what follows is left out: asked by three passes at most.

        Texts of other lengths are summed in other orders, so that half of the digits are asked for.
        """
        if len(self._tokens) < 2:
            return True
        start = prompt["input_ids"].shape[1] - 1
        whole = self._logits(self._with(prompt, len(self._tokens)))
        for kept in {0, len(self._tokens) // 2}:
            part = self._logits(self._with(prompt, kept))[:, start:]
            if not difference(part, whole[:, start : start + part.shape[1]]) <= torch.finfo(whole.dtype).eps ** 0.5:
                return False
        return True

    def _at_once(self, batch: dict[str, Any]) -> Tensor:
        count = len(self._tokens)
        start = batch["input_ids"].shape[1] - 1
        logits = self._logits(self._with(batch, count))[:, start : start + count]
        chosen = self._tokens.to(logits.device).view(1, -1, 1).expand(logits.shape[0], -1, 1)
        return _wide(logits).log_softmax(-1).gather(2, chosen)[:, :, 0]

    def _stepwise(self, batch: dict[str, Any]) -> Tensor:
        found = []
        for place, token in enumerate(self._tokens.tolist()):
            logits = _wide(self._logits(self._with(batch, place))[:, -1])
            found.append(logits.log_softmax(-1)[:, token])
        return torch.stack(found, 1)

    def _with(self, prompt: Prompt, count: int) -> dict[str, Any]:
        """Arguments of the model for a prompt and the first so many tokens."""
        arguments = dict(prompt)
        arguments["input_ids"] = ids = self._followed(prompt["input_ids"], count)
        mask = prompt.get("attention_mask")
        if mask is not None:
            arguments["attention_mask"] = torch.cat([mask, mask.new_ones(mask.shape[0], count)], 1)
        elif "attention_mask" in self._takes:
            arguments["attention_mask"] = torch.ones_like(ids)
        if "use_cache" in self._takes:
            arguments["use_cache"] = False
        return arguments

    def _followed(self, ids: Tensor, count: int) -> Tensor:
        tokens = self._tokens[:count].to(ids)
        return torch.cat([ids, tokens.expand(ids.shape[0], -1)], 1)

    def _logits(self, arguments: Mapping[str, Any]) -> Tensor:
        logits = main_output(self._model(**arguments))
        if not isinstance(logits, Tensor) or logits.dim() not in (3, 4):
            kind = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise TypeError(f"model: its output is {kind}; a language model's has logits [rows, tokens, vocabulary]")
        return logits[:, 0] if logits.dim() == 4 else logits


def _wide(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _alike(prompts: Sequence[Prompt]) -> list[list[int]]:
    """Places of the prompts that can share a pass."""
    places: dict[Any, list[int]] = {}
    for place, prompt in enumerate(prompts):
        alone = set(prompt) - {"input_ids", "attention_mask"}
        key = place if alone else (tuple(prompt["input_ids"].shape), "attention_mask" in prompt)
        places.setdefault(key, []).append(place)
    return list(places.values())


def _together(prompts: Sequence[Prompt]) -> dict[str, Any]:
    if len(prompts) == 1:
        return dict(prompts[0])
    return {name: torch.cat([prompt[name] for prompt in prompts]) for name in prompts[0]}
