"""What has to be done so that a search goes on as if nothing had happened: a pure function of what is there.

Three things are believed: the study (which trials there are, their parameters, their ends), each trial's own
result log (what it reported, in order), and its checkpoints (those whose manifest holds). Ray's own snapshot
is not among them: whatever state it is in, nothing is lost.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from trainable import records
from trainable.outcome import outcome
from trainable.records import TrialState


class Action(StrEnum):
    """What becomes of a trial."""

    KEEP = "keep"
    TELL = "tell"
    CONTINUE = "continue"
    RESTART = "restart"
    RUN_AGAIN = "run again"


@dataclass(frozen=True)
class CheckpointFact:
    """One checkpoint folder.

    Attributes:
        path: the folder.
        step: optimiser steps in it; -1 if it is not whole.
        record: the metrics record in it.
        problem: why it is not whole; `None` if it is.
    """

    path: str
    step: int = -1
    record: Mapping[str, Any] = field(default_factory=dict)
    problem: str | None = None


@dataclass(frozen=True)
class TrialFact:
    """What is known of one trial.

    Attributes:
        number: in the study.
        trial_id: Ray's, and the folder's name; `None` if Ray was never given it.
        state: an end, if the study has been told one; else `RUNNING` or `PENDING`.
        log: its records, each step once, in order.
        checkpoints: in any order.
        stopped: the scheduler would have stopped it at its last record.
        goes_on: it completed, and its configuration now asks for more steps.
        linked: another attempt at it is in the study already.
    """

    number: int
    trial_id: str | None
    state: TrialState
    log: Sequence[Mapping[str, Any]] = ()
    checkpoints: Sequence[CheckpointFact] = ()
    stopped: bool = False
    goes_on: bool = False
    linked: bool = False

    @property
    def last_step(self) -> int:
        """Optimiser steps of the last record; 0 without one."""
        return self.log[-1][records.STEP] if self.log else 0


@dataclass(frozen=True)
class Step:
    """What to do with one trial.

    Attributes:
        trial: which.
        action: what.
        why: one sentence for a person.
        checkpoint: where `CONTINUE`, and `RUN_AGAIN` of one that completed, begin.
        state, reason: what `TELL` tells.
        missing: records that a checkpoint holds and the log has lost.
    """

    trial: TrialFact
    action: Action
    why: str
    checkpoint: CheckpointFact | None = None
    state: TrialState | None = None
    reason: str | None = None
    missing: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True)
class Plan:
    """What resuming does.

    Attributes:
        steps: one a trial, by number.
        torn: checkpoint folders that are not whole; nothing begins from them.
        new_trials: how many are still to be asked for.
    """

    steps: Sequence[Step]
    torn: Sequence[CheckpointFact]
    new_trials: int

    def having(self, *actions: Action) -> list[Step]:
        """Return the steps of some kinds."""
        return [step for step in self.steps if step.action in actions]

    @property
    def nothing_to_do(self) -> bool:
        """Whether the search is over as it stands."""
        return not self.new_trials and all(step.action is Action.KEEP for step in self.steps)


def reconcile(trials: Sequence[TrialFact], num_trials: int, *, retry_failed: bool = False) -> Plan:
    """Decide what becomes of each trial.

    Args:
        trials: everything in the study.
        num_trials: the search's budget; other attempts at a trial do not count.
        retry_failed: run again those that failed.
    """
    steps = [_decide(trial, retry_failed) for trial in trials]
    torn = [found for trial in trials for found in trial.checkpoints if found.problem]
    spent = sum(not trial.linked for trial in trials)
    return Plan(steps, torn, max(0, num_trials - spent))


def _decide(trial: TrialFact, retry_failed: bool) -> Step:
    whole = [found for found in trial.checkpoints if found.problem is None]
    newest = max(whole, key=lambda found: found.step, default=None)
    if trial.state.is_end:
        return _decide_ended(trial, newest, retry_failed)
    missing = _missing(trial, newest)
    last = missing[-1] if missing else trial.log[-1] if trial.log else None
    state, reason = outcome(last)
    if last is not None and state in (TrialState.COMPLETED, TrialState.DIVERGED, TrialState.OOM):
        why = f"it was {state} at step {last[records.STEP]}; the study had not heard"
        return Step(trial, Action.TELL, why, state=state, reason=reason, missing=missing)
    if trial.stopped and not missing:
        why = f"the scheduler stops it at step {trial.last_step}; the study had not heard"
        return Step(trial, Action.TELL, why, state=TrialState.PRUNED, reason=reason)
    if newest is not None and newest.step > 0:
        again = max(0, trial.last_step - newest.step)
        why = f"from step {newest.step}" + (f"; {again} steps are trained again" if again else "")
        return Step(trial, Action.CONTINUE, why, checkpoint=newest, missing=missing)
    why = "no checkpoint of it is whole" if trial.log else "it had not reported yet"
    return Step(trial, Action.RESTART, f"from the beginning: {why}")


def _decide_ended(trial: TrialFact, newest: CheckpointFact | None, retry_failed: bool) -> Step:
    if trial.linked:
        return Step(trial, Action.KEEP, f"{trial.state}; another attempt at it follows")
    if trial.goes_on and newest is not None:
        why = f"its configuration now asks for more than its {newest.step} steps"
        return Step(trial, Action.RUN_AGAIN, why, checkpoint=newest)
    if retry_failed and trial.state is TrialState.FAILED:
        return Step(trial, Action.RUN_AGAIN, "it failed")
    return Step(trial, Action.KEEP, trial.state.value)


def _missing(trial: TrialFact, newest: CheckpointFact | None) -> list[Mapping[str, Any]]:
    """Return the record that was saved with a checkpoint and did not reach the log."""
    if newest is None or newest.record.get(records.STEP, -1) <= trial.last_step:
        return []
    return [newest.record]
