"""Tokenizers small enough to see through: a token is a character."""

from collections.abc import Callable

import pytest
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 \n.:,%°-{}<>|/_[]()"
MakeTokenizer = Callable[..., PreTrainedTokenizerFast]


def _make(
    *, bos: str | None = "<s>", eos: str | None = "</s>", template: str | None = None
) -> PreTrainedTokenizerFast:
    special = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    vocabulary = {token: number for number, token in enumerate([*special, *LETTERS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="_"))
    # A newline is no "." to the expression; it is split off by itself.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split("\n", "isolated"), pre_tokenizers.Split(Regex("."), "isolated")]
    )
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=bos, eos_token=eos)
    made.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    made.chat_template = template
    return made


@pytest.fixture(scope="session")
def make_tokenizer() -> MakeTokenizer:
    return _make


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return _make()
