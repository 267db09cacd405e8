"""Reading data files: every allowed form, and what is said of every other."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainable.data.examples import Turn, read_examples
from trainable.errors import DataError

TEMPLATE = "Report: {input}\nForecast:"
ROWS = [{"input": f"temp {n}", "target": f"High {n}."} for n in range(3)]

Write = Callable[[Path, list[dict[str, Any]]], None]


def _gzipped(write: Write) -> Write:
    def written(path: Path, rows: list[dict[str, Any]]) -> None:
        write(path, rows)
        path.write_bytes(gzip.compress(path.read_bytes()))

    return written


def _array(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text(json.dumps(rows), encoding="utf-8")


def _lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")


def _parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    pq.write_table(pa.Table.from_pylist(rows), path)


FORMATS = {
    "a.json": _array,
    "a.jsonl": _lines,
    "a.b.ndjson": _lines,
    "a.JSON": _array,
    "a.json.gz": _gzipped(_array),
    "a.jsonl.gz": _gzipped(_lines),
    "a.parquet": _parquet,
}


def _one(tmp_path: Path, row: Any) -> Any:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([row]), encoding="utf-8")
    return read_examples(path, TEMPLATE)[0]


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_holds_the_same_rows(tmp_path: Path, name: str) -> None:
    FORMATS[name](tmp_path / name, ROWS)
    examples = read_examples(tmp_path / name, TEMPLATE)
    assert [(e.prompt, e.target, e.row) for e in examples] == [
        (f"Report: temp {n}\nForecast:", f"High {n}.", n + 1) for n in range(3)
    ]


@given(st.text(min_size=1).filter(str.strip), st.text(min_size=1).filter(str.strip))
def test_any_text_survives_json_lines_and_the_template(
    tmp_path_factory: pytest.TempPathFactory, source: str, target: str
) -> None:
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    path.write_text(json.dumps({"input": source, "target": target}), encoding="utf-8")
    (example,) = read_examples(path, TEMPLATE)
    assert (example.prompt, example.target) == (f"Report: {source}\nForecast:", target)


def test_line_separators_inside_a_string_do_not_end_a_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "a\u2028b", "response": "c\x85d"}', encoding="utf-8")
    assert read_examples(path, TEMPLATE)[0].prompt == "a\u2028b"


def test_braces_in_input_and_template_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text('[{"input": "{a} {input} {0}", "target": "x"}]', encoding="utf-8")
    assert read_examples(path, "{input} {b}")[0].prompt == "{a} {input} {0} {b}"


@pytest.mark.parametrize(
    ("row", "prompt", "target", "fields"),
    [
        ({"prompt": "p", "response": "r", "id": 1}, "p", "r", {"id": 1}),
        ({"prompt": "p", "completion": "c"}, "p", "c", {}),
        ({"prompt": "p", "response": "r", "input": "i"}, "p", "r", {"input": "i"}),
        (
            {"input": "i", "target": "t", "prompt": "p", "response": "r", "location": "Bergen"},
            "Report: i\nForecast:",
            "t",
            {"prompt": "p", "response": "r", "location": "Bergen"},
        ),
    ],
)
def test_row_forms(tmp_path: Path, row: Any, prompt: str, target: str, fields: Any) -> None:
    example = _one(tmp_path, row)
    assert (example.prompt, example.target, example.fields, example.turns) == (prompt, target, fields, ())


def test_a_chat_ends_with_its_last_assistant_turn(tmp_path: Path) -> None:
    said = [
        ("system", "S"),
        ("user", "U"),
        ("assistant", "A"),
        ("user", "V"),
        ("assistant", "B"),
        ("user", "W"),
    ]
    example = _one(tmp_path, {"messages": [{"role": r, "content": c} for r, c in said], "id": 7})
    assert example.prompt == "system: S\nuser: U\nassistant: A\nuser: V"
    assert example.target == "B"
    assert example.turns == tuple(Turn(r, c) for r, c in said[:5])
    assert example.fields == {"id": 7}


def test_blank_lines_are_no_rows_but_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('\n{"prompt": "a", "response": "b"}\n\n{"prompt": "c"}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"rows.jsonl, row 4 has 'prompt' but no target"):
        read_examples(path, TEMPLATE)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([1], "row 1 is an array, not an object. Allowed: {input, target}"),
        ("x", "row 1 is a string"),
        (None, "row 1 is null"),
        ({}, "has no prompt and target: its keys are none"),
        ({"text": "x"}, "its keys are text. Allowed: {input, target}"),
        ({"input": "x"}, "has 'input' but no target"),
        ({"input": "x", "targets": "y"}, "Did you mean 'targets'?"),
        ({"input": "x", "target": None}, "'target' is null; it must be text"),
        ({"input": "x", "target": " \n"}, "'target' is blank"),
        ({"input": "", "target": "y"}, "'input' is blank"),
        ({"prompt": " ", "response": "y"}, "'prompt' is blank"),
        ({"prompt": 5, "response": "y"}, "'prompt' is a number; it must be text"),
        ({"prompt": "x", "response": True}, "'response' is a boolean"),
        ({"messages": []}, "'messages' is []; it must be a list"),
        ({"messages": "hi"}, "'messages' is 'hi'"),
        ({"messages": ["hi"]}, "message 1 is a string; it must be an object"),
        ({"messages": [{"role": "user"}]}, "message 1: 'content' is null"),
        (
            {"messages": [{"role": "user", "content": "x"}]},
            "no message has the role 'assistant' (roles: user)",
        ),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "has no prompt"),
    ],
)
def test_bad_rows_are_told(tmp_path: Path, row: Any, message: str) -> None:
    with pytest.raises(DataError) as raised:
        _one(tmp_path, row)
    assert message in str(raised.value)
    assert str(raised.value).startswith(f"{tmp_path / 'rows.json'}, row 1")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b"", "holds no rows"),
        ("a.json", b"[]", "holds no rows"),
        ("a.jsonl", b"\n\n", "holds no rows"),
        ("a.json", b"{", "a.json is not JSON"),
        ("a.json", b'{"a": 1}\n{"a": 2}', "A file of one object a line is named .jsonl"),
        ("a.json", b'{"input": "x"}', "holds an object; it must be an array of rows"),
        ("a.jsonl", b'{"a": 1}\nnot', "row 2 is not JSON"),
        ("a.jsonl", b"[\n{}]", "A JSON array is named .json"),
        ("a.json", b"\xff\xfe", "is not UTF-8"),
        ("a.json.gz", b"plain", "is not a whole gzip file"),
        ("a.jsonl.gz", gzip.compress(b"[]" * 50)[:-9], "is not a whole gzip file"),
        ("a.parquet", b"plain", "is not a readable Parquet file"),
        ("a.csv", b"x", "'.csv' is no known suffix of a data file. Allowed: .json"),
        ("a.parquet.gz", b"x", "'.gz' is no known suffix"),
        ("a", b"x", "is no known suffix"),
    ],
)
def test_bad_files_are_told(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as raised:
        read_examples(tmp_path / name, TEMPLATE)
    assert message in str(raised.value)
    assert str(tmp_path / name) in str(raised.value)


@pytest.mark.parametrize("name", ["none.json", "none.jsonl.gz", "none.parquet"])
def test_a_missing_file_says_how_to_make_one(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=f"does not exist.*loratune data weather {tmp_path}"):
        read_examples(tmp_path / name, TEMPLATE)


def test_a_folder_is_no_data_file(tmp_path: Path) -> None:
    (tmp_path / "a.json").mkdir()
    with pytest.raises(DataError, match="cannot be read"):
        read_examples(tmp_path / "a.json", TEMPLATE)


def test_a_byte_order_mark_is_no_content(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(ROWS), encoding="utf-8-sig")
    assert len(read_examples(tmp_path / "a.json", TEMPLATE)) == 3
