"""The study as a sampler reads it: a copy in memory, in terms that the sampler can use.

What a sampler makes of a trial depends on Optuna's state of it: none reads failed trials, and most read
complete ones only. The stored study says how each trial ended; the view says what that means for the next
suggestion:

- A trial that was stopped, or that runs and has reported, counts as complete with an estimate of the value
  that it will reach: its last one, plus what other trials changed by from that step on. Where many trials run
  at once, those that run are most of what is known.
- A running trial that has not reported is running, also for several objectives one that has: what it reports
  is the first of them only.
- A trial that diverged, did not fit, failed by its configuration or violates a constraint of the search is
  infeasible: it violates a constraint of Optuna's, or has the worst value for a sampler that knows none. Left
  out, it would attract suggestions to its region.
- A trial that the infrastructure ended says nothing about its configuration and is left out.
- Values far on the bad side are limited: one loss of 1,000 among losses of 1 would hide every difference
  between the good ones.
- After thousands of trials the view holds the newest of those that ended and of those that run, and the best
  of the others, so that the time of a suggestion stays bounded.
- Every trial has the distributions of the present space. Optuna models axes jointly only while their
  distributions stay the same, so a range that was widened on resume would drop out for good.
- The stored study has one value for each trial, that of `search.metric`. Other objectives are read from the
  metrics of a trial's last record, so they can be changed when a search is resumed.
"""

import datetime
import statistics
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState

from search_spaces.distributions import allows
from trainable.objective import Objective
from trainable.records import TrialState
from tune.store.study_trial import StudyTrial

_SOME_TIME = datetime.datetime(2000, 1, 1)
"""Optuna wants a time of start and end; no sampler looks at them."""


_NEWEST, _BEST_OF_OLDER = 1000, 100
"""Of the ended trials, and the first also of the running ones, that a sampler sees."""
_LIMIT = 3.0
"""A value may lie this many times as far beyond the median as the best one lies before it."""


class _PastTrial(FrozenTrial):
    """A trial that nobody changes: copying one for each suggestion would cost more than the suggestion."""

    def __deepcopy__(self, memo: dict[int, Any]) -> "_PastTrial":
        return self


def sampling_view(
    trials: Sequence[StudyTrial],
    distributions: Mapping[str, BaseDistribution],
    objectives: Sequence[Objective],
    sampler: BaseSampler,
    *,
    reads_constraints: bool,
) -> optuna.Study:
    """Return a study in memory from which the next trial can be asked.

    Args:
        trials: all trials before the next one.
        distributions: of the present space, by Optuna's names. A trial with a value outside them is left out.
        objectives: what the search optimizes; the first is the study's own.
        sampler: draws the next trial.
        reads_constraints: the sampler avoids trials that violate a constraint of Optuna's.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        view = optuna.create_study(
            directions=[objective.optuna_direction for objective in objectives], sampler=sampler
        )
    trials = _recent_and_best(trials, objectives[0])
    used = [trial for trial in trials if _is_inside(trial, distributions)]
    values = _values(used, objectives)
    columns = zip(objectives, zip(*values.values(), strict=True), strict=True) if values else ()
    worst = [max(column, key=objective.cost) for objective, column in columns] or [0.0] * len(objectives)
    numbers = {trial.number for trial in used}
    for trial in trials:
        if trial.number not in numbers:
            view.add_trial(_past(OptunaState.FAIL))
            continue
        violations = _violations(trial, objectives[0])
        infeasible = any(violation > 0 for violation in violations.values())
        found = values.get(trial.number)
        if found is None and not trial.state.is_terminal:
            view.add_trial(_seen(trial, distributions, None))
            continue
        past = _seen(
            trial, distributions, worst if found is None or (infeasible and not reads_constraints) else found
        )
        for name, violation in violations.items() if reads_constraints else ():
            past.set_constraint(name, violation)
        view.add_trial(past)
    return view


def _recent_and_best(trials: Sequence[StudyTrial], objective: Objective) -> Sequence[StudyTrial]:
    """Return the newest ended and the newest running trials, and the best of the older ones, in their order.

    The two are counted apart: on a large cluster the running ones alone can be thousands.
    """
    if len(trials) <= _NEWEST:
        return trials
    ended = [place for place, one in enumerate(trials) if one.state.is_terminal]
    running = [place for place, one in enumerate(trials) if not one.state.is_terminal]
    completed = [
        place
        for place in ended[:-_NEWEST]
        if trials[place].state is TrialState.COMPLETED and trials[place].frozen.value is not None
    ]
    completed.sort(key=lambda place: objective.cost(trials[place].frozen.value or 0.0))
    kept = [*completed[:_BEST_OF_OLDER], *ended[-_NEWEST:], *running[-_NEWEST:]]
    return [trials[place] for place in sorted(kept)]


def _is_inside(trial: StudyTrial, distributions: Mapping[str, BaseDistribution]) -> bool:
    return trial.tells_about_its_configuration and all(
        name in distributions and allows(distributions[name], value)
        for name, value in trial.frozen.params.items()
    )


def _seen(
    trial: StudyTrial, distributions: Mapping[str, BaseDistribution], values: Sequence[float] | None
) -> FrozenTrial:
    """Return the trial as the sampler sees it: complete with these values, or running."""
    return _past(
        OptunaState.RUNNING if values is None else OptunaState.COMPLETE,
        values=values,
        params=dict(trial.frozen.params),
        distributions={name: distributions[name] for name in trial.frozen.params},
        system_attrs=dict(trial.sampler_attrs),
    )


def _violations(trial: StudyTrial, objective: Objective) -> dict[str, float]:
    """Return by how much a trial violates each constraint; nothing is known of one that has not ended."""
    if trial.is_infeasible:
        return {"trains": 1.0}
    if not trial.metrics:
        return {}
    found = {str(one): one.violation(trial.metrics) for one in objective.constraints}
    return {name: 1.0 if violation is None else violation for name, violation in found.items()}


def _past(state: OptunaState, **fields: Any) -> _PastTrial:
    empty: dict[str, Any] = {
        "value": None,
        "values": None,
        "params": {},
        "distributions": {},
        "user_attrs": {},
        "system_attrs": {},
        "intermediate_values": {},
    }
    return _PastTrial(
        number=-1,
        trial_id=-1,
        state=state,
        datetime_start=_SOME_TIME,
        datetime_complete=_SOME_TIME if state.is_finished() else None,
        **{**empty, **fields},
    )


def _values(trials: Sequence[StudyTrial], objectives: Sequence[Objective]) -> dict[int, list[float]]:
    """Return a value of each objective, by number, for every trial that something is known of."""
    first, *others = objectives
    reached = _limited(_estimates(trials, ended_only=bool(others)), first)
    columns = [reached]
    for objective in others:
        found = {trial.number: objective.measured(trial.metrics) for trial in trials}
        known = {number: value for number, value in found.items() if number in reached and value is not None}
        worst = max(known.values(), key=objective.cost, default=0.0)
        columns.append(_limited({number: known.get(number, worst) for number in reached}, objective))
    return {number: [column[number] for column in columns] for number in reached}


def _estimates(trials: Sequence[StudyTrial], *, ended_only: bool) -> dict[int, float]:
    """Return the value that each trial has reached, or will reach by an estimate; by number.

    Args:
        trials: those to look at; one that did not train, or has not reported, has no value.
        ended_only: leave running trials out.
    """
    complete = {
        trial.number: trial.frozen.value
        for trial in trials
        if trial.state is TrialState.COMPLETED and trial.frozen.value is not None
    }
    partial = {
        trial.number: max(trial.intermediate_values.items())
        for trial in trials
        if trial.intermediate_values
        and (trial.state is TrialState.PRUNED or not (trial.state.is_terminal or ended_only))
    }
    left = _left(trials)
    return complete | {number: value + left[step] for number, (step, value) in partial.items()}


def _left(trials: Sequence[StudyTrial]) -> dict[int, float]:
    """Return by how much a trial's value is likely to change from each step to the end of training.

    It is the sum of the median changes from one reported step to the next, each over all trials that reported
    both: most trials are stopped early, and their beginnings count too. Those of trials that diverged later
    do not count: they fall faster than others, or rise already.
    """
    changes: defaultdict[tuple[int, int], list[float]] = defaultdict(list)
    for trial in (one for one in trials if not one.is_infeasible):
        for (step, value), (after, later) in pairwise(sorted(trial.intermediate_values.items())):
            changes[step, after].append(later - value)
    following: dict[int, int] = {}
    # Where a change of the interval left two steps to follow, the one that more trials took.
    for step, after in sorted(changes, key=lambda change: len(changes[change])):
        following[step] = after
    left: dict[int, float] = {}
    for step in sorted({step for trial in trials for step in trial.intermediate_values}, reverse=True):
        left[step] = 0.0
        if step in following:
            left[step] = statistics.median(changes[step, following[step]]) + left[following[step]]
    return left


def _limited(values: Mapping[int, float], objective: Objective) -> dict[int, float]:
    """Return the values, those far on the bad side replaced by a limit."""
    costs = [objective.cost(value) for value in values.values()]
    if not costs or (median := statistics.median(costs)) == min(costs):
        return dict(values)
    # The cost of a cost is the value again.
    limit = objective.cost(median + _LIMIT * (median - min(costs)))
    return {number: limit if objective.is_better(limit, value) else value for number, value in values.items()}
