"""A corpus in place of a data file: made once, made again when its code changes, and refused clearly."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from trainable.config import Layer, TrialConfig, assemble
from trainable.data import check_files
from trainable.data.corpora import corpus_file
from trainable.errors import ConfigError, DataError
from trainable.weather.corpus import write_weather

OWN = """
def rows(split, count):
    return [{"prompt": f"{split} {n}", "response": "WORD"} for n in range(count)]
"""


def data_config(train: str, val: str, test: str | None = None) -> TrialConfig:
    values = {"data.train": train, "data.val": val, "data.test": test}
    return assemble(TrialConfig, [Layer("test", values)])[0]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LORATUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / "own_corpus.py"
    sys.modules.pop("own_corpus", None)


def test_the_shipped_corpus_is_made_in_the_cache(cache: Path, tmp_path: Path) -> None:
    data = data_config("corpus:weather@30", "corpus:weather@4", "corpus:weather@5").data
    check_files(data)
    files = [corpus_file(str(getattr(data, split)), split) for split in ("train", "val", "test")]
    assert all(path.is_relative_to(cache) for path in files)
    written = write_weather(tmp_path / "files", 30, 4, 5, 0)
    assert [path.read_bytes() for path in files] == [path.read_bytes() for path in written]


def test_a_corpus_of_ones_own_follows_its_code(cache: Path, own_module: Path) -> None:
    data = data_config("corpus:own_corpus:rows@3", "corpus:own_corpus:rows@1").data
    targets = []
    for word in ("first", "second"):
        own_module.write_text(OWN.replace("WORD", word))
        sys.modules.pop("own_corpus", None)
        sys.path_importer_cache.clear()
        path = corpus_file(str(data.train), "train")
        targets.append([row["response"] for row in json.loads(path.read_text())])
        # Python keeps compiled modules by second and size.
        for compiled in own_module.parent.glob("__pycache__/own_corpus*"):
            compiled.unlink()
    assert targets == [["first"] * 3, ["second"] * 3]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("corpus:wether@3", "no corpus 'wether'. Did you mean 'weather'"),
        ("corpus:weather", "must be written as corpus:NAME@ROWS"),
        ("corpus:weather@0", "must be written as corpus:NAME@ROWS"),
        ("corpus:weather@99999999", "the corpus has 1 to"),
    ],
)
def test_a_wrong_name_is_refused(cache: Path, source: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        check_files(data_config(source, source).data)
    assert not list(cache.rglob("*.json"))


def test_a_corpus_that_cannot_be_imported_is_refused(cache: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.train: 'nowhere:rows' cannot be imported"):
        check_files(data_config("corpus:nowhere:rows@3", "corpus:nowhere:rows@3").data)


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("mine.jsonl", "corpus:weather@3", None),
        ("mine.jsonl", "mine.jsonl", "corpus:weather@3"),
        ("corpus:weather@3", "mine.jsonl", None),
    ],
)
def test_own_rows_are_never_judged_on_a_corpus(train: str, val: str, test: str | None) -> None:
    with pytest.raises(ConfigError, match="take all splits from one corpus, or name files of your own"):
        data_config(train, val, test)


def test_a_cache_that_cannot_be_written_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "taken").write_text("")
    monkeypatch.setenv("LORATUNE_CACHE", str(tmp_path / "taken"))
    with pytest.raises(DataError, match="LORATUNE_CACHE"):
        check_files(data_config("corpus:weather@3", "corpus:weather@3").data)
