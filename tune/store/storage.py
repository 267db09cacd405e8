"""Where the bytes of an experiment lie: a small protocol, and the local disk.

Names are relative paths with forward slashes. A write is atomic: a reader sees the old content or the new
one. An append is durable when it returns.
"""

import contextlib
import shutil
from pathlib import Path
from typing import Protocol

from trainable.files import append_line, write_atomically


class Storage(Protocol):
    """What an experiment store needs of the place it lies in."""

    def locate(self, name: str) -> Path:
        """Return where other processes of this node read and write `name`."""
        ...

    def exists(self, name: str) -> bool:
        """Return whether there is a file or folder of this name."""
        ...

    def read(self, name: str) -> bytes:
        """Return a file's content.

        Raises:
            FileNotFoundError: there is no such file.
        """
        ...

    def write(self, name: str, content: bytes) -> None:
        """Replace a file's content atomically."""
        ...

    def append(self, name: str, line: bytes) -> None:
        """Append one line durably; an incomplete last line is ended first."""
        ...

    def list(self, pattern: str) -> list[str]:
        """Return the names that match a glob pattern, sorted."""
        ...

    def move(self, old: str, new: str) -> None:
        """Rename a file or folder, replacing what is called `new`."""
        ...

    def delete(self, name: str) -> None:
        """Delete a file or folder; a missing one is fine."""
        ...


class LocalStorage:
    """A folder on a local disk or a shared file system."""

    def __init__(self, root: Path) -> None:
        """Use `root`, which need not exist yet."""
        self._root = root

    def locate(self, name: str) -> Path:
        """Return the path of `name`."""
        return self._root / name

    def exists(self, name: str) -> bool:
        """Return whether there is a file or folder of this name."""
        return self.locate(name).exists()

    def read(self, name: str) -> bytes:
        """Return a file's content.

        Raises:
            FileNotFoundError: there is no such file.
        """
        return self.locate(name).read_bytes()

    def write(self, name: str, content: bytes) -> None:
        """Replace a file's content atomically."""
        write_atomically(self.locate(name), content)

    def append(self, name: str, line: bytes) -> None:
        """Append one line durably; an incomplete last line is ended first."""
        append_line(self.locate(name), line)

    def list(self, pattern: str) -> list[str]:
        """Return the names that match a glob pattern, sorted."""
        return sorted(path.relative_to(self._root).as_posix() for path in self._root.glob(pattern))

    def move(self, old: str, new: str) -> None:
        """Rename a file or folder, replacing what is called `new`."""
        target = self.locate(new)
        if target.is_dir():
            shutil.rmtree(target)
        self.locate(old).rename(target)

    def delete(self, name: str) -> None:
        """Delete a file or folder; a missing one is fine."""
        path = self.locate(name)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
