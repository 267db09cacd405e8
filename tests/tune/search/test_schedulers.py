"""Schedulers stop the weak at their rungs and cope with records without a score."""

import random
from typing import Any

import pytest
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler

from trainable.errors import ConfigError
from trainable.objective import Constraint, Objective
from trainable.records import JUDGED, MetricsRecord, TrialState
from tune.search.schedulers import (
    SCHEDULERS,
    NoController,
    PastTrial,
    Replayed,
    check_scheduler,
    make_scheduler,
    replay,
    rungs,
)
from tune.sections import SCHEDULERS as NAMES
from tune.sections import SearchConfig

OWN = "tests.support.own_search:scheduler"
EVERY = [*SCHEDULERS, OWN]


def decide(scheduler: TrialScheduler, trial: PastTrial, step: int, loss: float | None) -> str:
    return scheduler.on_trial_result(NoController(), trial, result(step, loss))


def result(step: int, loss: float | None, *bounds: str, **metrics: float) -> dict[str, Any]:
    """Return what Ray passes on of a record."""
    record: dict[str, Any] = {"step": step, "time_total_s": step, **metrics}
    record |= {} if loss is None else {"eval/loss": loss}
    objective = Objective("eval/loss", "min", tuple(Constraint.parse(bound) for bound in bounds))
    return record | {JUDGED: objective.judged(record)}


def test_a_trial_beyond_a_bound_is_judged_after_those_within_it() -> None:
    scheduler = make_scheduler(SearchConfig(reduction_factor=2, grace_ratio=0.25), LOSS, 100)
    bound = "train/adapter_parameters <= 100"
    decisions = []
    # The better the loss, the larger the adapter: by the loss alone the small ones would be stopped.
    for number, (loss, size) in enumerate([(3.0, 50), (1.0, 200), (2.9, 60), (0.5, 300), (2.0, 90)]):
        trial = PastTrial(str(number))
        scheduler.on_trial_add(NoController(), trial)
        record = result(25, loss, bound, **{"train/adapter_parameters": size})
        decisions.append(scheduler.on_trial_result(NoController(), trial, record))
    stop, go = TrialScheduler.STOP, TrialScheduler.CONTINUE
    assert decisions == [go, stop, go, stop, go]


def test_where_no_trial_keeps_a_bound_yet_they_are_judged_by_the_objective() -> None:
    scheduler = make_scheduler(SearchConfig(reduction_factor=2, grace_ratio=0.25), LOSS, 100)
    decisions = []
    for number, loss in enumerate([2.0, 3.0, 1.0]):
        trial = PastTrial(str(number))
        scheduler.on_trial_add(NoController(), trial)
        record = result(25, loss, "nlg/rouge_l >= 0.5", **{"nlg/rouge_l": 0.1})
        decisions.append(scheduler.on_trial_result(NoController(), trial, record))
    assert decisions == [TrialScheduler.CONTINUE, TrialScheduler.STOP, TrialScheduler.CONTINUE]


@pytest.mark.parametrize(
    ("grace", "factor", "steps", "expected"),
    [(0.25, 4, 100, [25]), (0.1, 3, 100, [10, 30, 90]), (0.25, 4, 3, [1]), (1, 4, 100, []), (0.1, 4, 1, [])],
)
def test_rungs(grace: float, factor: float, steps: int, expected: list[int]) -> None:
    search = SearchConfig(grace_ratio=grace, reduction_factor=factor)
    assert rungs(search, steps) == expected
    assert rungs(search.model_copy(update={"scheduler": "none"}), steps) == []


def test_asha_keeps_one_in_four_at_the_rung() -> None:
    scheduler = make_scheduler(SearchConfig(grace_ratio=0.25), Objective("eval/loss", "min"), 100)
    trials = [PastTrial(str(number)) for number in range(8)]
    decisions = []
    for number, trial in enumerate(trials):
        scheduler.on_trial_add(NoController(), trial)
        assert decide(scheduler, trial, 24, 100.0) == TrialScheduler.CONTINUE
        decisions.append(decide(scheduler, trial, 25, float(number)))
    # The first to come is always the best so far; each later one is worse.
    assert decisions == [TrialScheduler.CONTINUE] + [TrialScheduler.STOP] * 7
    assert decide(scheduler, trials[0], 100, 5.0) == TrialScheduler.CONTINUE


def test_hyperband_gives_some_trials_more_time_before_they_are_judged() -> None:
    scheduler = make_scheduler(SearchConfig(scheduler="hyperband", grace_ratio=0.25), LOSS, 100)
    stopped_at: dict[str, int] = {}
    for number in range(60):
        trial = PastTrial(str(number))
        scheduler.on_trial_add(NoController(), trial)
        for step in (10, 25, 50):
            # Each trial is worse than all before it.
            if decide(scheduler, trial, step, float(number)) == TrialScheduler.STOP:
                stopped_at[trial.trial_id] = step
                break
    later = [trial for trial in map(str, range(60)) if trial not in stopped_at]
    assert set(stopped_at.values()) == {25}
    assert 5 < len(later) < 30
    again = make_scheduler(SearchConfig(scheduler="hyperband", grace_ratio=0.25), LOSS, 100)
    for trial_id in map(str, range(60)):
        again.on_trial_add(NoController(), PastTrial(trial_id))
        step = 25 if trial_id in stopped_at else 50
        assert (decide(again, PastTrial(trial_id), step, 1.0 + int(trial_id)) == TrialScheduler.STOP) == (
            trial_id in stopped_at
        )


@pytest.mark.parametrize("name", EVERY)
def test_a_record_without_a_score_is_no_reason_to_stop(name: str) -> None:
    scheduler = make_scheduler(SearchConfig(scheduler=name), Objective("eval/loss", "min"), 100)
    trial = PastTrial("a")
    scheduler.on_trial_add(NoController(), trial)
    assert decide(scheduler, trial, 30, None) == TrialScheduler.CONTINUE
    scheduler.on_trial_complete(NoController(), trial, result(30, None))


@pytest.mark.filterwarnings("ignore:All-NaN slice:RuntimeWarning")
@pytest.mark.parametrize("loss", [None, float("nan")])
@pytest.mark.parametrize(("name", "judged"), [("asha", 25), ("median", 60)])
def test_a_trial_that_diverged_is_no_measure_for_the_others(
    name: str, judged: int, loss: float | None
) -> None:
    scheduler = make_scheduler(SearchConfig(scheduler=name), Objective("eval/loss", "min"), 100)
    controller = NoController()
    ended = PastTrial("diverged")
    scheduler.on_trial_add(controller, ended)
    scheduler.on_trial_complete(controller, ended, result(60, loss))
    for number in range(3):
        good = PastTrial(str(number))
        scheduler.on_trial_add(controller, good)
        assert decide(scheduler, good, judged, 1.0) == TrialScheduler.CONTINUE
    weak = PastTrial("weak")
    scheduler.on_trial_add(controller, weak)
    assert decide(scheduler, weak, judged, 2.0) == TrialScheduler.STOP


@pytest.mark.parametrize("ended", [TrialState.DIVERGED, TrialState.OOM, TrialState.COMPLETED])
@pytest.mark.parametrize("name", ["asha", "hyperband", "median"])
def test_the_early_losses_of_a_trial_that_diverged_later_stop_nobody(name: str, ended: TrialState) -> None:
    scheduler = make_scheduler(SearchConfig(scheduler=name, grace_ratio=0.25), LOSS, 100)
    controller = NoController()
    fast = [PastTrial(f"fast-{number}") for number in range(8)]
    for trial in fast:
        scheduler.on_trial_add(controller, trial)
    for step in (25, 50):
        for trial in fast:
            decide(scheduler, trial, step, 0.1)
    for trial in fast:
        last = result(60, 0.1 if ended is TrialState.COMPLETED else None)
        scheduler.on_trial_complete(controller, trial, {**last, "trial_state": ended})
    decisions = []
    for number in range(8):
        slow = PastTrial(f"slow-{number}")
        scheduler.on_trial_add(controller, slow)
        decisions.append(decide(scheduler, slow, 25, 0.5))
    assert (TrialScheduler.STOP in decisions) is (ended is TrialState.COMPLETED)


STEPS = (10, 25, 30, 60, 90, 100)
LOSS = Objective("eval/loss", "min")


def curves(trials: int = 12, seed: int = 3) -> dict[str, list[MetricsRecord]]:
    """Return the logs of trials that take turns; a trial's losses fall, each from a level of its own."""
    random_state = random.Random(seed)
    levels = {f"{number:02}": random_state.random() for number in range(trials)}
    return {
        trial_id: [
            MetricsRecord(
                {"step": step, "time": float(100 * turn + int(trial_id)), "eval/loss": level + 1 / step}
            )
            for turn, step in enumerate(STEPS)
        ]
        for trial_id, level in levels.items()
    }


def run(scheduler: TrialScheduler, trials: dict[str, Any]) -> tuple[dict[str, int], list[Replayed]]:
    """Let the trials report in turns; returns the step each stopped at, and what was logged."""
    logs = curves(len(trials))
    for trial in trials.values():
        scheduler.on_trial_add(NoController(), trial)
    stopped: dict[str, int] = {}
    history: dict[str, list[MetricsRecord]] = {trial_id: [] for trial_id in trials}
    for turn, step in enumerate(STEPS):
        for trial_id, trial in trials.items():
            if trial_id in stopped:
                continue
            record = logs[trial_id][turn]
            history[trial_id].append(record)
            decision = scheduler.on_trial_result(NoController(), trial, result(step, record["eval/loss"]))
            if decision == TrialScheduler.STOP:
                stopped[trial_id] = step
                scheduler.on_trial_remove(NoController(), trial)
    return stopped, [Replayed(name, log, ended=name in stopped) for name, log in history.items()]


def test_the_configuration_names_the_shipped_schedulers() -> None:
    assert tuple(SCHEDULERS) == NAMES


@pytest.mark.parametrize("name", EVERY)
def test_rays_own_trials_are_decided_as_the_stand_ins(name: str) -> None:
    search = SearchConfig(scheduler=name)
    ids = sorted(curves())
    past, _ = run(make_scheduler(search, LOSS, 100), {one: PastTrial(one) for one in ids})
    genuine = {one: Trial("stub", trial_id=one, stub=True) for one in ids}
    for trial in genuine.values():
        trial.set_status(Trial.RUNNING)
    assert run(make_scheduler(search, LOSS, 100), genuine)[0] == past
    assert bool(past) is (name != "none")


@pytest.mark.parametrize("name", ["asha", "none", OWN])
def test_a_replayed_scheduler_decides_as_the_one_that_was_interrupted(name: str) -> None:
    search = SearchConfig(scheduler=name)
    ids = sorted(curves())
    first = make_scheduler(search, LOSS, 100)
    _, history = run(first, {one: PastTrial(one) for one in ids})
    again = make_scheduler(search, LOSS, 100)
    replay(again, history, LOSS)
    for step in STEPS:
        for loss in (0.0, 0.1, 0.3, 0.6, 1.2):
            newcomers = PastTrial(f"{step}-{loss}"), PastTrial(f"{step}-{loss}")
            for scheduler, newcomer in zip((first, again), newcomers, strict=True):
                scheduler.on_trial_add(NoController(), newcomer)
            assert decide(first, newcomers[0], step, loss) == decide(again, newcomers[1], step, loss)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tests.support.own_search:missing", "cannot be imported"),
        ("tests.support.own_search:not_callable", "must be a function from a SchedulerRequest"),
    ],
)
def test_a_scheduler_that_is_none_is_refused(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_scheduler(SearchConfig(scheduler=name))
