"""A search ends when its trials leave little to gain, and not while much is left."""

import warnings
from math import log2
from pathlib import Path
from typing import Any

import optuna
import pytest

from search_spaces import Space
from tests.tune.search.test_sampling import (
    METRIC,
    RANK,
    RATE,
    RATE_AND_RANK,
    Params,
    distance,
    search,
    searcher_in,
)
from trainable.config import TrialConfig
from trainable.errors import ConfigError
from tune.search.ending import check_ending
from tune.search.gaussian import FEWEST, improvement_left
from tune.search.sampling import random_points
from tune.sections import SearchConfig


def loss(params: Params) -> float:
    """Return a bowl's height: 0 at a rate of 1e-3 and a rank of 32."""
    return distance(params) ** 2 + 0.1 * (log2(params[RANK]) - 5) ** 2


def bowl(params: Params) -> dict[str, Any]:
    return {"step": 40, METRIC: loss(params), "trial_state": "completed"}


def pruned_bowl(params: Params) -> dict[str, Any]:
    return {"step": 10, METRIC: loss(params), "trial_state": "running"}


def test_the_less_a_user_wants_to_gain_the_earlier_a_search_ends(tmp_path: Path) -> None:
    found = {
        least: search(tmp_path / str(least), bowl, trials=50, min_improvement=least) for least in (0.5, 0.02)
    }
    assert FEWEST <= len(found[0.5]) <= len(found[0.02]) < 50
    best = {least: min(map(loss, trials)) for least, trials in found.items()}
    assert best[0.5] < 0.5
    assert best[0.02] < 0.04


def test_a_search_does_not_end_while_the_losses_fall_towards_what_is_untried(tmp_path: Path) -> None:
    searcher, _ = searcher_in(tmp_path, RATE_AND_RANK, trials=60, min_improvement=0.1)
    slow = Space.load({**RATE_AND_RANK, RATE: {**RATE_AND_RANK[RATE], "high": 1e-4}}, TrialConfig())
    for number, point in enumerate(random_points(slow, FEWEST + 4, 1)):
        searcher.enqueue(point.params)
        assert isinstance(searcher.suggest(str(number)), dict)
        searcher.on_trial_complete(str(number), bowl(point.params))
    assert isinstance(searcher.suggest("next"), dict)
    assert searcher.ended_early is None


def test_a_search_does_not_end_before_a_trial_has_completed(tmp_path: Path) -> None:
    """Stopped trials alone promise a value that none has reached."""
    (tmp_path / "pruned").mkdir()
    assert len(search(tmp_path / "pruned", pruned_bowl, trials=40, min_improvement=5.0)) == 40


def test_a_resumed_search_ends_where_the_interrupted_one_did(tmp_path: Path) -> None:
    tried = search(tmp_path, bowl, trials=60, min_improvement=0.1)
    assert search(tmp_path, bowl, trials=10, min_improvement=0.1) == []
    assert len(search(tmp_path, bowl, trials=5)) == 5
    assert len(tried) < 60


def test_the_reason_names_the_gain_and_the_key(tmp_path: Path) -> None:
    searcher, _ = searcher_in(tmp_path, RATE_AND_RANK, trials=60, min_improvement=0.5)
    while isinstance(suggestion := searcher.suggest(str(searcher.new_trials)), dict):
        searcher.on_trial_complete(str(searcher.new_trials + 1), bowl(suggestion["params"]))
    assert "is expected to improve eval/loss by 0." in str(searcher.ended_early)
    assert "search.min_improvement is 0.5" in str(searcher.ended_early)


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_what_is_left_to_gain_is_in_units_of_the_objective(direction: str) -> None:
    """The same points with values a hundred times as large leave a hundred times as much, either way."""
    sign = 1 if direction == "minimize" else -1
    left = []
    for factor in (1, 100):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            study = optuna.create_study(
                direction=direction, sampler=optuna.samplers.QMCSampler(seed=1, scramble=True)
            )
        for _ in range(FEWEST):
            trial = study.ask()
            value = (trial.suggest_float("x", 0, 1) - 0.3) ** 2 + trial.suggest_float("y", 0, 1)
            assert improvement_left(study) is None
            study.tell(trial, sign * factor * value)
        left.append(improvement_left(study))
    assert left[1] == pytest.approx(100 * left[0], rel=1e-3)
    assert left[0] > 0


@pytest.mark.parametrize(
    ("options", "space", "message"),
    [
        (
            {"other_objectives": {"nlg/rouge_l_f": "max"}},
            RATE_AND_RANK,
            r"other_objectives adds nlg/rouge_l_f\. Use search\.patience",
        ),
        (
            {},
            {
                "training.lr_scheduler": {"type": "choice", "values": ["cosine", "constant"]},
                "training.warmup_ratio": {
                    "type": "uniform",
                    "low": 0.0,
                    "high": 0.2,
                    "when": {"training.lr_scheduler": "cosine"},
                },
            },
            r"the space has axes with `when`",
        ),
    ],
)
def test_a_search_that_it_cannot_apply_to_is_refused(
    options: dict[str, Any], space: dict[str, Any], message: str
) -> None:
    loaded = Space.load(space, TrialConfig())
    check_ending(SearchConfig(**options), loaded)
    with pytest.raises(ConfigError, match=message):
        check_ending(SearchConfig(min_improvement=0.1, **options), loaded)
