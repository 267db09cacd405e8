"""Reads an experiment from its two truths: the Optuna study, and each trial's own result log.

The study says which trials there are, their parameters and what became of them; the log says what they
scored. Nothing of Ray's is read, so an experiment can be looked at while it runs, after a crash, or on
another machine. A last line that a crash tore is skipped.
"""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import optuna

from trainable import records
from trainable.checkpoint.manifest import MANIFEST
from trainable.checkpoint.manifest import STATE as CHECKPOINT_STATE
from trainable.errors import ExperimentError, nearest
from trainable.outcome import objective
from trainable.records import TrialState
from tune.config import load, storage_of
from tune.store.study import (
    ENDED,
    FOLLOWS,
    PARAMS,
    RAY_TRIAL_ID,
    REASON,
    STARTED,
    STATE,
    WANDB_RUN_ID,
    open_study,
)

CONFIG_NAME = "config.yaml"
"""The resolved configuration's file name in an experiment's folder."""
LOG_NAME = "results.jsonl"
"""The result log's file name in a trial's folder."""

_STATES = {
    optuna.trial.TrialState.WAITING: TrialState.PENDING,
    optuna.trial.TrialState.RUNNING: TrialState.RUNNING,
    optuna.trial.TrialState.COMPLETE: TrialState.COMPLETED,
    optuna.trial.TrialState.PRUNED: TrialState.PRUNED,
    optuna.trial.TrialState.FAIL: TrialState.FAILED,
}


@dataclass(frozen=True)
class TrialView:
    """What is known of one trial.

    Attributes:
        trial_id: Ray's, and the name of the trial's folder.
        number: Optuna's, counted from 0.
        state: what became of it.
        params: its parameters by dotted key.
        metrics: its last record: the step and every metric; `None` for a value that was not finite.
        best_metrics: the same of the record with the best objective; empty without a finite one.
        steps: optimiser steps taken.
        duration_s: from start to end, or to the last record of a trial that has no end yet.
        checkpoint: the newest complete checkpoint's folder.
        wandb_run_id: the run's id in W&B.
        reason: why it ended as it did, if there is something to say.
        follows: the number of the trial that this one is another attempt at.
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
    reason: str | None = None
    follows: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return every attribute under its name, in types that JSON has."""
        return dataclasses.asdict(self) | {"state": self.state.value}


@dataclass(frozen=True)
class Status:
    """How far an experiment is.

    Attributes:
        name: the experiment's.
        metric: the objective's key.
        mode: `min` or `max`.
        num_trials: trials the search will have tried when it is done, second attempts included.
        counts: trials by state; a state that no trial is in is absent.
        best: the trial with the best objective so far.
        finished: every trial has been tried and has ended.
    """

    name: str
    metric: str
    mode: Literal["min", "max"]
    num_trials: int
    counts: Mapping[TrialState, int]
    best: TrialView | None
    finished: bool


def find_experiment(name_or_path: str, results_dir: Path) -> Path:
    """Return the folder of an experiment, given by its name in `results_dir` or by its path.

    Raises:
        ExperimentError: there is none; the message names those that there are.
    """
    for folder in (results_dir / name_or_path, Path(name_or_path).expanduser()):
        if (folder / CONFIG_NAME).is_file():
            return folder.resolve()
    names = sorted(path.parent.name for path in results_dir.glob(f"*/{CONFIG_NAME}"))
    there = f"There: {', '.join(names)}." if names else f"There is none in '{results_dir}' yet."
    raise ExperimentError(
        f"experiment '{name_or_path}' does not exist.{nearest(name_or_path, names)} {there} "
        "Give a name from the results folder (--results_dir) or the path of an experiment."
    )


def read_trials(experiment: Path) -> list[TrialView]:
    """Read every trial of the experiment in the order they were asked for.

    A trial that the sampler was asked for and that Ray has not been given yet is not among them.

    Raises:
        ConfigError: the experiment's `config.yaml` is not one.
    """
    config = load(experiment / CONFIG_NAME)
    search = config.search
    storage = storage_of(config, experiment)
    if isinstance(storage, Path) and not storage.exists():
        return []
    return [
        _view(trial, experiment / trial.user_attrs[RAY_TRIAL_ID], search.metric, search.mode)
        for trial in open_study(storage, str(search.name)).get_trials(deepcopy=False)
        if RAY_TRIAL_ID in trial.user_attrs
    ]


def leaderboard(trials: Iterable[TrialView], metric: str, mode: Literal["min", "max"]) -> list[TrialView]:
    """Sort by the best objective, best first; trials without one come last."""

    def rank(trial: TrialView) -> tuple[bool, float, int]:
        value = objective(trial.best_metrics, metric)
        towards_worse = 0.0 if value is None else value if mode == "min" else -value
        return value is None, towards_worse, trial.number

    return sorted(trials, key=rank)


def status(experiment: Path) -> Status:
    """Say how far the experiment is.

    Raises:
        ConfigError: the experiment's `config.yaml` is not one.
    """
    search = load(experiment / CONFIG_NAME).search
    trials = read_trials(experiment)
    states = [trial.state for trial in trials]
    num_trials = search.num_trials + sum(trial.follows is not None for trial in trials)
    first = next(iter(leaderboard(trials, search.metric, search.mode)), None)
    return Status(
        name=experiment.name,
        metric=search.metric,
        mode=search.mode,
        num_trials=num_trials,
        counts={state: states.count(state) for state in TrialState if state in states},
        best=first if first and first.best_metrics else None,
        finished=len(trials) >= num_trials and all(state.is_end for state in states),
    )


def _view(
    trial: optuna.trial.FrozenTrial, folder: Path, metric: str, mode: Literal["min", "max"]
) -> TrialView:
    attrs = trial.user_attrs
    log = read_log(folder / LOG_NAME)
    last = log[-1] if log else {}
    scored = [record for record in log if objective(record, metric) is not None]
    best = (min if mode == "min" else max)(scored, key=lambda record: record[metric], default={})
    state = TrialState(attrs.get(STATE, _STATES[trial.state]))
    end = attrs.get(ENDED) if state.is_end else last.get("time")
    return TrialView(
        trial_id=folder.name,
        number=trial.number,
        state=state,
        params=attrs.get(PARAMS, trial.params),
        metrics=_metrics(last),
        best_metrics=_metrics(best),
        steps=last.get(records.STEP, 0),
        duration_s=end - attrs[STARTED] if end and STARTED in attrs else None,
        checkpoint=_newest_checkpoint(folder),
        wandb_run_id=attrs.get(WANDB_RUN_ID),
        reason=attrs.get(REASON),
        follows=attrs.get(FOLLOWS),
    )


def read_log(path: Path) -> list[dict[str, Any]]:
    """Read a trial's result log; a line that a crash tore is skipped."""
    log = []
    for line in path.read_bytes().splitlines() if path.exists() else ():
        with suppress(ValueError):
            record = json.loads(line)
            if isinstance(record, dict):
                log.append(record)
    return log


def _metrics(record: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key == records.STEP or "/" in key}


def _newest_checkpoint(folder: Path) -> str | None:
    complete = [path.parent for path in folder.glob(f"checkpoint_*/{MANIFEST}")]
    return str(max(complete, key=_step_of)) if complete else None


def _step_of(checkpoint: Path) -> int:
    try:
        return json.loads((checkpoint / CHECKPOINT_STATE).read_bytes())["step"]
    except (OSError, ValueError, KeyError):
        return -1
