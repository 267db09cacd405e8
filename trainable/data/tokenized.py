"""Tokenized text, and which of its tokens lie before or after a character.

Fast tokenizers report the characters of each token. For all others a boundary is found by tokenizing the
text before it, and counting the tokens that both have in common.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Tokenized:
    """The tokens of one text.

    Attributes:
        ids: `[T]` token ids, without special tokens added to the text.
    """

    def __init__(self, ids: list[int], text: str) -> None:
        self.ids = ids
        self._text = text

    def exact(self, place: int) -> int | None:
        """Return the number of tokens before a character; `None` if a token may reach across it."""
        raise NotImplementedError

    def first(self, place: int) -> int:
        """Return the first token that lies wholly at or after a character."""
        raise NotImplementedError

    def last(self, place: int) -> int:
        """Return the number of tokens that lie wholly before a character."""
        raise NotImplementedError


class _Fast(Tokenized):
    def __init__(self, ids: list[int], text: str, encoding: Any) -> None:
        super().__init__(ids, text)
        self._encoding = encoding

    def exact(self, place: int) -> int | None:
        if place == 0:
            return 0
        if place > 1 and self._text[place - 2 : place].isspace():
            # Many tokenizers split a run of blanks by whether it ends the text.
            return None
        # A tokenizer that leaves blanks out of its offsets does not say which token they belong to.
        before = self._encoding.char_to_token(place - 1)
        after = len(self.ids) if place == len(self._text) else self._encoding.char_to_token(place)
        return None if before is None or after is None or self._reaches_back(after, place) else after

    def first(self, place: int) -> int:
        after = self.last(place)
        return after + 1 if self._reaches_back(after, place) else after

    def last(self, place: int) -> int:
        for character in range(place, len(self._text)):
            token = self._encoding.char_to_token(character)
            if token is not None:
                return int(token)
        return len(self.ids)

    def _reaches_back(self, token: int, place: int) -> bool:
        """Whether a token begins before a character."""
        return token < len(self.ids) and self._encoding.token_to_chars(token)[0] < place


class _Slow(Tokenized):
    def __init__(self, ids: list[int], text: str, tokenizer: "PreTrainedTokenizerBase") -> None:
        super().__init__(ids, text)
        self._tokenizer = tokenizer

    def exact(self, place: int) -> int | None:
        before = self._before(place)
        count = shared_length(before, self.ids)
        return count if count == len(before) else None

    def first(self, place: int) -> int:
        exact = self.exact(place)
        return exact if exact is not None else self.last(place) + 1

    def last(self, place: int) -> int:
        return shared_length(self._before(place), self.ids)

    def _before(self, place: int) -> list[int]:
        if place >= len(self._text):
            return self.ids
        return list(self._tokenizer(self._text[:place], add_special_tokens=False, verbose=False)["input_ids"])


def shared_length(one: Sequence[Any], other: Sequence[Any]) -> int:
    """Return how many leading items two texts or lists have in common."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def tokenize(tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str]) -> list[Tokenized]:
    """Tokenize texts in one call, without adding special tokens."""
    found = tokenizer(
        list(texts),
        add_special_tokens=False,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    )
    ids = found["input_ids"]
    if found.encodings is None:
        return [_Slow(list(row), text, tokenizer) for row, text in zip(ids, texts, strict=True)]
    return [
        _Fast(row, text, encoding) for row, text, encoding in zip(ids, texts, found.encodings, strict=True)
    ]
