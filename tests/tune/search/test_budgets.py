"""What trials cost is counted once, and a search ends when its budget is used up."""

import re
from pathlib import Path
from typing import Any

import pytest

from search_spaces import Space
from tests.tune.search.test_sampling import METRIC, RATE_AND_RANK
from trainable.config import TrialConfig
from trainable.cost import Cost
from trainable.objective import Objective
from trainable.records import MetricsRecord
from tune.search.searcher import OptunaSearcher
from tune.sections import SearchConfig
from tune.store.study import StudyStore


def record(at: float, *, width: float = 1, attempt: int = 1, rate: float = 0) -> MetricsRecord:
    return MetricsRecord(
        {"time": at, "fused_width": width, "attempt": attempt, "train/tokens_per_second": rate}
    )


def test_a_device_that_several_trials_share_counts_once() -> None:
    pack = {str(number): [record(10 * step, width=4) for step in range(5)] for number in range(4)}
    assert Cost.of(pack).device_s == pytest.approx(40)


def test_the_time_between_two_attempts_is_nobodys() -> None:
    log = [record(0), record(10), record(5000, attempt=2), record(5010, attempt=2)]
    assert Cost.of({"a": log}).device_s == 20


def test_tokens_follow_from_their_rate() -> None:
    assert Cost.of({"a": [record(0, rate=7), record(10, rate=50)]}).tokens == 500


@pytest.mark.parametrize(
    ("budget", "reason"),
    [
        (
            {"max_device_hours": 0.01},
            r"used 0\.0111 device-hours, and search\.max_device_hours is 0\.01",
        ),
        ({"max_tokens": 3600}, r"were trained on 4,000 tokens, and search\.max_tokens is 3,600"),
    ],
)
def test_nothing_new_is_tried_once_a_budget_is_used_up(
    tmp_path: Path, budget: dict[str, Any], reason: str
) -> None:
    """Each trial takes 10 s and 1,000 tokens; 30 s and 3,000 tokens were used before an interruption."""
    now = 0.0
    study = StudyStore.create(tmp_path / "study.journal", "budget", Objective(METRIC, "min"))
    spent = Cost.of({"before": [record(10 * step, rate=100) for step in range(4)]})
    searcher = OptunaSearcher(
        Space.load(RATE_AND_RANK, TrialConfig()),
        TrialConfig(),
        study,
        SearchConfig(**budget),
        new_trials=9,
        spent=spent,
        clock=lambda: now,
    )
    tried = 0
    while isinstance(searcher.suggest(str(tried)), dict):
        for step in (1, 2):
            running = {"step": step, METRIC: 1.0, "trial_state": "running", "train/tokens_per_second": 100}
            searcher.on_trial_result(str(tried), running)
            now += 10 if step == 1 else 0
        tried += 1
    assert tried == 1
    assert re.search(reason, str(searcher.ended_early))
