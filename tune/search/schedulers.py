"""Ray Tune's schedulers by the word that names them in `search.scheduler`."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler

from trainable.objective import Objective
from trainable.records import STEP, MetricsRecord
from tune.config import SearchConfig


def grace_steps(search: SearchConfig, max_steps: int) -> int:
    """Return the optimizer steps that every trial gets before it can be stopped."""
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
class Replayed:
    """A trial's history, to be given to a scheduler.

    Attributes:
        trial_id: Ray's.
        log: its records in order, each with the time it was logged at.
        ended: whether it will never report again.
    """

    trial_id: str
    log: Sequence[MetricsRecord]
    ended: bool


def replay(scheduler: TrialScheduler, trials: Sequence[Replayed]) -> set[str]:
    """Give a new scheduler everything that was reported, in the order in which it was.

    Its rungs are then what they would be if the search had never been interrupted.

    Returns:
        The ids of the trials that it stops at their last record.
    """
    known = {past.trial_id: _TrialStandIn(past.trial_id) for past in trials}
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
        reported = {"time_total_s": record.step, **record}
        reported = {key: value for key, value in reported.items() if value is not None}
        if last and trial_id in ended:
            scheduler.on_trial_complete(_NO_CONTROLLER, known[trial_id], reported)
        elif (
            scheduler.on_trial_result(_NO_CONTROLLER, known[trial_id], reported) == TrialScheduler.STOP
            and last
        ):
            stopped.add(trial_id)
    return stopped


@dataclass(eq=False)
class _TrialStandIn:
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


def make_scheduler(search: SearchConfig, objective: Objective, max_steps: int) -> TrialScheduler:
    """Return the configured scheduler.

    Args:
        search: names it, and says when it may stop a trial.
        objective: what it compares trials by.
        max_steps: optimizer steps of a full trial.
    """
    judged = {"time_attr": STEP, "metric": objective.metric, "mode": objective.mode}
    grace = grace_steps(search, max_steps)
    match search.scheduler:
        case "asha":
            # A trial reports its own completion: the scheduler stops only the weak ones.
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
