"""Schedulers stop the weak at their rungs and cope with records without a score."""

from typing import Any

import pytest
from ray.tune.schedulers import TrialScheduler

from trainable.objective import Objective
from tune.config import SearchConfig
from tune.search.schedulers import NoController, PastTrial, make_scheduler, rungs


def decide(scheduler: TrialScheduler, trial: PastTrial, step: int, loss: float | None) -> str:
    record: dict[str, Any] = {"step": step, "time_total_s": step}
    return scheduler.on_trial_result(
        NoController(), trial, record | ({} if loss is None else {"eval/loss": loss})
    )


@pytest.mark.parametrize(
    ("grace", "factor", "steps", "expected"),
    [(0.25, 4, 100, [25]), (0.1, 3, 100, [10, 30, 90]), (0.25, 4, 3, [1]), (1, 4, 100, []), (0.1, 4, 1, [])],
)
def test_rungs(grace: float, factor: float, steps: int, expected: list[int]) -> None:
    search = SearchConfig(grace_ratio=grace, reduction_factor=factor)
    assert rungs(search, steps) == expected
    assert rungs(search.model_copy(update={"scheduler": "none"}), steps) == []


def test_asha_keeps_one_in_four_at_the_rung() -> None:
    scheduler = make_scheduler(SearchConfig(), Objective("eval/loss", "min"), 100)
    trials = [PastTrial(str(number)) for number in range(8)]
    decisions = []
    for number, trial in enumerate(trials):
        scheduler.on_trial_add(NoController(), trial)
        assert decide(scheduler, trial, 24, 100.0) == TrialScheduler.CONTINUE
        decisions.append(decide(scheduler, trial, 25, float(number)))
    # The first to come is always the best so far; each later one is worse.
    assert decisions == [TrialScheduler.CONTINUE] + [TrialScheduler.STOP] * 7
    assert decide(scheduler, trials[0], 100, 5.0) == TrialScheduler.CONTINUE


@pytest.mark.parametrize("name", ["asha", "median", "none"])
def test_a_record_without_a_score_is_no_reason_to_stop(name: str) -> None:
    scheduler = make_scheduler(SearchConfig(scheduler=name), Objective("eval/loss", "min"), 100)
    trial = PastTrial("a")
    scheduler.on_trial_add(NoController(), trial)
    assert decide(scheduler, trial, 30, None) == TrialScheduler.CONTINUE
    scheduler.on_trial_complete(NoController(), trial, {"step": 30})


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
    scheduler.on_trial_complete(
        controller, ended, {"step": 60} | ({} if loss is None else {"eval/loss": loss})
    )
    for number in range(3):
        good = PastTrial(str(number))
        scheduler.on_trial_add(controller, good)
        assert decide(scheduler, good, judged, 1.0) == TrialScheduler.CONTINUE
    weak = PastTrial("weak")
    scheduler.on_trial_add(controller, weak)
    assert decide(scheduler, weak, judged, 2.0) == TrialScheduler.STOP
