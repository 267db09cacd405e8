"""The contract of every storage: the local disk, an object store, and one that replaces in two steps."""

import pickle
from pathlib import Path

import pytest

from tests.support.s3_server import S3Server
from tests.support.stores import place, s3
from trainable.errors import StorageError
from trainable.places import Place, inside
from tune.store import object_storage
from tune.store.object_storage import ObjectStorage
from tune.store.storage import LocalStorage, Storage

__all__ = ["place", "s3"]


@pytest.fixture(params=["as it is", "two steps"])
def storage(place: Place, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Storage:
    if isinstance(place, Path):
        return LocalStorage(place)
    if request.param == "two steps":
        monkeypatch.setattr(object_storage, "_ATOMIC", ())
    return ObjectStorage(place)


def test_what_is_written_is_read_and_replaced(storage: Storage) -> None:
    assert not storage.exists("a/b.txt")
    with pytest.raises(FileNotFoundError):
        storage.read("a/b.txt")
    storage.write("a/b.txt", b"first")
    storage.write("a/b.txt", b"")
    assert storage.read("a/b.txt") == b""
    storage.write("a/b.txt", b"second \xff")
    assert storage.read("a/b.txt") == b"second \xff"
    assert storage.exists("a/b.txt")
    assert storage.exists("a")
    assert storage.sizes("a") == {"b.txt": 8}
    assert storage.place("a/b.txt") == inside(storage.place(""), "a/b.txt")


def test_lines_are_appended_in_order_by_one_process_after_another(storage: Storage) -> None:
    for line in (b"one", b"two"):
        storage.append("trial/log", line)
    later = pickle.loads(pickle.dumps(storage)) if isinstance(storage, ObjectStorage) else storage
    later.append("trial/log", b"three")
    assert later.read("trial/log") == b"one\ntwo\nthree\n"


def test_an_incomplete_last_line_is_ended_first(storage: Storage) -> None:
    storage.write("log", b'one\n{"step": 2, "ev')
    storage.append("log", b"three")
    assert storage.read("log") == b'one\n{"step": 2, "ev\nthree\n'


@pytest.mark.parametrize("length", [0, 64, 71, 182])
def test_a_file_in_several_objects_is_one_file(
    storage: Storage, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_storage, "SEGMENT_BYTES", 64)
    lines = [f"line {number:02d} of it".encode() for number in range(13)]
    for line in lines:
        storage.append("log", line)
    content = b"".join(line + b"\n" for line in lines)
    assert storage.read("log") == content
    storage.cut("log", length)
    assert storage.read("log") == content[:length]
    storage.append("log", b"more")
    expected = content[:length] + (b"\n" if length % 14 else b"") + b"more\n"
    assert storage.read("log") == expected


def test_names_match_patterns_and_folders_are_deleted_as_a_whole(storage: Storage) -> None:
    for name in ("t1/results.jsonl", "t2/results.jsonl", "t2/checkpoint_000001/state.json", "config.yaml"):
        storage.write(name, b"x")
    assert storage.names("*/results.jsonl") == ["t1/results.jsonl", "t2/results.jsonl"]
    assert storage.names("t2/checkpoint_*") == ["t2/checkpoint_000001"]
    assert storage.names("t3/checkpoint_*") == []
    assert storage.names("*/checkpoint_*/state.json") == ["t2/checkpoint_000001/state.json"]
    storage.delete("t2")
    storage.delete("t2")
    storage.delete("config.yaml")
    storage.delete("config.yaml")
    assert storage.sizes("") == {"t1/results.jsonl": 1}
    assert not storage.exists("t2")
    storage.delete("")
    assert storage.names("*") == []
    assert storage.sizes("nothing") == {}


def test_a_crash_between_the_two_steps_of_a_replacement_loses_nothing(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_storage, "_ATOMIC", ())
    monkeypatch.setattr(object_storage, "SEGMENT_BYTES", 8)
    storage = ObjectStorage(s3.uri("e"))
    for line in (b"12345678", b"second"):
        storage.append("log", line)
    for name in ("e/log", "e/log.000001"):
        s3.objects[f"{name}.new"] = s3.objects.pop(name)
        assert (storage.exists("log"), storage.read("log")) == (True, b"12345678\nsecond\n")
    ObjectStorage(s3.uri("e")).append("log", b"third")
    assert storage.read("log") == b"12345678\nsecond\nthird\n"


def test_a_line_that_was_refused_is_not_in_the_file_and_the_next_one_is(s3: S3Server) -> None:
    storage = ObjectStorage(s3.uri("e"))
    storage.append("log", b"one")
    with (
        s3.outage(403),
        pytest.raises(StorageError, match="'s3://bucket' cannot be used: AWS Error ACCESS"),
    ):
        storage.append("log", b"two")
    storage.append("log", b"three")
    assert storage.read("log") == b"one\nthree\n"
    assert s3.keys() == ["e/log"]


def test_one_append_is_one_request(s3: S3Server) -> None:
    storage = ObjectStorage(s3.uri("e"))
    storage.append("log", b"one")
    before = len(s3.requests)
    storage.append("log", b"two")
    assert s3.requests[before:] == [("PUT", "e/log")]
