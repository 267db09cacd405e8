"""Tokenizers in which a token is a character."""

from collections.abc import Callable

import pytest
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 \n.:,%°-{}<>|/_[]()"
MakeTokenizer = Callable[..., PreTrainedTokenizerFast]


def _make(
    *, bos: str | None = "<s>", eos: str | None = "</s>", template: str | None = None
) -> PreTrainedTokenizerFast:
    special = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    vocabulary = {token: number for number, token in enumerate([*special, *LETTERS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="_"))
    # The expression's "." does not match a newline, which is split off by itself.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split("\n", "isolated"), pre_tokenizers.Split(Regex("."), "isolated")]
    )
    if bos is not None:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, vocabulary[bos])]
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
