"""Ray Tune's schedulers by the word that names them in `search.scheduler`."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler

from trainable import records
from tune.config import SearchConfig


def grace_steps(search: SearchConfig, max_steps: int) -> int:
    """Return the optimiser steps that every trial gets before it can be stopped."""
    return max(1, math.ceil(search.grace_ratio * max_steps))


def rungs(search: SearchConfig, max_steps: int) -> list[int]:
    """Return the steps at which ASHA decides, in order; none for another scheduler."""
    if search.scheduler != "asha":
        return []
    found, step = [], float(grace_steps(search, max_steps))
    while step < max_steps:
        found.append(math.ceil(step))
        step *= search.reduction_factor
    return found


class _MedianStoppingRule(MedianStoppingRule):
    """Ray's, which would look for a score in the last record of a trial that diverged."""

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Take over the history of a trial that goes on: it is kept by object, not by id."""
        super().on_trial_add(tune_controller, trial)
        for earlier in [known for known in self._results if known.trial_id == trial.trial_id]:
            self._results[trial] = self._results.pop(earlier)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Remember the last record if it is scored."""
        if self.metric in result:
            super().on_trial_complete(tune_controller, trial, result)


@dataclass(frozen=True)
class Past:
    """A trial as a scheduler has to hear of it.

    Attributes:
        trial_id: Ray's.
        log: its records in order, each with the `time` it came at.
        ended: whether it will never report again.
    """

    trial_id: str
    log: Sequence[Mapping[str, Any]]
    ended: bool


def replay(scheduler: TrialScheduler, trials: Sequence[Past]) -> set[str]:
    """Tell a fresh scheduler everything that was reported, in the order in which it was.

    Its rungs are then what they would be if the search had never been interrupted.

    Returns:
        The ids of the trials that it stops at their last record.
    """
    known = {past.trial_id: _Replayed(past.trial_id) for past in trials}
    ended = {past.trial_id for past in trials if past.ended}
    for trial in known.values():
        scheduler.on_trial_add(_NO_CONTROLLER, trial)
    events = [
        (record["time"], past.trial_id, place == len(past.log) - 1, record)
        for past in trials
        for place, record in enumerate(past.log)
    ]
    events.sort(key=lambda event: event[:2])
    stopped = set()
    for _, trial_id, last, record in events:
        told = {"time_total_s": record[records.STEP], **record}
        told = {key: value for key, value in told.items() if value is not None}
        if last and trial_id in ended:
            scheduler.on_trial_complete(_NO_CONTROLLER, known[trial_id], told)
        elif scheduler.on_trial_result(_NO_CONTROLLER, known[trial_id], told) == TrialScheduler.STOP and last:
            stopped.add(trial_id)
    return stopped


@dataclass(eq=False)
class _Replayed:
    """As much of a Ray trial as a scheduler looks at."""

    trial_id: str
    status: str = "RUNNING"


class _NoController:
    """As much of Ray's controller as a scheduler looks at: nothing is running yet."""

    def get_live_trials(self) -> list[Any]:
        return []

    def get_trials(self) -> list[Any]:
        return []


_NO_CONTROLLER: Any = _NoController()


def make_scheduler(search: SearchConfig, max_steps: int) -> TrialScheduler:
    """Return the configured scheduler.

    Args:
        search: names it, its objective and its patience.
        max_steps: optimiser steps of a whole trial.
    """
    judged = {"time_attr": records.STEP, "metric": search.metric, "mode": search.mode}
    grace = grace_steps(search, max_steps)
    match search.scheduler:
        case "asha":
            # A trial says itself that it is done: the scheduler stops only the weak ones.
            return AsyncHyperBandScheduler(
                **judged,
                max_t=max_steps,
                grace_period=grace,
                reduction_factor=search.reduction_factor,
                stop_last_trials=False,
            )
        case "median":
            return _MedianStoppingRule(**judged, grace_period=grace)
        case "none":
            return FIFOScheduler()
