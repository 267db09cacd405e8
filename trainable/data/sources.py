"""What `data.train`, `data.val` and `data.test` name: files, globs, folders, or a data set on a hub.

A source knows its rows and a digest of its content. The digest does not depend on paths: the same bytes in
the same order at another place are the same data.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from trainable.config import CORPUS_PREFIX, HUB_PREFIX, DataFiles
from trainable.data.corpora import corpus_file
from trainable.data.readers import BATCH_ROWS, FILE_FORMS, file_format, read_rows, table_rows
from trainable.errors import DataError
from trainable.files import sha256_of

_HUB_NAME = re.compile(rf"{HUB_PREFIX}(?P<name>[^:@]+)(?::(?P<config>[^@]+))?(?:@(?P<split>.+))?")
_HUB_SPLITS = {"train": "train", "val": "validation", "test": "test"}
"""What hubs usually call a data set's splits."""
_NOT_ROWS = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
"""Files that describe a saved data set and hold no rows."""


class Source(Protocol):
    """Rows that can be read again, in the same order."""

    @property
    def note(self) -> str:
        """What a user should know about where it is; empty if nothing."""

    @property
    def name(self) -> str:
        """What it is called in messages."""

    def rows(self) -> Iterator[tuple[str, int, Any]]:
        """Yield each row with the name of its file and its number there.

        Raises:
            DataError: a file cannot be read.
        """

    def digest(self) -> list[Any]:
        """Return what identifies the content: for each file its format and its SHA-256."""

    def describe(self) -> dict[str, Any]:
        """Return names, sizes and hashes, for a manifest without rows."""


@dataclass(frozen=True)
class Files:
    """Rows of local files, one after the other.

    Attributes:
        paths: the files, in their order.
        note: what a user should know about where they are.
    """

    paths: tuple[Path, ...]
    note: str = ""

    @property
    def name(self) -> str:
        """The first file's path, and how many more there are."""
        return str(self.paths[0]) + (f" and {len(self.paths) - 1} more" if len(self.paths) > 1 else "")

    def rows(self) -> Iterator[tuple[str, int, Any]]:
        """Yield the rows of each file."""
        for path in self.paths:
            name = str(path)
            for number, row in read_rows(path):
                yield name, number, row

    def digest(self) -> list[Any]:
        """Return one file's format and hash, or a list of them for several files."""
        hashes = [[file_format(path), sha256_of(path)] for path in self.paths]
        return hashes[0] if len(hashes) == 1 else hashes

    def describe(self) -> dict[str, Any]:
        """Return one file's name, size and hash, or a list of them for several files."""
        files = [
            {"file": path.name, "bytes": path.stat().st_size, "sha256": sha256_of(path)}
            for path in self.paths
        ]
        return files[0] if len(files) == 1 else {"files": files}


@dataclass(frozen=True)
class HubRows:
    """Rows of one split of a data set on a hub, read from the cache of the `datasets` library."""

    name: str
    table: Any
    note: str = ""

    def rows(self) -> Iterator[tuple[str, int, Any]]:
        """Yield the rows."""
        number = 0
        for batch in self._batches():
            for row in table_rows(batch):
                number += 1
                yield self.name, number, row

    def digest(self) -> list[Any]:
        """Hash the Arrow data, which is the same whatever cache it is in."""
        content = hashlib.sha256()
        for batch in self._batches():
            for part in batch.combine_chunks().to_batches():
                content.update(part.serialize())
        return ["hub", content.hexdigest()]

    def describe(self) -> dict[str, Any]:
        """Return the data set's name and the hash of its rows."""
        return {"file": self.name, "sha256": self.digest()[1]}

    def _batches(self) -> Iterator[Any]:
        return iter(self.table.with_format("arrow").iter(batch_size=BATCH_ROWS))


def open_source(files: DataFiles, split: str) -> Source:
    """Find what a key of the `data` section names.

    Args:
        files: a path, a glob, a folder, or several of these; or `corpus:NAME@ROWS` or `hub:owner/name`.
        split: `train`, `val` or `test`: what the files are for, and so which part of a data set is meant.

    Raises:
        DataError: nothing is there, or the hub's data set cannot be loaded.
    """
    entries = files if isinstance(files, tuple) else (files,)
    if any(isinstance(entry, str) for entry in entries):
        if len(entries) > 1:
            raise DataError(
                f"'{next(e for e in entries if isinstance(e, str))}' stands beside other data sources. "
                "Name one data set, or several files."
            )
        name = str(entries[0])
        return _open_corpus(name, split) if name.startswith(CORPUS_PREFIX) else _open_hub(name, split)
    return Files(tuple(path for entry in entries for path in _expand(Path(entry))))


def _expand(path: Path) -> Sequence[Path]:
    """Return the files that a path, a folder or a glob stands for."""
    if path.is_dir() and file_format(path) is None:
        found = [inner for inner in sorted(path.rglob("*")) if _holds_rows(inner)]
        if not found:
            raise DataError(f"the folder '{path}' holds no data file. Allowed: {FILE_FORMS}.")
        return found
    if not path.exists() and re.search(r"[*?\[]", str(path)):
        root = Path(path.anchor)
        matches = sorted(root.glob(str(path.relative_to(root))))
        found = [match for match in matches if match.is_file() and not match.name.startswith(".")]
        if not found:
            raise DataError(f"no file matches '{path}'. Check the folder and the pattern.")
        return found
    if file_format(path) is None and not path.exists() and re.fullmatch(r"[\w.-]+/[\w.-]+", str(path)):
        raise DataError(
            f"'{path}' is neither a file nor a folder. A data set on a hub is named {HUB_PREFIX}{path}. "
            f"Files: {FILE_FORMS}."
        )
    # Opening a file tells whether it is missing, a folder, or of an unknown format.
    return [path]


def _holds_rows(path: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.parts[-2:])
    return path.is_file() and not hidden and path.name not in _NOT_ROWS and file_format(path) is not None


def _open_corpus(name: str, split: str) -> Files:
    path = corpus_file(name, split)
    return Files((path,), note=f"{name} is kept in {path.parent}")


def _open_hub(name: str, split: str) -> HubRows:
    parts = _HUB_NAME.fullmatch(name)
    if parts is None:
        raise DataError(f"'{name}' does not name a data set. Write {HUB_PREFIX}owner/name[:config][@split].")
    try:
        import datasets
    except ImportError:
        raise DataError(
            f"'{name}' needs the datasets library: pip install 'loratune[hub]', or name files instead."
        ) from None
    datasets.disable_progress_bars()
    try:
        table = datasets.load_dataset(
            parts["name"], parts["config"], split=parts["split"] or _HUB_SPLITS[split]
        )
    except Exception as error:  # The library raises whatever its file systems, builders and HTTP client do.
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(" .")
        raise DataError(
            f"'{name}' cannot be loaded: {reason}. Write {HUB_PREFIX}owner/name[:config][@split]; the "
            "hub must be reachable. Or name files instead."
        ) from error
    return HubRows(name, table)
