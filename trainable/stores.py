"""Reading and writing at a place, from any process on any machine: a trial's, an engine's, the driver's.

A local folder is replaced by a rename. In a store there is none: the file that makes a folder complete, its
manifest, is deleted first and written last, so that a reader never takes a mixture for complete.
"""

import contextlib
import functools
import importlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit, urlunsplit

from pyarrow.fs import FileSelector, FileSystem, FileType, FSSpecHandler, PyFileSystem

from trainable.errors import ConfigError, StorageError
from trainable.files import MANIFEST, replaced_folder, write_atomically
from trainable.places import FSSPEC_SCHEMES, place_of
from trainable.retrying import PATIENCE_S, Retrying, gist

_COPIED_BYTES = 8 * 2**20
_S3_OPTIONS = ("endpoint_override", "scheme", "region")
_GS_RETRIES_S = 20


def open_store(uri: str, *, patience_s: float = PATIENCE_S) -> tuple[FileSystem, str]:
    """Return the file system that a URI is in, and the URI's path there; nothing is asked of the store yet.

    Args:
        uri: as `place_of` accepts it.
        patience_s: how long an operation is tried again, in seconds.

    Raises:
        ConfigError: the URI has a part that is not allowed, or a package is missing.
        StorageError: the store cannot be reached.
    """
    parts = urlsplit(uri)
    label = f"{parts.scheme}://{parts.netloc}"
    try:
        files, root = _opened(urlunsplit(parts._replace(path="")))
    except (OSError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise StorageError(f"'{label}' cannot be used: {gist(error)}.") from error
    return PyFileSystem(
        Retrying(files, label, patience_s=patience_s)
    ), f"{root.rstrip('/')}{parts.path}".rstrip("/")


def files_under(files: FileSystem, path: str) -> dict[str, int]:
    """Return the sizes in bytes of all files under a folder, by their path inside it; none without it."""
    found = files.get_file_info(FileSelector(path, recursive=True, allow_not_found=True))
    return {info.path[len(path) + 1 :]: info.size for info in found if info.type == FileType.File}


def read_file(files: FileSystem, path: str) -> bytes:
    """Return a file's content.

    Raises:
        FileNotFoundError: there is no such file.
    """
    with files.open_input_file(path) as file:
        return bytes(file.read())


def download(files: FileSystem, path: str, folder: Path) -> None:
    """Copy every file under `path` to a local folder.

    Raises:
        OSError: the disk is full, or the store cannot be read.
    """
    for name in files_under(files, path):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with files.open_input_file(f"{path}/{name}") as source, target.open("wb") as file:
            while part := source.read(_COPIED_BYTES):
                file.write(part)


@contextlib.contextmanager
def local_copy(place: Path | str) -> Iterator[Path]:
    """Yield a local folder with the files at a place: that folder itself, or a copy that is then deleted."""
    place = place_of(place)
    if isinstance(place, Path):
        yield place
        return
    with tempfile.TemporaryDirectory(prefix="loratune-") as folder:
        download(*open_store(place), Path(folder))
        yield Path(folder)


@contextlib.contextmanager
def written_folder(place: Path | str, *, last: str = MANIFEST) -> Iterator[Path]:
    """Yield an empty folder whose files replace those at a place when the `with` block ends without error.

    Args:
        place: of the folder to be replaced, or made.
        last: the file that makes it complete, which a store gets after all others.

    Raises:
        OSError: the disk is full or read-only, or the store cannot be written to.
    """
    place = place_of(place)
    if isinstance(place, Path):
        with replaced_folder(place) as fresh:
            yield fresh
        return
    with tempfile.TemporaryDirectory(prefix="loratune-") as folder:
        yield Path(folder)
        files, path = open_store(place)
        before = files_under(files, path)
        fresh_files = {
            one.relative_to(folder).as_posix(): one for one in Path(folder).rglob("*") if one.is_file()
        }
        for name in sorted(before.keys() & {last}) + sorted(before.keys() - fresh_files.keys() - {last}):
            files.delete_file(f"{path}/{name}")
        for name in sorted(fresh_files, key=lambda name: (name == last, name)):
            with fresh_files[name].open("rb") as source, files.open_output_stream(f"{path}/{name}") as out:
                while part := source.read(_COPIED_BYTES):
                    out.write(part)


def write_at(place: Path | str, text: str) -> None:
    """Replace a small file's content.

    Raises:
        OSError: the disk is full or read-only, or the store cannot be written to.
    """
    place = place_of(place)
    if isinstance(place, Path):
        write_atomically(place, text)
        return
    files, path = open_store(place)
    with files.open_output_stream(path) as out:
        out.write(text.encode("utf-8", "surrogatepass"))


def read_at(place: Path | str, *, patience_s: float = PATIENCE_S) -> str:
    """Return a small file's content.

    Raises:
        OSError: there is no such file, or it cannot be read.
    """
    place = place_of(place)
    if isinstance(place, Path):
        return place.read_text(encoding="utf-8")
    return read_file(*open_store(place, patience_s=patience_s)).decode("utf-8")


def delete_at(place: Path | str) -> None:
    """Delete a file; a missing one is fine."""
    place = place_of(place)
    if isinstance(place, Path):
        place.unlink(missing_ok=True)
        return
    files, path = open_store(place)
    with contextlib.suppress(FileNotFoundError):
        files.delete_file(path)


@functools.lru_cache(maxsize=64)
def _opened(uri: str) -> tuple[FileSystem, str]:
    """Return the file system of a URI without a path, and the path of its root."""
    scheme = urlsplit(uri).scheme.lower()
    if scheme == "s3":
        return _s3(uri)
    if scheme in FSSPEC_SCHEMES:
        return _through_fsspec(scheme, uri)
    if scheme in ("gs", "gcs") and "retry_limit_seconds" not in uri:
        # Google's client tries again for 15 minutes on its own.
        uri += f"{'&' if '?' in uri else '?'}retry_limit_seconds={_GS_RETRIES_S}"
    found: tuple[FileSystem, str] = FileSystem.from_uri(uri)
    return found


def _s3(uri: str) -> tuple[FileSystem, str]:
    from pyarrow.fs import S3FileSystem, resolve_s3_region

    parts = urlsplit(uri)
    options: dict[str, Any] = dict(parse_qsl(parts.query))
    if unknown := sorted(options.keys() - set(_S3_OPTIONS)):
        raise ConfigError(
            f"'{uri}': the query may have {', '.join(_S3_OPTIONS)}, not {', '.join(unknown)}. "
            "Keys are read from the environment."
        )
    if "endpoint_override" not in options and "region" not in options:
        options["region"] = resolve_s3_region(parts.netloc)
    # Opened late, a small file is one request, not the three of an upload in parts.
    return S3FileSystem(**options, allow_delayed_open=True), parts.netloc


def _through_fsspec(scheme: str, uri: str) -> tuple[FileSystem, str]:
    package = FSSPEC_SCHEMES[scheme]
    try:
        fsspec = importlib.import_module("fsspec")
        files, path = fsspec.core.url_to_fs(uri)
    except ImportError:
        raise ConfigError(f"{scheme}:// needs a package: pip install {package}.") from None
    return PyFileSystem(FSSpecHandler(files)), path
