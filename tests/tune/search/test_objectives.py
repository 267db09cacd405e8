"""Several objectives and constraints: what is suggested follows them, and so does what counts as the best."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from search_spaces import Space
from tests.tune.search.test_sampling import METRIC, RANK, RATE_AND_RANK, Params, search, searcher_in
from trainable.errors import ConfigError
from trainable.objective import Constraint, Objective, pareto_front
from tune.config import Config
from tune.search.samplers import check_sampler

SIZE = "train/adapter_parameters"
LOSS_AND_SIZE = (Objective(METRIC, "min"), Objective(SIZE, "min"))


def record(params: Params, **metrics: float) -> dict[str, Any]:
    """Return the last record of a trial whose loss falls with its rank, and whose size grows with it."""
    rank = params[RANK]
    return {"step": 40, "trial_state": "completed", METRIC: 1 / rank, SIZE: 100 * rank, **metrics}


def test_the_front_is_what_nothing_dominates() -> None:
    records = [
        {METRIC: 1.0, SIZE: 8},
        {METRIC: 2.0, SIZE: 4},
        {METRIC: 2.0, SIZE: 8},
        {METRIC: 1.0, SIZE: 8},
        {METRIC: 0.5},
    ]
    assert pareto_front(records, LOSS_AND_SIZE) == [0, 1, 3]
    assert pareto_front([], LOSS_AND_SIZE) == []


def test_a_record_that_violates_a_constraint_is_on_no_front() -> None:
    bound = (Constraint.parse(f"{SIZE} <= 6"),)
    objectives = [Objective(METRIC, "min", bound), Objective(SIZE, "min", bound)]
    assert pareto_front([{METRIC: 1.0, SIZE: 8}, {METRIC: 2.0, SIZE: 4}], objectives) == [1]


def test_a_second_objective_draws_suggestions_to_its_side_too(tmp_path: Path) -> None:
    """By the loss alone only large ranks are worth trying; small ones are as good in the other objective."""
    options: dict[str, Any] = {"trials": 50, "seed": 1}
    alone = search(tmp_path / "alone", record, **options)[20:]
    both = search(tmp_path / "both", record, **options, other_objectives={SIZE: "min"})[20:]
    small = [sum(params[RANK] <= 4 for params in found) for found in (alone, both)]
    assert small[1] > small[0] + 3


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "nsga3"])
def test_what_is_worst_in_both_objectives_is_avoided(tmp_path: Path, sampler: str) -> None:
    """Loss and size both want a small rank; at random a quarter of the ranks are as small as that."""

    def train(params: Params) -> dict[str, Any]:
        return record(params, **{METRIC: float(params[RANK])})

    found = search(tmp_path, train, trials=80, sampler=sampler, other_objectives={SIZE: "min"})[40:]
    assert sum(params[RANK] <= 2 for params in found) > 15


def test_a_search_over_two_objectives_continues_as_if_it_had_not_been_interrupted(tmp_path: Path) -> None:
    for sampler in ("tpe", "nsga2", "nsga3"):
        options: dict[str, Any] = {"sampler": sampler, "other_objectives": {SIZE: "min"}, "startup_trials": 4}
        at_once = search(tmp_path / f"{sampler}-1", record, trials=16, **options)
        first = search(tmp_path / f"{sampler}-2", record, trials=9, **options)
        assert first + search(tmp_path / f"{sampler}-2", record, trials=7, **options) == at_once


def test_an_objective_can_be_added_when_a_search_is_resumed(tmp_path: Path) -> None:
    """What earlier trials reached in it is in their metrics, so the sampler knows them at once."""
    alone = search(tmp_path, record, trials=30)
    more = search(tmp_path, record, trials=20, other_objectives={SIZE: "min"})
    assert sum(params[RANK] <= 4 for params in more) > sum(params[RANK] <= 4 for params in alone[-20:]) + 2


@pytest.mark.parametrize("sampler", ["tpe", "gp", "cmaes", "nsga2"])
def test_suggestions_keep_a_constraint(tmp_path: Path, sampler: str) -> None:
    """The loss falls with the rank, and only ranks up to 8 keep the bound."""
    options: dict[str, Any] = {"trials": 60, "sampler": sampler}
    free = search(tmp_path / "free", record, **options)[30:]
    bound = search(tmp_path / "bound", record, **options, constraints=[f"{SIZE} <= 800"])[30:]
    large = [sum(params[RANK] > 8 for params in found) for found in (free, bound)]
    assert large[1] < large[0] - 5


def test_the_best_record_keeps_the_constraints() -> None:
    objective = Objective(
        METRIC, "min", (Constraint.parse(f"{SIZE} <= 800"), Constraint.parse("nlg/rouge_l>=.3"))
    )
    good = {METRIC: 0.5, SIZE: 800, "nlg/rouge_l": 0.3}
    records = [{**good, METRIC: 0.1, SIZE: 801}, good, {METRIC: 0.2, SIZE: 10}]
    assert objective.best(records) == good
    assert objective.value(records[0]) is None
    assert objective.measured(records[0]) == 0.1


@pytest.mark.parametrize("text", ["", "a/b", "a/b < 1", "a/b >= x", "a/b >= inf", "a/b == 2", ">= 2"])
def test_what_is_no_constraint_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is not a constraint: write"):
        Constraint.parse(text)


def test_a_sampler_of_one_objective_is_refused_for_two() -> None:
    for sampler in ("gp", "cmaes"):
        config = configured(sampler=sampler, other_objectives=[SIZE])
        with pytest.raises(ConfigError, match=r"one objective.*tpe, random, grid, qmc, nsga2, nsga3"):
            check_sampler(config.search, Space.load(RATE_AND_RANK, config.trial()))


@pytest.mark.parametrize(
    ("search_settings", "reason"),
    [
        ({"other_objectives": ["eval/los"]}, "no configured metric is called 'eval/los'. Did you mean"),
        ({"other_objectives": ["train/epoch"]}, "has no direction of its own"),
        ({"other_objectives": ["eval/loss"]}, "is search.metric already"),
        ({"other_objectives": [SIZE, SIZE]}, "is named twice"),
        ({"other_objectives": ["eval/overall_score"]}, "scored on generated texts"),
        ({"constraints": ["eval/overall_score >= 0.5"]}, "scored on generated texts"),
        ({"constraints": ["eval/lss <= 2"]}, "no configured metric is called"),
    ],
)
def test_an_objective_that_cannot_be_computed_is_refused(
    search_settings: Mapping[str, Any], reason: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        configured(**search_settings)
    assert reason in str(refused.value)


def test_directions_are_filled_in_and_stored(tmp_path: Path) -> None:
    config = configured(other_objectives=f"{SIZE},train/tokens_per_second")
    assert config.search.other_objectives == {SIZE: "min", "train/tokens_per_second": "max"}
    stored = Config.parse(config.to_yaml(), "config.yaml", tmp_path).config
    assert stored.search.objectives == config.search.objectives


def test_patience_counts_trials_that_did_not_reach_the_front(tmp_path: Path) -> None:
    searcher, _ = searcher_in(
        tmp_path, RATE_AND_RANK, trials=40, sampler="random", patience=3, other_objectives={SIZE: "min"}
    )
    ends = [(3.0, 1), (2.0, 2), (1.0, 3), (3.0, 4), (3.0, 5), (3.0, 6), (0.5, 7)]
    for number, (loss, size) in enumerate(ends):
        suggestion = searcher.suggest(str(number))
        if not isinstance(suggestion, dict):
            break
        searcher.on_trial_complete(str(number), record(suggestion["params"], **{METRIC: loss, SIZE: size}))
    assert number == 6
    assert "did not improve on the Pareto front of 3" in str(searcher.ended_early)


def test_a_target_is_reached_by_a_trial_that_keeps_the_constraints(tmp_path: Path) -> None:
    searcher, _ = searcher_in(
        tmp_path, RATE_AND_RANK, trials=9, sampler="random", target=1.0, constraints=[f"{SIZE} <= 5"]
    )
    for number, size in enumerate([6, 5]):
        suggestion = searcher.suggest(str(number))
        assert isinstance(suggestion, dict)
        searcher.on_trial_complete(str(number), record(suggestion["params"], **{METRIC: 0.5, SIZE: size}))
    assert searcher.suggest("2") == "FINISHED"
    assert "trial 1 reached" in str(searcher.ended_early)


def configured(**settings: Any) -> Config:
    """Return a checked configuration with settings of the `search` section."""
    from trainable.config import mapping_layer

    return Config.from_layers([mapping_layer({"search": settings}, Config, "test")])
