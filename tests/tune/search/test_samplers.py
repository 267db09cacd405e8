"""What every sampler must do, the shipped ones and a user's own."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from ray.tune.search import Searcher

from search_spaces import Space
from tests.tune.search.test_sampling import METRIC, RANK, SIX, search, searcher_in
from trainable.config import TrialConfig
from trainable.errors import ConfigError, SpaceError
from tune.search.samplers import SAMPLERS, check_sampler, sampler_kind
from tune.sections import SAMPLERS as NAMES
from tune.sections import SearchConfig

OWN = ["tests.support.own_search:sampler", "tests.support.own_search:tpe_without_start_up"]
EVERY = [*SAMPLERS, *OWN]
MIXED: dict[str, Any] = {
    RANK: {"type": "power_of_two", "low": 4, "high": 128},
    "lora.alpha": {"type": "ratio", "of": RANK, "low": 0.5, "high": 2, "powers_of_two": True},
    "training.lr_scheduler": {"type": "choice", "values": ["linear", "cosine"]},
}
CONDITIONAL: dict[str, Any] = {
    "training.lr_scheduler": {"type": "choice", "values": ["linear", "cosine"]},
    "training.warmup_ratio": {
        "type": "choice",
        "values": [0.1, 0.2],
        "when": {"training.lr_scheduler": "cosine"},
    },
}


STEPPED: dict[str, Any] = {
    RANK: {"type": "power_of_two", "low": 4, "high": 16},
    "lora.dropout": {"type": "uniform", "low": 0.0, "high": 0.25, "step": 0.25},
}


def ends(params: Mapping[str, Any]) -> dict[str, Any]:
    """End a third of the trials early, and another as one that does not fit."""
    exponent = params[RANK].bit_length()
    if exponent % 3 == 0:
        return {"step": 5, METRIC: exponent / 2, "trial_state": "running"}
    if exponent % 3 == 1:
        return {"step": 0, "trial_state": "oom", "reason": "too large"}
    return {"step": 9, METRIC: float(exponent), "trial_state": "completed"}


def test_the_configuration_names_the_shipped_samplers() -> None:
    assert tuple(SAMPLERS) == NAMES


@pytest.mark.parametrize("sampler", EVERY)
def test_what_is_drawn_is_in_the_space_and_allowed(tmp_path: Path, sampler: str) -> None:
    found = search(tmp_path, ends, MIXED, trials=7, sampler=sampler, startup_trials=3)
    assert len({str(params) for params in found}) == 7
    for params in found:
        assert params[RANK] in (4, 8, 16, 32, 64, 128)
        assert params["lora.alpha"] / params[RANK] in (0.5, 1, 2)
        assert params["training.lr_scheduler"] in ("linear", "cosine")


@pytest.mark.parametrize("sampler", EVERY)
def test_an_interruption_changes_no_draw(tmp_path: Path, sampler: str) -> None:
    options = {"sampler": sampler, "startup_trials": 3, "seed": 5}
    uninterrupted = search(tmp_path / "a", ends, MIXED, trials=7, **options)
    parts = [search(tmp_path / "b", ends, MIXED, trials=trials, **options) for trials in (1, 3, 3)]
    assert [params for part in parts for params in part] == uninterrupted


@pytest.mark.parametrize("space", [SIX, STEPPED], ids=["choices", "steps"])
@pytest.mark.parametrize("sampler", EVERY)
def test_a_finite_space_is_searched_once_and_then_the_search_ends(
    tmp_path: Path, sampler: str, space: dict[str, Any]
) -> None:
    searcher, study = searcher_in(tmp_path, space, trials=48, sampler=sampler, startup_trials=2)
    found = []
    while isinstance(suggestion := searcher.suggest(str(len(found))), dict):
        found.append(suggestion["params"])
        searcher.on_trial_complete(str(len(found) - 1), ends(suggestion["params"]))
    assert suggestion == Searcher.FINISHED
    assert len(found) == len({str(params) for params in found}) == 6
    assert searcher.ended_early == "every configuration of the space has been tried"
    again, _ = searcher_in(tmp_path, space, trials=5, sampler=sampler)
    assert again.suggest("one more") == Searcher.FINISHED
    assert len(study.trials()) == 6


@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if SAMPLERS[name].takes_conditions])
def test_an_axis_is_drawn_only_where_its_condition_holds(tmp_path: Path, sampler: str) -> None:
    searcher, _ = searcher_in(tmp_path, CONDITIONAL, trials=10, sampler=sampler, startup_trials=1)
    found = []
    while isinstance(suggestion := searcher.suggest(str(len(found))), dict):
        found.append(suggestion["params"])
        loss = 1.0 + len(suggestion["params"])
        searcher.on_trial_complete(str(len(found) - 1), {"step": 1, METRIC: loss, "trial_state": "completed"})
    pairs = [(one["training.lr_scheduler"], one.get("training.warmup_ratio")) for one in found]
    assert sorted(pairs, key=str) == [("cosine", 0.1), ("cosine", 0.2), ("linear", None)]


@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if not SAMPLERS[name].takes_conditions])
def test_a_sampler_that_cannot_model_conditions_refuses_them(sampler: str) -> None:
    space = Space.load(CONDITIONAL, TrialConfig())
    with pytest.raises(ConfigError, match="Take one of tpe, random, grid, or remove the conditions"):
        check_sampler(SearchConfig(sampler=sampler), space)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tests.support.own_search:missing", "cannot be imported"),
        ("tests.support.nowhere:sampler", "cannot be imported"),
        ("tests.support.own_search:not_callable", "must be a function from a SamplerRequest"),
    ],
)
def test_a_sampler_that_is_none_is_refused(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        sampler_kind(name)


def test_an_unknown_name_lists_the_shipped_ones() -> None:
    with pytest.raises(ValueError, match=r"'tpee' must be tpe, random.*Did you mean"):
        SearchConfig(sampler="tpee")


def test_a_grid_over_a_wide_range_is_refused_at_once() -> None:
    wide = {
        RANK: {"type": "integer", "low": 1, "high": 1024},
        "training.weight_decay": {"type": "uniform", "low": 0.0, "high": 1.0, "step": 1e-6},
    }
    space = Space.load(wide, TrialConfig())
    with pytest.raises(SpaceError, match=r"1,024,001,024 combinations.*more than 100,000"):
        check_sampler(SearchConfig(sampler="grid"), space)
