"""Token files: written once, shared, and made again when damaged."""

import hashlib
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from trainable.config import DataConfig
from trainable.data import sources, tokens
from trainable.data.encoding import IGNORED
from trainable.data.tokens import BATCH_ROWS, PreparedData, check_files, prepare
from trainable.errors import DataError
from trainable.files import loratune_cache

Prepared = Callable[..., PreparedData]
MakeTokenizer = Callable[..., PreTrainedTokenizerFast]


class _Guarded:
    """A tokenizer that refuses to be called where nothing is left to tokenize."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, allowed: bool) -> None:
        self._tokenizer = tokenizer
        self._allowed = allowed

    def __call__(self, *args: object, **options: object) -> object:
        assert self._allowed, "tokenized again"
        return self._tokenizer(*args, **options)

    def __getattr__(self, name: str) -> object:
        return getattr(self._tokenizer, name)


def _write(path: Path, rows: int, start: int = 0) -> Path:
    content = [{"input": f"temp {start + n}", "target": f"High {start + n}."} for n in range(rows)]
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


@pytest.fixture
def data(tmp_path: Path) -> DataConfig:
    return DataConfig(
        train=_write(tmp_path / "train.json", 5),
        val=_write(tmp_path / "val.json", 2, 100),
        test=_write(tmp_path / "test.json", 1, 200),
    )


@pytest.fixture
def prepared(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> Prepared:
    def run(data: DataConfig, *, cached: bool = False, name: str = "chars") -> PreparedData:
        return prepare(data, _Guarded(tokenizer, not cached), tokenizer_id=name, cache_dir=tmp_path / "cache")

    return run


def _folders(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "cache" / "tokens").iterdir())


def test_tables_hold_tokens_labels_and_texts(
    data: DataConfig, prepared: Prepared, tokenizer: PreTrainedTokenizerFast
) -> None:
    found = prepared(data)
    assert [len(found.train), len(found.val), len(found.test)] == [5, 2, 1]
    table = found.val
    assert (table.prompt(1), table.target(1)) == ("temp 101\n", "High 101.")
    ids = [*tokenizer("temp 101\nHigh 101.")["input_ids"], tokenizer.eos_token_id]
    assert table.ids(1).tolist() == ids
    assert table.ids(1).dtype == table.labels(1).dtype == np.int64
    assert table.labels(1).tolist() == [IGNORED] * 10 + ids[10:]
    assert table.prompt_ids(1).tolist() == ids[:10]
    assert table.lengths.tolist() == [20, 20]
    assert (table.target_tokens, table.rows_truncated) == (20, 0)


def test_a_second_call_does_not_tokenize(data: DataConfig, prepared: Prepared, tmp_path: Path) -> None:
    first, second = prepared(data), prepared(data, cached=True)
    assert first.data_hash == second.data_hash
    assert second.train.ids(4).tolist() == first.train.ids(4).tolist()
    (folder,) = _folders(tmp_path)
    assert {path.name for path in folder.iterdir()} == {
        "train.arrow",
        "val.arrow",
        "test.arrow",
        "manifest.json",
    }


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-20]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes().replace(b"High", b"Hugh")),
        lambda path: path.unlink(),
        lambda path: path.with_name("manifest.json").write_text("{"),
        lambda path: path.with_name("manifest.json").write_text("[1]"),
        lambda path: path.with_name("manifest.json").unlink(),
    ],
    ids=["truncated", "emptied", "altered", "gone", "corrupt manifest", "wrong manifest", "no manifest"],
)
def test_damaged_tables_are_made_again(
    data: DataConfig, prepared: Prepared, tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    data_hash = prepared(data).data_hash
    (folder,) = _folders(tmp_path)
    damage(folder / "val.arrow")
    again = prepared(data)
    assert [again.val.target(row) for row in range(2)] == ["High 100.", "High 101."]
    assert again.data_hash == data_hash
    assert prepared(data, cached=True).val.lengths.tolist() == [20, 20]
    assert _folders(tmp_path) == [folder]


def test_racing_writers_both_succeed(data: DataConfig, prepared: Prepared, tmp_path: Path) -> None:
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda _: prepared(data), range(6)))
    assert {tuple(one.train.ids(3)) for one in found} == {tuple(found[0].train.ids(3))}
    assert len(_folders(tmp_path)) == 1


def test_what_changes_the_tokens_changes_the_folder(
    data: DataConfig, prepared: Prepared, tmp_path: Path, make_tokenizer: MakeTokenizer
) -> None:
    hashes = {prepared(data).data_hash}
    for change in ({"max_length": 9}, {"prompt_template": "{input}?"}, {"test": None}):
        hashes.add(prepared(data.model_copy(update=change)).data_hash)
    _write(data.val, 2, 300)
    hashes.add(prepared(data).data_hash)
    assert len(hashes) == 5
    assert len(_folders(tmp_path)) == 5
    prepared(data, name="other")
    prepare(data, make_tokenizer(bos=None), tokenizer_id="chars", cache_dir=tmp_path / "cache")
    assert len(_folders(tmp_path)) == 7


def test_the_data_hash_knows_neither_paths_nor_tokenizer(
    data: DataConfig, prepared: Prepared, tmp_path: Path
) -> None:
    here = prepared(data).data_hash
    moved = data.model_copy(update={"train": data.train.rename(tmp_path / "moved.json")})
    assert prepared(moved, name="/other/node/model").data_hash == here


def test_truncated_rows_are_counted(data: DataConfig, prepared: Prepared) -> None:
    short = data.model_copy(update={"max_length": 16})
    found = prepared(short)
    # Row 0 is `<s>temp 0\nHigh 0.</s>`, 16 tokens; the rows from 100 have 20.
    assert (found.train.rows_truncated, found.val.rows_truncated) == (0, 2)
    assert found.val.lengths.tolist() == [16, 16]
    assert found.val.prompt(0) == "temp 100\n"


def test_rows_beyond_one_batch_are_found(data: DataConfig, prepared: Prepared, tmp_path: Path) -> None:
    rows = BATCH_ROWS + 3
    many = data.model_copy(update={"train": _write(tmp_path / "many.json", rows), "test": None})
    found = prepared(many)
    assert found.test is None
    assert [found.train.target(row) for row in (0, BATCH_ROWS - 1, BATCH_ROWS, rows - 1)] == [
        f"High {n}." for n in (0, BATCH_ROWS - 1, BATCH_ROWS, rows - 1)
    ]
    assert found.train.target_tokens == sum(len(f"High {n}.") + 1 for n in range(rows))
    for row in (-1, rows):
        with pytest.raises(IndexError, match=f"row {row} of a table of {rows}"):
            found.train.ids(row)


def test_a_bad_row_leaves_nothing_behind(data: DataConfig, prepared: Prepared, tmp_path: Path) -> None:
    data.val.write_text('[{"input": "x", "target": "y"}, {"input": "x"}]', encoding="utf-8")
    with pytest.raises(DataError, match=r"val.json, row 2 has 'input' but no target"):
        prepared(data)
    assert _folders(tmp_path) == []


def test_a_missing_file_is_reported(data: DataConfig, prepared: Prepared) -> None:
    with pytest.raises(DataError, match=r"none\.json' does not exist"):
        prepared(data.model_copy(update={"test": Path("none.json")}))


def test_a_folder_that_cannot_be_written_is_an_error(
    data: DataConfig, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise PermissionError(f"no writing to {target}")

    monkeypatch.setattr(tokens.Path, "rename", refuse)
    with pytest.raises(PermissionError, match="no writing"):
        prepare(data, tokenizer, tokenizer_id="chars", cache_dir=tmp_path / "cache")


def test_what_was_found_is_reported(data: DataConfig, prepared: Prepared, tmp_path: Path) -> None:
    rows = [
        {"messages": [{"role": "user", "content": "a", "name": "b"}, {"role": "assistant", "content": "c"}]},
        {"prompt": "temp 100", "response": "High 100.", "source": "x"},
    ]
    data.val.write_text(json.dumps(rows), encoding="utf-8")
    short = data.model_copy(update={"max_length": 16, "test": None})
    for _ in range(2):  # The second time from the cache.
        assert prepared(short).lines() == [
            "train: 5 rows, 40 target tokens",
            "train: 5 rows read as {input, target}",
            "val: 2 rows, 11 target tokens, 2 rows truncated to data.max_length",
            "val: 1 row read as {messages}, 1 row read as {prompt, response}",
            "val: columns not read: source",
            "val: not shown by the model's chat template: name (1 row)",
        ]


def test_progress_is_reported(
    data: DataConfig, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "_REPORT_EVERY", 1)
    monkeypatch.setattr(tokens, "BATCH_ROWS", 2)
    said: list[str] = []
    prepare(data, tokenizer, tokenizer_id="chars", cache_dir=tmp_path / "cache", say=said.append)
    assert [text for text in said if "train" in text] == [
        f"tokenizing train: {rows} rows" for rows in (2, 4, 5)
    ]


def test_a_batch_has_few_long_rows(
    data: DataConfig, prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = prepared(data)
    monkeypatch.setattr(tokens, "_BATCH_CHARACTERS", 20)
    monkeypatch.setattr(tokens, "FORMAT", -1)
    after = prepared(data)
    assert len(after.train._batches) > len(before.train._batches) == 1
    for row in range(5):
        assert after.train.ids(row).tolist() == before.train.ids(row).tolist()


def test_the_data_hash_follows_content_and_columns(
    data: DataConfig, prepared: Prepared, tmp_path: Path
) -> None:
    here = prepared(data).data_hash
    copy = tmp_path / "deep" / "train.v2.json"
    copy.parent.mkdir()
    copy.write_bytes(data.train.read_bytes())
    assert prepared(data.model_copy(update={"train": copy})).data_hash == here
    assert prepared(data.model_copy(update={"train": (copy,)})).data_hash == here
    assert prepared(data.model_copy(update={"train": (copy, copy)})).data_hash != here
    columns = {"input": "target", "target": "input"}
    assert prepared(data.model_copy(update={"columns": columns})).data_hash != here


def test_the_data_hash_is_that_of_the_first_version(data: DataConfig, prepared: Prepared) -> None:
    hashes = {
        name: ["json", hashlib.sha256(getattr(data, name).read_bytes()).hexdigest()]
        for name in ("train", "val", "test")
    }
    text = json.dumps([1, 512, "{input}\n", hashes], sort_keys=True)
    assert prepared(data).data_hash == hashlib.sha256(text.encode()).hexdigest()


def test_checking_reads_the_beginning_of_each_file(data: DataConfig, tmp_path: Path) -> None:
    lines = ['{"prompt": "a", "response": "b"}'] * 1500 + ["broken"]
    path = tmp_path / "many.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    check_files(data.model_copy(update={"train": path}))
    path.write_text("\n".join(lines[::-1]), encoding="utf-8")
    with pytest.raises(DataError, match=r"many\.jsonl, row 1 is not JSON"):
        check_files(data.model_copy(update={"train": path}))
    with pytest.raises(DataError, match=r"none\.json' does not exist"):
        check_files(data.model_copy(update={"val": tmp_path / "none.json"}))


def test_each_file_is_parsed_once(
    data: DataConfig, prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[Path] = []
    read = sources.read_rows

    def counted(path: Path) -> Iterator[tuple[int, object]]:
        parsed.append(path)
        return read(path)

    monkeypatch.setattr(sources, "read_rows", counted)
    prepared(data)
    assert parsed == [data.train, data.val, data.test]
    prepared(data, cached=True)
    assert len(parsed) == 3


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"LORATUNE_CACHE": "/a", "XDG_CACHE_HOME": "/b"}, Path("/a")),
        ({"XDG_CACHE_HOME": "/b"}, Path("/b/loratune")),
        ({}, Path("/home/of/me/.cache/loratune")),
    ],
)
def test_where_the_cache_is(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: Path
) -> None:
    for name in ("LORATUNE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/of/me")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert loratune_cache() == expected
