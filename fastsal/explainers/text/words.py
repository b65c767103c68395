"""What tokens read, for people."""

from __future__ import annotations

from typing import Any

from torch import Tensor

OVERLAP = " [OVERLAP]"
"""After a token that is a part of a character that the one before it has begun."""
UNKNOWN = "\N{REPLACEMENT CHARACTER}"
LONGEST = 8
"""Tokens that a character may be split into."""


def words(ids: Tensor, tokenizer: Any) -> list[str]:
    """What each of the tokens [T] reads: its piece of the decoded text, without spaces around and with a written
    ``\\n`` for each line break.

    The pieces are where the tokenizer says that its tokens are in the text; where it does not, or makes other tokens of
    it, each token is decoded by itself, and with the next ones where it is a part of a character.
    """
    given = ids.tolist()
    pieces = _by_offsets(given, tokenizer.decode(ids), tokenizer)
    return _one_by_one(ids, given, tokenizer) if pieces is None else pieces


def _by_offsets(ids: list[int], text: str, tokenizer: Any) -> list[str] | None:
    try:
        found = tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)
    except (NotImplementedError, TypeError, ValueError):  # a tokenizer without offsets
        return None
    spans = [tuple(span) for span in found["offset_mapping"]]
    pieces: list[str] = []
    before = -1
    for place, (token, (start, end)) in enumerate(zip(found["input_ids"], spans, strict=True)):
        if len(pieces) == len(ids) or token != ids[len(pieces)]:
            continue  # one more than was decoded, as of a space at the beginning
        if start == end:  # some give a space's token no place: up to the next
            end = spans[place + 1][0] if place + 1 < len(spans) else len(text)
        pieces.append(_shown(text[start:end]) + (OVERLAP if before > start else ""))
        before = end
    return pieces if len(pieces) == len(ids) else None


def _one_by_one(ids: Tensor, given: list[int], tokenizer: Any) -> list[str]:
    pieces: list[str] = []
    while len(pieces) < len(given):
        at = len(pieces)
        taken, text = 1, tokenizer.decode(ids[at : at + 1])
        if UNKNOWN in text:
            for count in range(2, min(LONGEST, len(given) - at) + 1):
                longer = tokenizer.decode(ids[at : at + count])
                if UNKNOWN not in longer:
                    taken, text = count, longer
                    break
        pieces += [_shown(text), *[_shown(text) + OVERLAP] * (taken - 1)]
    return pieces


def _shown(piece: str) -> str:
    return piece.replace("\n", "\\n").strip()
