"""Files that are complete or absent: atomic writing, durable appending, hashing, manifests, the user's cache.

A reader never sees half a file: content is written under a temporary name in the same folder, flushed to the
disk, and renamed. A manifest lists the size and SHA-256 of every file of a folder.
"""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"
"""Written last: a folder without it is not complete."""


def loratune_cache() -> Path:
    """Return the cache's folder: `LORATUNE_CACHE`, else `loratune` in `XDG_CACHE_HOME` or `~/.cache`."""
    if own := os.environ.get("LORATUNE_CACHE"):
        return Path(own).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "loratune"


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace a file's content, durably.

    Raises:
        OSError: the disk is full or read-only; the file is then as it was.
    """
    data = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes a file that only its owner can read; others keep what the user's mask allows.
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    flush(path.parent)


def append_line(path: Path, line: bytes) -> None:
    """Append one line and wait until it is on the disk; a line that a crash truncated is ended first.

    Raises:
        OSError: the disk is full or read-only.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        if file.tell() and file.seek(-1, os.SEEK_END) and file.read(1) != b"\n":
            file.write(b"\n")
        file.write(line + b"\n")
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def replaced_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder that takes the place of `folder` when the `with` block ends without an error.

    Raises:
        OSError: the disk is full or read-only; `folder` is then as it was.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent))
    try:
        fresh = scratch / "new"
        fresh.mkdir()
        yield fresh
        for path in (*fresh.rglob("*"), fresh):
            flush(path)
        if folder.exists():
            folder.rename(scratch / "old")
        fresh.rename(folder)
        flush(folder.parent)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def flush(path: Path) -> None:
    """Wait until a file's or folder's content is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_manifest(folder: Path) -> None:
    """Describe every file of `folder` in its manifest."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    manifest = {"files": {str(path.relative_to(folder)): _describe(path) for path in files}}
    write_atomically(folder / MANIFEST, json.dumps(manifest, indent=2))


def check_manifest(folder: Path, *, deep: bool = True) -> str | None:
    """Return what is wrong with a folder, as a clause such as `'a.txt' is missing`; `None` if it is complete.

    Args:
        folder: has a manifest.
        deep: compare SHA-256 as well as sizes.
    """
    try:
        manifest = (folder / MANIFEST).read_bytes()
    except OSError as error:
        return f"it has no readable {MANIFEST} ({error})"
    sizes = {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in folder.rglob("*")
        if path.is_file()
    }
    if (problem := check_sizes(manifest, sizes)) is not None or not deep:
        return problem
    for name, expected in json.loads(manifest)["files"].items():
        if sha256_of(folder / name) != expected["sha256"]:
            return f"'{name}' is corrupt ({sizes[name]} bytes, expected {expected['bytes']})"
    return None


def check_sizes(manifest: bytes, sizes: Mapping[str, int]) -> str | None:
    """Return what is wrong with a folder as far as the sizes of its files show it; `None` if nothing is.

    Args:
        manifest: the manifest's content.
        sizes: of the folder's files in bytes, by their path in it.
    """
    try:
        files = {name: int(expected["bytes"]) for name, expected in json.loads(manifest)["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return f"it has no readable {MANIFEST} ({error})"
    for name, expected in files.items():
        if name not in sizes:
            return f"'{name}' is missing"
        if sizes[name] != expected:
            return f"'{name}' is corrupt ({sizes[name]} bytes, expected {expected})"
    return None


def _describe(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
