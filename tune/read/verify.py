"""Checks that nothing of an experiment is lost, doubled or corrupt, however often it was interrupted."""

import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import safetensors
from safetensors import SafetensorError

from trainable.checkpoint.manifest import ADAPTER
from trainable.errors import CheckpointError
from trainable.places import Place
from trainable.records import MetricsRecord, TrialState
from trainable.tracking.artifacts import URL_WITH_PASSWORD, artifact_name
from trainable.tracking.local import offline_files, steps_in
from trainable.tracking.run import resolve_mode
from trainable.tracking.server import Server, ServerUnavailableError
from trainable.tracking.trials import collection_of
from trainable.tracking.uploads import alias_problem
from tune.config import Config
from tune.store.experiment import METRICS, ExperimentStore
from tune.store.reader import ExperimentData, read
from tune.store.study_trial import StudyTrial

_SECRETS = ("WANDB_API_KEY", "RAY_AUTH_TOKEN", "HF_TOKEN")
_ADAPTER_FILES: Mapping[str, Callable[[bytes], object]] = {
    "adapter_config.json": json.loads,
    "adapter_model.safetensors": safetensors.deserialize,
}
"""The files of an adapter, and what reads them through."""
_LARGEST_READ = 16 * 2**20
_ROUNDING = 1e-2  # What packing may change of a loss in bfloat16.


@dataclass(frozen=True)
class Checked:
    """What was looked at, and one line for each thing that does not hold."""

    trials: int
    records: int
    checkpoints: int
    problems: list[str]


def verify(store: ExperimentStore) -> Checked:
    """Check an experiment's invariants.

    Every trial of the study has a folder, and every folder a trial; nothing is `RUNNING` unless a search is;
    no step is missing or twice in a log or an offline W&B run, and the study has the same values; each trial
    has a W&B run id of its own; every checkpoint and the best adapter are complete; no secret lies on the
    disk.

    Raises:
        ConfigError: the experiment's configuration cannot be read.
    """
    data = read(store)
    trials = data.study_trials
    folders = [place for one in data.trials for place in store.trial(one.trial_id).checkpoints()]
    # A folder without its manifest was never finished; resuming removes it.
    checkpoints = [place for place in folders if store.has_manifest(place)]
    problems = [
        *_strays(data),
        *_run_ids(trials),
        *_still_running(data),
        *(line for trial in trials for line in _steps(trial, _log(data, trial), data.config)),
        *(line for place in checkpoints for line in _corrupt(store, place)),
        *(line for trial in trials for line in _tracked(store, trial, _log(data, trial))),
        *_best(store),
        *_best_in_wandb(data),
        *_secrets(store),
    ]
    return Checked(len(trials), sum(map(len, data.logs.values())), len(checkpoints), problems)


def _log(data: ExperimentData, trial: StudyTrial) -> Sequence[MetricsRecord]:
    return data.logs.get(str(trial.trial_id), ())


def _strays(data: ExperimentData) -> Iterator[str]:
    for trial in data.study_trials:
        if not trial.has_params or trial.trial_id is None:
            yield f"trial {trial.number}: asked for and never given to Ray; `loratune resume` gives it"
    known = {trial.trial_id for trial in data.study_trials}
    for trial_id in data.store.logged_trial_ids():
        if trial_id not in known:
            yield f"folder {trial_id}: its trial is not in the study"


def _run_ids(trials: Sequence[StudyTrial]) -> Iterator[str]:
    for what, names in (
        ("wandb_run_id", [trial.wandb_run_id for trial in trials]),
        ("ray_trial_id", [trial.trial_id for trial in trials]),
    ):
        for name, count in Counter(names).items():
            if name is not None and count > 1:
                yield f"{what} {name}: {count} trials have it"


def _still_running(data: ExperimentData) -> Iterator[str]:
    if data.store.is_locked():
        return
    for trial in data.study_trials:
        if trial.state is TrialState.RUNNING:
            yield f"trial {trial.number}: marked as running, and no search is; `loratune resume` resumes it"


def _steps(trial: StudyTrial, log: Sequence[MetricsRecord], config: Config) -> Iterator[str]:
    every = config.evaluation.eval_every_steps
    steps = [record.step for record in log]
    begin = steps[0] - every if steps and trial.begins_from else 0
    for before, after in pairwise([begin, *steps]):
        if after <= before:
            yield f"trial {trial.number}: step {after} comes after step {before} in its log"
        elif after - before > every:
            yield f"trial {trial.number}: no record between steps {before} and {after}"
    scored = {
        record.step: value for record in log if (value := config.objective.measured(record)) is not None
    }
    ended = trial.state.is_terminal
    for step in sorted(scored.keys() | trial.intermediate_values.keys()) if ended else ():
        one, other = scored.get(step), trial.intermediate_values.get(step)
        # A step trained again in another pack rounds differently; either may be the one that was kept.
        if one is None or other is None or not math.isclose(one, other, rel_tol=_ROUNDING):
            yield f"trial {trial.number}: log and study differ at step {step}: {one} and {other}"
    reported = log[-1].state if log else None
    if (
        ended
        and reported in (TrialState.COMPLETED, TrialState.DIVERGED, TrialState.OOM)
        and reported != trial.state
    ):
        yield f"trial {trial.number}: its log says {reported}, the study {trial.state}"


def _tracked(store: ExperimentStore, trial: StudyTrial, log: Sequence[MetricsRecord]) -> Iterator[str]:
    """Compare the log with what offline runs hold; what was sent online is W&B's to keep."""
    files = offline_files(store.folder, str(trial.wandb_run_id))
    if not files or not trial.state.is_terminal:
        return
    held = Counter(step for path in files for step in steps_in(path))
    for record in log:
        if (count := held[record.step]) != 1:
            yield f"trial {trial.number}: step {record.step} is {count} times in its W&B run"


def _best(store: ExperimentStore) -> Iterator[str]:
    """Check that the best adapter, if there is one yet, is complete; its values are for `--recompute`."""
    try:
        store.read_best(METRICS)
    except FileNotFoundError:
        return
    if not store.best_metrics():
        yield f"best/{METRICS}: it is corrupt"
    for name, parse in _ADAPTER_FILES.items():
        try:
            parse(store.read_best(f"{ADAPTER}/{name}"))
        except FileNotFoundError:
            yield f"best/{ADAPTER}/{name}: it is missing"
        except (ValueError, SafetensorError) as error:
            yield f"best/{ADAPTER}/{name}: it is corrupt ({error})"


def _best_in_wandb(data: ExperimentData) -> Iterator[str]:
    """Compare the alias `best` with the logs, if W&B can be reached."""
    wandb, objective = data.config.wandb, data.objective
    is_versioned = wandb.log_artifacts and wandb.log_model in ("checkpoint", "best")
    if not is_versioned or resolve_mode(wandb) != "online":
        return
    if not data.logs or data.store.is_locked():
        return
    best = objective.best(record for log in data.logs.values() for record in log)
    name = artifact_name(collection_of(str(data.config.search.name)))
    try:
        versions = Server().versions(wandb.entity, wandb.project, "model", name)
    except ServerUnavailableError:
        return
    if problem := alias_problem(versions, objective, objective.value(best) if best else None):
        yield f"{problem}; `loratune resume` moves it"


def _corrupt(store: ExperimentStore, checkpoint: Place) -> Iterator[str]:
    try:
        store.read_checkpoint(checkpoint)
    except CheckpointError as error:
        yield f"{store.name_of_checkpoint(checkpoint)}: {error}"


def _secrets(store: ExperimentStore) -> Iterator[str]:
    known = {name: value.encode() for name in _SECRETS if len(value := os.environ.get(name, "")) >= 8}
    for where, content in store.small_files(_LARGEST_READ):
        for name, secret in known.items():
            if secret in content:
                yield f"{where}: it holds the value of {name}"
        if URL_WITH_PASSWORD.search(content):
            yield f"{where}: it holds a URL with a password"
