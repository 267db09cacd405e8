"""One example becomes token ids, and a label for each: the token itself where a loss falls, else -100.

A row is `[BOS] prompt target [EOS]`, with labels on target and EOS alone. Prompt and target are tokenised
apart, so the boundary between them is exact and the same when the model is asked. Of a chat, every assistant
turn is a target.

A row of more than `max_length` tokens is cut. Prompt and target are each sure of half of the room, and what
one leaves free the other may use. A prompt loses its middle, so that BOS, the instruction at its start and
the cue at its end stay. A target loses its end and EOS with it: what is left of it is still true.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from jinja2 import TemplateError

from trainable.data.examples import Example, Turn
from trainable.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

IGNORED = -100
"""The label of a token that no loss falls on."""

PLAIN_CHAT = (
    "{% for message in messages %}{{ '' if loop.first else '\n' }}"
    "{{ message['role'] }}: {{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{{ '\nassistant:' if add_generation_prompt else '' }}"
)
"""The chat template of a tokenizer that has none: a line `role: content` for each turn."""


@dataclass(frozen=True)
class Piece:
    """A stretch of a row's text, and whether a loss falls on it."""

    text: str
    spoken: bool


@dataclass(frozen=True)
class Encoded:
    """The tokens of one row.

    Attributes:
        ids: `[T]` int32 token ids.
        labels: `[T]` int32, `ids` where a loss falls and -100 elsewhere.
        begin: where the last target begins in `ids`.
        cut: whether the row was longer than it may be.
    """

    ids: np.ndarray
    labels: np.ndarray
    begin: int
    cut: bool


def encode(
    examples: Sequence[Example], tokenizer: "PreTrainedTokenizerFast", max_length: int, source: str
) -> Iterator[Encoded]:
    """Tokenise examples, in one call to the tokenizer.

    Args:
        examples: rows of one file.
        tokenizer: its chat template is used for chats, if it has one.
        max_length: tokens a row may have.
        source: the file's name, for errors.

    Raises:
        DataError: a target has no tokens, or the chat template cannot render a row.
    """
    rows = [_pieces(example, tokenizer, f"{source}, row {example.row}") for example in examples]
    texts = [piece.text for pieces in rows for piece in pieces]
    tokens = iter(tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"])
    for example, pieces in zip(examples, rows, strict=True):
        ids, labels, begin = _join([(next(tokens), piece.spoken) for piece in pieces], tokenizer)
        if begin == len(ids) or labels[begin] == tokenizer.eos_token_id:
            raise DataError(
                f"{source}, row {example.row}: the target {example.target!r} has no tokens in this "
                "model's tokenizer. Mend the row, or choose another model.name."
            )
        yield _fit(np.array(ids, np.int32), np.array(labels, np.int32), begin, max_length)


def _pieces(example: Example, tokenizer: "PreTrainedTokenizerFast", where: str) -> list[Piece]:
    if example.turns:
        return _chat_pieces(example.turns, tokenizer, where)
    return [Piece(example.prompt, False), Piece(example.target, True)]


def _chat_pieces(turns: Sequence[Turn], tokenizer: "PreTrainedTokenizerFast", where: str) -> list[Piece]:
    """Split a rendered chat at the beginning and end of each assistant turn."""
    messages = [{"role": turn.role, "content": turn.content} for turn in turns]
    template = tokenizer.chat_template or PLAIN_CHAT

    def render(count: int, ask: bool) -> str:
        try:
            return str(
                tokenizer.apply_chat_template(
                    messages[:count], chat_template=template, tokenize=False, add_generation_prompt=ask
                )
            )
        except TemplateError as error:
            raise DataError(f"{where}: the model's chat template refuses the messages: {error}.") from None

    texts = [""]
    for place, turn in enumerate(turns):
        if turn.role == "assistant":
            texts += [render(place, True), render(place + 1, False)]
    if any(not longer.startswith(shorter) for shorter, longer in pairwise(texts)):
        raise DataError(
            f"{where}: the model's chat template renders earlier turns differently once later ones follow, "
            "so their targets cannot be told apart. Make each row end with its only assistant message."
        )
    cuts = [longer[len(shorter) :] for shorter, longer in pairwise(texts)]
    return [Piece(text, place % 2 == 1) for place, text in enumerate(cuts)]


def _join(
    parts: Sequence[tuple[list[int], bool]], tokenizer: "PreTrainedTokenizerFast"
) -> tuple[list[int], list[int], int]:
    """Return ids, labels, and where the last part begins; BOS and EOS are added unless they are there."""
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    first = parts[0][0]
    ids: list[int] = [bos] if bos is not None and first[:1] != [bos] else []
    labels = [IGNORED] * len(ids)
    begin = 0
    for tokens, spoken in parts:
        begin = len(ids)
        ids += tokens
        labels += tokens if spoken else [IGNORED] * len(tokens)
    if eos is not None and eos not in ids[begin:]:
        ids.append(eos)
        labels.append(eos)
    return ids, labels, begin


def _fit(ids: np.ndarray, labels: np.ndarray, begin: int, max_length: int) -> Encoded:
    """Cut a row to `max_length` tokens."""
    excess = len(ids) - max_length
    if excess <= 0:
        return Encoded(ids, labels, begin, cut=False)
    half = max_length // 2
    kept = min(begin, max(half, max_length - (len(ids) - begin)))
    head = (kept + 1) // 2
    keep = np.r_[0:head, begin - (kept - head) : begin, begin : begin + max_length - kept]
    labels = labels.copy()
    if kept < begin:
        # The token after the gap follows on one that never stood before it: no loss on it.
        labels[begin - (kept - head)] = IGNORED
    return Encoded(ids[keep], labels[keep], kept, cut=True)
