"""Signal handling and the time limit: every announced end of a running search saves its trials first.

Ctrl-C, SIGTERM (a preemption), SIGHUP (a closed terminal) and `search.timeout_s` take one path: each trial is
saved after the step it is in, and the search ends with its unfinished trials waiting for `loratune resume`.
"""

import contextlib
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import Any, Self

import ray
from ray import tune as ray_tune
from ray.actor import ActorHandle
from ray.exceptions import GetTimeoutError, RayError

_SAVING_S = 20.0
"""The longest that the last save may take; a preemption leaves a minute in all."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True)
class Interruption:
    """Why a search ended before it was finished.

    Attributes:
        by_user: whether a person or the machine asked for it; else the search's own time limit did.
        reason: a clause for the terminal, such as "SIGTERM was received".
    """

    by_user: bool
    reason: str


class SearchInterrupted(Exception):
    """Ends Ray's loop; Ray then cleans up as after any end."""


class InterruptHandler(ray_tune.Callback):
    """Enter it around `Tuner.fit`: a first signal saves all trials and ends the search, a second the process.

    Signals are handled in the main thread alone, where Python allows it; elsewhere the time limit still
    holds.

    Attributes:
        interruption: why the search was ended, once it was.
    """

    def __init__(
        self, hosts: ActorHandle, timeout_s: float | None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Remember whose trials to save.

        Args:
            hosts: knows the engines.
            timeout_s: the search's time limit; `None` for no limit.
            clock: a clock in seconds that never goes back.
        """
        self._hosts = hosts
        self._timeout_s = timeout_s
        self._clock = clock
        self._deadline: float | None = None
        self._before: dict[signal.Signals, Any] = {}
        self.interruption: Interruption | None = None

    def __enter__(self) -> Self:
        """Install the signal handlers, and start the time limit."""
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._on_signal) for number in _SIGNALS}
        if self._timeout_s is not None:
            self._deadline = self._clock() + self._timeout_s
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Restore the handlers that were there before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Save and end, from Ray's loop: a signal handler must not wait for anything.

        Raises:
            SearchInterrupted: a signal was received, or the time is up.
        """
        if self.interruption is None and self._deadline is not None and self._clock() >= self._deadline:
            self.interruption = Interruption(False, f"search.timeout_s ({self._timeout_s:g} s) is up")
        if self.interruption is None:
            return
        # Where that fails, the checkpoint of each trial's last evaluation is there.
        with contextlib.suppress(GetTimeoutError, RayError, OSError):
            ray.get(self._hosts.save_all.remote(), timeout=_SAVING_S)
        raise SearchInterrupted(self.interruption.reason)

    def end(self, reason: str) -> None:
        """End the search as a first signal does.

        Args:
            reason: a clause for the terminal.
        """
        if self.interruption is None:
            self.interruption = Interruption(True, reason)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the handlers: Ray pickles its callbacks."""
        return self.__dict__ | {"_before": {}}

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.interruption is not None:
            raise KeyboardInterrupt
        self.interruption = Interruption(True, f"{signal.Signals(number).name} was received")
