"""Optuna's journal in an object store, through the storage that the rest of the experiment uses.

An operation is one line of a file that grows, durable once it is appended. The process that holds the
experiment is the only one that appends, so it answers from memory what it has read or written itself; a
reader reads everything once.
"""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from optuna.storages.journal import BaseJournalBackend

from tune.store.storage import Storage


@dataclass(frozen=True)
class JournalPlace:
    """Where a journal is: a file called `name` in a storage."""

    storage: Storage
    name: str


class ObjectJournal(BaseJournalBackend):
    """A journal that only one process writes to at a time."""

    def __init__(self, place: JournalPlace) -> None:
        """Use a file, which need not exist yet."""
        self._place = place
        self._lines: list[bytes] = []
        self._collected: list[bytes] | None = None
        with contextlib.suppress(FileNotFoundError):
            self._lines = place.storage.read(place.name).splitlines()

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """Yield the operations from a number on."""
        return (json.loads(line) for line in self._lines[log_number_from:])

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append operations durably, all in one write.

        Raises:
            StorageError: the store cannot be written to; none of them is then in the journal.
        """
        lines = [json.dumps(log, separators=(",", ":")).encode() for log in logs]
        if self._collected is None:
            self._write(lines)
        else:
            self._collected += lines
        self._lines += lines

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Append what the `with` block does in one write at its end.

        Raises:
            StorageError: the store cannot be written to.
        """
        self._collected = []
        try:
            yield
        finally:
            lines, self._collected = self._collected, None
            if lines:
                self._write(lines)

    def _write(self, lines: list[bytes]) -> None:
        self._place.storage.append(self._place.name, b"\n".join(lines))
