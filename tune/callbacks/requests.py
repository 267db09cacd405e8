"""Carries out what a person asks of the running search from another terminal.

`loratune enqueue` adds a known point, `loratune stop` ends one trial at its next result, `loratune pause`
saves all trials and ends the search as Ctrl-C does. The requests are files in the experiment's folder
(`tune.store.requests`), looked for about once a second.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

from ray import tune as ray_tune
from ray.tune.experiment import Trial

from trainable.records import ITERATION, REASON, STATE, MetricsRecord, TrialState
from tune.callbacks.interrupt import InterruptHandler
from tune.store.requests import Requests, Verb

STOPPED = "stopped by `loratune stop`"
PAUSED = "`loratune pause` asked for it"
_EVERY_S = 1.0


class RequestHandler(ray_tune.Callback):
    """Looks for requests in Ray's loop. It comes before callbacks that record why a trial ended."""

    def __init__(
        self,
        requests: Requests,
        enqueue: Callable[[Mapping[str, Any]], None],
        interrupt: InterruptHandler,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take over the points that were enqueued while nothing ran; drop what was meant for an earlier run.

        Args:
            requests: of the experiment.
            enqueue: gives the searcher a known point.
            interrupt: ends the search.
            clock: a clock in seconds that never goes back.
        """
        self._requests = requests
        self._enqueue = enqueue
        self._interrupt = interrupt
        self._clock = clock
        self._next = clock() + _EVERY_S
        self._stopped: set[str] = set()
        for request in requests.pending():
            if request.verb is Verb.ENQUEUE:
                enqueue(request.values)
            requests.done(request)

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Carry out what was asked for since the last look."""
        if self._clock() < self._next:
            return
        self._next = self._clock() + _EVERY_S
        for request in self._requests.pending():
            match request.verb:
                case Verb.ENQUEUE:
                    self._enqueue(request.values)
                case Verb.STOP:
                    self._stop(str(request.values.get("trial_id")), trials)
                case Verb.PAUSE:
                    self._interrupt.end(PAUSED)
            self._requests.done(request)

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Give the last record of a trial that a person stopped its reason."""
        stopped = trial.trial_id in self._stopped and result.get("done")
        if stopped and not MetricsRecord(result).state.is_terminal:
            result.update({STATE: TrialState.PRUNED.value, REASON: STOPPED})

    def _stop(self, trial_id: str, trials: list[Trial]) -> None:
        for trial in trials:
            if trial.trial_id == trial_id:
                self._stopped.add(trial_id)
                trial.stopping_criterion = {**trial.stopping_criterion, ITERATION: 0}

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what belongs to this process: Ray pickles its callbacks."""
        return {"_stopped": self._stopped}
