"""A file system that waits for its store: each operation is tried again until it succeeds or time is up.

Stores answer 500, 503 or nothing for a while; a search that has run for a day must not end by that. An upload
is buffered and sent when its file is closed, so that it can be sent again from the beginning. An answer that
repeating cannot change (no such bucket, access denied) is an error at once. Every error that comes out, other
than that a file is not there, is a `StorageError` of one line.
"""

import io
import random
import re
import tempfile
import time
from collections.abc import Callable
from typing import Any, TypeVar

import pyarrow
from pyarrow.fs import FileSelector, FileSystem, FileSystemHandler

from trainable.errors import StorageError

T = TypeVar("T")

PATIENCE_S = 300.0
"""How long an operation is tried again; longer than stores are usually gone, shorter than a person waits."""
_LONGEST_PAUSE_S = 10.0
_IN_MEMORY_BYTES = 64 * 2**20
_PART_BYTES = 8 * 2**20
_NOT_THERE = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
_PERMANENT = re.compile(
    r"ACCESS_DENIED|NO_SUCH_BUCKET|INVALID_ACCESS_KEY|SIGNATURE_DOES_NOT_MATCH|UNRECOGNIZED_CLIENT"
    r"|INVALID_CLIENT_TOKEN|No credentials|HTTP status 4(?!08|29)\d\d|[Pp]ermission ?[Dd]enied|Unauthorized"
    r"|Forbidden|Invalid bucket name|Not a regular file|Cannot open directory|Is a directory",
)
"""Of an error's message: trying again would not help."""


class Retrying(FileSystemHandler):
    """Passes each operation to another file system, and repeats it while that fails."""

    def __init__(
        self,
        files: FileSystem,
        label: str,
        *,
        patience_s: float = PATIENCE_S,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Wrap `files`.

        Args:
            files: does the work.
            label: names the store in messages.
            patience_s: how long an operation is tried again, in seconds.
            clock: seconds that never go back.
            sleep: waits for a number of seconds.
        """
        self._files = files
        self._label = label
        self._patience_s = patience_s
        self._clock = clock
        self._sleep = sleep

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel to another process with the file system and what it is called."""
        return _restored, (self._files, self._label, self._patience_s)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Retrying) and self._files == other._files

    def __ne__(self, other: object) -> bool:
        return not self == other

    def attempt(self, work: Callable[[], T]) -> T:
        """Return what `work` returns, calling it again while it raises an error that may pass.

        Raises:
            FileNotFoundError: or another error that says what is at a path.
            StorageError: the error cannot pass, or did not in time.
        """
        began, pause = self._clock(), 0.25
        while True:
            try:
                return work()
            except _NOT_THERE:
                raise
            except (OSError, pyarrow.ArrowException) as error:
                waited = self._clock() - began
                if _PERMANENT.search(str(error)) or waited + pause > self._patience_s:
                    after = f" (tried for {waited:.0f} s)" if waited >= 1 else ""
                    raise StorageError(f"'{self._label}' cannot be used: {gist(error)}{after}.") from error
            self._sleep(pause * random.uniform(0.8, 1.2))
            pause = min(2 * pause, _LONGEST_PAUSE_S)

    def get_type_name(self) -> str:
        """Return the wrapped file system's name."""
        return str(self._files.type_name)

    def normalize_path(self, path: str) -> str:
        """Return the path as the store writes it."""
        return str(self._files.normalize_path(path))

    def get_file_info(self, paths: list[str]) -> list[Any]:
        """Return what is at some paths."""
        return self.attempt(lambda: self._files.get_file_info(paths))

    def get_file_info_selector(self, selector: FileSelector) -> list[Any]:
        """Return what is under a folder."""
        return self.attempt(lambda: self._files.get_file_info(selector))

    def create_dir(self, path: str, recursive: bool) -> None:
        """Create a folder."""
        self.attempt(lambda: self._files.create_dir(path, recursive=recursive))

    def delete_dir(self, path: str) -> None:
        """Delete a folder; one that an earlier try deleted is fine."""
        self.attempt(lambda: self._files.delete_dir(path))

    def delete_dir_contents(self, path: str, missing_dir_ok: bool) -> None:
        """Empty a folder."""
        self.attempt(lambda: self._files.delete_dir_contents(path, missing_dir_ok=missing_dir_ok))

    def delete_root_dir_contents(self) -> None:
        """Refuse: nothing of loratune's asks for it."""
        raise StorageError(f"'{self._label}': a whole store is never emptied.")

    def delete_file(self, path: str) -> None:
        """Delete a file."""
        self.attempt(lambda: self._files.delete_file(path))

    def move(self, src: str, dest: str) -> None:
        """Rename a file or folder."""
        self.attempt(lambda: self._files.move(src, dest))

    def copy_file(self, src: str, dest: str) -> None:
        """Copy a file."""
        self.attempt(lambda: self._files.copy_file(src, dest))

    def open_input_stream(self, path: str) -> pyarrow.NativeFile:
        """Open a file to be read from its beginning."""
        return self.open_input_file(path)

    def open_input_file(self, path: str) -> pyarrow.NativeFile:
        """Open a file to be read at any place."""
        return pyarrow.PythonFile(_Reader(self, self._files, path), mode="r")

    def open_output_stream(self, path: str, metadata: dict[str, str]) -> pyarrow.NativeFile:
        """Open a file that is sent when it is closed."""
        return pyarrow.PythonFile(_Upload(self, self._files, path, metadata), mode="w")

    def open_append_stream(self, path: str, metadata: dict[str, str]) -> pyarrow.NativeFile:
        """Refuse: object stores cannot append."""
        raise StorageError(f"'{self._label}': files of a store are replaced, not appended to.")


def gist(error: BaseException) -> str:
    """Return the first line of a store's error, without what Arrow says before Amazon's words."""
    text = str(error).strip() or type(error).__name__
    line = text.splitlines()[0]
    return line[max(line.find("AWS Error"), 0) :].removesuffix(": -").rstrip(". ")


def _restored(files: FileSystem, label: str, patience_s: float) -> Retrying:
    return Retrying(files, label, patience_s=patience_s)


class _Reader(io.RawIOBase):
    """A file that is opened again where it was when reading fails."""

    def __init__(self, handler: Retrying, files: FileSystem, path: str) -> None:
        self._handler, self._files, self._path = handler, files, path
        self._file: pyarrow.NativeFile | None = None
        self._position = 0
        self._size = int(handler.attempt(self._opened).size())

    def _opened(self) -> pyarrow.NativeFile:
        if self._file is None:
            self._file = self._files.open_input_file(self._path)
        return self._file

    def _read_once(self, count: int) -> bytes:
        try:
            return bytes(self._opened().read_at(count, self._position))
        except OSError:
            self._file = None
            raise

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def size(self) -> int:
        return self._size

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = base + offset
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        left = self._size - self._position
        count = left if size is None or size < 0 else min(size, left)
        content = self._handler.attempt(lambda: self._read_once(count)) if count > 0 else b""
        self._position += len(content)
        return content


class _Upload(io.RawIOBase):
    """A file whose content is sent, again if need be, when it is closed."""

    def __init__(self, handler: Retrying, files: FileSystem, path: str, metadata: dict[str, str]) -> None:
        self._handler, self._files, self._path, self._metadata = handler, files, path, metadata
        self._buffer = tempfile.SpooledTemporaryFile(_IN_MEMORY_BYTES)  # noqa: SIM115

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        return self._buffer.write(content)

    def tell(self) -> int:
        return self._buffer.tell()

    def close(self) -> None:
        if not self.closed:
            super().close()
            with self._buffer:
                self._handler.attempt(self._send)

    def _send(self) -> None:
        self._buffer.seek(0)
        with self._files.open_output_stream(self._path, metadata=self._metadata) as out:
            while part := self._buffer.read(_PART_BYTES):
                out.write(part)
