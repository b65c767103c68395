"""What an attribution of a generated text returns."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastsal.explainers.text import _plots
from fastsal.explainers.text.image_input import ImageMaskInput
from fastsal.explainers.text.interpretable_input import InterpretableInput


class LLMAttributionResult:
    """How much the parts of a prompt matter to a text that follows it, and to each of its tokens.

    >>> found = fastsal.LLMAttributionResult(input_tokens=["a", "b"], output_tokens=["c"], seq_attr=[0.5, -1.0])
    >>> found.seq_attr_dict
    {'a': 0.5, 'b': -1.0}

    Args:
        input_tokens: the parts of the prompt.
        output_tokens: of the text.
        seq_attr: attributions of the whole text, [parts].
        token_attr: of each token, [tokens, parts]; None where the method gives none.
        output_probs: of the tokens, [tokens].
        inp: the prompt.

    Raises:
        ValueError: for shapes outside of the above, also when one is set later.
    """

    input_tokens: list[str]
    output_tokens: list[str]
    inp: InterpretableInput | None

    def __init__(
        self,
        *,
        input_tokens: list[str],
        output_tokens: list[str],
        seq_attr: Any,
        token_attr: Any = None,
        output_probs: Any = None,
        inp: InterpretableInput | None = None,
    ) -> None:
        self.input_tokens, self.output_tokens, self.inp = input_tokens, output_tokens, inp
        self.seq_attr = seq_attr
        self.token_attr = token_attr
        self.output_probs = output_probs

    def __repr__(self) -> str:
        return (
            f"LLMAttributionResult(input_tokens={self.input_tokens!r}, output_tokens={self.output_tokens!r}, "
            f"seq_attr={self.seq_attr!r}, token_attr={self.token_attr!r})"
        )

    @property
    def seq_attr(self) -> Tensor:
        """Attributions of the whole text, [parts]."""
        return self._seq_attr

    @seq_attr.setter
    def seq_attr(self, value: Any) -> None:
        self._seq_attr = _tensor("seq_attr", value, (len(self.input_tokens),))

    @property
    def token_attr(self) -> Tensor | None:
        """Attributions of each token, [tokens, parts], or None."""
        return self._token_attr

    @token_attr.setter
    def token_attr(self, value: Any) -> None:
        shape = (len(self.output_tokens), len(self.input_tokens))
        self._token_attr = None if value is None else _tensor("token_attr", value, shape)

    @property
    def output_probs(self) -> Tensor | None:
        """Probabilities of the tokens, [tokens], or None."""
        return self._output_probs

    @output_probs.setter
    def output_probs(self, value: Any) -> None:
        self._output_probs = None if value is None else _tensor("output_probs", value, (len(self.output_tokens),))

    @property
    def seq_attr_dict(self) -> dict[str, float]:
        """By part, the attribution of the whole text; of parts that read the same the last one's."""
        return dict(zip(self.input_tokens, self.seq_attr.tolist(), strict=True))

    def plot_seq_attr(self, show: bool = False) -> Any:
        """Bars of the parts' attributions of the whole text.

        Args:
            show: show the figure, and return None; otherwise it is returned.

        Returns:
            (figure, axes), or None.

        Raises:
            ImportError: without matplotlib.
        """
        return _plots.bars(self.seq_attr.detach().cpu().numpy(), self.input_tokens, show)

    def plot_token_attr(self, show: bool = False) -> Any:
        """A table of each token's attributions, coloured; arguments, result and errors as of :meth:`plot_seq_attr`.

        Raises:
            ValueError: without attributions of tokens.
        """
        if self.token_attr is None:
            raise ValueError("token_attr: there is none; plot_seq_attr draws that of the whole text")
        return _plots.table(self.token_attr.detach().cpu().numpy(), self.input_tokens, self.output_tokens, show)

    def plot_image_heatmap(
        self,
        show: bool = False,
        target_token_pos: int | tuple[int, int] | None = None,
        border_width: int = 2,
        show_legends: bool = True,
    ) -> Any:
        """The segments of a picture in the colours of their attributions, over the picture in grey.

        Args:
            show: show the figure, and return None; otherwise it is returned.
            target_token_pos: the token whose attributions are drawn; (first, end) for the sum of several; None for the
                whole text.
            border_width: of a line inside each segment, in pixels.
            show_legends: write each id in the middle of its segment.

        Returns:
            (figure, axes), or None.

        Raises:
            ImportError: without matplotlib.
            ValueError: for a prompt that is no :class:`ImageMaskInput`, or a token without attributions of tokens.
        """
        if not isinstance(self.inp, ImageMaskInput):
            raise ValueError(f"inp: {type(self.inp).__name__} is no picture; ImageMaskInput is")
        if target_token_pos is None:
            chosen = self.seq_attr
        elif self.token_attr is None:
            raise ValueError(
                "target_token_pos: there are no attributions of tokens; None draws those of the whole text"
            )
        elif isinstance(target_token_pos, int):
            chosen = self.token_attr[target_token_pos]
        else:
            chosen = self.token_attr[slice(*target_token_pos)].sum(0)
        picture = self.inp
        return _plots.heat(
            np.array(picture.image),
            picture.format_pixel_attr(chosen.detach()).cpu().numpy(),
            [each.cpu().numpy().astype(bool) for each in picture.get_mask_list()],
            [str(each) for each in picture.mask_id_to_idx],
            show,
            border_width,
            show_legends,
        )


def _tensor(name: str, value: Any, shape: tuple[int, ...]) -> Tensor:
    found = value if isinstance(value, Tensor) else torch.tensor(value)
    if tuple(found.shape) != shape:
        raise ValueError(f"{name}: shape {tuple(found.shape)} is not {shape}, by the tokens")
    return found
