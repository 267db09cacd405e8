"""An experiment in an object store: objects are replaced as a whole, and nothing can be appended to.

A file that grows is a row of objects, `name`, `name.000001`, `name.000002` …, whose contents follow each
other. An append puts the last object anew, with the line; one that has reached `SEGMENT_BYTES` is not touched
again. A put is atomic in S3, Google Cloud Storage and Azure: what it replaces stays readable until it is
complete, so a complete line is there, and durable, once `append` returns. HDFS replaces in two steps, by a
file `name.new` that is renamed; a reader takes that one where a crash has left no other.

The last objects' contents are kept in memory: one process at a time writes (`tune.store.lease`). Before each
change the writer makes sure that it still is the one.
"""

import fnmatch
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

from pyarrow.fs import FileSelector, FileType

from trainable.places import Place, inside
from trainable.stores import files_under, open_store, read_file

SEGMENT_BYTES = 256 * 2**10
"""An object of this size is full. A later version may raise it, never lower it."""
_ATOMIC = ("s3", "gs", "gcs", "abfs", "abfss", "az", "oci", "oss")
_NEW = ".new"
_READERS = 16


class ObjectStorage:
    """A folder in an object store.

    Attributes:
        check_owner: called before each change; raises if another process may change the experiment now.
    """

    def __init__(self, uri: str) -> None:
        """Use the folder that a URI names, which need not exist yet.

        Raises:
            ConfigError: the URI cannot be used.
            StorageError: the store cannot be reached.
        """
        self._uri = uri
        self._files, self._root = open_store(uri)
        self._replaces_atomically = urlsplit(uri).scheme.lower() in _ATOMIC
        self._tails: dict[str, tuple[int, bytes]] = {}
        self.check_owner: Callable[[], None] = lambda: None

    def __reduce__(self) -> tuple[type["ObjectStorage"], tuple[str]]:
        """Travel to another process as the place alone."""
        return ObjectStorage, (self._uri,)

    def place(self, name: str) -> Place:
        """Return the URI of `name`."""
        return inside(self._uri, name)

    def exists(self, name: str) -> bool:
        """Return whether there is a file or folder of this name."""
        paths = (
            [self._path(name)] if self._replaces_atomically else [self._path(name), self._path(name) + _NEW]
        )
        return any(info.type != FileType.NotFound for info in self._files.get_file_info(paths))

    def read(self, name: str) -> bytes:
        """Return a file's content.

        Raises:
            FileNotFoundError: there is no such file.
            StorageError: the store cannot be read.
        """
        first = self._read_object(name)
        # An object below its full size is the last of its row.
        if len(first) < SEGMENT_BYTES:
            return first
        with ThreadPoolExecutor(_READERS) as pool:
            rest = pool.map(self._read_object, self._segments(name)[1:])
            return first + b"".join(rest)

    def write(self, name: str, content: bytes) -> None:
        """Replace a file's content atomically.

        Raises:
            StorageError: the store cannot be written to.
        """
        self._tails.pop(name, None)
        self._put(name, content)

    def append(self, name: str, line: bytes) -> None:
        """Append one line durably; an incomplete last line is ended first.

        Raises:
            StorageError: the store cannot be written to; the line is then not in the file.
        """
        number, tail = self._tail(name)
        ended = b"" if not tail or tail.endswith(b"\n") else b"\n"
        if len(tail) >= SEGMENT_BYTES:
            number, tail = number + 1, b""
        tail += ended + line + b"\n"
        self._put(_segment(name, number), tail)
        self._tails[name] = number, tail

    def cut(self, name: str, length: int) -> None:
        """Keep the first bytes of a file that is appended to, and drop the others.

        Objects are deleted from the last one on: after a crash in between, a longer part is left.

        Raises:
            StorageError: the store cannot be written to.
        """
        self._tails.pop(name, None)
        segments = self._segments(name)
        ends, total = [], 0
        for segment in segments:
            total += len(self._read_object(segment))
            ends.append(total)
        for segment, end in reversed(list(zip(segments, ends, strict=True))):
            content = self._read_object(segment)
            keep = length - (end - len(content))
            if keep >= len(content):
                return
            if keep > 0 or segment == name:
                self._put(segment, content[:keep])
                return
            self.delete(segment)

    def names(self, pattern: str) -> list[str]:
        """Return the names that match a glob pattern, sorted."""
        found = [""]
        *folders, last = pattern.split("/")
        for part in folders:
            found = [name for base in found for name in self._matching(base, part)]
        if any(letter in last for letter in "*?["):
            return sorted(name for base in found for name in self._matching(base, last))
        names = [f"{base}/{last}".lstrip("/") for base in found]
        there = self._files.get_file_info([self._path(name) for name in names]) if names else []
        return sorted(name for name, info in zip(names, there, strict=True) if info.type != FileType.NotFound)

    def sizes(self, name: str) -> dict[str, int]:
        """Return the sizes in bytes of all files under a folder, by their path inside it."""
        return files_under(self._files, self._path(name))

    def delete(self, name: str) -> None:
        """Delete a file or folder; a missing one is fine."""
        self.check_owner()
        info = self._files.get_file_info(self._path(name))
        if info.type == FileType.Directory:
            self._files.delete_dir(self._path(name))
        elif info.type == FileType.File:
            self._files.delete_file(self._path(name))

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    def _matching(self, folder: str, pattern: str) -> list[str]:
        if not any(letter in pattern for letter in "*?["):
            return [f"{folder}/{pattern}".lstrip("/")]
        base = self._path(folder)
        found = self._files.get_file_info(FileSelector(base, allow_not_found=True))
        names = [info.path[len(base) + 1 :] for info in found]
        return [f"{folder}/{name}".lstrip("/") for name in names if fnmatch.fnmatchcase(name, pattern)]

    def _read_object(self, name: str) -> bytes:
        try:
            return read_file(self._files, self._path(name))
        except FileNotFoundError:
            if self._replaces_atomically:
                raise
            return read_file(self._files, self._path(f"{name}{_NEW}"))

    def _put(self, name: str, content: bytes) -> None:
        self.check_owner()
        path = self._path(name)
        if self._replaces_atomically:
            with self._files.open_output_stream(path) as out:
                out.write(content)
            return
        with self._files.open_output_stream(f"{path}{_NEW}") as out:
            out.write(content)
        self.delete(name)
        self._files.move(f"{path}{_NEW}", path)

    def _segments(self, name: str) -> list[str]:
        """Return the objects that a file consists of, in order; those after a gap are not of it."""
        folder = name.rpartition("/")[0]
        base = self._path(folder)
        found = self._files.get_file_info(FileSelector(base, allow_not_found=True))
        names = [info.path[len(base) + 1 :].removesuffix(_NEW) for info in found]
        there = {f"{folder}/{one}".lstrip("/") for one in names}
        segments = [name]
        while (following := _segment(name, len(segments))) in there:
            segments.append(following)
        return segments

    def _tail(self, name: str) -> tuple[int, bytes]:
        """Return the number and the content of the last object of a file."""
        if name not in self._tails:
            try:
                last = self._segments(name)[-1]
                self._tails[name] = int(last[len(name) + 1 :] or 0), self._read_object(last)
            except FileNotFoundError:
                self._tails[name] = 0, b""
        return self._tails[name]


def _segment(name: str, number: int) -> str:
    return f"{name}.{number:06d}" if number else name
