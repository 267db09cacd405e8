"""Whether an experiment is whole: what must hold of it however often it was interrupted."""

import math
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import optuna

from trainable import records
from trainable.checkpoint.manifest import MANIFEST, read_state
from trainable.errors import CheckpointError
from trainable.outcome import objective
from trainable.records import TrialState
from trainable.tracking.run import offline_files, steps_in
from tune.config import Config, load, storage_of
from tune.store.lock import is_locked
from tune.store.reader import CONFIG_NAME, LOG_NAME, read_log
from tune.store.study import BEGINS_FROM, PARAMS, RAY_TRIAL_ID, STATE, WANDB_RUN_ID, open_study

_SECRETS = ("WANDB_API_KEY", "RAY_AUTH_TOKEN", "HF_TOKEN")
_PASSWORD = re.compile(rb"://[^/\s:@'\"]+:([^/\s@'\"$]+)@")
_LARGEST_READ = 16 * 2**20
_ROUNDING = 1e-2  # What packing may change of a loss in bfloat16.


@dataclass(frozen=True)
class Checked:
    """What was looked at, and one line for each thing that does not hold."""

    trials: int
    records: int
    checkpoints: int
    problems: list[str]


def verify(experiment: Path) -> Checked:
    """Check an experiment's invariants.

    Every trial of the study has a folder, and every folder a trial; nothing is `RUNNING` unless a search is;
    no step is missing or twice in a log or an offline W&B run, and the study knows the same values; each
    trial has a W&B run id of its own; every checkpoint is whole; no secret lies on the disk.

    Raises:
        ConfigError: the experiment's `config.yaml` is not one.
    """
    config = load(experiment / CONFIG_NAME)
    trials = open_study(storage_of(config, experiment), str(config.search.name)).get_trials()
    logs = {trial.number: read_log(_folder(experiment, trial) / LOG_NAME) for trial in trials}
    checkpoints = [path.parent for path in experiment.glob(f"*/checkpoint_*/{MANIFEST}")]
    problems = [
        *_strays(experiment, trials),
        *_run_ids(trials),
        *_still_running(experiment, trials),
        *(line for trial in trials for line in _steps(trial, logs[trial.number], config)),
        *(line for path in checkpoints for line in _torn(experiment, path)),
        *(line for trial in trials for line in _tracked(experiment, trial, logs[trial.number])),
        *_secrets(experiment),
    ]
    return Checked(len(trials), sum(map(len, logs.values())), len(checkpoints), problems)


def _folder(experiment: Path, trial: optuna.trial.FrozenTrial) -> Path:
    return experiment / str(trial.user_attrs.get(RAY_TRIAL_ID))


def _strays(experiment: Path, trials: list[optuna.trial.FrozenTrial]) -> Iterator[str]:
    known = {trial.user_attrs.get(RAY_TRIAL_ID) for trial in trials}
    for trial in trials:
        if PARAMS not in trial.user_attrs or RAY_TRIAL_ID not in trial.user_attrs:
            yield f"trial {trial.number}: asked for and never given to Ray; `loratune resume` gives it"
    for path in sorted(experiment.glob(f"*/{LOG_NAME}")):
        if path.parent.name not in known:
            yield f"folder {path.parent.name}: its trial is not in the study"


def _run_ids(trials: list[optuna.trial.FrozenTrial]) -> Iterator[str]:
    for key in (WANDB_RUN_ID, RAY_TRIAL_ID):
        counts = Counter(trial.user_attrs.get(key) for trial in trials)
        for name, count in counts.items():
            if name is not None and count > 1:
                yield f"{key} {name}: {count} trials have it"


def _still_running(experiment: Path, trials: list[optuna.trial.FrozenTrial]) -> Iterator[str]:
    if is_locked(experiment):
        return
    for trial in trials:
        if trial.state is optuna.trial.TrialState.RUNNING:
            yield f"trial {trial.number}: said to run, and no search does; `loratune resume` takes it up"


def _steps(trial: optuna.trial.FrozenTrial, log: list[dict[str, Any]], config: Config) -> Iterator[str]:
    every = config.evaluation.eval_every_steps
    steps = [record[records.STEP] for record in log]
    begin = steps[0] - every if steps and trial.user_attrs.get(BEGINS_FROM) else 0
    for before, after in pairwise([begin, *steps]):
        if after <= before:
            yield f"trial {trial.number}: step {after} comes after step {before} in its log"
        elif after - before > every:
            yield f"trial {trial.number}: no record between steps {before} and {after}"
    scored = {
        record[records.STEP]: value
        for record in log
        if (value := objective(record, config.search.metric)) is not None
    }
    finished = trial.state.is_finished()
    for step in sorted(scored.keys() | trial.intermediate_values.keys()) if finished else ():
        one, other = scored.get(step), trial.intermediate_values.get(step)
        # A step trained again in another pack rounds differently; either may be the one that was kept.
        if one is None or other is None or not math.isclose(one, other, rel_tol=_ROUNDING):
            yield f"trial {trial.number}: log and study differ at step {step}: {one} and {other}"
    told = trial.user_attrs.get(STATE)
    said = log[-1].get(records.STATE) if log else None
    if finished and said in (TrialState.COMPLETED, TrialState.DIVERGED, TrialState.OOM) and said != told:
        yield f"trial {trial.number}: its log says {said}, the study {told}"


def _tracked(experiment: Path, trial: optuna.trial.FrozenTrial, log: list[dict[str, Any]]) -> Iterator[str]:
    """Compare the log with what offline runs hold; what has gone online is W&B's to keep."""
    files = offline_files(experiment, str(trial.user_attrs.get(WANDB_RUN_ID)))
    if not files or not trial.state.is_finished():
        return
    held = Counter(step for path in files for step in set(steps_in(path)))
    for record in log:
        if (count := held[record[records.STEP]]) != 1:
            yield f"trial {trial.number}: step {record[records.STEP]} is {count} times in its W&B run"


def _torn(experiment: Path, checkpoint: Path) -> Iterator[str]:
    try:
        read_state(checkpoint)
    except CheckpointError as error:
        yield f"{checkpoint.relative_to(experiment)}: {error}"


def _secrets(experiment: Path) -> Iterator[str]:
    known = {name: value.encode() for name in _SECRETS if len(value := os.environ.get(name, "")) >= 8}
    for path in sorted(path for path in experiment.rglob("*") if path.is_file()):
        if path.suffix in (".safetensors", ".arrow") or path.stat().st_size > _LARGEST_READ:
            continue
        content = path.read_bytes()
        where = path.relative_to(experiment)
        for name, value in known.items():
            if value in content:
                yield f"{where}: it holds the value of {name}"
        if _PASSWORD.search(content):
            yield f"{where}: it holds a URL with a password"
