"""Reading and writing at places, and a store's errors: tried again, then one line."""

import errno
import pickle
import threading
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow.fs import LocalFileSystem, PyFileSystem, SubTreeFileSystem

from tests.support.s3_server import S3Server
from tests.support.stores import place, s3
from trainable.errors import ConfigError, StorageError
from trainable.places import Place, absolute, inside, name_of, parent_of, place_of, sent, shown
from trainable.retrying import Retrying
from trainable.stores import (
    download,
    files_under,
    local_copy,
    open_store,
    read_file,
    write_at,
    written_folder,
)

__all__ = ["place", "s3"]


def fill(folder: Path, **files: str) -> None:
    for name, content in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)


def content(place: Place) -> dict[str, str]:
    with local_copy(place) as folder:
        files = [path for path in folder.rglob("*") if path.is_file()]
        return {path.relative_to(folder).as_posix(): path.read_text() for path in files}


def test_a_folder_replaces_the_one_at_its_place(place: Place) -> None:
    where = inside(place, "best")
    with written_folder(where, last="z") as folder:
        fill(folder, a="1", sub__b="2", z="3")
    with written_folder(where, last="z") as folder:
        fill(folder, a="4", z="5")
    assert content(where) == {"a": "4", "z": "5"}
    with pytest.raises(FileNotFoundError), written_folder(where) as folder:
        fill(folder, a="6", nothing__there__b="7")
    assert content(where) == {"a": "4", "z": "5"}
    write_at(inside(place, "error.txt"), "ValueError: é\n")
    assert content(place)["error.txt"] == "ValueError: é\n"


def test_what_makes_a_folder_complete_is_deleted_first_and_written_last(s3: S3Server) -> None:
    for _ in range(2):
        before = len(s3.requests)
        with written_folder(s3.uri("c")) as folder:
            fill(folder, **{"manifest.json": "m", "adapter__weights": "w", "z": "z"})
    changes = [
        (method, key)
        for method, key in s3.requests[before:]
        if method in ("PUT", "DELETE") and not key.endswith("/")
    ]
    assert changes == [
        ("DELETE", "c/manifest.json"),
        ("PUT", "c/adapter/weights"),
        ("PUT", "c/z"),
        ("PUT", "c/manifest.json"),
    ]


def test_large_files_travel_and_so_does_the_file_system(s3: S3Server, tmp_path: Path) -> None:
    big = bytes(range(256)) * 2**16 * 2
    files, path = pickle.loads(pickle.dumps(open_store(s3.uri("x"))))
    with files.open_output_stream(f"{path}/big") as out:
        out.write(big)
    assert read_file(files, f"{path}/big") == big
    assert files_under(files, path) == {"big": len(big)}
    download(files, path, tmp_path)
    assert (tmp_path / "big").read_bytes() == big


def test_an_outage_is_waited_for(s3: S3Server) -> None:
    write_at(s3.uri("before"), "there")
    s3.failing = 503
    threading.Timer(1.0, lambda: setattr(s3, "failing", None)).start()
    files, path = open_store(s3.uri("before"))
    assert read_file(files, path) == b"there"


class Failing:
    """A local file system whose operations fail a number of times."""

    def __init__(self, root: Path, error: OSError, times: int) -> None:
        self._files = SubTreeFileSystem(str(root), LocalFileSystem())
        self._error, self.left = error, times

    def __getattr__(self, name: str) -> Any:
        operation = getattr(self._files, name)

        def answer(*values: Any, **named: Any) -> Any:
            if self.left > 0:
                self.left -= 1
                raise self._error
            return operation(*values, **named)

        return answer


def retrying(root: Path, error: OSError, times: int, slept: list[float]) -> PyFileSystem:
    now = [0.0]

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    handler = Retrying(
        Failing(root, error, times),
        "s3://b",
        patience_s=60,
        clock=lambda: now[0],
        sleep=sleep,  # type: ignore[arg-type]
    )
    return PyFileSystem(handler)


def test_every_operation_is_tried_again(tmp_path: Path) -> None:
    for operation in (
        lambda files: files.create_dir("d"),
        lambda files: files.open_output_stream("d/f").__exit__(None, None, None),
        lambda files: files.get_file_info("d/f"),
        lambda files: files.open_input_file("d/f").read(),
        lambda files: files.copy_file("d/f", "d/g"),
        lambda files: files.move("d/g", "d/h"),
        lambda files: files.delete_file("d/h"),
        lambda files: files.delete_dir_contents("d"),
        lambda files: files.delete_dir("d"),
    ):
        slept: list[float] = []
        operation(retrying(tmp_path, OSError("AWS Error SLOW_DOWN"), 5, slept))
        assert len(slept) == 5
        assert slept == sorted(slept)


def test_an_error_that_does_not_pass_is_one_line_with_how_long_was_tried(tmp_path: Path) -> None:
    slept: list[float] = []
    message = "When getting 'a: b' in bucket 'b': AWS Error NETWORK_CONNECTION during HeadObject\n"
    files = retrying(tmp_path, OSError(message), 10**6, slept)
    with pytest.raises(StorageError) as failed:
        files.get_file_info("f")
    assert str(failed.value).startswith(
        "'s3://b' cannot be used: AWS Error NETWORK_CONNECTION during HeadObject (tried for "
    )
    assert 45 < sum(slept) <= 60
    assert max(slept) <= 12


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OSError("AWS Error ACCESS_DENIED during PutObject operation"), StorageError),
        (OSError("AWS Error NO_SUCH_BUCKET during PutObject operation"), StorageError),
        (OSError("AWS Error UNKNOWN (HTTP status 400) during HeadObject operation"), StorageError),
        (FileNotFoundError(errno.ENOENT, "Path does not exist 'f'"), FileNotFoundError),
    ],
)
def test_what_waiting_cannot_change_is_an_error_at_once(tmp_path: Path, error: OSError, kind: type) -> None:
    slept: list[float] = []
    with pytest.raises(kind):
        retrying(tmp_path, error, 1, slept).get_file_info("f")
    assert slept == []


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_too_many_requests_pass(tmp_path: Path, status: int) -> None:
    slept: list[float] = []
    error = OSError(f"AWS Error UNKNOWN (HTTP status {status}) during HeadObject operation")
    retrying(tmp_path, error, 1, slept).get_file_info("f")
    assert len(slept) == 1


def test_reading_resumes_where_it_was(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"0123456789")
    slept: list[float] = []
    files = retrying(tmp_path, OSError("reset"), 0, slept)
    with files.open_input_file("f") as file:
        assert file.read(4) == b"0123"
        file.seek(6)
        assert (file.read(2), file.tell(), file.size()) == (b"67", 8, 10)
        assert file.read() == b"89"


def test_a_uri_means_the_same_where_the_environment_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://minio:9000")
    full = "s3://bucket/a?endpoint_override=minio:9000&scheme=http"
    assert absolute("s3://bucket/a/") == full
    assert absolute(full) == full
    assert shown(full) == "s3://bucket/a"
    assert sent("s3://bucket/a") == full
    assert sent(Path("results")) == Path("results")
    assert absolute("gs://bucket/a") == "gs://bucket/a"
    assert inside(full, "first/best") == "s3://bucket/a/first/best?endpoint_override=minio:9000&scheme=http"
    assert parent_of(inside(full, "first")) == full
    assert name_of(inside(full, "first")) == "first"
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    assert absolute("s3://bucket/a") == "s3://bucket/a"
    assert shown(full) == full


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("s3://key:secret@bucket/x", r"'s3://…@bucket/x' must not hold a key.*AWS_SECRET_ACCESS_KEY"),
        ("s3://key@bucket/x", "must not hold a key"),
        ("s3:///x", "names no bucket"),
        ("s4://bucket/x", r"s4:// is not supported. Did you mean 's3'\?"),
    ],
)
def test_a_uri_that_cannot_be_used_is_refused_and_its_key_is_not_shown(uri: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as refused:
        place_of(uri)
    assert ":secret" not in str(refused.value)


def test_a_query_with_keys_or_slips_is_refused() -> None:
    with pytest.raises(
        ConfigError, match="the query may have endpoint_override, scheme, region, not endpoint"
    ):
        open_store("s3://bucket/x?endpoint=minio:9000")
    with pytest.raises(ConfigError, match=r"az:// needs a package: pip install adlfs"):
        open_store("az://container/x")


def test_stores_of_fsspec_keep_the_same_contract(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec
    from fsspec.implementations.dirfs import DirFileSystem
    from fsspec.implementations.local import LocalFileSystem as LocalFsspec

    files = DirFileSystem(str(tmp_path), LocalFsspec(auto_mkdir=True))
    monkeypatch.setattr(fsspec.core, "url_to_fs", lambda uri: (files, uri.partition("://")[2]))
    with written_folder("oci://bucket/best") as folder:
        fill(folder, a="1", sub__b="2")
    assert content("oci://bucket/best") == {"a": "1", "sub/b": "2"}


def test_pyarrow_knows_every_scheme_that_is_promised() -> None:
    for uri in ("gs://bucket/x", "abfs://container@account.dfs.core.windows.net/x"):
        files, path = open_store(uri)
        assert isinstance(files, PyFileSystem)
        assert path in ("bucket/x", "container/x")
    assert hasattr(pyarrow.fs, "HadoopFileSystem")
