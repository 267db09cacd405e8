"""Ends a running search cleanly when asked to: Ctrl-C, or the SIGTERM of a machine that is taken away."""

import contextlib
import os
import signal
from types import FrameType, TracebackType
from typing import Any, Self

import ray
from ray import tune as ray_tune
from ray.actor import ActorHandle
from ray.exceptions import GetTimeoutError, RayError

_SAVING_S = 20.0
"""The longest that a last save may take; a machine that is taken away gives a minute in all."""


class StopOnSignal(ray_tune.Callback):
    """Enter it around `Tuner.fit`: a first signal saves all trials and ends the search, a second the process.

    Attributes:
        received: the signal's number, once there was one.
    """

    def __init__(self, hosts: ActorHandle) -> None:
        """Remember whose trials to save."""
        self._hosts = hosts
        self._before: dict[int, Any] = {}
        self._saved = False
        self.received: int | None = None

    def __enter__(self) -> Self:
        """Take the signals over."""
        # Ray would take SIGINT for itself and not say that it did.
        os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
        numbers = (signal.SIGINT, signal.SIGTERM)
        self._before = {number: signal.signal(number, self._stop) for number in numbers}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Give the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Save and end, from Ray's loop: a signal's handler must not wait for anything."""
        if self.received is None or self._saved:
            return
        self._saved = True
        # Where that fails, the checkpoint of each trial's last evaluation is there.
        with contextlib.suppress(GetTimeoutError, RayError, OSError):
            ray.get(self._hosts.save_all.remote(), timeout=_SAVING_S)
        # Ray ends a running search on this signal.
        os.kill(os.getpid(), signal.SIGUSR1)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the handlers: Ray pickles its callbacks."""
        return self.__dict__ | {"_before": {}}

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None or not callable(signal.getsignal(signal.SIGUSR1)):
            raise KeyboardInterrupt
        self.received = number
