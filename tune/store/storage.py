"""Where the bytes of an experiment lie: a small protocol, and the local disk.

Names are relative paths with forward slashes. A write is atomic: a reader sees the old content or the new
one. An append is durable when it returns. Object stores are in `tune.store.object_storage`.
"""

import contextlib
import shutil
from pathlib import Path
from typing import Protocol

from trainable.files import append_line, write_atomically
from trainable.places import Place


class Storage(Protocol):
    """What an experiment store needs of the place it lies in."""

    def place(self, name: str) -> Place:
        """Return where every process, on any machine that the place is for, reads and writes `name`."""
        ...

    def exists(self, name: str) -> bool:
        """Return whether there is a file or folder of this name."""
        ...

    def read(self, name: str) -> bytes:
        """Return a file's content.

        Raises:
            FileNotFoundError: there is no such file.
            OSError: the place cannot be read.
        """
        ...

    def write(self, name: str, content: bytes) -> None:
        """Replace a file's content atomically.

        Raises:
            OSError: the place is full, read-only or cannot be reached; the content is then as it was.
        """
        ...

    def append(self, name: str, line: bytes) -> None:
        """Append one line durably; an incomplete last line is ended first.

        Raises:
            OSError: the place is full, read-only or cannot be reached.
        """
        ...

    def cut(self, name: str, length: int) -> None:
        """Keep the first bytes of a file that is appended to, and drop the others.

        Raises:
            OSError: the place is full, read-only or cannot be reached.
        """
        ...

    def names(self, pattern: str) -> list[str]:
        """Return the names that match a glob pattern, sorted."""
        ...

    def sizes(self, name: str) -> dict[str, int]:
        """Return the sizes in bytes of all files under a folder, by their path inside it."""
        ...

    def delete(self, name: str) -> None:
        """Delete a file or folder; a missing one is fine."""
        ...


class LocalStorage:
    """A folder on a local disk or a shared file system."""

    def __init__(self, root: Path) -> None:
        """Use `root`, which need not exist yet."""
        self._root = root

    def place(self, name: str) -> Path:
        """Return the path of `name`."""
        return self._root / name

    def exists(self, name: str) -> bool:
        """Return whether there is a file or folder of this name."""
        return self.place(name).exists()

    def read(self, name: str) -> bytes:
        """Return a file's content.

        Raises:
            FileNotFoundError: there is no such file.
        """
        return self.place(name).read_bytes()

    def write(self, name: str, content: bytes) -> None:
        """Replace a file's content atomically."""
        write_atomically(self.place(name), content)

    def append(self, name: str, line: bytes) -> None:
        """Append one line durably; an incomplete last line is ended first."""
        append_line(self.place(name), line)

    def cut(self, name: str, length: int) -> None:
        """Keep the first bytes of a file, and drop the others."""
        self.write(name, self.read(name)[:length])

    def names(self, pattern: str) -> list[str]:
        """Return the names that match a glob pattern, sorted."""
        return sorted(path.relative_to(self._root).as_posix() for path in self._root.glob(pattern))

    def sizes(self, name: str) -> dict[str, int]:
        """Return the sizes in bytes of all files under a folder, by their path inside it."""
        folder = self.place(name)
        return {
            path.relative_to(folder).as_posix(): path.stat().st_size
            for path in folder.rglob("*")
            if path.is_file()
        }

    def delete(self, name: str) -> None:
        """Delete a file or folder; a missing one is fine."""
        path = self.place(name)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
