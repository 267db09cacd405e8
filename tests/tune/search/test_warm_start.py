"""What earlier experiments found steers a new search from its first trial, where it is comparable."""

import shutil
import statistics
from math import log10
from pathlib import Path
from typing import Any

import pytest

from search_spaces import Space
from tests.support.experiments import ExperimentBuilder
from trainable.errors import ConfigError, ExperimentError
from trainable.records import MetricsRecord
from tune.config import Config
from tune.search.searcher import OptunaSearcher
from tune.search.warm_start import NOTE, collect
from tune.store.study import StudyStore

RATE = "training.learning_rate"
SPACE: dict[str, Any] = {
    RATE: {"type": "log_uniform", "low": 1e-5, "high": 1e-1},
    "lora.r": {"type": "power_of_two", "low": 4, "high": 64},
}


def earlier(folder: Path, trials: int = 20, **search: Any) -> ExperimentBuilder:
    """Run a search whose best rate is 1e-3; every fifth trial diverges, every third is pruned."""
    builder = ExperimentBuilder(folder / "earlier", num_trials=trials, space=SPACE, **search)
    builder.searcher = builder.open(trials)
    for number in range(trials):
        params = builder.searcher.suggest(f"t{number}")["params"]  # type: ignore[index]
        record: dict[str, Any] = {"step": 20, "trial_state": "completed", "eval/loss": loss(params)}
        if number % 5 == 4:
            record = {"step": 3, "trial_state": "diverged", "reason": "loss is inf"}
        elif number % 3 == 2:
            record |= {"step": 5, "trial_state": "running"}
        builder.searcher.on_trial_complete(f"t{number}", MetricsRecord(record))
    return builder


def loss(params: dict[str, Any]) -> float:
    return abs(log10(params[RATE]) + 3)


def config_of(folder: Path, space: dict[str, Any] = SPACE, **sections: Any) -> Config:
    search = {"name": "new", "space": space, "warm_start": ["earlier"], "results_dir": folder, "mode": "min"}
    search |= sections.pop("search", {})
    training = {"max_steps": 20} | sections.pop("training", {})
    return Config.model_validate({"search": search, "training": training, **sections})


def searcher_of(config: Config, folder: Path) -> OptunaSearcher:
    folder.mkdir()
    space = Space.load(config.search.space, config.trial())
    study = StudyStore.create(folder / "study.journal", "new", config.objective)
    study.set_note(NOTE, [one.to_json() for one in collect(config, space)])
    return OptunaSearcher(space, config.trial(), study, config.search, new_trials=8)


def rates(searcher: OptunaSearcher) -> list[float]:
    return [searcher.suggest(str(number))["params"][RATE] for number in range(8)]  # type: ignore[index]


@pytest.mark.parametrize("sampler", ["tpe", "gp"])
def test_the_first_trials_are_where_the_earlier_search_was_good(tmp_path: Path, sampler: str) -> None:
    """Without the earlier search these trials are random, and a random rate is 1 away on average."""
    found = []
    for seed in range(4):
        # Drawn at random, so that it does not depend on what is tested.
        earlier(tmp_path / str(seed), seed=seed, sampler="random")
        config = config_of(tmp_path / str(seed), search={"sampler": sampler, "seed": seed})
        searcher = searcher_of(config, tmp_path / f"new-{seed}")
        found += [loss(searcher.suggest(str(number))["params"]) for number in range(4)]  # type: ignore[index]
    assert statistics.median(found) < 0.6


def test_what_counts_outlives_the_earlier_experiment(tmp_path: Path) -> None:
    builder = earlier(tmp_path)
    config = config_of(tmp_path)
    uninterrupted = rates(searcher_of(config, tmp_path / "a"))
    first = searcher_of(config, tmp_path / "b")
    found = [first.suggest(str(number))["params"][RATE] for number in range(3)]  # type: ignore[index]
    shutil.rmtree(builder.folder)
    space = Space.load(SPACE, config.trial())
    study = StudyStore.open(tmp_path / "b" / "study.journal", "new", config.objective)
    assert study is not None
    again = OptunaSearcher(space, config.trial(), study, config.search, new_trials=5)
    found += [again.suggest(str(number))["params"][RATE] for number in range(3, 8)]  # type: ignore[index]
    assert found == uninterrupted


def test_all_kinds_of_ends_count_and_those_outside_the_space_do_not(tmp_path: Path) -> None:
    builder = earlier(tmp_path)
    narrow = {**SPACE, RATE: {**SPACE[RATE], "low": 1e-4}}
    config = config_of(tmp_path, narrow)
    counted = collect(config, Space.load(narrow, config.trial()))
    inside = [one for one in builder.store.create_study(builder.config).trials() if one.params[RATE] >= 1e-4]
    assert 0 < len(counted) == len(inside) < 20
    assert {one.state for one in counted} == {"completed", "pruned", "diverged"}


def test_a_key_that_was_fixed_counts_on_a_new_axis_that_has_its_value(tmp_path: Path) -> None:
    earlier(tmp_path)
    wider = {**SPACE, "lora.alpha": {"type": "choice", "values": [16, 32]}}
    config = config_of(tmp_path, wider)
    counted = collect(config, Space.load(wider, config.trial()))
    assert len(counted) == 20
    assert {one.values["lora.alpha"] for one in counted} == {32}


@pytest.mark.parametrize(
    ("sections", "told"),
    [
        ({"training": {"max_steps": 40}}, "training.max_steps was 20, not 40"),
        ({"lora": {"alpha": 64}}, "lora.alpha was 32.0, not 64.0"),
        ({"search": {"mode": "max"}}, r"optimized eval/loss \(min\), not eval/loss \(max\)"),
    ],
)
def test_trials_that_cannot_be_compared_are_refused(
    tmp_path: Path, sections: dict[str, Any], told: str
) -> None:
    earlier(tmp_path, 3)
    config = config_of(tmp_path, **sections)
    with pytest.raises(ConfigError, match=told):
        collect(config, Space.load(SPACE, config.trial()))


def test_other_data_and_a_missing_experiment_are_refused(tmp_path: Path) -> None:
    builder = earlier(tmp_path, 3)
    builder.store.create_study(builder.config).set_note("data_hash", "1" * 64)
    config = config_of(tmp_path)
    space = Space.load(SPACE, config.trial())
    with pytest.raises(ConfigError, match="'earlier' has other data"):
        collect(config, space, {"data_hash": "2" * 64})
    assert len(collect(config, space, {"data_hash": "1" * 64})) == 3
    with pytest.raises(ExperimentError, match="'none' does not exist"):
        collect(config_of(tmp_path, search={"warm_start": ["none"]}), space)
