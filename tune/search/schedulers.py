"""Schedulers by the name in `search.scheduler`: Ray Tune's, and a user's own as `package.module:name`."""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler

from trainable.errors import ConfigError
from trainable.extension import load_object
from trainable.objective import Objective
from trainable.records import JUDGED, STEP, MetricsRecord, TrialState
from tune.sections import SearchConfig


@dataclass(frozen=True)
class SchedulerRequest:
    """What a scheduler is made from.

    Attributes:
        search: the search's settings, which say when a trial may be stopped.
        objective: what trials are compared by.
        max_steps: optimizer steps of a full trial.
    """

    search: SearchConfig
    objective: Objective
    max_steps: int

    @property
    def grace_steps(self) -> int:
        """Optimizer steps that every trial gets before it can be stopped."""
        return grace_steps(self.search, self.max_steps)

    @property
    def judged(self) -> dict[str, str]:
        """The time attribute, metric and mode as Ray's schedulers take them; lower is always better."""
        return {"time_attr": STEP, "metric": JUDGED, "mode": "min"}


def grace_steps(search: SearchConfig, max_steps: int) -> int:
    """Return the optimizer steps that every trial gets before it can be stopped."""
    return max(1, math.ceil(search.grace_ratio * max_steps))


def rungs(search: SearchConfig, max_steps: int) -> list[int]:
    """Return the steps at which asha or hyperband decides, in order; none for another scheduler."""
    return _rung_steps(search, max_steps) if search.scheduler in ("asha", "hyperband") else []


def _rung_steps(search: SearchConfig, max_steps: int) -> list[int]:
    steps, step = [], float(grace_steps(search, max_steps))
    while step < max_steps:
        steps.append(math.ceil(step))
        step *= search.reduction_factor
    return steps


_NO_MEASURE = (TrialState.DIVERGED, TrialState.OOM)
"""Trials that end so are no measure for others: the fastest to learn is often the next to diverge."""


class _Asha(AsyncHyperBandScheduler):
    """Ray's, which would go on comparing trials with one that has diverged since."""

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Remember the last record, or forget a trial that is no measure for the others."""
        if MetricsRecord(result).outcome().state in _NO_MEASURE:
            for _, recorded in self._trial_info.pop(trial.trial_id)._rungs:
                recorded.pop(trial.trial_id, None)
        else:
            super().on_trial_complete(tune_controller, trial, result)


class _HyperBand(_Asha):
    """Asynchronous HyperBand, in which a trial's bracket follows from its id and not from a global state.

    A resumed search then puts each trial into the bracket that it was in.
    """

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Choose a bracket with the probabilities of Ray's scheduler: those with more rungs are likelier."""
        weights = [math.exp(len(bracket._rungs)) for bracket in self._brackets]
        chosen = random.Random(str(trial.trial_id)).choices(self._brackets, weights)
        self._trial_info[trial.trial_id] = chosen[0]


class _MedianStoppingRule(MedianStoppingRule):
    """Ray's, which would go on comparing trials with one that has diverged since."""

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Take over the history of a trial that is resumed: it is kept by object, not by id."""
        super().on_trial_add(tune_controller, trial)
        for earlier in [known for known in self._results if known.trial_id == trial.trial_id]:
            self._results[trial] = self._results.pop(earlier)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Remember the last record, or forget a trial that is no measure for the others."""
        if MetricsRecord(result).outcome().state in _NO_MEASURE:
            self._results.pop(trial, None)
        elif self.metric in result:
            super().on_trial_complete(tune_controller, trial, result)


def _asha(request: SchedulerRequest) -> TrialScheduler:
    # A trial reports its own completion: the scheduler stops only the weak ones.
    return _Asha(
        **request.judged,
        max_t=request.max_steps,
        grace_period=request.grace_steps,
        reduction_factor=request.search.reduction_factor,
        stop_last_trials=False,
    )


def _hyperband(request: SchedulerRequest) -> TrialScheduler:
    # Each further bracket begins to judge one rung later; in the last one every trial runs to its end.
    return _HyperBand(
        **request.judged,
        max_t=request.max_steps,
        grace_period=request.grace_steps,
        reduction_factor=request.search.reduction_factor,
        brackets=1 + len(_rung_steps(request.search, request.max_steps)),
        stop_last_trials=False,
    )


def _median(request: SchedulerRequest) -> TrialScheduler:
    return _MedianStoppingRule(**request.judged, grace_period=request.grace_steps)


def _none(request: SchedulerRequest) -> TrialScheduler:
    return FIFOScheduler()


SchedulerMaker = Callable[[SchedulerRequest], TrialScheduler]
SCHEDULERS: Mapping[str, SchedulerMaker] = {
    "asha": _asha,
    "hyperband": _hyperband,
    "median": _median,
    "none": _none,
}
"""The shipped schedulers by name. `tune.sections.SCHEDULERS` lists the same names."""


def make_scheduler(search: SearchConfig, objective: Objective, max_steps: int) -> TrialScheduler:
    """Return the configured scheduler.

    A user's own is a function from a `SchedulerRequest` to a Ray scheduler. To be resumable it must decide by
    the records alone: resuming gives a new scheduler every record again, in the order of their times.

    Args:
        search: names it, and says when it may stop a trial.
        objective: what it compares trials by.
        max_steps: optimizer steps of a full trial.

    Raises:
        ConfigError: it cannot be imported, or is not a scheduler.
    """
    return _maker(search.scheduler)(SchedulerRequest(search, objective, max_steps))


def check_scheduler(search: SearchConfig) -> None:
    """Check that the configured scheduler can be imported.

    Raises:
        ConfigError: it cannot.
    """
    _maker(search.scheduler)


def _maker(name: str) -> SchedulerMaker:
    if ":" not in name:
        return SCHEDULERS[name]
    maker = load_object(name, "search.scheduler")
    if not callable(maker):
        raise ConfigError(
            f"search.scheduler '{name}' is {maker!r}; it must be a function from a SchedulerRequest to a "
            "scheduler of Ray Tune."
        )
    return maker


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


def replay(scheduler: TrialScheduler, trials: Sequence[Replayed], objective: Objective) -> set[str]:
    """Give a new scheduler everything that was reported, in the order in which it was.

    Its rungs are then what they would be if the search had never been interrupted.

    Returns:
        The ids of the trials that it stops at their last record.
    """
    known = {past.trial_id: PastTrial(past.trial_id) for past in trials}
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
        reported = {"time_total_s": record.step, **record, JUDGED: objective.judged(record)}
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
class PastTrial:
    """As much of a Ray trial as a scheduler looks at."""

    trial_id: str
    status: str = "RUNNING"


class NoController:
    """As much of Ray's controller as a scheduler looks at: nothing is running yet."""

    def get_live_trials(self) -> list[Any]:
        """Return no trials."""
        return []

    def get_trials(self) -> list[Any]:
        """Return no trials."""
        return []


_NO_CONTROLLER: Any = NoController()
