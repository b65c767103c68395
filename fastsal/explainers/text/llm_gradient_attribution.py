"""Attributions of a generated text to its prompt's tokens, by a gradient method at a layer of the model."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from fastsal.engine.run import calling
from fastsal.explainers.layer.layer_gradient_shap import LayerGradientShap
from fastsal.explainers.layer.layer_gradient_x_activation import LayerGradientXActivation
from fastsal.explainers.layer.layer_integrated_gradients import LayerIntegratedGradients
from fastsal.explainers.text.continuation import Continuation
from fastsal.explainers.text.llm_attribution import BaseLLMAttribution
from fastsal.explainers.text.result import LLMAttributionResult
from fastsal.explainers.text.token_input import TextTokenInput
from fastsal.explainers.text.words import words


class LLMGradientAttribution(BaseLLMAttribution):
    """How much each token of a prompt matters to the text that a language model goes on with, by gradients.

    What is explained is the log probability of each of the text's tokens after the prompt and the tokens before it; the
    attributions of the layer's value at a token of the prompt are summed, and those of the whole text are the sum over
    its tokens. Costs what the method costs for each token of the text.

    >>> model, tokenizer = language_model()
    >>> method = fastsal.LayerIntegratedGradients(model, "embedding")
    >>> prompt = fastsal.TextTokenInput("a b c", tokenizer, skip_tokens=["<s>"])
    >>> fastsal.LLMGradientAttribution(method, tokenizer).attribute(prompt, "d e").token_attr.shape
    torch.Size([2, 3])

    Args:
        attr_method: LayerIntegratedGradients, LayerGradientXActivation or LayerGradientShap of the model, at a layer
            with a value [rows, tokens, ...] such as its embedding.
        tokenizer: the model's, as of transformers.

    Raises:
        TypeError: for another method, or a method of a function.
    """

    SUPPORTED_METHODS = (LayerGradientShap, LayerGradientXActivation, LayerIntegratedGradients)
    SUPPORTED_INPUTS = (TextTokenInput,)
    needs = (*BaseLLMAttribution.needs, "inp_tensor", "itp_mask")

    def attribute(
        self,
        inp: TextTokenInput,
        target: str | Tensor | None = None,
        gen_args: dict[str, Any] | None = None,
        *,
        skip_tokens: list[int] | list[str] | None = None,
        **kwargs: Any,
    ) -> LLMAttributionResult:
        """Attributions of the text to the tokens of the prompt.

        Args:
            inp: the prompt.
            target: the text, or its tokens' ids [T]; None lets the model generate it.
            gen_args: of ``model.generate``; None takes 25 tokens at most, greedily.
            skip_tokens: of the text, or their ids, that are left out.
            **kwargs: of the method's ``attribute``; baselines are of the indicators, 1 where a token is there.

        Raises:
            TypeError, ValueError: for arguments outside of the above, and as of the method.
        """
        tokens = self.target_tokens(inp, target, gen_args, skip_tokens)
        continuation = Continuation(self.model, tokens.to(self.device))
        found = [self._of_token(inp, continuation, place, kwargs) for place in range(len(tokens))]
        each = torch.cat(found)
        if inp.itp_mask is not None:
            each = each[:, inp.itp_mask[0].to(each.device)]
        return LLMAttributionResult(
            seq_attr=each.sum(0),
            token_attr=each,
            input_tokens=inp.values,
            output_tokens=words(tokens, self.tokenizer),
            inp=inp,
        )

    def _of_token(self, inp: TextTokenInput, continuation: Continuation, place: int, options: dict[str, Any]) -> Tensor:
        """[1, tokens of the prompt]."""

        @calling(self.model)
        def scored(indicators: Tensor) -> Tensor:
            return continuation.next_log_probability(inp.to_model_input(indicators), place)

        method: Any = copy.copy(self.attr_method)
        method.forward_func = scored
        # In floating point, for methods with points between there and not there.
        attribution = method.attribute(inp.to_tensor().to(self.device, torch.float32), **options)
        if not isinstance(attribution, Tensor) or attribution.dim() < 2:
            kind = tuple(attribution.shape) if isinstance(attribution, Tensor) else type(attribution).__name__
            raise ValueError(
                f"attr_method: at its layer an attribution is {kind}, not [rows, tokens, ...]; choose another"
            )
        # Behind the prompt stand the text's tokens, which are the same at the baseline.
        kept = attribution[:, : inp.inp_tensor.shape[1]]
        return kept.detach().flatten(2).sum(2) if kept.dim() > 2 else kept.detach()
