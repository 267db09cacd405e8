"""What becomes of each trial follows from study, log and checkpoints alone."""

from typing import Any

import pytest

from trainable.records import MetricsRecord, Outcome, TrialState
from tune.search.reconcile import Action, CheckpointFact, TrialFact, reconcile


def record(step: int, state: str = "running", **more: Any) -> MetricsRecord:
    return MetricsRecord({"step": step, "trial_state": state, "eval/loss": 1.0 / step, **more})


def checkpoint(step: int, problem: str | None = None, last: MetricsRecord | None = None) -> CheckpointFact:
    return CheckpointFact(
        f"checkpoint_{step}", -1 if problem else step, last or record(max(step, 1)), problem
    )


def trial(*, state: TrialState = TrialState.RUNNING, **more: Any) -> TrialFact:
    return TrialFact(number=0, trial_id="a", state=state, **more)


def only(fact: TrialFact, **options: Any) -> Any:
    (step,) = reconcile([fact], 1, **options).decisions
    return step


@pytest.mark.parametrize("state", [state for state in TrialState if state.is_terminal])
def test_what_has_ended_stays_as_it_is(state: TrialState) -> None:
    assert only(trial(state=state, log=[record(5)], checkpoints=[checkpoint(5)])).action is Action.KEEP


def test_an_unfinished_trial_goes_on_from_its_newest_whole_checkpoint() -> None:
    found = only(
        trial(log=[record(5), record(10)], checkpoints=[checkpoint(10, "torn"), checkpoint(5), checkpoint(2)])
    )
    assert (found.action, found.checkpoint.step) == (Action.CONTINUE, 5)
    assert found.why == "from step 5; 5 steps are trained again"


@pytest.mark.parametrize("checkpoints", [[], [checkpoint(5, "torn")]])
def test_without_a_whole_checkpoint_it_begins_again(checkpoints: list[CheckpointFact]) -> None:
    found = only(trial(log=[record(5)], checkpoints=checkpoints))
    assert (found.action, found.checkpoint) == (Action.RESTART, None)
    assert found.why == "from the beginning: it has no complete checkpoint"


def test_one_that_never_reported_begins_again() -> None:
    assert only(trial()).why == "from the beginning: it had not reported yet"
    assert only(TrialFact(0, None, TrialState.RUNNING)).action is Action.RESTART


@pytest.mark.parametrize(
    ("last", "state", "reason"),
    [
        (record(10, "completed"), TrialState.COMPLETED, None),
        (record(10, "diverged", reason="loss is nan"), TrialState.DIVERGED, "loss is nan"),
        (record(10, "oom", reason="too long"), TrialState.OOM, "too long"),
    ],
)
def test_an_end_that_only_the_log_knows_is_told(
    last: dict[str, Any], state: TrialState, reason: str | None
) -> None:
    found = only(trial(log=[record(5), last], checkpoints=[checkpoint(5)]))
    assert (found.action, found.outcome) == (Action.REPORT_END, Outcome(state, reason))


def test_a_record_that_only_the_checkpoint_has_is_given_back_to_the_log() -> None:
    last = record(10)
    found = only(trial(log=[record(5)], checkpoints=[checkpoint(10, last=last)]))
    assert (found.action, list(found.missing)) == (Action.CONTINUE, [last])
    ended = record(10, "completed")
    found = only(trial(log=[record(5)], checkpoints=[checkpoint(10, last=ended)]))
    assert (found.action, found.outcome.state, list(found.missing)) == (
        Action.REPORT_END,
        TrialState.COMPLETED,
        [ended],
    )


def test_a_checkpoint_between_two_evaluations_adds_no_record() -> None:
    found = only(trial(log=[record(5)], checkpoints=[checkpoint(7, last=record(5))]))
    assert (found.action, found.checkpoint.step, list(found.missing)) == (Action.CONTINUE, 7, [])


def test_one_that_the_scheduler_stops_is_told_as_pruned() -> None:
    found = only(trial(log=[record(5)], checkpoints=[checkpoint(5)], stopped=True))
    assert (found.action, found.outcome.state) == (Action.REPORT_END, TrialState.PRUNED)
    assert found.outcome.reason == "stopped by the scheduler at step 5"


def test_failed_trials_run_again_when_asked_to() -> None:
    failed = trial(state=TrialState.FAILED)
    assert only(failed).action is Action.KEEP
    assert only(failed, retry_failed=True).action is Action.RUN_AGAIN
    assert only(trial(state=TrialState.DIVERGED), retry_failed=True).action is Action.KEEP
    assert only(trial(state=TrialState.FAILED, has_successor=True), retry_failed=True).action is Action.KEEP


def test_a_completed_trial_goes_on_where_more_steps_are_asked_for() -> None:
    done = trial(
        state=TrialState.COMPLETED, log=[record(10)], checkpoints=[checkpoint(10)], wants_more_steps=True
    )
    found = only(done)
    assert (found.action, found.checkpoint.step) == (Action.RUN_AGAIN, 10)


@pytest.mark.parametrize(("budget", "new"), [(2, 0), (5, 3), (1, 0)])
def test_the_budget_counts_what_was_tried_but_no_second_attempts(budget: int, new: int) -> None:
    facts = [
        trial(state=TrialState.COMPLETED),
        trial(state=TrialState.FAILED, has_successor=True),
        trial(state=TrialState.COMPLETED),
    ]
    found = reconcile(facts, budget)
    assert found.new_trials == new
    assert found.nothing_to_do == (new == 0)


def test_torn_checkpoints_are_named() -> None:
    torn = checkpoint(5, "it is torn")
    assert reconcile([trial(log=[record(5)], checkpoints=[torn])], 1).corrupt == [torn]
