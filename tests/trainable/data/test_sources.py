"""What a key of the data section may name, and what identifies its content."""

import importlib.util
import json
from pathlib import Path

import pytest

from trainable.config import DataConfig, DataFiles
from trainable.data.sources import Files, HubRows, open_source
from trainable.errors import DataError

HAS_DATASETS = importlib.util.find_spec("datasets") is not None


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a/1.json", "a/2.jsonl", "a/notes.txt", "a/deep/3.csv", "a/state.json", "a/.hidden.json"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("prompt,response\na,b\n" if path.suffix == ".csv" else '[{"text": "t"}]')
    return tmp_path


def _names(files: DataFiles) -> list[str]:
    source = open_source(files, "train")
    assert isinstance(source, Files)
    return [path.name for path in source.paths]


def test_files_globs_and_folders(folder: Path) -> None:
    assert _names(folder / "a/1.json") == ["1.json"]
    assert _names(folder / "a") == ["1.json", "2.jsonl", "3.csv"]
    assert _names(folder / "a" / "*.js*") == ["1.json", "2.jsonl", "state.json"]
    assert _names(folder / "**" / "?.json") == ["1.json"]
    assert _names((folder / "a/deep", folder / "a/1.json")) == ["3.csv", "1.json"]


def test_a_relative_glob_is_of_the_working_directory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert _names(Path("a/*.jsonl")) == ["2.jsonl"]


def test_rows_of_several_files_keep_their_places(folder: Path) -> None:
    rows = list(open_source((folder / "a/1.json", folder / "a/deep/3.csv"), "train").rows())
    assert [(Path(name).name, number) for name, number, _ in rows] == [("1.json", 1), ("3.csv", 1)]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (Path("a/empty"), "the folder 'a/empty' holds no data file"),
        (Path("a/*.parquet"), "no file matches 'a/.*.parquet'"),
        (Path("owner/name"), "A data set on a hub is named hub:owner/name"),
        (("hub:owner/name", Path("a")), "'hub:owner/name' stands beside other data sources"),
        ("hub:@", "does not name a data set"),
    ],
)
def test_what_is_not_there_is_reported(
    folder: Path, files: DataFiles, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "a/empty").mkdir()
    monkeypatch.chdir(folder)
    with pytest.raises(DataError, match=message):
        open_source(files, "train")


@pytest.mark.skipif(HAS_DATASETS, reason="the datasets library is installed")
def test_a_hub_needs_the_datasets_library() -> None:
    with pytest.raises(DataError, match=r"pip install 'loratune\[hub\]'"):
        open_source("hub:owner/name", "train")


@pytest.mark.skipif(not HAS_DATASETS, reason="needs the datasets library")
def test_rows_of_the_datasets_library(tmp_path: Path) -> None:
    from datasets import Dataset

    rows = [{"prompt": "a", "response": "b", "meta": {"x": n}} for n in range(3)]
    source = HubRows("hub:x", Dataset.from_list(rows))
    assert [row for _, _, row in source.rows()] == rows
    assert source.digest() == HubRows("hub:y", Dataset.from_list(rows)).digest()
    assert source.digest() != HubRows("hub:x", Dataset.from_list(rows[1:])).digest()


def test_the_digest_knows_content_and_order_but_no_paths(folder: Path) -> None:
    one, other = folder / "a/1.json", folder / "a/2.jsonl"
    renamed = folder / "elsewhere.v2.json"
    renamed.write_bytes(one.read_bytes())
    assert open_source(renamed, "train").digest() == open_source(one, "val").digest()
    assert open_source((one,), "train").digest() == open_source(one, "train").digest()
    both = open_source((one, other), "train").digest()
    assert both != open_source((other, one), "train").digest()
    assert both != open_source(one, "train").digest()


def test_a_manifest_names_files_without_rows(folder: Path) -> None:
    one = open_source(folder / "a/1.json", "train").describe()
    assert one == {"file": "1.json", "bytes": 15, "sha256": one["sha256"]}
    assert open_source(folder / "a/*.jsonl", "train").describe()["file"] == "2.jsonl"
    several = open_source(folder / "a", "train").describe()
    assert [file["file"] for file in several["files"]] == ["1.json", "2.jsonl", "3.csv"]


def test_a_corpus_is_made_once_and_its_place_is_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORATUNE_CACHE", str(tmp_path))
    counts = {
        split: sum(1 for _ in open_source(f"corpus:weather@{rows}", split).rows())
        for split, rows in (("train", 5), ("val", 3), ("test", 2))
    }
    assert counts == {"train": 5, "val": 3, "test": 2}
    (path,) = tmp_path.rglob("train-5.json")
    made = path.stat().st_mtime_ns
    source = open_source("corpus:weather@5", "train")
    assert source.note == f"corpus:weather@5 is kept in {path.parent}"
    assert path.stat().st_mtime_ns == made


@pytest.mark.parametrize("value", ["hub:owner/name", "hub:owner/name@train"])
def test_names_of_data_sets_are_not_paths(value: str, tmp_path: Path) -> None:
    data = DataConfig(train=value, val=[str(tmp_path / "a.json"), "b"], test=None)
    assert data.train == value
    assert data.absolute().train == value
    assert data.absolute().val == (tmp_path / "a.json", Path("b").resolve())
    again = DataConfig.model_validate(json.loads(data.model_dump_json()))
    assert again == data


def test_an_empty_list_is_refused() -> None:
    with pytest.raises(ValueError, match="name at least one file"):
        DataConfig(train=[])
