"""Rows as examples: every form, what is said of rows of no form, and which columns are not read."""

import json
from pathlib import Path
from typing import Any

import pytest

from trainable.config import DataConfig
from trainable.data.examples import Example, Survey, read_examples
from trainable.data.messages import with_role
from trainable.data.sources import Files
from trainable.errors import DataError

TEMPLATE = "Report: {input}\nForecast:"

CALL = {"type": "function", "function": {"name": "wind", "arguments": {"place": "Bergen"}}}
TOOL = {"type": "function", "function": {"name": "wind", "parameters": {"type": "object"}}}


def _all(
    tmp_path: Path, rows: list[Any], columns: dict[str, str] | None = None, survey: Survey | None = None
) -> list[Example]:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    return list(read_examples(Files((path,)), TEMPLATE, columns, survey))


def _one(tmp_path: Path, row: Any, columns: dict[str, str] | None = None) -> Example:
    return _all(tmp_path, [row], columns)[0]


def _said(*turns: tuple[str, str]) -> list[dict[str, str]]:
    return [with_role(role, content) for role, content in turns]


def test_braces_in_input_and_template_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text('[{"input": "{a} {input} {0}", "target": "x"}]', encoding="utf-8")
    (example,) = read_examples(Files((path,)), "{input} {b}")
    assert example.prompt == "{a} {input} {0} {b}"


PLAIN = [
    ({"prompt": "p", "response": "r", "id": 1}, "p", "r", ["id"]),
    ({"prompt": "p", "completion": "c"}, "p", "c", []),
    ({"prompt": "p", "response": "r", "input": "i"}, "p", "r", ["input"]),
    ({"input": "i", "target": "t"}, "Report: i\nForecast:", "t", []),
    (
        {"input": "i", "target": "t", "prompt": "p", "response": "r", "location": "Bergen"},
        "p",
        "r",
        ["input", "target", "location"],
    ),
    ({"instruction": "i", "input": "", "output": "o"}, "Report: i\nForecast:", "o", []),
    ({"instruction": "i", "input": "x", "output": "o"}, "Report: i\n\nx\nForecast:", "o", []),
    (
        {"instruction": "i", "input": "x", "output": "o", "text": "ixo"},
        "Report: i\n\nx\nForecast:",
        "o",
        ["text"],
    ),
    (
        {"instruction": "i", "context": "c", "response": "r", "category": "qa"},
        "Report: i\n\nc\nForecast:",
        "r",
        ["category"],
    ),
    ({"question": "q", "answer": "a"}, "Report: q\nForecast:", "a", []),
    ({"question": "q", "response": "a", "id": 3}, "Report: q\nForecast:", "a", ["id"]),
    ({"text": "whole"}, "", "whole", []),
    ({"text": "whole", "meta": {}}, "", "whole", ["meta"]),
    ({"prompt": "p", "chosen": "good", "rejected": "bad", "score": 1}, "p", "good", ["score"]),
    (
        {"chosen": "\n\nHuman: hi\n\nAssistant: good", "rejected": "\n\nHuman: hi\n\nAssistant: bad"},
        "\n\nHuman: hi\n\nAssistant:",
        " good",
        [],
    ),
]


@pytest.mark.parametrize(("row", "prompt", "target", "unread"), PLAIN)
def test_plain_rows(tmp_path: Path, row: Any, prompt: str, target: str, unread: list[str]) -> None:
    survey = Survey()
    (example,) = _all(tmp_path, [row], survey=survey)
    assert (example.prompt, example.target, example.messages) == (prompt, target, ())
    assert list(survey.unread) == unread


ASKED = _said(("user", "q"))
CHATS = [
    {"messages": _said(("user", "q"), ("assistant", "a"))},
    {"messages": json.dumps(_said(("user", "q"), ("assistant", "a")))},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "q"}]}, with_role("assistant", "a")]},
    {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
    {"conversations": _said(("user", "q"), ("assistant", "a"))},
    {"prompt": ASKED, "completion": _said(("assistant", "a"))},
    {"prompt": ASKED, "response": "a"},
    {"prompt": "q", "completion": _said(("assistant", "a"))},
    {"prompt": ASKED, "chosen": _said(("assistant", "a")), "rejected": _said(("assistant", "b"))},
    {"prompt": "q", "chosen": _said(("assistant", "a")), "rejected": _said(("assistant", "b"))},
    {"prompt": "q", "chosen": [*ASKED, with_role("assistant", "a")], "rejected": [*ASKED]},
    {"prompt": ASKED, "chosen": "a", "rejected": "b"},
    {"chosen": [*ASKED, with_role("assistant", "a")], "rejected": [*ASKED, with_role("assistant", "b")]},
]


@pytest.mark.parametrize("row", CHATS)
def test_chats_of_every_form_are_the_same_chat(tmp_path: Path, row: Any) -> None:
    example = _one(tmp_path, row)
    assert list(example.messages) == _said(("user", "q"), ("assistant", "a"))
    assert (example.prompt, example.target) == ("user: q", "a")


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "q", "response": "a", "system": "S"},
        {"instruction": "q", "output": "a", "system": "S"},
        {"system_prompt": "S", "question": "q", "response": "a"},
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}], "system": "S"},
    ],
)
def test_a_system_prompt_makes_a_chat(tmp_path: Path, row: Any) -> None:
    roles = [(message["role"], message["content"]) for message in _one(tmp_path, row).messages]
    asked = roles[1][1]
    assert roles == [("system", "S"), ("user", asked), ("assistant", "a")]
    assert asked in ("q", "Report: q\nForecast:")


def test_a_chat_ends_with_its_last_assistant_turn(tmp_path: Path) -> None:
    said = _said(
        ("system", "S"),
        ("user", "U"),
        ("assistant", "A"),
        ("user", "V"),
        ("assistant", "B"),
        ("user", "W"),
    )
    survey = Survey()
    (example,) = _all(tmp_path, [{"messages": said, "id": 7}], survey=survey)
    assert example.prompt == "system: S\nuser: U\nassistant: A\nuser: V"
    assert example.target == "B"
    assert example.messages == tuple(said[:5])
    assert list(survey.unread) == ["id"]


def test_whole_messages_and_tools_are_kept(tmp_path: Path) -> None:
    messages = [
        {"role": "user", "content": "wind?", "name": "Ada"},
        {"role": "assistant", "content": None, "tool_calls": [CALL], "reasoning_content": "look it up"},
        {"role": "tool", "content": "9 kt", "tool_call_id": "1", "name": "wind"},
        {"role": "assistant", "content": "9 knots", "reasoning_content": "done", "weight": 1},
    ]
    example = _one(tmp_path, {"messages": messages, "tools": [TOOL], "chat_template_kwargs": {"brief": True}})
    assert [{key: m[key] for key in m if m[key] is not None} for m in messages] == list(example.messages)
    assert example.tools == (TOOL,)
    assert example.template_options == {"brief": True}
    assert json.loads(example.prompt.splitlines()[1].removeprefix("assistant: ")) == [CALL]


def test_arguments_and_tools_may_be_json_text(tmp_path: Path) -> None:
    call = {"type": "function", "function": {"name": "wind", "arguments": '{"place": "Bergen"}'}}
    messages = [with_role("user", "wind?"), {"role": "assistant", "content": "", "tool_calls": [call]}]
    example = _one(tmp_path, {"messages": messages, "tools": json.dumps([TOOL])})
    assert example.messages[1]["tool_calls"] == [CALL]
    assert example.tools == (TOOL,)


def test_sharegpt_tool_calls(tmp_path: Path) -> None:
    row = {
        "conversations": [
            {"from": "human", "value": "wind?"},
            {"from": "function_call", "value": '{"name": "wind", "arguments": {"place": "Bergen"}}'},
            {"from": "observation", "value": "9 kt"},
            {"from": "gpt", "value": "9 knots", "weight": 1},
        ],
        "tools": json.dumps([TOOL["function"]]),
    }
    example = _one(tmp_path, row)
    assert [message["role"] for message in example.messages] == ["user", "assistant", "tool", "assistant"]
    assert example.messages[1]["tool_calls"] == [CALL]
    assert example.messages[3] == {"role": "assistant", "content": "9 knots", "weight": 1}
    assert example.tools == (TOOL,)


def test_a_prompts_own_assistant_turns_get_no_loss(tmp_path: Path) -> None:
    before = _said(("user", "q"), ("assistant", "earlier"), ("user", "r"))
    for row in (
        {"prompt": before, "completion": _said(("assistant", "a"))},
        {
            "chosen": [*before, with_role("assistant", "a")],
            "rejected": [*before, with_role("assistant", "b")],
        },
    ):
        weights = [message.get("weight", 1) for message in _one(tmp_path, row).messages]
        assert weights == [1, 0, 1, 1]


def test_a_chat_ends_with_the_last_turn_that_has_weight(tmp_path: Path) -> None:
    said = [
        *_said(("user", "q"), ("assistant", "a"), ("user", "r")),
        with_role("assistant", "b") | {"weight": 0},
    ]
    example = _one(tmp_path, {"messages": said})
    assert (example.target, len(example.messages)) == ("a", 2)


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"prompt": "frage", "response": "antwort"}, ("f", "a", 0)),
        ({"input": "frage", "target": "antwort"}, ("Report: f\nForecast:", "a", 0)),
        ({"prompt": "frage", "response": "antwort", "system": "rolle"}, ("system: S\nuser: f", "a", 3)),
        ({"text": "antwort"}, ("", "a", 0)),
        ({"messages": "verlauf"}, ("user: q", "z", 2)),
    ],
)
def test_columns_can_be_named(
    tmp_path: Path, columns: dict[str, str], expected: tuple[str, str, int]
) -> None:
    row = {
        "frage": "f",
        "antwort": "a",
        "rolle": "S",
        "prompt": "not this",
        "response": "nor this",
        "verlauf": _said(("user", "q"), ("assistant", "z")),
    }
    survey = Survey()
    (example,) = _all(tmp_path, [row], columns, survey)
    assert (example.prompt, example.target, len(example.messages)) == expected
    assert list(survey.unread) == [column for column in row if column not in columns.values()]


def test_a_named_column_that_is_missing_is_reported(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"row 1 has no column 'frge', which data.columns names as its prompt"
    ):
        _one(tmp_path, {"frage": "f", "antwort": "a"}, {"prompt": "frge", "response": "antwort"})


def test_columns_must_be_a_form() -> None:
    with pytest.raises(ValueError, match="must name prompt and response"):
        DataConfig(columns={"prompt": "frage"})


def test_a_survey_says_once_what_was_read(tmp_path: Path) -> None:
    survey = Survey()
    rows = [
        {"prompt": "a", "response": "b", "id": 1},
        {"prompt": "a", "response": "b", "source": "x"},
        {"text": "t"},
    ]
    _all(tmp_path, rows, survey=survey)
    assert survey.notes() == [
        "2 rows read as {prompt, response}, 1 row read as {text}",
        "columns not read: id, source",
    ]


def test_rows_are_numbered_as_in_their_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('\n{"prompt": "a", "response": "b"}\n\n{"prompt": "c"}\n', encoding="utf-8")
    rows = read_examples(Files((path,)), TEMPLATE)
    assert next(rows).row == 2
    with pytest.raises(DataError, match=r"rows.jsonl, row 4 has 'prompt' but no target"):
        next(rows)


@pytest.mark.parametrize("content", ["", "[]", "\n\n"])
def test_a_file_without_rows_is_reported(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(content)
    with pytest.raises(DataError, match=r"a\.jsonl holds no rows"):
        list(read_examples(Files((path,)), TEMPLATE))


def _chat(*messages: Any) -> dict[str, Any]:
    return {"messages": list(messages)}


USER = with_role("user", "x")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([1], "row 1 is an array, not an object. Allowed: {input, target}"),
        ("x", "row 1 is a string"),
        (None, "row 1 is null"),
        ({}, "has no prompt and target: its keys are none"),
        ({"body": "x"}, "its keys are body. Allowed: {input, target}"),
        ({"input": "x"}, "has 'input' but no target"),
        ({"input": "x", "targets": "y"}, "Did you mean 'targets'?"),
        ({"input": "x", "target": None}, "'target' is null; it must be text"),
        ({"input": "x", "target": " \n"}, "'target' is blank"),
        ({"input": "", "target": "y"}, "'input' is blank"),
        ({"prompt": " ", "response": "y"}, "'prompt' is blank"),
        ({"prompt": 5, "response": "y"}, "'prompt' is a number; it must be text"),
        ({"prompt": "x", "response": True}, "'response' is a boolean"),
        ({"text": ""}, "'text' is blank"),
        ({"instruction": "x", "input": 3, "output": "y"}, "'input' is a number; it must be text"),
        ({"messages": []}, "'messages' is []; it must be a list"),
        ({"messages": "hi"}, "'messages' is 'hi'"),
        ({"messages": ["hi"]}, "message 1 is a string; it must be an object"),
        (_chat({"role": "user"}), "message 1: 'content' is null"),
        (_chat({"role": 3, "content": "x"}), "message 1: 'role' is a number"),
        (_chat(USER, with_role("assistant", " ")), "message 2: 'content' is blank"),
        (_chat(USER), "no message has the role 'assistant' (roles: user)"),
        (_chat(USER, with_role("assistant", "x") | {"weight": 0}), "every assistant message has weight 0"),
        (_chat(USER, with_role("assistant", "x") | {"weight": 0.5}), "'weight' is 0.5; it must be 0"),
        (_chat(with_role("assistant", "x")), "has no prompt"),
        (_chat(with_role("user", [{"type": "image_url"}])), "a part of type 'image_url'"),
        (_chat(USER, {"role": "assistant", "tool_calls": "wind()"}), "'tool_calls' must be a list"),
        (_chat(USER, with_role("assistant", "x")) | {"tools": "wind"}, "'tools' is a string"),
        (
            _chat(USER, with_role("assistant", "x")) | {"chat_template_kwargs": 1},
            "'chat_template_kwargs' is a number",
        ),
        ({"conversations": [{"from": "cat", "value": "x"}]}, "'from' is 'cat'. Allowed: human"),
        ({"conversations": [{"from": "function_call", "value": "wind"}]}, "must be JSON with 'name'"),
        ({"chosen": "just text", "rejected": "x"}, "'chosen' has no 'prompt' beside it"),
    ],
)
def test_bad_rows_are_reported(tmp_path: Path, row: Any, message: str) -> None:
    with pytest.raises(DataError) as raised:
        _one(tmp_path, row)
    assert message in str(raised.value)
    assert str(raised.value).startswith(f"{tmp_path / 'rows.json'}, row 1")
