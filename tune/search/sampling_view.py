"""The study as a sampler reads it: a copy in memory, in terms that the sampler can use.

What a sampler makes of a trial depends on Optuna's state of it: none reads failed trials, and all but TPE
read complete ones only. The stored study says how each trial ended; the view says what that means for the
next suggestion:

- A trial that diverged, did not fit or failed by its configuration is infeasible. Left out, it would attract
  suggestions to its region.
- A trial that the infrastructure ended says nothing about its configuration and is left out.
- A pruned trial stays pruned for a sampler that ranks pruned trials; for any other it counts as complete with
  an estimate of the value that it would have reached.
- For a sampler that does not rank, values far on the bad side are limited: one loss of 1,000 among losses
  of 1 would hide every difference between the good ones.
- After thousands of trials the view holds the newest of those that ended and of those that run, and the best
  of the others, so that the time of a suggestion stays bounded.
- Every trial has the distributions of the present space. Optuna models axes jointly only while their
  distributions stay the same, so a range that was widened on resume would drop out for good.
"""

import datetime
import statistics
import warnings
from collections.abc import Mapping, Sequence
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
    objective: Objective,
    sampler: BaseSampler,
    *,
    reads_pruned: bool,
) -> optuna.Study:
    """Return a study in memory from which the next trial can be asked.

    Args:
        trials: all trials before the next one.
        distributions: of the present space, by Optuna's names. A trial with a value outside them is left out.
        objective: what the study optimizes.
        sampler: draws the next trial.
        reads_pruned: the sampler ranks pruned trials and knows constraints.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        view = optuna.create_study(direction=objective.optuna_direction, sampler=sampler)
    trials = _recent_and_best(trials, objective)
    used = [trial for trial in trials if _is_inside(trial, distributions)]
    values = _values(used, objective, estimate_pruned=not reads_pruned)
    worst = max(values.values(), key=objective.cost, default=0.0)
    numbers = {trial.number for trial in used}
    for trial in trials:
        view.add_trial(
            _seen(trial, distributions, values.get(trial.number, worst), reads_pruned)
            if trial.number in numbers
            else _past(OptunaState.FAIL)
        )
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
    trial: StudyTrial, distributions: Mapping[str, BaseDistribution], value: float, reads_pruned: bool
) -> FrozenTrial:
    """Return the trial as the sampler sees it."""
    match trial.state:
        case TrialState.RUNNING | TrialState.PENDING:
            state = OptunaState.RUNNING
        case TrialState.PRUNED if reads_pruned:
            state = OptunaState.PRUNED
        case _:
            state = OptunaState.COMPLETE
    past = _past(
        state,
        value=value if state is OptunaState.COMPLETE else None,
        params=dict(trial.frozen.params),
        distributions={name: distributions[name] for name in trial.frozen.params},
        intermediate_values=dict(trial.intermediate_values),
        system_attrs=dict(trial.sampler_attrs),
    )
    if reads_pruned and trial.is_infeasible:
        past.set_constraint("trains", 1.0)
    return past


def _past(state: OptunaState, **fields: Any) -> _PastTrial:
    empty: dict[str, Any] = {
        "value": None,
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


def _values(trials: Sequence[StudyTrial], objective: Objective, *, estimate_pruned: bool) -> dict[int, float]:
    """Return the value of each completed trial by number.

    With `estimate_pruned` also an estimate for each pruned one, and bad values are limited.
    """
    complete = {
        trial.number: trial.frozen.value
        for trial in trials
        if trial.state is TrialState.COMPLETED and trial.frozen.value is not None
    }
    if not estimate_pruned:
        return complete
    pruned = [trial for trial in trials if trial.state is TrialState.PRUNED and trial.intermediate_values]
    progress = {
        step: _progress(trials, complete, step) for step in {max(t.intermediate_values) for t in pruned}
    }
    estimates = {
        trial.number: trial.intermediate_values[step] + progress[step]
        for trial in pruned
        for step in [max(trial.intermediate_values)]
    }
    return _limited(complete | estimates, objective)


def _limited(values: Mapping[int, float], objective: Objective) -> dict[int, float]:
    """Return the values, those far on the bad side replaced by a limit."""
    costs = [objective.cost(value) for value in values.values()]
    if not costs or (median := statistics.median(costs)) == min(costs):
        return dict(values)
    # The cost of a cost is the value again.
    limit = objective.cost(median + _LIMIT * (median - min(costs)))
    return {number: limit if objective.is_better(limit, value) else value for number, value in values.items()}


def _progress(trials: Sequence[StudyTrial], complete: Mapping[int, float], step: int) -> float:
    """Return the median change of completed trials' values from a step to their ends; 0 if unknown."""
    changes = [
        complete[trial.number] - trial.intermediate_values[step]
        for trial in trials
        if trial.number in complete and step in trial.intermediate_values
    ]
    return statistics.median(changes) if changes else 0.0
