"""Resumes an interrupted search, whatever ended it, and lets it be extended or changed.

`plan` reads what is there and changes nothing. `carry_out` does what the plan says; each of its steps can be
repeated without harm, so a process that is killed while resuming is resumed like any other.
"""

import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from search_spaces import Space
from trainable.config.layers import section_of
from trainable.config.sections import fixed_because
from trainable.errors import CheckpointError, ExperimentError
from trainable.places import Place, place_of
from trainable.records import TIME, MetricsRecord, TrialState
from tune.config import Config, StoredConfig
from tune.search.reconcile import Action, CheckpointFact, Decision, Plan, TrialFact, reconcile
from tune.search.schedulers import Replayed, make_scheduler, replay
from tune.search.searcher import OptunaSearcher, ResumedTrial
from tune.store.experiment import ExperimentStore
from tune.store.reader import ExperimentData, read
from tune.store.study_trial import StudyTrial


@dataclass(frozen=True)
class Resumption:
    """A search that is about to be resumed.

    Attributes:
        data: the experiment as it was when the plan was made.
        stored: the configuration that it is resumed with, and what is stored beside it.
        plan: what is done with each trial.
        changes: what differs from before, by dotted key: old and new value.
    """

    data: ExperimentData
    stored: StoredConfig
    plan: Plan
    changes: Mapping[str, tuple[Any, Any]]

    @property
    def config(self) -> Config:
        """The configuration that the search is resumed with."""
        return self.stored.config

    @property
    def history(self) -> list[Replayed]:
        """What the scheduler has to be given before the search is resumed."""
        ended = (Action.KEEP, Action.REPORT_END, Action.RUN_AGAIN)
        return [
            Replayed(one.trial.trial_id, [*one.trial.log, *_timed(one.missing)], one.action in ended)
            for one in self.plan.decisions
            if one.trial.trial_id is not None
        ]


def plan(store: ExperimentStore, old: Config, new: StoredConfig, *, retry_failed: bool = False) -> Resumption:
    """Read an experiment and decide how it is resumed; nothing is changed.

    Args:
        store: the experiment.
        old: the configuration that it was last run with.
        new: the one to resume it with.
        retry_failed: run failed trials again.

    Raises:
        ExperimentError: something differs that must not.
    """
    config = new.config
    changes = changed(old, config)
    _check(old, config, changes)
    longer = _asks_for_more(old, config)
    data = read(store, config)
    followed = {trial.follows for trial in data.study_trials}
    facts = [_fact(data, trial, longer, trial.number in followed) for trial in data.study_trials]
    scheduler = make_scheduler(config.search, config.objective, _max_steps(facts))
    history = [
        Replayed(fact.trial_id, fact.log, fact.state.is_terminal)
        for fact in facts
        if fact.trial_id is not None
    ]
    stopped = replay(scheduler, history, config.objective)
    facts = [replace(fact, stopped=fact.trial_id in stopped) for fact in facts]
    decided = reconcile(facts, config.search.num_trials, retry_failed=retry_failed)
    return Resumption(data, new, decided, changes)


def carry_out(resumption: Resumption, searcher: OptunaSearcher) -> None:
    """Repair logs, folders and study as planned, and give the searcher the trials to resume."""
    store = resumption.data.store
    for corrupt in resumption.plan.corrupt:
        store.delete_checkpoint(place_of(corrupt.path))
    for decision in resumption.plan.decisions:
        trial = decision.trial
        for record in _timed(decision.missing):
            store.trial(str(trial.trial_id)).append(record)
        match decision.action:
            case Action.REPORT_END:
                last = [*trial.log, *decision.missing][-1]
                assert decision.outcome is not None
                searcher.report_end(trial.number, last, decision.outcome)
            case Action.CONTINUE | Action.RESTART:
                searcher.resume_trial(_resumed(store, decision, trial.number, trial.trial_id or _new_id()))
            case Action.RUN_AGAIN:
                trial_id, checkpoint = _new_id(), decision.checkpoint
                begins = store.name_of_checkpoint(place_of(checkpoint.path)) if checkpoint else None
                number = searcher.attempt_again(trial.number, trial_id, begins)
                searcher.resume_trial(_resumed(store, decision, number, trial_id))
            case Action.KEEP:
                pass


def changed(old: Config, new: Config) -> dict[str, tuple[Any, Any]]:
    """Return what differs, by dotted key; where an experiment lies does not count."""
    before, after = old.model_dump(mode="json"), new.model_dump(mode="json")
    return {
        f"{section}.{key}": (before[section][key], value)
        for section, values in after.items()
        for key, value in values.items()
        if before[section][key] != value and (section, key) != ("search", "results_dir")
    }


_KNOWN_BY_CONTENT = ("data.train", "data.val", "data.test", "model.name")
"""These may lie elsewhere; `tune.experiment` compares their content once they are loaded."""


def _check(old: Config, new: Config, changes: Mapping[str, tuple[Any, Any]]) -> None:
    for key, (before, after) in changes.items():
        section, name = section_of(key, Config)
        reason = fixed_because(section, name)
        if reason is not None and not (key in _KNOWN_BY_CONTENT and _is_place(after) and before):
            raise ExperimentError(
                f"{key} cannot become {after!r} on resume (it is {before!r}): {reason}. "
                "Leave it as it is, or begin a new search."
            )
    if "search.space" in changes:
        _check_space(Space.load(old.search.space, old.trial()), Space.load(new.search.space, new.trial()))
    for key in ("training.max_steps", "training.epochs"):
        before, after = changes.get(key, (None, None))
        if before is not None and after is not None and after < before:
            raise ExperimentError(
                f"{key} cannot shrink on resume, from {before} to {after}: trials have trained for longer. "
                "Give a larger one, or begin a new search."
            )


def _is_place(value: Any) -> bool:
    """Return whether a value names files: one or several paths, or a folder that is there."""
    return isinstance(value, list) or (
        isinstance(value, str) and (Path(value).suffix != "" or Path(value).is_dir())
    )


def _check_space(old: Space, new: Space) -> None:
    if list(old.axes) != list(new.axes):
        raise ExperimentError(
            f"search.space: the axes were {', '.join(old.axes)} and cannot become {', '.join(new.axes)} on "
            "resume: what the sampler has learned is about the old ones. Widen ranges only, or begin a new "
            "search."
        )
    for key, axis in new.axes.items():
        kinds = type(old.axes[key]), type(axis)
        constant = ("values", "value") if kinds[0] is kinds[1] else ()
        if kinds[0] is not kinds[1] or any(
            getattr(old.axes[key], name, None) != getattr(axis, name, None) for name in constant
        ):
            raise ExperimentError(
                f"axis '{key}': its type and its choices cannot change on resume; a range can widen. "
                "Put them back, or begin a new search."
            )


def _asks_for_more(old: Config, new: Config) -> bool:
    if new.training.max_steps is not None and old.training.max_steps is not None:
        return new.training.max_steps > old.training.max_steps
    return new.training.max_steps == old.training.max_steps and new.training.epochs > old.training.epochs


def _fact(data: ExperimentData, trial: StudyTrial, longer: bool, followed: bool) -> TrialFact:
    trial_id = trial.trial_id
    checkpoints: list[CheckpointFact] = []
    if trial_id is not None:
        # Nothing starts from the checkpoints of an ended trial unless it asks for more: sizes are enough.
        deep = not trial.state.is_terminal or longer
        folders = data.store.trial(trial_id).checkpoints()
        checkpoints = [_checkpoint(data.store, place, deep=deep) for place in folders]
    if trial.begins_from is not None:
        # The record in it is the other trial's.
        first = _checkpoint(data.store, data.store.checkpoint(trial.begins_from), deep=True)
        checkpoints.append(replace(first, record=MetricsRecord()))
    state = trial.state if trial.state.is_terminal else TrialState.RUNNING
    return TrialFact(
        number=trial.number,
        trial_id=trial_id,
        state=state,
        log=data.logs.get(str(trial_id), ()),
        checkpoints=checkpoints,
        wants_more_steps=longer and state is TrialState.COMPLETED,
        has_successor=followed,
    )


def _checkpoint(store: ExperimentStore, place: Place, *, deep: bool) -> CheckpointFact:
    try:
        state = store.read_checkpoint(place, deep=deep)
    except CheckpointError as error:
        return CheckpointFact(str(place), problem=str(error))
    return CheckpointFact(str(place), state["step"], MetricsRecord(state["record"]))


def _resumed(store: ExperimentStore, decision: Decision, number: int, trial_id: str) -> ResumedTrial:
    attempts = [record.attempt for record in decision.trial.log]
    checkpoint = decision.checkpoint
    return ResumedTrial(
        number=number,
        trial_id=trial_id,
        attempt=max(attempts, default=0) + 1,
        checkpoint=checkpoint.path if checkpoint else None,
        record=checkpoint.record if checkpoint else MetricsRecord(),
        checkpoint_number=store.trial(trial_id).last_checkpoint_number,
    )


def _max_steps(facts: Sequence[TrialFact]) -> int:
    """Return the steps of a full trial, as trials have reported them; 1 if none has reported."""
    return max((record.max_steps or 1 for fact in facts for record in fact.log), default=1)


def _timed(missing: Sequence[MetricsRecord]) -> list[MetricsRecord]:
    return [MetricsRecord({TIME: time.time(), **record}) for record in missing]


def _new_id() -> str:
    return uuid.uuid4().hex[:8]
