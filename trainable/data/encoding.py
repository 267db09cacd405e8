"""One example becomes token ids, and a label for each: the token itself where a loss falls, else -100.

The prompt's ids are what inference sends. For a plain row these are the ids that the tokenizer gives for
the prompt, with the special tokens that it adds itself; for a chat, those of `apply_chat_template` with the
generation prompt. Prompt and target are tokenized together, so that a target gets no space of its own from
tokenizers that begin every text with one. Only where a token would reach across the boundary are they
tokenized apart.

A plain row ends with the tokenizer's end token. A chat ends as its template ends it, and gets the end token
only if the template writes nothing after the last message.

A row of more than `max_length` tokens is truncated. Prompt and target are each sure of half of the room, and
what one leaves free the other may use. A prompt loses its middle, so that the instruction at its start and
the cue at its end stay. A target loses its end, and the end token with it: what is left of it is still true.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from trainable.data.chat import ChatRenderer, Rendered
from trainable.data.examples import Example
from trainable.data.tokenized import Tokenized, tokenize
from trainable.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100
"""The label of a token that no loss falls on."""

_ANCHORS = ("\n", ".", "a")
"""Texts to put before a target that is tokenized apart, so that it does not begin a text."""


@dataclass(frozen=True)
class Encoded:
    """The tokens of one row.

    Attributes:
        ids: `[T]` int32 token ids.
        labels: `[T]` int32, `ids` where a loss falls and -100 elsewhere.
        begin: where the last target begins in `ids`.
        truncated: whether the row was longer than allowed.
        reference: the last target, to compare generated text with.
    """

    ids: np.ndarray
    labels: np.ndarray
    begin: int
    truncated: bool
    reference: str


class RowEncoder:
    """Turns the examples of one file into tokens."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", max_length: int) -> None:
        """Prepare for rows of up to `max_length` tokens."""
        self._tokenizer = tokenizer
        self._max_length = max_length
        self._chats = ChatRenderer(tokenizer)
        self._prefix, suffix = _added_tokens(tokenizer)
        eos = tokenizer.eos_token_id
        self._end = suffix or ([] if eos is None else [eos])

    @property
    def notes(self) -> Counter[str]:
        """What a user should know about the rows so far, with the number of rows."""
        return self._chats.notes

    def render(self, examples: Sequence[Example], source: str) -> list[Rendered]:
        """Return the examples as text.

        Raises:
            DataError: the chat template cannot render a row.
        """
        return [self._render(example, f"{source}, row {example.row}") for example in examples]

    def encode(self, examples: Sequence[Example], rendered: Sequence[Rendered], source: str) -> list[Encoded]:
        """Tokenize rendered examples, in one call to the tokenizer.

        Raises:
            DataError: a target has no tokens.
        """
        tokens = tokenize(self._tokenizer, [row.text for row in rendered])
        return [
            self._encode(example, row, row_tokens, f"{source}, row {example.row}")
            for example, row, row_tokens in zip(examples, rendered, tokens, strict=True)
        ]

    def _render(self, example: Example, where: str) -> Rendered:
        if example.messages:
            return self._chats.render(example, where)
        begin, text = len(example.prompt), example.prompt + example.target
        return Rendered(text, begin, ((begin, len(text)),), example.target, is_ended=False)

    def _encode(self, example: Example, row: Rendered, tokens: Tokenized, where: str) -> Encoded:
        ids, labels, begin = self._labeled(row, tokens)
        if not example.messages or self._chats.is_plain:
            added = [] if ids[: len(self._prefix)] == self._prefix else self._prefix
            ids, labels, begin = [*added, *ids], [IGNORED] * len(added) + labels, begin + len(added)
        if not any(label not in (IGNORED, *self._end) for label in labels[begin:]):
            raise DataError(
                f"{where}: the target {example.target!r} has no tokens in this model's tokenizer or chat "
                "template. Change the row, or choose another model.name."
            )
        if not row.is_ended and self._end and ids[-len(self._end) :] != self._end:
            ids, labels = ids + self._end, labels + self._end
        if begin == 0:
            # Of a plain text, nothing predicts the first token; it is the prompt to generate from.
            begin, labels[0] = 1, IGNORED
        return _fit(
            np.array(ids, np.int32), np.array(labels, np.int32), begin, self._max_length, row.reference
        )

    def _labeled(self, row: Rendered, tokens: Tokenized) -> tuple[list[int], list[int], int]:
        """Return ids, labels, and where the last target begins."""
        begin = tokens.exact(row.begin)
        if begin is None:
            prompt = tokenize(self._tokenizer, [row.text[: row.begin]])[0]
            if tokens.ids[: len(prompt.ids)] != prompt.ids:
                return self._apart(row, prompt)
            begin = len(prompt.ids)
        ids, labels = tokens.ids, [IGNORED] * len(tokens.ids)
        for start, end in row.spans:
            first = begin if start == row.begin else tokens.first(start)
            last = tokens.last(end)
            labels[first:last] = ids[first:last]
        return ids, labels, begin

    def _apart(self, row: Rendered, prompt: Tokenized) -> tuple[list[int], list[int], int]:
        """Tokenize prompt and target apart, because a token would reach across their boundary."""
        target, skipped, shift = self._continuation(row.text[row.begin :])
        ids = prompt.ids + target.ids[skipped:]
        labels = [IGNORED] * len(ids)
        for start, end in row.spans:
            if start < row.begin:
                first, last = prompt.first(start), prompt.last(min(end, row.begin))
            else:
                moved = len(prompt.ids) - skipped
                first = skipped if start == row.begin else target.first(start - row.begin + shift)
                first += moved
                last = target.last(end - row.begin + shift) + moved
            labels[first:last] = ids[first:last]
        return ids, labels, len(prompt.ids)

    def _continuation(self, text: str) -> tuple[Tokenized, int, int]:
        """Tokenize a text that does not begin one; return the tokens and characters to skip as well."""
        for anchor in _ANCHORS:
            tokens = tokenize(self._tokenizer, [anchor + text])[0]
            if (skipped := tokens.exact(len(anchor))) is not None:
                return tokens, skipped, len(anchor)
        return tokenize(self._tokenizer, [text])[0], 0, 0


def _added_tokens(tokenizer: "PreTrainedTokenizerBase") -> tuple[list[int], list[int]]:
    """Return the special tokens that the tokenizer puts before and after a text."""
    bare: list[int] = tokenizer("a", add_special_tokens=False)["input_ids"]
    full: list[int] = tokenizer("a")["input_ids"]
    for start in range(len(full) - len(bare) + 1):
        if full[start : start + len(bare)] == bare:
            return full[:start], full[start + len(bare) :]
    return [], []


def _fit(ids: np.ndarray, labels: np.ndarray, begin: int, max_length: int, reference: str) -> Encoded:
    """Truncate a row to `max_length` tokens."""
    excess = len(ids) - max_length
    if excess <= 0:
        return Encoded(ids, labels, begin, False, reference)
    half = max_length // 2
    kept = min(begin, max(half, max_length - (len(ids) - begin)))
    head = (kept + 1) // 2
    keep = np.r_[0:head, begin - (kept - head) : begin, begin : begin + max_length - kept]
    if kept < begin:
        # The token after the gap follows one that never stood before it: no loss on it.
        labels[begin - (kept - head)] = IGNORED
    return Encoded(ids[keep], labels[keep], kept, True, reference)
