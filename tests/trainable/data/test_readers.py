"""Reading data files: every format and compression, and what is said of a file that cannot be read."""

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
from pyarrow import feather

from trainable.data import readers
from trainable.data.readers import read_rows
from trainable.errors import DataError

ROWS = [{"input": f"temp {n}", "target": f"High {n}."} for n in range(3)]

Write = Callable[[Path, list[dict[str, Any]]], None]


def _gzipped(write: Write) -> Write:
    def written(path: Path, rows: list[dict[str, Any]]) -> None:
        write(path, rows)
        path.write_bytes(gzip.compress(path.read_bytes()))

    return written


def _zstd(content: bytes) -> bytes:
    return pa.Codec("zstd").compress(content, asbytes=True)


def _zipped(write: Write) -> Write:
    def written(path: Path, rows: list[dict[str, Any]]) -> None:
        write(path, rows)
        path.write_bytes(_zstd(path.read_bytes()))

    return written


def _array(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text(json.dumps(rows, indent=1), encoding="utf-8")


def _lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")


def _parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    pq.write_table(pa.Table.from_pylist(rows), path)


def _arrow_stream(path: Path, rows: list[dict[str, Any]]) -> None:
    table = pa.Table.from_pylist(rows)
    with pa.ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table)


def _arrow_file(path: Path, rows: list[dict[str, Any]]) -> None:
    table = pa.Table.from_pylist(rows)
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table)


def _feather(path: Path, rows: list[dict[str, Any]]) -> None:
    feather.write_feather(pa.Table.from_pylist(rows), path)


def _separated(delimiter: str) -> Write:
    def written(path: Path, rows: list[dict[str, Any]]) -> None:
        cells = [list(rows[0]), *(list(row.values()) for row in rows)]
        path.write_text("\r\n".join(delimiter.join(f'"{cell}"' for cell in line) for line in cells))

    return written


FORMATS = {
    "a.json": _array,
    "lines.json": _lines,
    "a.jsonl": _lines,
    "array.jsonl": _array,
    "a.b.ndjson": _lines,
    "a.JSON": _array,
    "a.json.gz": _gzipped(_array),
    "a.jsonl.gz": _gzipped(_lines),
    "a.jsonl.zst": _zipped(_lines),
    "a.json.zst": _zipped(_array),
    "a.csv": _separated(","),
    "a.tsv": _separated("\t"),
    "a.csv.gz": _gzipped(_separated(",")),
    "a.parquet": _parquet,
    "stream.arrow": _arrow_stream,
    "file.arrow": _arrow_file,
    "a.feather": _feather,
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_holds_the_same_rows(tmp_path: Path, name: str) -> None:
    FORMATS[name](tmp_path / name, ROWS)
    assert [row for _, row in read_rows(tmp_path / name)] == ROWS


@pytest.mark.parametrize("write", [_array, _lines], ids=["array", "lines"])
@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_rows_may_lie_across_chunks(
    tmp_path: Path, write: Write, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "_CHUNK", chunk)
    rows = [{"text": 'é\\"\u2028] , [' * n, "n": n, "deep": [[{"a": None}]]} for n in range(5)]
    write(tmp_path / "a.json", rows)
    assert [row for _, row in read_rows(tmp_path / "a.json")] == rows


def test_a_file_is_read_as_a_stream(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("[" + ", ".join(['{"text": "' + "x" * 1000 + '"}'] * 5000) + ", broken")
    rows = read_rows(path)
    assert sum(1 for _, _ in zip(range(4000), rows, strict=False)) == 4000


@given(st.lists(st.dictionaries(st.text(max_size=3), st.text()), min_size=1, max_size=5))
def test_any_text_survives_json_lines(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, str]]
) -> None:
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert [row for _, row in read_rows(path)] == rows


def test_line_separators_inside_a_string_do_not_end_a_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "a\u2028b", "response": "c\x85d"}', encoding="utf-8")
    assert list(read_rows(path)) == [(1, {"prompt": "a\u2028b", "response": "c\x85d"})]


def test_blank_lines_are_not_rows_but_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('\n{"a": 1}\n\n{"b": 2}\n', encoding="utf-8")
    assert list(read_rows(path)) == [(2, {"a": 1}), (4, {"b": 2})]


def test_cells_may_hold_delimiters_and_line_breaks(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('prompt,response\n"a, b\nc","say ""hi"""\n\nd,e\n', encoding="utf-8-sig")
    assert list(read_rows(path)) == [
        (1, {"prompt": "a, b\nc", "response": 'say "hi"'}),
        (2, {"prompt": "d", "response": "e"}),
    ]


def test_keys_that_only_other_rows_have_are_left_out(tmp_path: Path) -> None:
    rows = [{"m": [{"role": "user", "call": None}]}, {"m": [{"role": "assistant", "call": {"x": 1}}]}]
    _parquet(tmp_path / "a.parquet", rows)
    assert next(iter(read_rows(tmp_path / "a.parquet")))[1] == {"m": [{"role": "user"}]}


def test_a_byte_order_mark_is_not_content(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(ROWS), encoding="utf-8-sig")
    assert len(list(read_rows(tmp_path / "a.json"))) == 3


DEEP = b"[" * 100_000 + b"]" * 100_000


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b"{", "a.json is not JSON"),
        ("a.json", b'{"input": "x"}', "holds an object; it must be an array of rows"),
        ("a.json", b'{"data": [\n1, 2\n]}', "holds an object; it must be an array of rows"),
        ("a.json", b"7", "holds a number"),
        ("a.json", b'[{"a": 1}, ]', "is not JSON"),
        ("a.json", b"[,1]", "is not JSON"),
        ("a.json", b'[{"a": 1} {"a": 2}]', "no comma before row 2"),
        ("a.json", b'[{"a": 1}] extra', "text follows the end of the array"),
        ("a.json", b'[{"a": 1}, {"a', "is not JSON"),
        ("a.json", b'[{"a": 1}', "is not JSON"),
        ("a.jsonl", b'{"a": 1}\nnot', "row 2 is not JSON"),
        ("a.jsonl", b'{"a": ' + b"9" * 5000 + b"}", "row 1 is not JSON"),
        ("a.jsonl", b'{"a": ' + DEEP + b"}", "row 1: JSON is nested too deep"),
        ("a.json", b"[1, " + DEEP + b"]", "row 2: JSON is nested too deep"),
        ("a.jsonl", b'{"a": 1}\n{"a": "\\ud83d"}', r"row 2 holds a lone surrogate (\ud83d)"),
        ("a.json", b'[{"a": "\\ude00 x"}]', r"row 1 holds a lone surrogate (\ude00)"),
        ("a.json", b"\xff\xfe", "is not UTF-8"),
        ("a.json.gz", b"plain", "is not a complete gzip file"),
        ("a.jsonl.gz", gzip.compress(b"[]" * 50, mtime=0)[:-9], "is not a complete gzip file"),
        ("a.jsonl.zst", b"plain", "cannot be read"),
        ("a.parquet", b"plain", "is not a readable Parquet file"),
        ("a.arrow", b"plain", "is not a readable Arrow file"),
        ("a.csv", b"a,b\n1,2,3\n", "row 1 has 3 cells, and the header has 2"),
        ("a.csv", b"a,a\n1,2\n", "two columns have the same name"),
        ("a.csv", b'a,b\n"1', "row 1 is not readable"),
        ("a.txt", b"x", "'.txt' is not a known suffix of a data file. Allowed: .json"),
        ("a.parquet.gz", b"x", "'.gz' is not a known suffix"),
        ("a", b"x", "is not a known suffix"),
    ],
)
def test_bad_files_are_reported(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as raised:
        list(read_rows(tmp_path / name))
    assert message in str(raised.value)
    assert str(tmp_path / name) in str(raised.value)


def test_a_complete_surrogate_pair_is_a_character(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"a": "\\ud83d\\ude00"}')
    assert list(read_rows(tmp_path / "a.jsonl")) == [(1, {"a": "😀"})]


@pytest.mark.parametrize("name", ["none.json", "none.jsonl.gz", "none.csv.zst", "none.parquet", "none.arrow"])
def test_a_missing_file_says_how_to_make_one(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=f"does not exist.*loratune data weather {tmp_path}"):
        list(read_rows(tmp_path / name))


@pytest.mark.parametrize("name", ["a.json", "a.parquet", "a.arrow", "a.csv.zst"])
def test_a_folder_is_not_a_data_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(DataError, match="cannot be read"):
        list(read_rows(tmp_path / name))
