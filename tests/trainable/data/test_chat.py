"""Chats under twenty-five templates: ids, prompts and loss masks; and what cannot be trained on."""

import re
import string
from typing import Any

import numpy as np
import pytest
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.trainable.data.chat_templates import BLOCKS, CALL, CASES, STRIPS_REASONING, TOOL_CHAT, Case, said
from trainable.data.encoding import IGNORED, Encoded, RowEncoder
from trainable.data.examples import Example
from trainable.data.messages import with_role
from trainable.errors import DataError

SPECIAL = [*sorted(set(re.findall(r"⟦[^⟧{]+⟧", str(CASES)))), "⟦system⟧", "⟦tool⟧"]


def _tokenizer(template: Any) -> PreTrainedTokenizerFast:
    """Return a tokenizer in which each character and each special token is a token."""
    vocabulary = {token: number for number, token in enumerate([*SPECIAL, *string.printable, "\x01"])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="⟦s⟧", eos_token="⟦e⟧")
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL})
    tokenizer.chat_template = template
    return tokenizer


def _example(messages: list[dict[str, Any]], tools: tuple[Any, ...] = ()) -> Example:
    last = messages[-1]
    return Example("p", str(last.get("content") or ""), tuple(messages), tools)


def _encode(encoder: RowEncoder, example: Example) -> Encoded:
    (encoded,) = encoder.encode([example], encoder.render([example], "rows.json"), "rows.json")
    return encoded


def _marked(encoded: Encoded, tokenizer: PreTrainedTokenizerFast) -> str:
    """Return the text of all tokens, with « and » around those that get a loss."""
    text, inside = "", False
    for token, label in zip(encoded.ids.tolist(), encoded.labels.tolist(), strict=True):
        if (label != IGNORED) != inside:
            text += "»" if inside else "«"
            inside = not inside
        text += tokenizer.convert_ids_to_tokens(token)
    return text + ("»" if inside else "")


def _messages(case: Case) -> list[dict[str, Any]]:
    """Return the messages as inference would send them to this template."""
    if "only in parts" in case.trait:
        return [m | {"content": [{"type": "text", "text": m["content"]}]} for m in case.messages]
    return case.messages


def _whole(case: Case, tokenizer: PreTrainedTokenizerFast, count: int | None = None) -> list[int]:
    """Return what transformers makes of the chat; with a count, of its beginning, to be continued."""
    return tokenizer.apply_chat_template(
        _messages(case)[:count],
        tools=list(case.tools) or None,
        add_generation_prompt=count is not None,
        return_dict=False,
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.trait)
def test_ids_and_loss_masks(case: Case) -> None:
    tokenizer = _tokenizer(case.template)
    encoder = RowEncoder(tokenizer, 512)
    encoded = _encode(encoder, _example(case.messages, case.tools))
    assert _marked(encoded, tokenizer) == case.expected
    assert [note for note in encoder.notes if note.startswith(case.notes or ("none",))] == list(encoder.notes)
    assert len(encoder.notes) == len(case.notes)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.trait)
def test_the_prompt_is_what_inference_sends(case: Case) -> None:
    tokenizer = _tokenizer(case.template)
    encoded = _encode(RowEncoder(tokenizer, 512), _example(case.messages, case.tools))
    assert encoded.ids[: encoded.begin].tolist() == _whole(case, tokenizer, len(case.messages) - 1)


# Transformers hands one template a tool call's arguments as an object, which that template refuses.
RENDERED = [case for case in CASES if not case.trait.startswith("joins a tool call's arguments")]


@pytest.mark.parametrize("case", RENDERED, ids=lambda case: case.trait)
def test_the_whole_chat_is_rendered_unchanged(case: Case) -> None:
    tokenizer = _tokenizer(case.template)
    encoded = _encode(RowEncoder(tokenizer, 512), _example(case.messages, case.tools))
    assert (encoded.ids.tolist() == _whole(case, tokenizer)) == case.equals_whole


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.trait)
def test_the_reference_is_what_a_perfect_generation_decodes_to(case: Case) -> None:
    tokenizer = _tokenizer(case.template)
    encoded = _encode(RowEncoder(tokenizer, 512), _example(case.messages, case.tools))
    tokens = [token for token in encoded.ids[encoded.begin :].tolist() if token >= len(SPECIAL)]
    assert "".join(tokenizer.convert_ids_to_tokens(tokens)).strip() == encoded.reference.strip()


def test_there_are_twenty_templates() -> None:
    assert len({str(case.template) for case in CASES}) >= 20


@pytest.mark.parametrize("weights", [(0, 1), (1, 0), (1, 1)])
@pytest.mark.parametrize("trait", ["blocks", "marks what is generated"])
def test_turns_of_weight_0_get_no_loss(trait: str, weights: tuple[int, int]) -> None:
    (case,) = [case for case in CASES if case.trait == trait]
    tokenizer = _tokenizer(case.template)
    turns = said("q1", "a1", "q2", "a2", "q3", "a3")
    messages = [turns[0], turns[1] | {"weight": weights[0]}, turns[2], turns[3] | {"weight": weights[1]}]
    marked = _marked(_encode(RowEncoder(tokenizer, 512), _example([*messages, *turns[4:]])), tokenizer)
    assert [("«a1" in marked), ("«a2" in marked), ("«a3" in marked)] == [*map(bool, weights), True]


def test_the_weight_is_not_shown_to_the_template() -> None:
    template = "{% for m in messages %}{{ m.weight is defined }}{{ m.content }}⟦/b⟧{% endfor %}"
    tokenizer = _tokenizer(template)
    messages = [with_role("user", "q"), with_role("assistant", "a") | {"weight": 1}]
    assert (
        _marked(_encode(RowEncoder(tokenizer, 512), _example(messages)), tokenizer)
        == "Falseq⟦/b⟧«Falsea⟦/b⟧»"
    )


def test_turns_after_the_last_question_keep_their_loss() -> None:
    tokenizer = _tokenizer(STRIPS_REASONING + "{% if add_generation_prompt %}⟦b⟧assistant\n{% endif %}")
    messages = [*said("q1", "a1", "q2", "a2"), with_role("tool", "t"), with_role("assistant", "a3")]
    marked = _marked(_encode(RowEncoder(tokenizer, 512), _example(messages)), tokenizer)
    assert re.findall("«[^»]*»", marked) == [
        f"«<think>\n\n</think>\n\n{answer}⟦/b⟧\n»" for answer in ("a2", "a3")
    ]


def test_template_options_reach_the_template() -> None:
    tokenizer = _tokenizer(BLOCKS + "{{ 'brief' if brief and add_generation_prompt else '' }}")
    example = Example("p", "a", tuple(said("q", "a")), template_options={"brief": True})
    encoded = _encode(RowEncoder(tokenizer, 512), example)
    assert _marked(encoded, tokenizer) == "⟦b⟧user\nq⟦/b⟧\n⟦b⟧assistant\nbrief«a⟦/b⟧\n»"


def test_a_chat_without_a_template_gets_the_tokenizers_own_special_tokens() -> None:
    tokenizer = _tokenizer(None)
    encoded = _encode(RowEncoder(tokenizer, 512), _example(said("q1", "a1", "q2", "a2")))
    assert _marked(encoded, tokenizer) == "user: q1\nassistant:« a1⟦e⟧»\nuser: q2\nassistant:« a2⟦e⟧»"


def test_a_chat_without_a_template_shows_tool_calls() -> None:
    tokenizer = _tokenizer(None)
    messages = [with_role("user", "q"), {"role": "assistant", "content": "", "tool_calls": [CALL]}]
    marked = _marked(_encode(RowEncoder(tokenizer, 512), _example(messages, ({"name": "wind"},))), tokenizer)
    assert marked.startswith('tools: [{"name": "wind"}]\nuser: q\nassistant:« [{"type": "function"')


@pytest.mark.parametrize(
    ("template", "messages", "message"),
    [
        (
            "{{ raise_exception('a system turn, please') }}",
            said("q", "a"),
            "refuses the messages: a system turn",
        ),
        ("{{ messages[0].content + 1 }}", said("q", "a"), "refuses the messages"),
        ({"rag": BLOCKS}, said("q", "a"), "templates have no default"),
        (BLOCKS, TOOL_CHAT, "has tool calls, which the model's chat template does not show"),
        (
            "{% for m in messages %}{{ m.content or m.tool_calls[1] }}{% endfor %}",
            TOOL_CHAT,
            "leaves out 'wind' of an assistant message",
        ),
        ("{% for m in messages %}{{ m.content | upper }}{% endfor %}", said("q", "a"), "leaves out 'a'"),
        (
            "{% for m in messages %}{{ messages | length }}{{ m.content }}{% endfor %}",
            said("q", "a"),
            "renders earlier turns differently once later ones follow",
        ),
        (
            "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}",
            [with_role("user", "q"), with_role("assistant", "a") | {"weight": 0}, *said("r", "b")],
            "so they cannot be matched",
        ),
    ],
)
def test_what_cannot_be_trained_on_is_refused(
    template: Any, messages: list[dict[str, Any]], message: str
) -> None:
    tokenizer = _tokenizer(template)
    with pytest.raises(DataError, match=f"rows.json, row 1.*{re.escape(message)}"):
        _encode(RowEncoder(tokenizer, 512), _example(messages))


def test_no_row_has_a_label_that_is_not_its_token() -> None:
    for case in CASES:
        encoded = _encode(RowEncoder(_tokenizer(case.template), 512), _example(case.messages, case.tools))
        kept = encoded.labels != IGNORED
        assert np.array_equal(encoded.labels[kept], encoded.ids[kept])
