"""Takes an interrupted search up again, whatever ended it, and lets it be extended or changed.

`plan` reads what is there and changes nothing; `carry_out` does what the plan says, each step so that doing
it twice does no harm: a process that is killed while resuming is resumed like any other.
"""

import shutil
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna

from search_spaces import Space
from trainable import records
from trainable.checkpoint.manifest import read_state
from trainable.errors import CheckpointError, ExperimentError
from trainable.records import TrialState
from tune.callbacks.log import append
from tune.config import Config, storage_of
from tune.search.reconcile import Action, CheckpointFact, Plan, Step, TrialFact, reconcile
from tune.search.schedulers import Past, make_scheduler, replay
from tune.search.searcher import Held, OptunaSearcher
from tune.store import study
from tune.store.reader import LOG_NAME, read_log

_MAY_CHANGE = (
    *("search.num_trials", "search.max_concurrent", "search.timeout_s", "search.space", "search.sampler"),
    *("search.startup_trials", "search.scheduler", "search.grace_ratio", "search.reduction_factor"),
    *("training.max_steps", "training.epochs", "evaluation.text_rows", "evaluation.batch_size"),
    *("engine.", "cluster.", "wandb."),
)
_REASONS = {
    "model.": "adapters belong to the base model that they were trained over",
    "data.": "losses on other data cannot be compared with those that are in the study",
    "search.metric": "the study has been told another objective",
    "search.mode": "the study has been told another objective",
}


@dataclass(frozen=True)
class Resumption:
    """A search that goes on.

    Attributes:
        directory: the experiment's.
        config: what it goes on with.
        plan: what becomes of each trial.
        changes: what differs from before, by dotted key: old and new value.
    """

    directory: Path
    config: Config
    plan: Plan
    changes: Mapping[str, tuple[Any, Any]]

    @property
    def past(self) -> list[Past]:
        """What the scheduler has to hear before it goes on."""
        ended = (Action.KEEP, Action.TELL, Action.RUN_AGAIN)
        return [
            Past(step.trial.trial_id, [*step.trial.log, *_timed(step.missing)], step.action in ended)
            for step in self.plan.steps
            if step.trial.trial_id is not None
        ]


def plan(directory: Path, old: Config, new: Config, *, retry_failed: bool = False) -> Resumption:
    """Read an experiment and decide how it goes on; nothing is changed.

    Args:
        directory: the experiment's.
        old: the configuration that it was last run with.
        new: the one that it shall go on with.
        retry_failed: run failed trials again.

    Raises:
        ExperimentError: something differs that must not.
    """
    changes = changed(old, new)
    _check(old, new, changes)
    longer = _asks_for_more(old, new)
    trials = study.open_study(storage_of(new, directory), str(new.search.name)).get_trials()
    followed = {trial.user_attrs.get(study.FOLLOWS) for trial in trials}
    facts = [_fact(directory, trial, longer, trial.number in followed) for trial in trials]
    scheduler = make_scheduler(new.search, _max_steps(facts))
    told = [Past(fact.trial_id, fact.log, fact.state.is_end) for fact in facts if fact.trial_id is not None]
    stopped = replay(scheduler, told)
    facts = [replace(fact, stopped=fact.trial_id in stopped) for fact in facts]
    found = reconcile(facts, new.search.num_trials, retry_failed=retry_failed)
    return Resumption(directory, new, found, changes)


def carry_out(resumption: Resumption, searcher: OptunaSearcher) -> None:
    """Mend logs, folders and study as planned, and have the searcher hold what goes on."""
    for torn in resumption.plan.torn:
        shutil.rmtree(torn.path, ignore_errors=True)
    for step in resumption.plan.steps:
        trial = step.trial
        folder = resumption.directory / str(trial.trial_id)
        for record in _timed(step.missing):
            append(folder / LOG_NAME, record)
        match step.action:
            case Action.TELL:
                last = [*trial.log, *step.missing][-1]
                searcher.tell_end(trial.number, last, step.state or TrialState.FAILED, step.reason)
            case Action.CONTINUE | Action.RESTART:
                searcher.hold(_held(step, folder, trial.number, trial.trial_id or _new_id()))
            case Action.RUN_AGAIN:
                trial_id, begin = _new_id(), step.checkpoint.path if step.checkpoint else None
                number = searcher.attempt_again(trial.number, trial_id, begin)
                searcher.hold(_held(step, folder.with_name(trial_id), number, trial_id))
            case Action.KEEP:
                pass


def changed(old: Config, new: Config) -> dict[str, tuple[Any, Any]]:
    """Return what differs, by dotted key."""
    before, after = old.model_dump(mode="json"), new.model_dump(mode="json")
    return {
        f"{section}.{key}": (before[section][key], value)
        for section, values in after.items()
        for key, value in values.items()
        if before[section][key] != value
    }


def _check(old: Config, new: Config, changes: Mapping[str, tuple[Any, Any]]) -> None:
    for key, (before, after) in changes.items():
        if not key.startswith(_MAY_CHANGE):
            reasons = (reason for start, reason in _REASONS.items() if key.startswith(start))
            reason = next(reasons, "trials that have ended were made with the old value")
            raise ExperimentError(
                f"{key} cannot become {after!r} in mid-search (it is {before!r}): {reason}. "
                "Leave it as it is, or begin a new search."
            )
    if "search.space" in changes:
        _check_space(Space.load(old.search.space, old.trial()), Space.load(new.search.space, new.trial()))
    for key in ("training.max_steps", "training.epochs"):
        before, after = changes.get(key, (None, None))
        if before is not None and after is not None and after < before:
            raise ExperimentError(
                f"{key} cannot shrink in mid-search, from {before} to {after}: trials have gone further. "
                "Give a larger one, or begin a new search."
            )


def _check_space(old: Space, new: Space) -> None:
    if list(old.axes) != list(new.axes):
        raise ExperimentError(
            f"search.space: the axes were {', '.join(old.axes)} and cannot become {', '.join(new.axes)} in "
            "mid-search: what the sampler knows is of the old ones. Widen ranges only, or begin a new search."
        )
    for key, axis in new.axes.items():
        kinds = type(old.axes[key]), type(axis)
        fixed = ("values", "value") if kinds[0] is kinds[1] else ()
        if kinds[0] is not kinds[1] or any(
            getattr(old.axes[key], name, None) != getattr(axis, name, None) for name in fixed
        ):
            raise ExperimentError(
                f"axis '{key}': its type and its choices cannot change in mid-search; a range can widen. "
                "Put them back, or begin a new search."
            )


def _asks_for_more(old: Config, new: Config) -> bool:
    if new.training.max_steps is not None and old.training.max_steps is not None:
        return new.training.max_steps > old.training.max_steps
    return new.training.max_steps == old.training.max_steps and new.training.epochs > old.training.epochs


def _fact(directory: Path, trial: optuna.trial.FrozenTrial, longer: bool, followed: bool) -> TrialFact:
    attributes = trial.user_attrs
    trial_id = attributes.get(study.RAY_TRIAL_ID)
    folder = directory / str(trial_id)
    found = [_checkpoint(path) for path in sorted(folder.glob("checkpoint_*")) if any(path.iterdir())]
    if (begins := attributes.get(study.BEGINS_FROM)) is not None:
        # The record in it is the other trial's.
        found.append(replace(_checkpoint(Path(begins)), record={}))
    told = trial.state.is_finished()
    state = TrialState(attributes.get(study.STATE, TrialState.FAILED)) if told else TrialState.RUNNING
    return TrialFact(
        number=trial.number,
        trial_id=trial_id,
        state=state,
        log=read_log(folder / LOG_NAME),
        checkpoints=found,
        goes_on=longer and state is TrialState.COMPLETED,
        linked=followed,
    )


def _checkpoint(path: Path) -> CheckpointFact:
    try:
        state = read_state(path)
    except CheckpointError as error:
        return CheckpointFact(str(path), problem=str(error))
    return CheckpointFact(str(path), state["step"], state["record"])


def _held(step: Step, folder: Path, number: int, trial_id: str) -> Held:
    numbers = [path.name.rpartition("_")[2] for path in folder.glob("checkpoint_*")]
    attempts = [record.get(records.ATTEMPT, 1) for record in step.trial.log]
    return Held(
        number=number,
        trial_id=trial_id,
        attempt=max(attempts, default=0) + 1,
        checkpoint=step.checkpoint.path if step.checkpoint else None,
        record=step.checkpoint.record if step.checkpoint else {},
        checkpoint_index=max((int(name) for name in numbers if name.isdigit()), default=-1),
    )


def _max_steps(facts: Sequence[TrialFact]) -> int:
    """Return the steps of a whole trial, as trials have said themselves; 1 if none has spoken."""
    return max((record[records.MAX_STEPS] for fact in facts for record in fact.log), default=1)


def _timed(missing: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{"time": time.time(), **record} for record in missing]


def _new_id() -> str:
    return uuid.uuid4().hex[:8]
