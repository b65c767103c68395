"""Attributions of a generated text to its prompt, by a method that takes parts of the prompt away."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fastsal.engine.run import calling, evaluation
from fastsal.explainers.arguments import at_least_one
from fastsal.explainers.base import Attribution
from fastsal.explainers.perturbation.occlusion.feature_ablation import FeatureAblation
from fastsal.explainers.perturbation.shapley.shapley_value_sampling import ShapleyValueSampling
from fastsal.explainers.perturbation.shapley.shapley_values import ShapleyValues
from fastsal.explainers.perturbation.surrogate.kernel_shap import KernelShap
from fastsal.explainers.perturbation.surrogate.lime import Lime
from fastsal.explainers.text.continuation import Continuation
from fastsal.explainers.text.image_input import ImageMaskInput
from fastsal.explainers.text.interpretable_input import InterpretableInput
from fastsal.explainers.text.result import LLMAttributionResult
from fastsal.explainers.text.template_input import TextTemplateInput
from fastsal.explainers.text.token_input import TextTokenInput, ids_of
from fastsal.explainers.text.words import words

GENERATION: dict[str, Any] = {"max_new_tokens": 25, "do_sample": False, "temperature": None, "top_p": None}
"""Arguments of ``model.generate`` where no text and none of these are given."""


class BaseLLMAttribution(Attribution):
    """What attributions of generated texts share: the model behind a method, its tokenizer, and the text.

    Args:
        attr_method: of the model, one of :attr:`SUPPORTED_METHODS`.
        tokenizer: the model's, as of transformers.

    Attributes:
        needs: what a prompt must have.

    Raises:
        TypeError: for another method, or a method of a function.
    """

    SUPPORTED_METHODS: ClassVar[tuple[type[Attribution], ...]]
    SUPPORTED_INPUTS: ClassVar[tuple[type[InterpretableInput], ...]]
    needs: ClassVar[tuple[str, ...]] = ("to_tensor", "to_model_input", "format_attr", "n_itp_features", "values")

    def __init__(self, attr_method: Any, tokenizer: Any) -> None:
        if not isinstance(attr_method, self.SUPPORTED_METHODS):
            known = ", ".join(each.__name__ for each in self.SUPPORTED_METHODS)
            raise TypeError(f"attr_method: {type(attr_method).__name__} is none of {known}")
        super().__init__(attr_method.forward_func)
        if not isinstance(self.forward_func, nn.Module):
            raise TypeError(
                f"attr_method: it explains a {type(self.forward_func).__name__}; make it of the language model itself"
            )
        self.model: nn.Module = self.forward_func
        self.tokenizer = tokenizer
        # A copy: the caller's method stays one of the model.
        self.attr_method = copy.copy(attr_method)
        self.device: torch.device = next(self.model.parameters()).device

    def attribute_future(self, *args: Any, **kwargs: Any) -> Any:
        """Not of this class.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(f"{type(self).__name__} has no attribute_future")

    def prompt(self, model_input: Any) -> dict[str, Any]:
        """A prompt's text, tokens or arguments of the model, as the latter."""
        if isinstance(model_input, str):
            model_input = self.tokenizer.encode(model_input, return_tensors="pt")
        if isinstance(model_input, Tensor):
            return {"input_ids": model_input.to(self.device)}
        if not isinstance(model_input, Mapping) or "input_ids" not in model_input:
            raise TypeError(
                f"inp: it makes a {type(model_input).__name__}; a text, ids or a dict with input_ids will do"
            )
        return dict(model_input)

    def target_tokens(
        self, inp: InterpretableInput, target: str | Tensor | None, gen_args: dict[str, Any] | None, skip_tokens: Any
    ) -> Tensor:
        """Ids [T] of the text that is explained: as given, or generated."""
        if not all(hasattr(inp, name) for name in self.needs):
            known = " or ".join(each.__name__ for each in self.SUPPORTED_INPUTS)
            raise TypeError(f"inp: {type(inp).__name__} is no prompt; pass a {known}")
        if target is None:
            found = self._generated(inp, gen_args)
        elif gen_args is not None:
            raise ValueError("gen_args: they are for generating a text, but target gives one; pass one of them")
        elif isinstance(target, str):
            found = torch.tensor(self.tokenizer.encode(target, add_special_tokens=False))
        elif isinstance(target, Tensor):
            found = target
        else:
            raise TypeError(f"target: {type(target).__name__} is neither a text nor a tensor of its tokens' ids")
        if skip_tokens:
            skipped = torch.tensor(ids_of(self.tokenizer, skip_tokens), device=found.device)
            found = found[~torch.isin(found, skipped)]
        if found.dim() != 1 or not len(found):
            raise ValueError(f"target: it has the shape {tuple(found.shape)}; at least one token's id, [T], is needed")
        return found

    def _generated(self, inp: InterpretableInput, gen_args: dict[str, Any] | None) -> Tensor:
        generate = getattr(self.model, "generate", None)
        if not callable(generate):
            raise TypeError(f"target: {type(self.model).__name__} has no generate to make one; pass a text")
        arguments = self.prompt(inp.to_model_input())
        with evaluation(self.model), torch.no_grad():
            tokens: Tensor = generate(**arguments, **(gen_args or GENERATION))
        return tokens[0][arguments["input_ids"].shape[1] :]


class LLMAttribution(BaseLLMAttribution):
    """How much each part of a prompt matters to the text that a language model goes on with.

    What is explained is the log probability of the text after the prompt, and of each of its tokens after the prompt
    and the tokens before it. Costs what the method costs, in passes over prompt and text; prompts that have as many
    tokens share a pass.

    >>> model, tokenizer = language_model()
    >>> explainer = fastsal.LLMAttribution(fastsal.FeatureAblation(model), tokenizer)
    >>> prompt = fastsal.TextTemplateInput("{} b {}", ["a", "c"], ["z", "z"])
    >>> explainer.attribute(prompt, "d e").token_attr.shape
    torch.Size([2, 2])

    Args:
        attr_method: FeatureAblation, ShapleyValueSampling, ShapleyValues, Lime or KernelShap of the model; the latter
            two give no attributions of tokens.
        tokenizer: the model's, as of transformers.
        attr_target: ``log_prob``, or ``prob`` for the probability.

    Raises:
        TypeError: for another method, or a method of a function.
        ValueError: for another ``attr_target``.
    """

    SUPPORTED_METHODS = (FeatureAblation, ShapleyValueSampling, ShapleyValues, Lime, KernelShap)
    SUPPORTED_PER_TOKEN_ATTR_METHODS: ClassVar[tuple[type[Attribution], ...]] = (
        FeatureAblation,
        ShapleyValueSampling,
        ShapleyValues,
    )
    SUPPORTED_INPUTS = (TextTemplateInput, TextTokenInput, ImageMaskInput)

    def __init__(self, attr_method: Any, tokenizer: Any, attr_target: str = "log_prob") -> None:
        super().__init__(attr_method, tokenizer)
        if attr_target not in ("log_prob", "prob"):
            raise ValueError(f"attr_target: {attr_target!r} is neither 'log_prob' nor 'prob'")
        self.attr_target = attr_target
        self.include_per_token_attr = isinstance(attr_method, self.SUPPORTED_PER_TOKEN_ATTR_METHODS)

    def attribute(
        self,
        inp: InterpretableInput,
        target: str | Tensor | None = None,
        num_trials: int = 1,
        gen_args: dict[str, Any] | None = None,
        use_cached_outputs: bool = True,
        _inspect_forward: Callable[[str, str, list[float]], None] | None = None,
        forward_in_tokens: bool = True,
        *,
        skip_tokens: list[int] | list[str] | None = None,
        **kwargs: Any,
    ) -> LLMAttributionResult:
        """Attributions of the text to the parts of the prompt.

        Args:
            inp: the prompt.
            target: the text, or its tokens' ids [T]; None lets the model generate it.
            num_trials: attributions to average, for random methods or baselines.
            gen_args: of ``model.generate``; None takes 25 tokens at most, greedily.
            use_cached_outputs: accepted for Captum's sake: nothing is cached, and the numbers are the same.
            forward_in_tokens: score each token by what the model says after the ones before it, which takes one pass
                for all of a model in which no token sees the ones behind it, and else one for each. False takes one
                pass whatever the model.
            skip_tokens: of the text, or their ids, that are left out.
            **kwargs: of the method's ``attribute``.

        Raises:
            TypeError, ValueError: for arguments outside of the above, and as of the method.
        """
        at_least_one("num_trials", num_trials)
        tokens = self.target_tokens(inp, target, gen_args, skip_tokens)
        continuation = Continuation(self.model, tokens.to(self.device))
        stepwise = False
        if forward_in_tokens:
            with evaluation(self.model), torch.no_grad():
                stepwise = not continuation.is_causal(self.prompt(inp.to_model_input()))

        @calling(self.model)
        def scored(indicators: Tensor) -> Tensor:
            prompts = [self.prompt(inp.to_model_input(row[None])) for row in indicators]
            each = continuation.log_probabilities(prompts, stepwise=stepwise)
            total = each.sum(1, keepdim=True)
            found = torch.cat([total, each], 1) if self.include_per_token_attr else total
            if _inspect_forward is not None:
                for prompt, row in zip(prompts, found.exp().tolist(), strict=True):
                    _inspect_forward(self.tokenizer.decode(prompt["input_ids"][0]), self.tokenizer.decode(tokens), row)
            scores = found if self.attr_target == "log_prob" else found.exp()
            return scores if self.include_per_token_attr else scores[:, 0]

        scored.rows_as = self.model  # type: ignore[attr-defined]  # what is known of its rows stays known
        scored.rows_named = "text"  # type: ignore[attr-defined]
        method: Any = copy.copy(self.attr_method)
        method.forward_func = scored
        trials = [
            method.attribute(inp.to_tensor().to(self.device), **kwargs).reshape(-1, inp.n_itp_features)
            for _ in range(num_trials)
        ]
        attributions = inp.format_attr(torch.stack(trials).mean(0))
        return LLMAttributionResult(
            seq_attr=attributions[0],
            token_attr=attributions[1:] if self.include_per_token_attr else None,
            input_tokens=inp.values,
            output_tokens=words(tokens, self.tokenizer),
            inp=inp,
        )
