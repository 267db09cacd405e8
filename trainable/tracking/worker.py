"""Threads that track without anybody waiting for them, and what they have to report."""

import queue
import threading
import time
from collections.abc import Callable
from typing import Any

from trainable.tracking.server import first_line


class Warnings:
    """One warning of each kind, however often it happens: tracking never stops a search."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._given: set[str] = set()
        self._muted = False

    def warn(self, kind: str, text: str) -> None:
        """Report the first problem of a kind."""
        if kind not in self._given and not self._muted:
            self._given.add(kind)
            self._say(f"{text} The search continues.")

    def mute(self) -> None:
        """Report nothing more: the search has ended and its report is printed."""
        self._muted = True

    def could_not(self, what: str, error: Exception) -> None:
        """Report the first failure to do something."""
        self.warn(what, f"W&B could not {what}: {first_line(error)}.")

    def failed(self, error: Exception) -> None:
        """Report an error that nothing else has reported."""
        self.warn(type(error).__name__, f"W&B tracking failed: {first_line(error)}.")


class Worker:
    """One thread that does what it is given, in order; an error is reported and stops nothing."""

    def __init__(self, name: str, on_error: Callable[[Exception], None]) -> None:
        self._on_error = on_error
        self._queue: queue.Queue[Callable[[], Any] | None] = queue.Queue()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def put(self, work: Callable[[], Any]) -> None:
        """Do `work` later."""
        self._queue.put(work)

    def close(self, deadline: float) -> bool:
        """Take nothing more; returns whether all was done by `deadline` (of `time.monotonic`)."""
        self._queue.put(None)
        self._thread.join(max(0.0, deadline - time.monotonic()))
        return not self._thread.is_alive()

    def _work(self) -> None:
        while (work := self._queue.get()) is not None:
            try:
                work()
            except Exception as error:
                self._on_error(error)
