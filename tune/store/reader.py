"""The one reader of an experiment: its configuration, its study and every trial's result log, read once.

The study says which trials there are, their parameters and how they ended; the logs say what they scored.
Nothing of Ray's is read, so an experiment can be looked at while it runs, after a crash, or on another
machine. Nothing is created or changed.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from typing import Any

from trainable.errors import ExperimentError, nearest
from trainable.objective import Objective, pareto_front
from trainable.places import Place, shown
from trainable.records import DEVICE, NODE, MetricsRecord, TrialState, step_and_metrics
from tune.config import Config
from tune.store.experiment import ExperimentStore, TrialStore
from tune.store.study import StudyStore
from tune.store.study_trial import StudyTrial

_READERS = 16


@dataclass(frozen=True)
class TrialView:
    """What is known of one trial.

    Attributes:
        trial_id: Ray's, and the name of the trial's folder.
        number: Optuna's, counted from 0.
        state: running, or how it ended.
        params: its parameters by dotted key.
        metrics: its last record: the step and every metric; `None` for a value that was not finite.
        best_metrics: the same of the record with the best objective; empty without a finite one.
        steps: optimizer steps taken.
        duration_s: from start to end, or to the last record of a trial that has not ended.
        checkpoint: the newest complete checkpoint's folder, a path or a URI.
        wandb_run_id: the run's id in W&B.
        node: the host name of the machine that its last record is from.
        device: the device of that record, such as `cuda:0`.
        attempt: 1, plus one for each time it was resumed or restarted after a fault.
        reason: why it ended as it did, if there is something to say.
        follows: the number of the trial that this one is another attempt at.
        records: its metrics records, as they were logged.
    """

    trial_id: str
    number: int
    state: TrialState
    params: Mapping[str, Any]
    metrics: Mapping[str, Any]
    best_metrics: Mapping[str, Any]
    steps: int
    duration_s: float | None
    checkpoint: str | None
    wandb_run_id: str | None
    node: str | None = None
    device: str | None = None
    attempt: int = 1
    reason: str | None = None
    follows: int | None = None
    records: Sequence[MetricsRecord] = field(default=(), repr=False)

    def curve(self, metric: str) -> list[tuple[int, float]]:
        """Return a metric over the optimizer steps, as (step, value); NaN for a value that was not finite.

        Steps that a resumed trial took again have their last value.

        Raises:
            ExperimentError: no record of the trial has such a metric.
        """
        values = {record.step: record[metric] for record in self.records if metric in record.metrics}
        if not values:
            known = sorted({key for record in self.records for key in record.metrics})
            there = f" Its metrics: {', '.join(known)}." if known else " It has not reported yet."
            raise ExperimentError(
                f"trial {self.number} has no metric '{metric}'.{nearest(metric, known)}{there}"
            )
        return [(step, math.nan if value is None else value) for step, value in sorted(values.items())]

    def to_json(self) -> dict[str, Any]:
        """Return every attribute but the records under its name, in types that JSON has."""
        named = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "records"}
        return named | {
            "state": self.state.value,
            "params": dict(self.params),
            "metrics": dict(self.metrics),
            "best_metrics": dict(self.best_metrics),
        }


@dataclass(frozen=True)
class Status:
    """How far an experiment is.

    Attributes:
        name: the experiment's.
        objective: what it optimizes.
        num_trials: trials the search will have tried when it is done, second attempts included.
        counts: trials by state; a state that no trial is in is absent.
        best: the trial with the best objective so far.
        finished: every trial has been tried and has ended.
    """

    name: str
    objective: Objective
    num_trials: int
    counts: Mapping[TrialState, int]
    best: TrialView | None
    finished: bool


@dataclass(frozen=True)
class ExperimentData:
    """Everything of an experiment that was on disk at one moment.

    Attributes:
        store: where it was read from.
        config: its configuration.
        study: its study; `None` before the search created one.
        study_trials: every trial of the study, those that Ray was never given included.
        logs: the result logs by trial id.
        trials: a view of each trial that Ray was given, in the order they were asked for.
    """

    store: ExperimentStore
    config: Config
    study: StudyStore | None
    study_trials: Sequence[StudyTrial]
    logs: Mapping[str, Sequence[MetricsRecord]]
    trials: Sequence[TrialView]

    @property
    def objective(self) -> Objective:
        """What the search optimizes."""
        return self.config.objective

    @property
    def num_trials(self) -> int:
        """Trials the search will have tried when it is done, second attempts included."""
        return self.config.search.num_trials + sum(trial.follows is not None for trial in self.trials)

    def trial(self, number: int) -> TrialView:
        """Return the trial of this number.

        Raises:
            ExperimentError: there is none.
        """
        for trial in self.trials:
            if trial.number == number:
                return trial
        numbers = [trial.number for trial in self.trials]
        there = f"Its trials: {min(numbers)} to {max(numbers)}" if numbers else "It has no trials yet"
        raise ExperimentError(f"experiment '{self.store.name}' has no trial {number}. {there}.")

    def leaderboard(self) -> list[TrialView]:
        """Return the trials, best first; those without a score come last."""
        return leaderboard(self.trials, self.objective)

    def pareto_front(self) -> list[TrialView]:
        """Return the trials that no other one beats in every objective, best first by the first objective.

        A trial counts with its best record by the first objective: that is the adapter it can be exported as.
        """
        board = self.leaderboard()
        front = pareto_front([trial.best_metrics for trial in board], self.config.search.objectives)
        return [board[place] for place in front]

    def best_checkpoint(self) -> tuple[TrialView, Place] | None:
        """Return the best trial with a complete checkpoint of a finite objective, and that checkpoint."""
        for trial in self.leaderboard():
            checkpoint = self.store.trial(trial.trial_id).best_checkpoint(self.objective)
            if checkpoint is not None:
                return trial, checkpoint
        return None

    def status(self) -> Status:
        """Return how far the experiment is."""
        states = [trial.state for trial in self.trials]
        first = next(iter(self.leaderboard()), None)
        return Status(
            name=self.store.name,
            objective=self.objective,
            num_trials=self.num_trials,
            counts={state: states.count(state) for state in TrialState if state in states},
            best=first if first and first.best_metrics else None,
            finished=len(states) >= self.num_trials and all(state.is_terminal for state in states),
        )


def read(store: ExperimentStore, config: Config | None = None) -> ExperimentData:
    """Read an experiment.

    Args:
        store: the experiment.
        config: its configuration, where the caller has it already.

    Raises:
        ConfigError: its stored configuration cannot be read.
        ExperimentError: its study is missing, corrupt, or has another direction than its configuration.
    """
    config = config or store.read_config().config
    study = store.open_study(config)
    if study is None and (logged := store.logged_trial_ids()):
        # A database's URL may hold a password, so it is not in the message.
        where = "the database of search.storage" if config.search.storage else "study.journal"
        raise ExperimentError(
            f"experiment '{store.name}' has {len(logged)} trials' folders, but its study is missing from "
            f"{where}. Restore it from a copy."
        )
    study_trials = study.trials() if study else []
    given = [(trial, trial.trial_id) for trial in study_trials if trial.trial_id is not None]
    # A store answers each request after tens of milliseconds.
    with ThreadPoolExecutor(_READERS) as pool:
        logs = dict(pool.map(lambda one: (one[1], store.trial(one[1]).log()), given))
        views = list(
            pool.map(lambda one: _view(one[0], store.trial(one[1]), logs[one[1]], config.objective), given)
        )
    return ExperimentData(store, config, study, study_trials, logs, views)


def leaderboard(trials: Iterable[TrialView], objective: Objective) -> list[TrialView]:
    """Sort by the best objective, best first; trials without one come last."""

    def rank(trial: TrialView) -> tuple[bool, float, int]:
        value = objective.value(trial.best_metrics)
        return value is None, 0.0 if value is None else objective.cost(value), trial.number

    return sorted(trials, key=rank)


def _view(
    trial: StudyTrial, files: TrialStore, log: Sequence[MetricsRecord], objective: Objective
) -> TrialView:
    last = log[-1] if log else MetricsRecord()
    end = trial.ended if trial.state.is_terminal else last.get("time")
    newest = files.newest_checkpoint()
    return TrialView(
        trial_id=files.trial_id,
        number=trial.number,
        state=trial.state,
        params=trial.params,
        metrics=step_and_metrics(last),
        best_metrics=step_and_metrics(objective.best(log) or {}),
        steps=last.step,
        duration_s=end - trial.started if end is not None and trial.started is not None else None,
        checkpoint=shown(newest) if newest else None,
        wandb_run_id=trial.wandb_run_id,
        node=last.get(NODE),
        device=last.get(DEVICE),
        attempt=last.attempt,
        reason=trial.reason,
        follows=trial.follows,
        records=log,
    )
