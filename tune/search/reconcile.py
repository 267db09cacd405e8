"""What has to be done so that a search resumes as if it had not been interrupted: a pure function.

Three sources are trusted: the study (which trials there are, their parameters, their ends), each trial's own
result log (what it reported, in order), and its complete checkpoints. Ray's own snapshot is not one of them:
whatever state it is in, nothing is lost.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from trainable.records import STEP, MetricsRecord, Outcome, TrialState


class Action(StrEnum):
    """What is done with a trial."""

    KEEP = "keep"
    REPORT_END = "report its end"
    CONTINUE = "continue"
    RESTART = "restart"
    RUN_AGAIN = "run again"


@dataclass(frozen=True)
class CheckpointFact:
    """One checkpoint folder.

    Attributes:
        path: the folder's path or URI.
        step: optimizer steps in it; -1 if it is corrupt.
        record: the metrics record in it.
        problem: why it is corrupt; `None` if it is complete.
    """

    path: str
    step: int = -1
    record: MetricsRecord = field(default_factory=MetricsRecord)
    problem: str | None = None


@dataclass(frozen=True)
class TrialFact:
    """What is known of one trial.

    Attributes:
        number: in the study.
        trial_id: Ray's, and the folder's name; `None` if Ray was never given it.
        state: a terminal state if the study has one; else `RUNNING` or `PENDING`.
        log: its records, each step once, in order.
        checkpoints: in any order.
        stopped: the scheduler would have stopped it at its last record.
        wants_more_steps: it completed, and its configuration now asks for more steps.
        has_successor: another attempt at it is in the study already.
    """

    number: int
    trial_id: str | None
    state: TrialState
    log: Sequence[MetricsRecord] = ()
    checkpoints: Sequence[CheckpointFact] = ()
    stopped: bool = False
    wants_more_steps: bool = False
    has_successor: bool = False

    @property
    def last_step(self) -> int:
        """Optimizer steps of the last record; 0 without one."""
        return self.log[-1].step if self.log else 0


@dataclass(frozen=True)
class Decision:
    """What to do with one trial.

    Attributes:
        trial: which.
        action: what.
        why: one sentence for a person.
        checkpoint: where `CONTINUE`, and `RUN_AGAIN` of one that completed, start.
        outcome: what `REPORT_END` reports.
        missing: records that a checkpoint holds and the log has lost.
    """

    trial: TrialFact
    action: Action
    why: str
    checkpoint: CheckpointFact | None = None
    outcome: Outcome | None = None
    missing: Sequence[MetricsRecord] = ()


@dataclass(frozen=True)
class Plan:
    """What resuming does.

    Attributes:
        decisions: one per trial, by number.
        corrupt: checkpoint folders that no trial can start from.
        new_trials: how many are still to be asked for.
    """

    decisions: Sequence[Decision]
    corrupt: Sequence[CheckpointFact]
    new_trials: int

    @property
    def nothing_to_do(self) -> bool:
        """Whether the search is over as it stands."""
        return not self.new_trials and all(one.action is Action.KEEP for one in self.decisions)


def reconcile(trials: Sequence[TrialFact], num_trials: int, *, retry_failed: bool = False) -> Plan:
    """Decide what is done with each trial.

    Args:
        trials: everything in the study.
        num_trials: the search's budget; other attempts at a trial do not count.
        retry_failed: run failed trials again.
    """
    decisions = [_decide(trial, retry_failed) for trial in trials]
    corrupt = [checkpoint for trial in trials for checkpoint in trial.checkpoints if checkpoint.problem]
    spent = sum(not trial.has_successor for trial in trials)
    return Plan(decisions, corrupt, max(0, num_trials - spent))


def _decide(trial: TrialFact, retry_failed: bool) -> Decision:
    complete = [checkpoint for checkpoint in trial.checkpoints if checkpoint.problem is None]
    newest = max(complete, key=lambda checkpoint: checkpoint.step, default=None)
    if trial.state.is_terminal:
        return _decide_ended(trial, newest, retry_failed)
    missing = _missing(trial, newest)
    last = missing[-1] if missing else trial.log[-1] if trial.log else MetricsRecord()
    outcome = last.outcome()
    if last and (
        outcome.state in (TrialState.COMPLETED, TrialState.DIVERGED, TrialState.OOM)
        or last.state is TrialState.PRUNED  # A person stopped it; what the scheduler stops ends as running.
    ):
        why = f"it was {outcome.state} at step {last.step}; the study does not have that yet"
        return Decision(trial, Action.REPORT_END, why, outcome=outcome, missing=missing)
    if trial.stopped and not missing:
        why = f"the scheduler stops it at step {trial.last_step}; the study does not have that yet"
        return Decision(trial, Action.REPORT_END, why, outcome=Outcome(TrialState.PRUNED, outcome.reason))
    if newest is not None and newest.step > 0:
        again = max(0, trial.last_step - newest.step)
        why = f"from step {newest.step}" + (f"; {again} steps are trained again" if again else "")
        return Decision(trial, Action.CONTINUE, why, checkpoint=newest, missing=missing)
    why = "it has no complete checkpoint" if trial.log else "it had not reported yet"
    return Decision(trial, Action.RESTART, f"from the beginning: {why}")


def _decide_ended(trial: TrialFact, newest: CheckpointFact | None, retry_failed: bool) -> Decision:
    if trial.has_successor:
        return Decision(trial, Action.KEEP, f"{trial.state}; another attempt at it follows")
    if trial.wants_more_steps and newest is not None:
        why = f"its configuration now asks for more than its {newest.step} steps"
        return Decision(trial, Action.RUN_AGAIN, why, checkpoint=newest)
    if retry_failed and trial.state is TrialState.FAILED:
        return Decision(trial, Action.RUN_AGAIN, "it failed")
    return Decision(trial, Action.KEEP, trial.state.value)


def _missing(trial: TrialFact, newest: CheckpointFact | None) -> list[MetricsRecord]:
    """Return the record that was saved with a checkpoint and did not reach the log."""
    if newest is None or newest.record.get(STEP, -1) <= trial.last_step:
        return []
    return [newest.record]
