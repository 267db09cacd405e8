"""The W&B callback of a loratune search: what its runs share, and what earlier processes left to complete."""

import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version

from search_spaces import Space
from trainable.host import Prepared
from trainable.objective import Objective
from trainable.places import shown
from trainable.records import STEP, MetricsRecord, Outcome, TrialState
from trainable.suggestion import Suggestion
from trainable.tracking.artifacts import artifact_name
from trainable.tracking.run import resolve_mode
from trainable.tracking.server import Server, ServerUnavailableError
from trainable.tracking.trials import PastTrial, RunGroup, collection_of
from trainable.tracking.uploads import best_value
from tune.callbacks.wandb import WandbLoggerCallback
from tune.read.report.gather import gather
from tune.read.report.learnt import learn
from tune.read.report.write import as_html
from tune.store.reader import ExperimentData, TrialView, read

_PACKAGES = ("ray", "optuna", "torch", "transformers", "peft")
"""Their versions are in every run's configuration."""


def tracked_search(
    before: ExperimentData,
    space: Space,
    prepared: Prepared,
    *,
    earlier: Mapping[str, Sequence[MetricsRecord]],
    rungs: Sequence[int],
    say: Callable[[str], None],
) -> WandbLoggerCallback:
    """Return the callback, which also completes the runs of trials that have ended already.

    Args:
        before: the experiment as it is.
        space: what is searched.
        prepared: the base model and the data.
        earlier: the logs of trials that an earlier process has started, by their id.
        rungs: steps at which the scheduler compares trials.
        say: takes a warning.
    """
    config, store, settings = before.config, before.store, before.config.search
    group = RunGroup(
        group=str(settings.name),
        objective=config.objective,
        tags=[settings.sampler, settings.scheduler, config.model.name],
        directory=store.folder,
        settled_marker=store.settled_marker,
        log_of=lambda trial_id: store.trial(trial_id).log(),
        resume_command=f"loratune resume {shlex.quote(shown(store.place))}",
        data_hash=prepared.identity.data_hash,
        diverged=[trial.number for trial in before.trials if trial.state is TrialState.DIVERGED],
        summarize=True,
        past=[_past(trial, config.objective) for trial in before.trials],
        rungs=rungs,
        importance=lambda: learn(read(store)).importance,
        page=lambda: as_html(gather(read(store), time.time())),
        earlier=earlier,
    )
    chosen = {"sampler": settings.sampler, "scheduler": settings.scheduler, "seed": settings.seed}
    details = {
        "search": {"name": settings.name, "metric": settings.metric, "mode": config.objective.mode, **chosen},
        "data_hash": prepared.identity.data_hash,
        "versions": {name: version(name) for name in _PACKAGES},
    }
    model = prepared.model if config.wandb.watch_model else None
    callback = WandbLoggerCallback(config.wandb, group, store.held, details=details, model=model, say=say)
    _hold_a_lost_best(callback, before)
    for trial in before.trials:
        if trial.state.is_terminal:
            trained_with = space.apply(config.trial(), trial.params)
            suggestion = Suggestion(trained_with, trial.params, trial.number, follows=trial.follows)
            callback.settle(trial.trial_id, suggestion, Outcome(trial.state, trial.reason))
    callback.settle_search()
    return callback


def _hold_a_lost_best(callback: WandbLoggerCallback, before: ExperimentData) -> None:
    """Have the best adapter logged again if a process died before W&B had it."""
    wandb = before.config.wandb
    is_versioned = wandb.log_artifacts and wandb.log_model in ("checkpoint", "best")
    if not is_versioned or resolve_mode(wandb) != "online" or (found := before.best_checkpoint()) is None:
        return
    trial, checkpoint = found
    name = artifact_name(collection_of(str(before.config.search.name)))
    try:
        versions = Server().versions(wandb.entity, wandb.project, "model", name)
    except ServerUnavailableError:
        return
    state = before.store.read_checkpoint(checkpoint, deep=False)
    value = before.objective.value(state["record"])
    if before.objective.is_better(value, best_value(versions, before.objective)):
        callback.hold(trial.trial_id, checkpoint)
        before.store.settled_marker(trial.trial_id).unlink(missing_ok=True)


def _past(trial: TrialView, objective: Objective) -> PastTrial:
    return PastTrial(
        trial_id=trial.trial_id,
        number=trial.number,
        state=trial.state,
        params=trial.params,
        value=objective.value(trial.best_metrics),
        best_step=trial.best_metrics.get(STEP),
        steps=trial.steps,
        seconds=trial.duration_s or 0.0,
    )
