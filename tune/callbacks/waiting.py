"""Says why nothing happens, when every trial of a search waits for a place on the cluster."""

import time
from collections.abc import Callable
from typing import Any

from ray import tune as ray_tune
from ray.tune.experiment import Trial

_PATIENCE_S = 30.0
"""How long trials may wait before it is said; starting processes takes a while anyway."""


class Waiting(ray_tune.Callback):
    """Writes one line when trials have been waiting and none runs, and one more if that happens again."""

    def __init__(
        self,
        say: Callable[[str], None],
        lack: Callable[[], str],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin with nothing to say.

        Args:
            say: takes a line for the terminal.
            lack: returns a clause on what trials need and what is free.
            clock: seconds, never going back.
        """
        self._say = say
        self._lack = lack
        self._clock = clock
        self._since: float | None = None
        self._is_said = False

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Look at the trials' states."""
        waiting = sum(trial.status == Trial.PENDING for trial in trials)
        if not waiting or any(trial.status == Trial.RUNNING for trial in trials):
            self._since, self._is_said = None, False
            return
        now = self._clock()
        self._since = now if self._since is None else self._since
        if not self._is_said and now - self._since >= _PATIENCE_S:
            self._is_said = True
            self._say(f"{waiting} trial(s) wait for a place on the cluster: {self._lack()}.")

    def __getstate__(self) -> dict[str, Any]:
        """Leave the terminal and the cluster behind: Ray pickles its callbacks."""
        return self.__dict__ | {"_say": None, "_lack": None}
