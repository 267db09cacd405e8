"""Rows under tokenizers of every kind: prompts as the tokenizer itself makes them, targets without extras."""

import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import ByT5Tokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from trainable.data.encoding import IGNORED, Encoded, RowEncoder
from trainable.data.examples import Example
from trainable.data.messages import with_role
from trainable.data.tokenized import shared_length

TEXTS = [
    "wind from the north, rain and snow",
    "High 12, low 9. Rain likely in the afternoon.",
    "question:   answer:\n\nthe wind\n\n\nthe rain",
    "  two  blanks ",
] * 10


def _byte_level(*, trim_offsets: bool = False) -> Tokenizer:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(
            vocab_size=420,
            special_tokens=["<s>", "</s>", "[MASK]", "<sop>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    if trim_offsets:
        backend.post_processor = processors.ByteLevel(trim_offsets=True)
    return backend


def _sentencepiece(prepend: str) -> Tokenizer:
    """Return a tokenizer that puts a blank before every text, as SentencePiece models do."""
    blanks = pre_tokenizers.Metaspace(prepend_scheme=prepend, split=False)
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = blanks
    special = ["<s>", "</s>", "<unk>"]
    trained.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=300, special_tokens=special, show_progress=False)
    )
    model = json.loads(trained.to_str())["model"]
    vocabulary = model["vocab"]
    for byte in range(256):
        vocabulary[f"<0x{byte:02X}>"] = len(vocabulary)
    merges = [tuple(merge) for merge in model["merges"]]
    backend = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True))
    backend.add_special_tokens(special)
    backend.pre_tokenizer = blanks
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", left=1),
        ]
    )
    return backend


def _with(backend: Tokenizer, single: str, *names: str) -> PreTrainedTokenizerFast:
    ids = [(name, backend.token_to_id(name)) for name in names]
    backend.post_processor = processors.TemplateProcessing(single=single, special_tokens=ids)
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")


def _prepending_normalizer() -> PreTrainedTokenizerFast:
    backend = _sentencepiece("never")
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.pre_tokenizer = None
    return _with(backend, "<s> $A", "<s>")


KINDS: dict[str, Callable[[], PreTrainedTokenizerBase]] = {
    "byte-level": lambda: PreTrainedTokenizerFast(
        tokenizer_object=_byte_level(), bos_token="<s>", eos_token="</s>"
    ),
    "byte-level with trimmed offsets": lambda: PreTrainedTokenizerFast(
        tokenizer_object=_byte_level(trim_offsets=True), bos_token="<s>", eos_token="</s>"
    ),
    "adds BOS": lambda: _with(_byte_level(), "<s> $A", "<s>"),
    "adds a prefix of two tokens": lambda: _with(_byte_level(), "[MASK] <sop> $A", "[MASK]", "<sop>"),
    "adds BOS and EOS": lambda: _with(_byte_level(), "<s> $A </s>", "<s>", "</s>"),
    "a blank before the first piece": lambda: _with(_sentencepiece("first"), "<s> $A", "<s>"),
    "a blank before every piece": lambda: _with(_sentencepiece("always"), "<s> $A", "<s>"),
    "a blank by the normalizer": _prepending_normalizer,
    "slow": ByT5Tokenizer,
}


@pytest.fixture(scope="module", params=KINDS)
def any_tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerBase:
    return KINDS[request.param]()


def _encode(tokenizer: PreTrainedTokenizerBase, example: Example, max_length: int = 1000) -> Encoded:
    encoder = RowEncoder(tokenizer, max_length)
    (encoded,) = encoder.encode([example], encoder.render([example], "rows.json"), "rows.json")
    return encoded


def _sent(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    """Return what a plain call makes of a prompt; an end token would end the text before the answer."""
    ids = tokenizer(prompt)["input_ids"]
    return ids[:-1] if ids[-1] == tokenizer.eos_token_id else ids


def _check(tokenizer: PreTrainedTokenizerBase, prompt: str, target: str) -> Encoded:
    encoded = _encode(tokenizer, Example(prompt, target))
    ids = encoded.ids.tolist()
    assert ids[: encoded.begin] == _sent(tokenizer, prompt)
    assert ids[-1] == tokenizer.eos_token_id
    assert encoded.labels.tolist() == [IGNORED] * encoded.begin + ids[encoded.begin :]
    assert tokenizer.decode(ids, skip_special_tokens=True) == prompt + target
    return encoded


PAIRS = [
    ("wind from the north\n", "High 12."),
    ("question:", " the wind"),
    ("question: ", "the wind"),
    ("question:  ", "the wind"),
    ("question:\n\n", "the wind"),
    ("question:\n\n", "\n\nthe wind"),
    ("question: ", "  the wind"),
    ("the win", "d and rain"),
    ("low 9", "12"),
    ("é", "́ü ☃"),
]


@pytest.mark.parametrize(("prompt", "target"), PAIRS)
def test_prompts_are_as_sent_and_targets_complete(
    any_tokenizer: PreTrainedTokenizerBase, prompt: str, target: str
) -> None:
    _check(any_tokenizer, prompt, target)


@given(
    prompt=st.text("ab 1\n.é", min_size=1, max_size=12).filter(str.strip),
    target=st.text("ab 1\n.é", min_size=1, max_size=12).filter(str.strip),
)
def test_any_boundary(any_tokenizer: PreTrainedTokenizerBase, prompt: str, target: str) -> None:
    if not prompt.startswith(" "):  # Decoding removes a blank that begins the text.
        _check(any_tokenizer, prompt, target)


@pytest.mark.parametrize(
    "kind", ["a blank before the first piece", "a blank before every piece", "a blank by the normalizer"]
)
@pytest.mark.parametrize("prompt", ["question:\n", "quest"])
def test_a_target_gets_no_blank_of_its_own(kind: str, prompt: str) -> None:
    tokenizer = KINDS[kind]()
    encoded = _encode(tokenizer, Example(prompt, "ion wind"))
    first = tokenizer.convert_ids_to_tokens(int(encoded.ids[encoded.begin]))
    assert not first.startswith("▁")
    alone = tokenizer("ion wind", add_special_tokens=False)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(alone[0]).startswith("▁")


def test_nothing_is_added_that_the_tokenizer_does_not_add() -> None:
    encoded = _encode(KINDS["byte-level"](), Example("wind", " rain"))
    assert encoded.ids[0] != 0
    assert encoded.ids[-1] == 1
    prefixed = _encode(KINDS["adds a prefix of two tokens"](), Example("wind", " rain"))
    assert prefixed.ids[:2].tolist() == [2, 3]
    assert prefixed.ids[2:].tolist() == encoded.ids.tolist()


def test_a_plain_text_gets_a_loss_on_every_token(any_tokenizer: PreTrainedTokenizerBase) -> None:
    encoded = _encode(any_tokenizer, Example("", "wind and rain"))
    ids = encoded.ids.tolist()
    ends = [] if any_tokenizer("a")["input_ids"][-1] == any_tokenizer.eos_token_id else [ids[-1]]
    assert ids == any_tokenizer("wind and rain")["input_ids"] + ends
    # Nothing predicts the first token; a prompt to generate from needs one.
    assert encoded.begin >= 1
    assert encoded.labels.tolist() == [IGNORED] * encoded.begin + ids[encoded.begin :]


CHAT = (
    "{% for m in messages %}[{{ m.role }}]\n{{ m.content }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]\n{% endif %}"
)


def test_chats_of_any_tokenizer(any_tokenizer: PreTrainedTokenizerBase) -> None:
    any_tokenizer.chat_template = CHAT
    messages = [
        with_role("user", "the wind?"),
        with_role("assistant", "north"),
        with_role("user", "and rain?"),
        with_role("assistant", "  likely"),
    ]
    try:
        encoded = _encode(any_tokenizer, Example("p", "  likely", tuple(messages)))
        asked = any_tokenizer.apply_chat_template(
            messages[:-1], add_generation_prompt=True, return_dict=False
        )
    finally:
        any_tokenizer.chat_template = None
    assert encoded.ids[: encoded.begin].tolist() == asked
    kept = encoded.labels != IGNORED
    trained = any_tokenizer.decode(encoded.ids[kept].tolist())
    assert [part.strip() for part in trained.split("</s>")] == ["north", "likely", ""]


@pytest.mark.parametrize(
    ("one", "other", "count"), [("abc", "abd", 2), ("", "x", 0), ("ab", "abc", 2), ("x", "y", 0)]
)
def test_shared_length(one: str, other: str, count: int) -> None:
    assert shared_length(one, other) == shared_length(list(other), list(one)) == count
