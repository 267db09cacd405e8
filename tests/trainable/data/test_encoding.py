"""Examples as tokens and labels: where the loss falls, and what is cut."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from trainable.data.encoding import IGNORED, Encoded, RowEncoder
from trainable.data.examples import Example
from trainable.data.messages import with_role
from trainable.errors import DataError

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MakeTokenizer = Callable[..., PreTrainedTokenizerFast]
CHAT = (
    with_role("user", "hi"),
    with_role("assistant", "yes"),
    with_role("user", "so"),
    with_role("assistant", "no"),
)


def _encode(example: Example, tokenizer: PreTrainedTokenizerFast, max_length: int = 512) -> Encoded:
    encoder = RowEncoder(tokenizer, max_length)
    (encoded,) = encoder.encode([example], encoder.render([example], "rows.json"), "rows.json")
    return encoded


def _text(ids: np.ndarray, tokenizer: PreTrainedTokenizerFast) -> str:
    return "".join(tokenizer.convert_ids_to_tokens(ids.tolist()))


def _spoken(encoded: Encoded, tokenizer: PreTrainedTokenizerFast) -> str:
    return _text(encoded.ids[encoded.labels != IGNORED], tokenizer)


def _row(prompt: str, target: str) -> Example:
    return Example(prompt, target, row=3)


def test_loss_falls_on_target_and_eos_alone(tokenizer: PreTrainedTokenizerFast) -> None:
    encoded = _encode(_row("abc", "xy"), tokenizer)
    assert _text(encoded.ids, tokenizer) == "<s>abcxy</s>"
    assert encoded.labels.tolist() == [IGNORED] * 4 + encoded.ids[4:].tolist()
    assert (encoded.begin, encoded.truncated) == (4, False)


@pytest.mark.parametrize(
    ("bos", "eos", "text"), [(None, "</s>", "abx</s>"), ("<s>", None, "<s>abx"), (None, None, "abx")]
)
def test_a_tokenizer_without_bos_or_eos_gets_none(
    make_tokenizer: MakeTokenizer, bos: str | None, eos: str | None, text: str
) -> None:
    tokenizer = make_tokenizer(bos=bos, eos=eos)
    encoded = _encode(_row("ab", "x"), tokenizer)
    assert _text(encoded.ids, tokenizer) == text
    assert encoded.begin == text.index("x") if bos is None else 3


def test_bos_and_eos_that_are_there_are_not_doubled(tokenizer: PreTrainedTokenizerFast) -> None:
    assert _text(_encode(_row("<s>ab", "x</s>"), tokenizer).ids, tokenizer) == "<s>abx</s>"


texts = st.text("abc XYZ\n", min_size=1, max_size=40)


@settings(max_examples=200, deadline=None)
@given(texts, texts, st.integers(8, 60))
def test_what_a_cut_row_keeps(
    tokenizer: PreTrainedTokenizerFast, prompt: str, target: str, max_length: int
) -> None:
    whole = _encode(_row(prompt, target), tokenizer, 1000)
    cut = _encode(_row(prompt, target), tokenizer, max_length)
    assert cut.truncated == (len(whole.ids) > max_length)
    assert len(cut.ids) == len(cut.labels) == min(len(whole.ids), max_length)
    # The target keeps its beginning: all of it, or at least half of the room.
    kept, spoken = cut.ids[cut.begin :], whole.ids[whole.begin :]
    assert kept.tolist() == spoken[: len(kept)].tolist()
    assert len(kept) >= min(len(spoken), max_length - max_length // 2)
    assert cut.labels[cut.begin :].tolist() == kept.tolist()
    # The prompt keeps BOS, its beginning and its end: all of it, or at least half of the room.
    assert cut.begin >= min(whole.begin, max_length // 2)
    head = (cut.begin + 1) // 2
    assert cut.ids[:head].tolist() == whole.ids[:head].tolist()
    assert (
        cut.ids[head : cut.begin].tolist() == whole.ids[whole.begin - cut.begin + head : whole.begin].tolist()
    )


def test_a_long_prompt_gives_way_to_the_target(tokenizer: PreTrainedTokenizerFast) -> None:
    encoded = _encode(_row("abcdefghijklmnopqrstuvwxyz", "123"), tokenizer, 12)
    assert _text(encoded.ids, tokenizer) == "<s>abcwxyz123</s>"
    assert _spoken(encoded, tokenizer) == "123</s>"


def test_a_long_target_loses_its_end_and_eos(tokenizer: PreTrainedTokenizerFast) -> None:
    encoded = _encode(_row("ab", "0123456789"), tokenizer, 8)
    assert _text(encoded.ids, tokenizer) == "<s>ab01234"


def test_a_target_without_tokens_is_reported_with_its_row(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(DataError, match=r"rows.json, row 3: the target '</s>' has no tokens"):
        _encode(_row("ab", "</s>"), tokenizer)


@pytest.mark.parametrize("template", [None, CHATML])
def test_every_assistant_turn_is_a_target(make_tokenizer: MakeTokenizer, template: str | None) -> None:
    eos = "</s>" if template is None else "<|im_end|>"
    tokenizer = make_tokenizer(bos=None, eos=eos, template=template)
    encoded = _encode(Example("user: hi", "no", CHAT), tokenizer)
    if template is None:
        assert _text(encoded.ids, tokenizer) == "user: hi\nassistant: yes</s>\nuser: so\nassistant: no</s>"
        assert _spoken(encoded, tokenizer) == " yes</s> no</s>"
    else:
        assert _text(encoded.ids, tokenizer) == tokenizer.apply_chat_template(list(CHAT), tokenize=False)
        assert _spoken(encoded, tokenizer) == "yes<|im_end|>\nno<|im_end|>\n"
    last = _text(encoded.ids[encoded.begin :], tokenizer)
    assert last.strip().startswith("no")


def test_the_prompt_of_a_chat_is_what_the_model_is_asked_with(make_tokenizer: MakeTokenizer) -> None:
    tokenizer = make_tokenizer(bos=None, eos="<|im_end|>", template=CHATML)
    encoded = _encode(Example("p", "no", CHAT), tokenizer)
    asked = tokenizer.apply_chat_template(list(CHAT[:3]), add_generation_prompt=True, tokenize=False)
    assert _text(encoded.ids[: encoded.begin], tokenizer) == asked


def test_no_loss_falls_on_the_token_after_a_gap(make_tokenizer: MakeTokenizer) -> None:
    tokenizer = make_tokenizer(bos=None)
    said = (
        with_role("user", "a"),
        with_role("assistant", "b" * 60),
        with_role("user", "c"),
        with_role("assistant", "d"),
    )
    encoded = _encode(Example("p", "d", said), tokenizer, 60)
    after = (encoded.begin + 1) // 2
    assert encoded.truncated
    assert encoded.labels[after] == IGNORED
    assert encoded.labels[after - 1] == encoded.ids[after - 1]
    assert encoded.labels[after + 1] == encoded.ids[after + 1]


def test_a_template_that_rewrites_earlier_turns_is_refused(make_tokenizer: MakeTokenizer) -> None:
    rewriting = "{% for m in messages %}{{ messages | length }}{{ m['content'] }}{% endfor %}"
    tokenizer = make_tokenizer(template=rewriting)
    with pytest.raises(DataError, match="row 1: the model's chat template renders earlier turns differently"):
        _encode(Example("p", "no", CHAT), tokenizer)


def test_a_template_that_refuses_a_chat_is_reported(make_tokenizer: MakeTokenizer) -> None:
    tokenizer = make_tokenizer(template="{{ raise_exception('no system turn, please') }}")
    with pytest.raises(DataError, match="refuses the messages: no system turn, please"):
        _encode(Example("p", "no", CHAT), tokenizer)
